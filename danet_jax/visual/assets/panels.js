"use strict";

/** The panels next to the image: a position's numbers, pins, classes, channels. Text is never inserted as markup. */
const Panels = (() => {
  /** Returns an element: `make("p.note", {title: "..."}, "text", child)`. */
  function make(kind, attributes, ...children) {
    const [tag, ...names] = kind.split(".");
    const element = document.createElement(tag);
    if (names.length) element.className = names.join(" ");
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "style") Object.assign(element.style, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /** Returns a share in per cent, with two significant digits. */
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
    return make("span.swatch", { style: { background: Colours.css(facts.classes[index].colour) } });
  }

  function className(facts, index) {
    return facts.classes[index].name;
  }

  /** Returns rows with the colour and name of a class, a share and a bar. */
  function bars(facts, entries) {
    const list = make("div.bars");
    for (const [index, share] of entries) {
      list.append(
        make(
          "div.bar",
          {},
          swatch(facts, index),
          make("span.name", {}, className(facts, index)),
          make("span.share", {}, percent(share)),
          make("span.track", {}, make("span.fill", { style: { width: `${100 * Math.min(1, share)}%` } })),
        ),
      );
    }
    return list;
  }

  /** Returns up to three of the most probable classes of a position: [class, probability]. */
  function topThree(facts, arrays, position) {
    return [0, 1, 2]
      .map((k) => [arrays.likely[3 * position + k], arrays.likelihood[3 * position + k] / 65535])
      .filter(([index]) => index < facts.classes.length);
  }

  /** Returns the pixel of the image at the centre of a position, such as "x 120, y 64". */
  function where(facts, painter, position) {
    const [x, y] = painter.middle(position);
    return `x ${Math.round(x * (facts.image.width - 1))}, y ${Math.round(y * (facts.image.height - 1))}`;
  }

  /** Returns the names and values of the numbers about a position's row. */
  function rowFacts(facts, arrays, position, strongestWeight) {
    const pixels = facts.image.width / facts.grid.positionColumns;
    const spread = Math.pow(2, arrays.entropy[position]);
    const count = facts.grid.positionRows * facts.grid.positionColumns;
    const cells = facts.grid.rows * facts.grid.columns;
    return [
      ["attends to about", `${number(spread)} of ${count.toLocaleString("en")} positions`],
      ["mean distance", `${number(arrays.distance[position] * pixels)} pixels`],
      ["strongest weight", `${percent(strongestWeight)}, ${number(strongestWeight * cells)} times even`],
      ["receives", `${number(arrays.received[position])} times the average`],
    ];
  }

  /** Returns the content of a position's card; without a map, `looked` is null. */
  function card(facts, arrays, painter, at, looked) {
    const content = [make("p.where", {}, where(facts, painter, at)), bars(facts, topThree(facts, arrays, at))];
    if (looked) {
      const pairs = rowFacts(facts, arrays, at, looked.strongest);
      content.push(
        make("dl.facts", {}, ...pairs.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)])),
        make("h3", {}, looked.column ? "Attended by, by class" : "Attends to, by class"),
        bars(facts, looked.classes),
      );
    }
    return content;
  }

  /** Returns the parts of the channel attention: its map, with the weight under the mouse, and channel images. */
  function channels(facts, arrays, palette, chosen) {
    const { count, decades, grid, attended, weighed, ofClass, ranges } = facts.channels;
    const size = grid[0] * grid[1];
    const paint = { low: 0, high: 255, palette, opacity: 1 };
    const figure = (index, channel, note) => {
      const values = arrays.channelImages.subarray(index * size, (index + 1) * size);
      const canvas = Colours.paintCanvas(make("canvas"), values, grid, paint);
      canvas.title = `from ${digits(ranges[index][0])} (dark) to ${digits(ranges[index][1])} (light)`;
      return make("figure", {}, canvas, make("figcaption", {}, make("b", {}, `channel ${channel}`), " ", note));
    };
    const value = make("span", { role: "status" }, "Point at the map to read it.");
    const map = Colours.paintCanvas(make("canvas"), arrays.channelMap, [count, count], paint);
    map.addEventListener("pointermove", (event) => {
      const [row, column] = Colours.cellUnder(event, map);
      const stored = arrays.channelMap[row * count + column];
      const weight = stored ? percent(Math.pow(10, (stored / 255 - 1) * decades)) : "next to nothing";
      value.textContent = `channel ${row} takes ${weight} from channel ${column}`;
    });
    const images = (figures) => make("div.images", {}, ...figures);
    return {
      map: make("figure.map", {}, map, make("figcaption", {}, value)),
      attended: images(attended.map((each, i) => figure(i, each.channel, `${number(each.received)} times the average`))),
      after: images(attended.map(({ channel }, i) => figure(attended.length + i, channel, "afterwards"))),
      ofClass: images(
        ofClass[chosen].map(({ channel, weight }) =>
          figure(2 * attended.length + weighed.indexOf(channel), channel, `weight ${digits(weight)}`),
        ),
      ),
    };
  }

  function digits(value) {
    return value === 0 ? "0" : value.toPrecision(2);
  }

  return { make, percent, number, swatch, className, bars, topThree, where, card, channels };
})();
