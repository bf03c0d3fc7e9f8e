"use strict";

/** Draws the report's curves, and its confusion matrices, which show the values under the mouse. */
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  document.getElementById("charts").append(...facts.charts.map(Charts.chart));

  /** Draws a matrix whose rows are the true classes; the shares in each row are shown from dark to light. */
  function matrix({ counts, classes }, figure) {
    const canvas = figure.querySelector("canvas");
    const caption = figure.querySelector("figcaption");
    const hint = caption.textContent;
    const count = counts.length;
    const sums = counts.map((row) => row.reduce((total, value) => total + value, 0));
    const shares = counts.flatMap((row, i) => row.map((value) => (sums[i] ? Math.sqrt(value / sums[i]) : 0)));
    Colours.paintCanvas(canvas, shares, [count, count], { low: 0, high: 1, palette: "cividis", opacity: 1 });
    canvas.addEventListener("pointermove", (event) => {
      const [row, column] = Colours.cellUnder(event, canvas);
      const share = sums[row] ? `${((100 * counts[row][column]) / sums[row]).toPrecision(3)} %` : "none";
      caption.textContent = `${share} of ${classes[row]} is predicted as ${classes[column]}`;
    });
    canvas.addEventListener("pointerleave", () => (caption.textContent = hint));
    new ResizeObserver(() => {
      const legible = canvas.clientHeight / count >= 9;
      for (const list of figure.querySelectorAll(".names")) list.style.visibility = legible ? "visible" : "hidden";
    }).observe(canvas);
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
