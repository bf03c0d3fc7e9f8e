"use strict";

/** Draws curves as SVG, and shows their values under the mouse. */
const Charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const [WIDTH, HEIGHT] = [460, 230];
  const EDGE = { left: 54, right: 12, top: 12, bottom: 26 };

  /** Returns about `count` round numbers from low to high. */
  function ticks(low, high, count) {
    if (!(high > low)) return [low];
    const rough = (high - low) / count;
    const power = Math.pow(10, Math.floor(Math.log10(rough)));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step + 0);
    return found;
  }

  /** Returns a number as a short text. */
  function short(value) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 10000) return `${Number((value / 1000).toPrecision(3))}k`;
    if (size < 0.001) return value.toExponential(1).replace("e-", "e−");
    return String(Number(value.toPrecision(3)));
  }

  /** Returns the index of the point of a line that is nearest to x. */
  function nearest(xs, x) {
    let [low, high] = [0, xs.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
  }

  function range(lists) {
    let [low, high] = [Infinity, -Infinity];
    for (const list of lists) {
      for (const value of list) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    return [low, high];
  }

  function shape(kind, attributes, text) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** Returns a figure element for `{title, unit, lines: [{name, colour, dashed, x, y}]}`. */
  function chart({ title, unit, lines }) {
    const figure = document.createElement("figure");
    figure.className = "chart";
    const caption = document.createElement("figcaption");
    const heading = document.createElement("b");
    heading.textContent = title;
    caption.append(heading);
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": title });
    const [firstX, lastX] = range(lines.map((line) => line.x));
    let [low, high] = range(lines.map((line) => line.y));
    if (low > 0 && low < high / 3) low = 0;
    if (low === high) [low, high] = low === 0 ? [0, 1] : [Math.min(0, 2 * low), Math.max(0, 2 * low)];
    const atX = (x) => EDGE.left + ((x - firstX) / (lastX - firstX || 1)) * (WIDTH - EDGE.left - EDGE.right);
    const atY = (y) => HEIGHT - EDGE.bottom - ((y - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
    for (const y of ticks(low, high, 5)) {
      svg.append(shape("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: atY(y), y2: atY(y) }));
      svg.append(shape("text", { x: EDGE.left - 6, y: atY(y) + 4, "text-anchor": "end" }, short(y)));
    }
    for (const x of ticks(firstX, lastX, 5)) {
      svg.append(shape("text", { x: atX(x), y: HEIGHT - 8, "text-anchor": "middle" }, short(x)));
    }
    for (const { x, y, colour, dashed } of lines) {
      const path = x.map((step, i) => `${i ? "L" : "M"}${atX(step).toFixed(1)} ${atY(y[i]).toFixed(1)}`).join("");
      const style = { d: path, fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round" };
      svg.append(shape("path", dashed ? { ...style, "stroke-dasharray": "5 3" } : style));
      if (x.length === 1) svg.append(shape("circle", { cx: atX(x[0]), cy: atY(y[0]), r: 3, fill: colour }));
    }
    const guide = shape("line", { class: "guide", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
    const dots = lines.map(({ colour }) => shape("circle", { r: 3.6, fill: colour, visibility: "hidden" }));
    svg.append(guide, ...dots);
    const legend = document.createElement("div");
    legend.className = "legend";
    const values = lines.map(({ name, colour }) => {
      const entry = document.createElement("span");
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.style.background = colour;
      const value = document.createElement("span");
      value.className = "value";
      entry.append(mark, name, value);
      legend.append(entry);
      return value;
    });
    const step = document.createElement("span");
    step.className = "step";
    legend.append(step);

    function show(x) {
      // This is the step nearest to x of any line; each line then shows its own value there.
      let best = null;
      for (const line of lines) {
        const found = line.x[nearest(line.x, x)];
        if (best === null || Math.abs(found - x) < Math.abs(best - x)) best = found;
      }
      guide.setAttribute("x1", atX(best));
      guide.setAttribute("x2", atX(best));
      guide.setAttribute("visibility", "visible");
      lines.forEach((line, i) => {
        const at = nearest(line.x, best);
        dots[i].setAttribute("cx", atX(line.x[at]));
        dots[i].setAttribute("cy", atY(line.y[at]));
        dots[i].setAttribute("visibility", "visible");
        values[i].textContent = `${short(line.y[at])}${unit ? ` ${unit}` : ""}`;
      });
      step.textContent = `step ${best.toLocaleString("en")}`;
      figure.dataset.step = best;
    }

    function rest() {
      for (const mark of [guide, ...dots]) mark.setAttribute("visibility", "hidden");
      lines.forEach((line, i) => {
        values[i].textContent = `${short(line.y[line.y.length - 1])}${unit ? ` ${unit}` : ""}`;
      });
      step.textContent = "";
    }

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * WIDTH;
      show(firstX + ((at - EDGE.left) / (WIDTH - EDGE.left - EDGE.right)) * (lastX - firstX));
    });
    svg.addEventListener("pointerleave", rest);
    svg.addEventListener("blur", rest);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
      const here = figure.dataset.step === undefined ? (by > 0 ? -1 : steps.length) : nearest(steps, Number(figure.dataset.step));
      show(steps[Math.min(steps.length - 1, Math.max(0, here + by))]);
    });
    rest();
    figure.append(caption, svg, legend);
    return figure;
  }

  return { chart, ticks, short, nearest };
})();

if (typeof module !== "undefined") module.exports = Charts;
