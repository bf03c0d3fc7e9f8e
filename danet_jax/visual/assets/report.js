"use strict";

/** The report: curves, and confusion matrices that one can read by pointing. */
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  document.getElementById("charts").append(...facts.charts.map(Charts.chart));

  /** A matrix as a picture: rows are the truth, a row's shares from dark to light. */
  function matrix({ run, counts, classes }, figure) {
    const picture = figure.querySelector("canvas");
    const said = figure.querySelector("figcaption");
    const first = said.textContent;
    const count = counts.length;
    Object.assign(picture, { width: count, height: count });
    const sums = counts.map((row) => row.reduce((total, value) => total + value, 0));
    const shares = counts.flatMap((row, i) => row.map((value) => (sums[i] ? Math.sqrt(value / sums[i]) : 0)));
    const context = picture.getContext("2d");
    const pixels = context.createImageData(count, count);
    Colours.paint(shares, pixels.data, { low: 0, high: 1, palette: "cividis", opacity: 1 });
    context.putImageData(pixels, 0, 0);
    picture.setAttribute("aria-label", `confusion matrix of ${run}`);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const at = (t) => Math.min(count - 1, Math.max(0, Math.floor(t * count)));
      const row = at((event.clientY - box.top) / box.height);
      const column = at((event.clientX - box.left) / box.width);
      const share = sums[row] ? `${((100 * counts[row][column]) / sums[row]).toPrecision(3)} %` : "none";
      said.textContent = `${share} of ${classes[row]} is labelled ${classes[column]}`;
    });
    picture.addEventListener("pointerleave", () => (said.textContent = first));
  }

  facts.confusions.forEach((confusion, i) => {
    if (confusion) matrix(confusion, document.getElementById(`confusion${i}`));
  });

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
  document.documentElement.dataset.ready = "1";
})();
