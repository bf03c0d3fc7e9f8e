"use strict";
const assert = require("node:assert");
const test = require("node:test");
const Charts = require(process.env.ASSETS + "/charts.js");

test("ticks are round and inside", () => {
  assert.deepStrictEqual(Charts.ticks(0, 100, 5), [0, 20, 40, 60, 80, 100]);
  assert.deepStrictEqual(Charts.ticks(3, 3, 5), [3]);
  for (let i = 0; i < 200; i++) {
    const low = (Math.random() - 0.5) * 10 ** (6 * Math.random() - 3);
    const high = low + 10 ** (8 * Math.random() - 4);
    const found = Charts.ticks(low, high, 5);
    assert.ok(found.length >= 2 && found.length <= 8, `${low} ${high}: ${found}`);
    const slack = (high - low) * 1e-6;
    assert.ok(found.every((tick) => tick >= low - slack && tick <= high + slack));
  }
});

test("the nearest point of a line", () => {
  const xs = [1, 20, 40, 41, 100];
  for (const [x, at] of [[-5, 0], [1, 0], [10, 0], [11, 1], [40, 2], [40.6, 3], [71, 4], [1e9, 4]]) {
    assert.strictEqual(Charts.nearest(xs, x), at, String(x));
  }
});

test("numbers in a few characters", () => {
  assert.strictEqual(Charts.short(0), "0");
  assert.strictEqual(Charts.short(12345.6), "12.3k");
  assert.strictEqual(Charts.short(0.123456), "0.123");
  assert.ok(Charts.short(1.7e-4).length < 9);
});
