"use strict";

/** Colour scales that are readable with any colour vision, and functions that paint values with them. */
const Colours = (() => {
  // These are ten stops of matplotlib's colour maps (CC0), whose lightness rises evenly.
  const STOPS = {
    magma: "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf",
    viridis: "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
  };
  // Marks that must be distinguished use Okabe and Ito's colours.
  const MARKS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#ffffff"];
  const tables = new Map();

  /** Returns the 256 colours of a scale, RGB. */
  function table(name) {
    if (!tables.has(name)) {
      const stops = STOPS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
      const colours = new Uint8ClampedArray(256 * 3);
      for (let i = 0; i < 256; i++) {
        const at = (i / 255) * (stops.length - 1);
        const low = Math.min(Math.floor(at), stops.length - 2);
        for (let c = 0; c < 3; c++) {
          colours[3 * i + c] = stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]);
        }
      }
      tables.set(name, colours);
    }
    return tables.get(name);
  }

  /** Returns where a value lies between low and high, from 0 to 1. */
  function fraction(value, low, high, logarithmic) {
    if (!(high > low)) return 0;
    const t = logarithmic
      ? Math.log(Math.max(value, low) / low) / Math.log(high / low)
      : (value - low) / (high - low);
    return Math.min(1, Math.max(0, t));
  }

  /**
   * Paints values into RGBA pixels.
   * @param options low, high, logarithmic, palette, opacity, and fading: whether low values are transparent.
   */
  function paint(values, pixels, options) {
    const { low, high, logarithmic, palette, opacity, fading } = options;
    const colours = table(palette);
    for (let i = 0; i < values.length; i++) {
      const t = fraction(values[i], low, high, logarithmic);
      const at = 3 * Math.round(255 * t);
      pixels[4 * i] = colours[at];
      pixels[4 * i + 1] = colours[at + 1];
      pixels[4 * i + 2] = colours[at + 2];
      pixels[4 * i + 3] = 255 * opacity * (fading ? Math.pow(t, 0.6) : 1);
    }
  }

  /** Paints a grid of values, [rows, columns], on a canvas of that size. */
  function paintCanvas(canvas, values, [rows, columns], options) {
    Object.assign(canvas, { width: columns, height: rows });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    paint(values, pixels.data, options);
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  /** Returns the row and the column under the mouse on a canvas with one pixel per cell. */
  function cellUnder(event, canvas) {
    const box = canvas.getBoundingClientRect();
    const at = (t, count) => Math.min(count - 1, Math.max(0, Math.floor(t * count)));
    return [
      at((event.clientY - box.top) / box.height, canvas.height),
      at((event.clientX - box.left) / box.width, canvas.width),
    ];
  }

  function css([red, green, blue]) {
    return `rgb(${red}, ${green}, ${blue})`;
  }

  return { MARKS, names: Object.keys(STOPS), table, fraction, paint, paintCanvas, cellUnder, css };
})();

if (typeof module !== "undefined") module.exports = Colours;
