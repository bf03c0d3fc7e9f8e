"use strict";

/** Draws the image and its overlays at any size. */
const Stage = (() => {
  function canvas(width, height) {
    const made = document.createElement("canvas");
    made.width = width;
    made.height = height;
    return made;
  }

  class Painter {
    constructor(photo, facts, arrays) {
      this.photo = photo;
      this.facts = facts;
      this.arrays = arrays;
      const { shownWidth, shownHeight } = facts.image;
      this.grey = canvas(shownWidth, shownHeight);
      const context = this.grey.getContext("2d", { willReadFrequently: true });
      context.drawImage(photo, 0, 0, shownWidth, shownHeight);
      const pixels = context.getImageData(0, 0, shownWidth, shownHeight);
      for (let i = 0; i < pixels.data.length; i += 4) {
        const [r, g, b] = [pixels.data[i], pixels.data[i + 1], pixels.data[i + 2]];
        pixels.data.fill(0.62 * (0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
      }
      context.putImageData(pixels, 0, 0);
      this.heat = canvas(1, 1);
      this.labels = canvas(shownWidth, shownHeight);
      this.labelsDrawn = "";
    }

    /** Returns the position at a point of the image, given as fractions of its width and height. */
    position(x, y) {
      const { rows, columns, positionRows, positionColumns, cell, alignCorners } = this.facts.grid;
      const along = (t, count, positions) => {
        const at = alignCorners ? Math.round(t * (positions - 1)) : Math.floor((t * positions) / cell);
        return Math.min(count - 1, Math.max(0, at));
      };
      return along(y, rows, positionRows) * columns + along(x, columns, positionColumns);
    }

    /** Returns the centre of a position, as fractions of the image's width and height. */
    middle(position) {
      const { columns, positionRows, positionColumns, cell, alignCorners } = this.facts.grid;
      const along = (at, positions) => {
        if (alignCorners) return positions > 1 ? at / (positions - 1) : 0.5;
        const end = Math.min((at + 1) * cell, positions);
        return (at * cell + end) / 2 / positions;
      };
      return [along(position % columns, positionColumns), along(Math.floor(position / columns), positionRows)];
    }

    /** Fills a context with a drawing: {base, values, paint, labels, lines, marks}. */
    draw(context, width, height, view) {
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.drawImage(view.base === "grey" ? this.grey : this.photo, 0, 0, width, height);
      if (view.values) this.drawValues(context, width, height, view.values, view.paint);
      if (view.labels) {
        this.paintLabels(view.labels);
        context.imageSmoothingEnabled = false;
        context.drawImage(this.labels, 0, 0, width, height);
      }
      const unit = Math.max(1, Math.min(width, height) / 420);
      if (view.lines) this.drawLines(context, width, height, unit, view.lines);
      for (const mark of view.marks) this.drawMark(context, width, height, unit, mark);
    }

    drawValues(context, width, height, values, paint) {
      const { rows, columns, positionRows, positionColumns, cell, alignCorners } = this.facts.grid;
      Colours.paintCanvas(this.heat, values, [rows, columns], paint);
      if (alignCorners && rows > 1 && columns > 1) {
        // The centres of the corner positions lie on the corners of the image.
        context.drawImage(this.heat, 0.5, 0.5, columns - 1, rows - 1, 0, 0, width, height);
      } else {
        context.imageSmoothingEnabled = cell === 1;
        context.drawImage(this.heat, 0, 0, positionColumns / cell, positionRows / cell, 0, 0, width, height);
        context.imageSmoothingEnabled = true;
      }
    }

    /** Paints a label map, unless it was the last one painted. */
    paintLabels(options) {
      const name = JSON.stringify(options);
      if (name === this.labelsDrawn) return;
      this.labelsDrawn = name;
      const { kind, differences, chosen, opacity } = options;
      const labels = this.arrays[`labels.${kind}`];
      const fusion = this.arrays["labels.fusion"];
      const context = this.labels.getContext("2d");
      const pixels = context.createImageData(this.labels.width, this.labels.height);
      const colours = new Uint32Array(256);
      this.facts.classes.forEach(({ colour: [r, g, b] }, i) => {
        colours[i] = ((opacity << 24) | (b << 16) | (g << 8) | r) >>> 0;
      });
      const target = new Uint32Array(pixels.data.buffer);
      for (let i = 0; i < target.length; i++) {
        if (differences && labels[i] === fusion[i]) continue;
        if (chosen >= 0 && labels[i] !== chosen) continue;
        target[i] = colours[labels[i]];
      }
      context.putImageData(pixels, 0, 0);
    }

    drawLines(context, width, height, unit, { from, to, weights, colour }) {
      const [x0, y0] = this.middle(from);
      const largest = weights[to[0]];
      context.lineCap = "round";
      for (const position of [...to].reverse()) {
        if (!(weights[position] > 0)) continue;
        const [x, y] = this.middle(position);
        const strength = weights[position] / largest;
        for (const [style, more] of [["rgba(0,0,0,0.55)", 1.6], [colour, 0]]) {
          context.strokeStyle = context.fillStyle = style;
          context.lineWidth = unit * (0.7 + 1.5 * strength + more);
          context.beginPath();
          context.moveTo(x0 * width, y0 * height);
          context.lineTo(x * width, y * height);
          context.stroke();
          context.beginPath();
          context.arc(x * width, y * height, unit * (1.6 + 1.6 * strength + more / 2), 0, 2 * Math.PI);
          context.fill();
        }
      }
    }

    /** Draws a disc with a text, or a ring without one. */
    drawMark(context, width, height, unit, { position, colour, text }) {
      const [x, y] = this.middle(position);
      const radius = unit * (text ? 7.5 : 5.5);
      context.beginPath();
      context.arc(x * width, y * height, radius, 0, 2 * Math.PI);
      context.lineWidth = unit * 3.4;
      context.strokeStyle = "rgba(0,0,0,0.75)";
      context.stroke();
      if (text) {
        context.fillStyle = colour;
        context.fill();
      }
      context.lineWidth = unit * 1.7;
      context.strokeStyle = text ? "#fff" : colour;
      context.stroke();
      if (text) {
        context.fillStyle = "#000";
        context.font = `700 ${10 * unit}px system-ui, sans-serif`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillText(text, x * width, y * height + unit * 0.5);
      }
    }
  }

  return { Painter, canvas };
})();
