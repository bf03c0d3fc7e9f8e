"use strict";
const assert = require("node:assert");
const test = require("node:test");
const Attention = require(process.env.ASSETS + "/attention.js");

function random(count, scale) {
  return Float64Array.from({ length: count }, () => (Math.random() - 0.5) * scale);
}

function setting(positions, channels, strength) {
  const ints = () => Int16Array.from(random(positions * channels, 60000), Math.round);
  const scales = () => Float32Array.from({ length: channels }, () => (strength * (0.5 + Math.random())) / 30000);
  const arrays = { queries: ints(), keys: ints(), queryScales: scales(), keyScales: scales() };
  const logits = Array.from({ length: positions }, (empty, j) =>
    Array.from({ length: positions }, (none, i) => {
      let sum = 0;
      for (let k = 0; k < channels; k++) {
        sum +=
          arrays.queries[j * channels + k] * arrays.queryScales[k] * (arrays.keys[i * channels + k] * arrays.keyScales[k]);
      }
      return sum;
    }),
  );
  const rows = logits.map((row) => {
    const largest = Math.max(...row);
    const sum = row.reduce((total, logit) => total + Math.exp(logit - largest), 0);
    return { weights: row.map((logit) => Math.exp(logit - largest) / sum), logsumexp: largest + Math.log(sum) };
  });
  arrays.logsumexp = Float32Array.from(rows.map((row) => row.logsumexp));
  return { arrays, weights: rows.map((row) => row.weights) };
}

for (const [channels, strength] of [[16, 1], [17, 4], [64, 6]]) {
  test(`rows and columns of ${channels} channels are those of the plain form`, () => {
    const positions = 40;
    const { arrays, weights } = setting(positions, channels, strength);
    const map = new Attention.AttentionMap(arrays, positions);
    for (let position = 0; position < positions; position++) {
      const [row, column] = [map.row(position), map.column(position)];
      for (let i = 0; i < positions; i++) {
        assert.ok(Math.abs(row[i] - weights[position][i]) < 1e-5);
        assert.ok(Math.abs(column[i] - weights[i][position]) < 1e-4);
      }
    }
  });
}

test("rows and columns of a pooled map", () => {
  const pooled = Uint16Array.from([0, 65535, 30000, 10]);
  const pooledScales = Float32Array.from([1 / 65535, 2 / 65535]);
  const map = new Attention.AttentionMap({ pooled, pooledScales }, 2);
  assert.deepStrictEqual([...map.row(0)], [0, 1]);
  assert.ok(Math.abs(map.column(0)[1] - 60000 / 65535) < 1e-6);
});

test("the strongest positions come first", () => {
  const weights = Float32Array.from(random(300, 1));
  const expected = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 10);
  assert.deepStrictEqual(Attention.strongest(weights, 10), expected);
  assert.deepStrictEqual(Attention.strongest(Float32Array.from([0.5]), 10), [0]);
});

test("weights are added up by class", () => {
  const sums = Attention.byClass([0.1, 0.2, 0.3, 0.4], [7, 2, 7, 2], 5);
  assert.deepStrictEqual(sums.map(([name]) => name), [2, 7]);
  assert.ok(Math.abs(sums[0][1] - 0.6) < 1e-12);
});

test("arrays are unpacked from planes of bytes", () => {
  const values = Int16Array.from([1, -2, 300, -32768]);
  const bytes = new Uint8Array(values.buffer);
  const planes = Uint8Array.from([9, ...[0, 2, 4, 6].map((i) => bytes[i]), ...[1, 3, 5, 7].map((i) => bytes[i])]);
  const described = [
    { name: "first", type: "uint8", offset: 0, length: 1 },
    { name: "second", type: "int16", offset: 1, length: 4 },
  ];
  const { first, second } = Attention.unpack(described, planes);
  assert.deepStrictEqual([...first], [9]);
  assert.deepStrictEqual([...second], [...values]);
});
