"use strict";

/** Controls the page: draws its state, changes it by mouse, keys and touch, and stores it in the link. */
(async () => {
  const byId = (id) => document.getElementById(id);
  const { make } = Panels;
  const facts = JSON.parse(byId("facts").textContent);
  const arrays = Attention.unpack(facts.arrays, await Attention.inflate(byId("data").textContent));
  byId("data").remove();
  const photo = byId("photo");
  await photo.decode();
  const painter = new Stage.Painter(photo, facts, arrays);
  const positions = facts.grid.rows * facts.grid.columns;
  const map = facts.channelsPerPosition ? new Attention.AttentionMap(arrays, positions) : null;
  const likeliest = Uint8Array.from({ length: positions }, (_, i) => arrays.likely[3 * i]);
  const stage = byId("stage");
  const weights = new Float32Array(positions);
  const state = State.decode(location.hash, facts);
  const page = { facts, arrays, state, weights, map, milliseconds: 0 };
  globalThis.explorer = page; // for the console, and for tests

  const CHECKBOXES = ["lines", "logarithmic", "grey", "differences"];
  const TITLES = {
    row: "What this position attends to",
    column: "What attends to this position",
    entropy: "Where attention is sharp",
    distance: "How far attention reaches",
    received: "Where attention goes",
    labels: "Labels",
    photo: "The image",
  };
  const SUBTITLES = {
    row: "each position's weight in this position's row of the map",
    column: "the weight of this position in every other position's row",
    entropy: "dark: attends to few positions; light: to many alike",
    distance: "mean distance of what each position attends to",
    received: "the sum of each position's column; 1 is the average",
    photo: "",
  };
  const UNITS = {
    entropy: (value) => `${Panels.number(Math.pow(2, value))} positions`,
    distance: (value) => `${Panels.number((value * facts.image.width) / facts.grid.positionColumns)} pixels`,
    received: (value) => `${Panels.number(value)} × average`,
  };
  const isOfPosition = (view) => view === "row" || view === "column";

  /** Returns the options for painting the values of a view: their range, and the options of the page. */
  function painting(view, values) {
    const ofPosition = isOfPosition(view);
    const logarithmic = state.logarithmic && (ofPosition || view === "received");
    const high = Attention.maximum(values);
    let low = Attention.minimum(values);
    if (ofPosition) low = logarithmic ? Math.min(0.1 / positions, high / 10) : 0;
    else if (view === "received") low = logarithmic ? Math.max(low, high / 1e4) : 0;
    return { low, high, fading: ofPosition, logarithmic, palette: state.palette, opacity: state.opacity / 100 };
  }

  /** Returns the values to draw: a view of the whole map, or the row or column of a position. */
  function drawing(view, position, values, marks) {
    if (view === "photo") return { base: "photo", marks };
    if (view === "labels") {
      const { labels: kind, differences, chosen } = state;
      const part = differences || chosen >= 0;
      const opacity = part ? 255 : Math.round((255 * state.opacity * 0.75) / 100);
      return { base: part ? "grey" : "photo", marks, labels: { kind, differences, chosen, opacity } };
    }
    const shown = isOfPosition(view) ? values : arrays[view];
    const drawn = { base: state.grey ? "grey" : "photo", marks, values: shown, paint: painting(view, shown) };
    if (isOfPosition(view) && state.lines) {
      const colour = marks.find((mark) => mark.position === position)?.colour || "#fff";
      drawn.lines = { from: position, to: Attention.strongest(values, 10), weights: values, colour };
    }
    return drawn;
  }

  function pinMark(position) {
    const index = state.pins.indexOf(position);
    return { position, colour: Colours.MARKS[index], text: String(index + 1) };
  }

  /** Returns what the stage shows. */
  function stageDrawing() {
    const marks = state.pins.map(pinMark);
    if (!state.pins.includes(state.at) && state.view !== "photo") marks.push({ position: state.at, colour: "#fff" });
    return drawing(state.view, state.at, weights, marks);
  }

  function fitStage() {
    const box = stage.getBoundingClientRect();
    const factor = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(box.width * factor));
    const height = Math.max(1, Math.round(box.height * factor));
    if (stage.width !== width || stage.height !== height) Object.assign(stage, { width, height });
  }

  /** Draws the stage and the card of the position under the mouse. */
  function show() {
    const started = performance.now();
    const ofPosition = isOfPosition(state.view);
    if (map) map[ofPosition ? state.view : "row"](state.at, weights);
    fitStage();
    const drawn = stageDrawing();
    painter.draw(stage.getContext("2d"), stage.width, stage.height, drawn);
    page.milliseconds = performance.now() - started;
    stage.setAttribute("aria-label", describe());
    showScale(drawn.paint);
    // The weights of a column sum to what the position receives, so they are shown as shares of it.
    const sum = weights.reduce((total, value) => total + value, 0) || 1;
    const looked = map && {
      column: state.view === "column",
      strongest: Attention.maximum(weights),
      classes: Attention.byClass(weights, likeliest, 5).map(([index, value]) => [index, value / sum]),
    };
    byId("position").replaceChildren(...Panels.card(facts, arrays, painter, state.at, looked));
    byId("timing").textContent = ofPosition ? `computed and drawn in ${page.milliseconds.toFixed(1)} ms` : "";
  }

  /** Returns a description of the most probable class of a position. */
  function classAt(position) {
    const [index, share] = Panels.topThree(facts, arrays, position)[0];
    return `${Panels.className(facts, index)} ${Panels.percent(share)}`;
  }

  function describe() {
    return `${TITLES[state.view]}: ${Panels.where(facts, painter, state.at)}, ${classAt(state.at)}`;
  }

  function showScale(paint) {
    byId("scale").hidden = !paint;
    if (!paint) return;
    const ramp = Float32Array.from({ length: 256 }, (_, i) => i / 255);
    Colours.paintCanvas(byId("ramp"), ramp, [1, 256], { ...paint, low: 0, high: 1, logarithmic: false });
    const unit = UNITS[state.view] || Panels.percent;
    byId("low").textContent = unit(paint.low);
    byId("high").textContent = unit(paint.high);
    byId("kind").textContent = paint.logarithmic ? "logarithmic" : "";
  }

  function pinCard(position) {
    const { colour, text } = pinMark(position);
    const width = 320;
    const height = Math.max(1, Math.round((width * facts.image.height) / facts.image.width));
    const canvas = Stage.canvas(width, height);
    const view = map && state.view !== "column" ? "row" : state.view;
    const own = map ? map[view](position) : null;
    painter.draw(canvas.getContext("2d"), width, height, drawing(view, position, own, [pinMark(position)]));
    const remove = make("button.remove", { type: "button", "aria-label": `remove pin ${text}` }, "×");
    remove.addEventListener("click", () => pin(position));
    const badge = make("span.badge", { style: { background: colour } }, text);
    const note = map
      ? `about ${Panels.number(Math.pow(2, arrays.entropy[position]))} positions, strongest ${Panels.percent(Attention.maximum(own))}`
      : Panels.where(facts, painter, position);
    const bars = view === "row" ? [Panels.bars(facts, Attention.byClass(own, likeliest, 3))] : [];
    const header = make("header", {}, badge, make("span.pinname", {}, classAt(position)), remove);
    return make("div.pin", {}, header, canvas, make("p.note", {}, note), ...bars);
  }

  function showPins() {
    byId("pins").replaceChildren(...state.pins.map(pinCard));
    byId("nopins").hidden = state.pins.length > 0;
    byId("unpin").hidden = state.pins.length === 0;
  }

  // The classes in any of the label maps are listed, the most frequent in the result first.
  const counts = new Float64Array(256);
  for (const label of arrays["labels.fusion"]) counts[label] += 1;
  const inResult = Float64Array.from(counts);
  for (const { kind } of facts.labels) for (const label of arrays[`labels.${kind}`]) counts[label] += 1e-9;
  const classes = [...counts.keys()].filter((i) => counts[i] > 0).sort((a, b) => counts[b] - counts[a]);

  function showChannels() {
    if (!facts.channels) return;
    const shown = classes.filter((index) => facts.channels.ofClass[index]);
    const chosen = shown.includes(state.chosen) ? state.chosen : shown[0];
    const parts = Panels.channels(facts, arrays, state.palette, chosen);
    for (const [name, part] of Object.entries(parts)) byId(`channels-${name}`).replaceChildren(part);
    const select = byId("classchannels");
    select.replaceChildren(...shown.map((index) => make("option", { value: index }, Panels.className(facts, index))));
    select.value = chosen;
  }

  function showLegend() {
    const entries = classes.map((index) => {
      const pressed = state.chosen === index;
      const button = make(
        "button.class",
        { type: "button", "aria-pressed": pressed, title: "show this class alone" },
        Panels.swatch(facts, index),
        make("span.name", {}, Panels.className(facts, index)),
        make("span.share", {}, Panels.percent(inResult[index] / arrays["labels.fusion"].length)),
      );
      button.addEventListener("click", () => change(pressed ? { chosen: -1 } : { chosen: index, view: "labels" }));
      return button;
    });
    byId("legend").replaceChildren(...entries);
  }

  function showControls() {
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", button.dataset.view === state.view);
    }
    for (const button of document.querySelectorAll("[data-labels]")) {
      button.setAttribute("aria-pressed", state.view === "labels" && button.dataset.labels === state.labels);
    }
    byId("title").textContent = TITLES[state.view];
    byId("labelbar").hidden = state.view !== "labels";
    byId("mapbar").hidden = ["labels", "photo"].includes(state.view);
    const { kind, title, note, changed } = facts.labels.find((label) => label.kind === state.labels);
    const changes = kind === "fusion" ? "" : `, ${Panels.percent(changed)} of the image differs from the result`;
    byId("subtitle").textContent = state.view === "labels" ? `${title}: ${note}${changes}` : SUBTITLES[state.view];
    for (const name of CHECKBOXES) byId(name).checked = state[name];
    byId("opacity").value = state.opacity;
    byId("palette").value = state.palette;
    document.documentElement.dataset.theme = state.theme;
    byId("theme").textContent = `Theme: ${state.theme === "auto" ? "system" : state.theme}`;
  }

  const hasLink = location.protocol !== "about:"; // a page shown inside a notebook has none
  byId("copy").hidden = !hasLink;

  function updateLink() {
    if (!hasLink) return;
    const text = State.encode(state, facts);
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  let linkTimer = 0;
  function updateLinkSoon() {
    clearTimeout(linkTimer);
    linkTimer = setTimeout(updateLink, 150);
  }

  /** Moves to another position. */
  function moveTo(position) {
    if (position === state.at) return;
    state.at = position;
    show();
    updateLinkSoon();
  }

  /** Changes the state, and everything on the page that depends on it. */
  function change(changes) {
    Object.assign(state, changes);
    if (!map && !["labels", "photo"].includes(state.view)) state.view = "labels";
    showControls();
    show();
    showPins();
    showLegend();
    if ("chosen" in changes || "palette" in changes) showChannels();
    updateLinkSoon();
  }

  /** Adds a pin, or removes the one that is there. */
  function pin(position) {
    const others = state.pins.filter((other) => other !== position);
    const pins = others.length < state.pins.length ? others : [...others, position].slice(-State.MOST_PINS);
    change({ pins, at: position });
  }

  function positionUnder(event) {
    const box = stage.getBoundingClientRect();
    return painter.position((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  /** Returns the position of a pin that a click is close to, or else the position under it. */
  function pinOrPositionUnder(event) {
    const box = stage.getBoundingClientRect();
    const near = state.pins.find((position) => {
      const [x, y] = painter.middle(position);
      return Math.hypot(box.left + x * box.width - event.clientX, box.top + y * box.height - event.clientY) < 9;
    });
    return near === undefined ? positionUnder(event) : near;
  }

  stage.addEventListener("pointermove", (event) => moveTo(positionUnder(event)));
  stage.addEventListener("pointerdown", (event) => moveTo(positionUnder(event)));
  stage.addEventListener("click", (event) => pin(pinOrPositionUnder(event)));

  function step(rows, columns) {
    const { rows: height, columns: width } = facts.grid;
    const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));
    moveTo(clamp(Math.floor(state.at / width) + rows, height) * width + clamp((state.at % width) + columns, width));
  }

  function nextLabels(by) {
    const kinds = facts.labels.map(({ kind }) => kind);
    const at = (kinds.indexOf(state.labels) + by + kinds.length) % kinds.length;
    change({ labels: kinds[at], view: "labels" });
  }

  function nextTheme() {
    change({ theme: { auto: "dark", dark: "light", light: "auto" }[state.theme] });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
    const onButton = event.target.tagName === "BUTTON" || event.target.tagName === "SUMMARY";
    const far = event.shiftKey ? 8 : 1;
    const actions = {
      ArrowLeft: () => step(0, -far),
      ArrowRight: () => step(0, far),
      ArrowUp: () => step(-far, 0),
      ArrowDown: () => step(far, 0),
      Enter: onButton ? null : () => pin(state.at),
      " ": onButton ? null : () => pin(state.at),
      Backspace: () => change({ pins: state.pins.slice(0, -1) }),
      Escape: () => change({ pins: [], chosen: -1 }),
      r: () => change({ view: "row" }),
      c: () => change({ view: "column" }),
      l: () => change({ lines: !state.lines }),
      g: () => change({ logarithmic: !state.logarithmic }),
      d: () => change({ differences: !state.differences, view: "labels" }),
      "[": () => nextLabels(-1),
      "]": () => nextLabels(1),
      s: save,
      t: nextTheme,
      "?": () => byId("help").toggleAttribute("open"),
    };
    State.VIEWS.forEach((view, i) => (actions[String(i + 1)] = () => change({ view })));
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => change({ view: button.dataset.view }));
  }
  for (const button of document.querySelectorAll("[data-labels]")) {
    button.addEventListener("click", () => change({ labels: button.dataset.labels, view: "labels" }));
  }
  for (const name of CHECKBOXES) {
    byId(name).addEventListener("change", (event) => change({ [name]: event.target.checked }));
  }
  byId("opacity").addEventListener("input", (event) => change({ opacity: Number(event.target.value) }));
  byId("palette").addEventListener("change", (event) => change({ palette: event.target.value }));
  byId("classchannels")?.addEventListener("change", (event) => change({ chosen: Number(event.target.value) }));
  byId("unpin").addEventListener("click", () => change({ pins: [] }));
  byId("theme").addEventListener("click", nextTheme);
  byId("copy").addEventListener("click", async () => {
    updateLink();
    try {
      await navigator.clipboard.writeText(location.href);
      byId("copy").textContent = "Copied";
    } catch {
      byId("copy").textContent = "It is in the address bar";
    }
    setTimeout(() => (byId("copy").textContent = "Copy link"), 1500);
  });

  /** Returns the view as an image with a caption. */
  function saved() {
    const { shownWidth, shownHeight } = facts.image;
    const factor = Math.max(1, 1200 / Math.max(shownWidth, shownHeight));
    const [width, height] = [Math.round(shownWidth * factor), Math.round(shownHeight * factor)];
    const line = Math.max(22, Math.round(width / 42));
    const canvas = Stage.canvas(width, height + 2 * line);
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    painter.draw(context, width, height, stageDrawing());
    context.textBaseline = "middle";
    context.font = `${Math.round(line * 0.62)}px system-ui, sans-serif`;
    const scale = byId("scale").hidden ? "" : `  (${byId("low").textContent} to ${byId("high").textContent})`;
    context.fillStyle = "#000";
    context.fillText(`${facts.name}: ${describe()}`, line / 2, height + line * 0.62, width - line);
    context.fillStyle = "#555";
    context.fillText(`${byId("subtitle").textContent}${scale}`, line / 2, height + line * 1.42, width - line);
    return canvas;
  }
  Object.assign(page, { saved, moveTo });

  function save() {
    saved().toBlob((blob) => {
      const link = make("a", { href: URL.createObjectURL(blob), download: `${facts.name}_${state.view}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }, "image/png");
  }
  byId("save").addEventListener("click", save);

  window.addEventListener("hashchange", () => change(State.decode(location.hash, facts)));
  new ResizeObserver(show).observe(stage);
  change({ chosen: state.chosen });
  document.documentElement.dataset.ready = "1";
})();
