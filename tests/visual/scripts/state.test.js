"use strict";
const assert = require("node:assert");
const test = require("node:test");
const State = require(process.env.ASSETS + "/state.js");
const Colours = require(process.env.ASSETS + "/colours.js");

const facts = {
  grid: { rows: 4, columns: 5 },
  channelsPerPosition: 8,
  labels: [{ kind: "fusion" }, { kind: "position" }],
  classes: [{}, {}, {}],
};

test("a link restores the state", () => {
  const state = State.initial(facts);
  Object.assign(state, { view: "column", pins: [3, 19], at: 7, logarithmic: true, chosen: 2, opacity: 50, lines: false });
  assert.deepStrictEqual(State.decode("#" + State.encode(state, facts), facts), state);
  assert.strictEqual(State.encode(State.initial(facts), facts), "");
});

test("invalid values in a link are ignored", () => {
  const wrong = "#view=nothing&pins=1,20,-3,x,1,<b>&at=99&labels=fission&chosen=3&opacity=900&palette=jet&theme=%&__proto__=1&x";
  assert.deepStrictEqual(State.decode(wrong, facts), { ...State.initial(facts), pins: [1] });
});

test("without a map, its views are not opened", () => {
  const without = { ...facts, channelsPerPosition: 0 };
  assert.strictEqual(State.decode("#view=row", without).view, "labels");
});

test("scales run from dark to light", () => {
  for (const name of Colours.names) {
    const colours = Colours.table(name);
    const lightness = (i) => 0.299 * colours[3 * i] + 0.587 * colours[3 * i + 1] + 0.114 * colours[3 * i + 2];
    for (let i = 8; i < 256; i += 8) assert.ok(lightness(i) > lightness(i - 8), `${name} at ${i}`);
  }
});

test("fractions on linear and logarithmic scales", () => {
  assert.strictEqual(Colours.fraction(5, 0, 10, false), 0.5);
  assert.ok(Math.abs(Colours.fraction(1, 0.01, 100, true) - 0.5) < 1e-12);
  assert.strictEqual(Colours.fraction(3, 3, 3, false), 0);
  assert.strictEqual(Colours.fraction(-1, 0, 10, false), 0);
});
