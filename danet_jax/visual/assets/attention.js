"use strict";

/** The position attention map, computed one row or column at a time from 16-bit queries and keys. */
const Attention = (() => {
  const TYPES = {
    uint8: Uint8Array,
    int16: Int16Array,
    uint16: Uint16Array,
    float32: Float32Array,
  };

  /** Returns arrays by name from data in which the bytes of equal significance of each array are stored together. */
  function unpack(described, bytes) {
    const arrays = {};
    for (const { name, type, offset, length } of described) {
      const size = TYPES[type].BYTES_PER_ELEMENT;
      const joined = new Uint8Array(length * size);
      for (let byte = 0; byte < size; byte++) {
        const plane = offset + byte * length;
        for (let i = 0, at = byte; i < length; i++, at += size) joined[at] = bytes[plane + i];
      }
      arrays[name] = new TYPES[type](joined.buffer);
    }
    return arrays;
  }

  /** Returns the content of a gzip file in base64. */
  async function inflate(text) {
    const packed = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Computes logits[i] = chosen . vectors[i] for all positions, and returns the largest. */
  function products(chosen, vectors, logits) {
    const channels = chosen.length;
    const even = channels - (channels % 4);
    let largest = -Infinity;
    for (let i = 0, at = 0; i < logits.length; i++) {
      let a = 0, b = 0, c = 0, d = 0;
      let k = 0;
      for (; k < even; k += 4, at += 4) {
        a += chosen[k] * vectors[at];
        b += chosen[k + 1] * vectors[at + 1];
        c += chosen[k + 2] * vectors[at + 2];
        d += chosen[k + 3] * vectors[at + 3];
      }
      for (; k < channels; k++, at++) a += chosen[k] * vectors[at];
      const sum = a + b + (c + d);
      logits[i] = sum;
      if (sum > largest) largest = sum;
    }
    return largest;
  }

  class AttentionMap {
    /**
     * @param arrays queries and keys (int16, positions x channels) with queryScales and keyScales, and logsumexp; or
     *   pooled (uint16, positions x positions) with pooledScales.
     */
    constructor(arrays, positions) {
      this.positions = positions;
      this.arrays = arrays;
      this.logits = new Float64Array(positions);
    }

    /** Fills `logits` with the products of a position's vector and all others, and returns the largest. */
    multiply(position, vectors, others) {
      const { queryScales, keyScales } = this.arrays;
      const channels = queryScales.length;
      const scaled = Float64Array.from(queryScales, (scale, k) => vectors[position * channels + k] * scale * keyScales[k]);
      return products(scaled, others, this.logits);
    }

    /** Returns the row of a position, what it attends to, as weights that sum to 1. */
    row(position, weights = new Float32Array(this.positions)) {
      const { pooled, pooledScales, queries, keys } = this.arrays;
      if (pooled) {
        for (let i = 0; i < this.positions; i++) weights[i] = pooled[position * this.positions + i] * pooledScales[position];
        return weights;
      }
      const largest = this.multiply(position, queries, keys);
      let sum = 0;
      for (let i = 0; i < this.positions; i++) {
        weights[i] = Math.exp(this.logits[i] - largest);
        sum += weights[i];
      }
      for (let i = 0; i < this.positions; i++) weights[i] /= sum;
      return weights;
    }

    /** Returns the column of a position: its weight in the row of every position. */
    column(position, weights = new Float32Array(this.positions)) {
      const { pooled, pooledScales, queries, keys, logsumexp } = this.arrays;
      if (pooled) {
        for (let i = 0; i < this.positions; i++) weights[i] = pooled[i * this.positions + position] * pooledScales[i];
        return weights;
      }
      this.multiply(position, keys, queries);
      for (let i = 0; i < this.positions; i++) weights[i] = Math.exp(this.logits[i] - logsumexp[i]);
      return weights;
    }
  }

  /** Returns the positions of the largest weights, the largest first. */
  function strongest(weights, count) {
    const found = [];
    for (let i = 0; i < weights.length; i++) {
      if (found.length === count && weights[i] <= weights[found[count - 1]]) continue;
      let at = found.length;
      while (at > 0 && weights[found[at - 1]] < weights[i]) at--;
      found.splice(at, 0, i);
      if (found.length > count) found.pop();
    }
    return found;
  }

  /** Returns the sums of weights by class, the largest first: [class, sum]. `classes` are those of the positions. */
  function byClass(weights, classes, count) {
    const sums = new Float64Array(256);
    for (let i = 0; i < weights.length; i++) sums[classes[i]] += weights[i];
    const order = [...sums.keys()].filter((i) => sums[i] > 0).sort((a, b) => sums[b] - sums[a]);
    return order.slice(0, count).map((i) => [i, sums[i]]);
  }

  function maximum(values) {
    let largest = -Infinity;
    for (let i = 0; i < values.length; i++) if (values[i] > largest) largest = values[i];
    return largest;
  }

  function minimum(values) {
    let smallest = Infinity;
    for (let i = 0; i < values.length; i++) if (values[i] < smallest) smallest = values[i];
    return smallest;
  }

  return { AttentionMap, unpack, inflate, strongest, byClass, maximum, minimum };
})();

if (typeof module !== "undefined") module.exports = Attention;
