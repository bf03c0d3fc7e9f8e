"use strict";

/** The state of the page, stored in the part of a link after the #. */
const State = (() => {
  const VIEWS = ["row", "column", "entropy", "distance", "received", "labels", "photo"];
  const MOST_PINS = 8;

  /** Returns the initial state of a page with these facts. */
  function initial(facts) {
    const { rows, columns } = facts.grid;
    return {
      view: facts.channelsPerPosition ? "row" : "labels",
      at: Math.floor(rows / 2) * columns + Math.floor(columns / 2),
      pins: [],
      labels: "fusion",
      differences: false,
      chosen: -1,
      lines: true,
      logarithmic: false,
      grey: true,
      opacity: 85,
      palette: "magma",
      theme: "auto",
    };
  }

  /** Returns `key=value&...` for everything that differs from the initial state. */
  function encode(state, facts) {
    const start = initial(facts);
    return Object.keys(start)
      .filter((key) => String(state[key]) !== String(start[key]))
      .map((key) => {
        const value = typeof start[key] === "boolean" ? Number(state[key]) : state[key];
        return `${key}=${encodeURIComponent(String(value))}`;
      })
      .join("&");
  }

  /** Returns the state in a link; wrong values are replaced by those of the initial state. */
  function decode(text, facts) {
    const state = initial(facts);
    const positions = facts.grid.rows * facts.grid.columns;
    const kinds = facts.labels.map((label) => label.kind);
    const isPosition = (value) => /^\d+$/.test(value) && Number(value) < positions;
    const readers = {
      view: (v) => (VIEWS.includes(v) && (facts.channelsPerPosition || ["labels", "photo"].includes(v)) ? v : undefined),
      at: (v) => (isPosition(v) ? Number(v) : undefined),
      pins: (v) => [...new Set(v.split(",").filter(isPosition).map(Number))].slice(0, MOST_PINS),
      labels: (v) => (kinds.includes(v) ? v : undefined),
      chosen: (v) => (/^\d+$/.test(v) && Number(v) < facts.classes.length ? Number(v) : undefined),
      opacity: (v) => (/^\d+$/.test(v) && Number(v) <= 100 ? Number(v) : undefined),
      palette: (v) => (["magma", "viridis", "cividis"].includes(v) ? v : undefined),
      theme: (v) => (["auto", "light", "dark"].includes(v) ? v : undefined),
    };
    for (const part of text.replace(/^#/, "").split("&")) {
      const [key, ...rest] = part.split("=");
      if (!Object.hasOwn(state, key)) continue;
      let value;
      try {
        value = decodeURIComponent(rest.join("="));
      } catch {
        continue;
      }
      const read = typeof state[key] === "boolean" ? (v) => v === "1" : readers[key];
      const found = read(value);
      if (found !== undefined) state[key] = found;
    }
    return state;
  }

  return { VIEWS, MOST_PINS, initial, encode, decode };
})();

if (typeof module !== "undefined") module.exports = State;
