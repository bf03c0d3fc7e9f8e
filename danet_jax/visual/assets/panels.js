"use strict";

/** What stands beside the picture: numbers of a place, pins, classes, channels. All text goes in as text. */
const Panels = (() => {
  /** An element: `make("p.note", {title: "..."}, "text", child)`. */
  function make(kind, attributes, ...children) {
    const [tag, ...names] = kind.split(".");
    const element = document.createElement(tag);
    if (names.length) element.className = names.join(" ");
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(element.style, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /** A share in per cent, with two digits that count. */
  function percent(share) {
    const value = 100 * share;
    if (value === 0) return "0 %";
    if (value < 0.001) return "< 0.001 %";
    return `${value >= 10 ? value.toFixed(value >= 99.95 ? 0 : 1) : value.toPrecision(2)} %`;
  }

  function number(value) {
    return value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(value >= 10 ? 3 : 2);
  }

  function swatch(facts, index) {
    const known = facts.classes[index];
    return make("span.swatch", { style: { background: known ? Colours.css(known.colour) : "#000" } });
  }

  function className(facts, index) {
    return facts.classes[index] ? facts.classes[index].name : "no class";
  }

  /** Rows of a class's colour and name, a bar and a share. */
  function bars(facts, entries) {
    const list = make("div.bars");
    for (const [index, share] of entries) {
      list.append(
        make(
          "div.bar",
          {},
          swatch(facts, index),
          make("span.name", {}, className(facts, index)),
          make("span.track", {}, make("span.fill", { style: { width: `${100 * Math.min(1, share)}%` } })),
          make("span.share", {}, percent(share)),
        ),
      );
    }
    return list;
  }

  function topThree(facts, arrays, place) {
    return [0, 1, 2]
      .map((k) => [arrays.likely[3 * place + k], arrays.likelihood[3 * place + k] / 65535])
      .filter(([index]) => index < facts.classes.length);
  }

  /** Pixels of the picture at a place: "x 120, y 64". */
  function where(facts, painter, place) {
    const [x, y] = painter.middle(place);
    return `x ${Math.round(x * (facts.picture.width - 1))}, y ${Math.round(y * (facts.picture.height - 1))}`;
  }

  /** What a place's row comes to, as short texts. */
  function rowFacts(facts, arrays, place, strongestWeight) {
    const pixels = facts.picture.width / (facts.grid.placeColumns || 1);
    const spread = Math.pow(2, arrays.entropy[place]);
    const count = facts.grid.placeRows * facts.grid.placeColumns;
    const cells = facts.grid.rows * facts.grid.columns;
    return [
      ["attends to about", `${number(spread)} of ${count.toLocaleString("en")} places`],
      ["mean distance", `${number(arrays.distance[place] * pixels)} pixels`],
      ["strongest weight", `${percent(strongestWeight)}, ${number(strongestWeight * cells)} times even`],
      ["receives", `${number(arrays.received[place])} times the average`],
    ];
  }

  function definitions(pairs) {
    return make(
      "dl.facts",
      {},
      ...pairs.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]),
    );
  }

  /** The card of a place. */
  function card(facts, arrays, painter, at, looked) {
    const content = [
      make("p.where", {}, where(facts, painter, at)),
      bars(facts, topThree(facts, arrays, at)),
    ];
    if (looked) {
      content.push(definitions(rowFacts(facts, arrays, at, looked.strongest)));
      content.push(make("h3", {}, looked.column ? "Attended by, by class" : "Attends to, by class"));
      content.push(bars(facts, looked.classes));
    }
    return content;
  }

  /** One small picture: values of 0 to 255 in a grid. */
  function small(values, [rows, columns], palette) {
    const made = Stage.canvas(columns, rows);
    const context = made.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    Colours.paint(values, pixels.data, { low: 0, high: 255, palette, opacity: 1 });
    context.putImageData(pixels, 0, 0);
    return made;
  }

  function figure(picture, title, note) {
    return make("figure", {}, picture, make("figcaption", {}, make("b", {}, title), " ", note));
  }

  /** The channel attention: its map with values under the mouse, and channels. */
  function channels(facts, arrays, palette, chosen) {
    const { count, decades, grid, attended, weighed, ofClass } = facts.channels;
    const size = grid[0] * grid[1];
    const picture = (index) => {
      const made = small(arrays.channelPictures.subarray(index * size, (index + 1) * size), grid, palette);
      const [low, high] = facts.channels.ranges[index];
      made.title = `from ${number2(low)} (dark) to ${number2(high)} (light)`;
      return made;
    };
    const value = make("span", { role: "status" }, "point at the map to read it");
    const map = small(arrays.channelMap, [count, count], palette);
    map.addEventListener("pointermove", (event) => {
      const box = map.getBoundingClientRect();
      const at = (t) => Math.min(count - 1, Math.max(0, Math.floor(t * count)));
      const [row, column] = [at((event.clientY - box.top) / box.height), at((event.clientX - box.left) / box.width)];
      const weight = Math.pow(10, (arrays.channelMap[row * count + column] / 255 - 1) * decades);
      const about = arrays.channelMap[row * count + column] ? percent(weight) : "next to nothing";
      value.textContent = `channel ${row} takes ${about} from channel ${column}`;
    });
    const parts = {
      map: make("figure.map", {}, map, make("figcaption", {}, value)),
      attended: make(
        "div.pictures",
        {},
        ...attended.flatMap(({ channel, received }, i) => [
          figure(picture(i), `channel ${channel}`, `${number(received)} times the average`),
        ]),
      ),
      after: make(
        "div.pictures",
        {},
        ...attended.map(({ channel }, i) => figure(picture(attended.length + i), `channel ${channel}`, "afterwards")),
      ),
      ofClass: make("div.pictures"),
    };
    for (const { channel, weight } of ofClass[chosen] || []) {
      const index = 2 * attended.length + weighed.indexOf(channel);
      parts.ofClass.append(figure(picture(index), `channel ${channel}`, `weight ${number2(weight)}`));
    }
    return parts;
  }

  function number2(value) {
    return value === 0 ? "0" : value.toPrecision(2);
  }

  return { make, percent, number, swatch, className, bars, topThree, where, card, channels };
})();
