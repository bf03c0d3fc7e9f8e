"use strict";

/** The page: what is looked at, kept in the link, drawn, and changed by mouse, keys and touch. */
(async () => {
  const byId = (id) => document.getElementById(id);
  const { make } = Panels;
  const facts = JSON.parse(byId("facts").textContent);
  const arrays = Attention.unpack(facts.arrays, await Attention.inflate(byId("data").textContent));
  byId("data").remove();
  const photo = byId("photo");
  await photo.decode();
  const painter = new Stage.Painter(photo, facts, arrays);
  const places = facts.grid.rows * facts.grid.columns;
  const map = facts.channelsPerPlace ? new Attention.AttentionMap(arrays, places) : null;
  const firstClass = Uint8Array.from({ length: places }, (_, i) => arrays.likely[3 * i]);
  const stage = byId("stage");
  const weights = new Float32Array(places);
  const state = State.decode(location.hash, facts);
  const page = { facts, arrays, state, weights, map, milliseconds: 0, ready: false };
  globalThis.explorer = page; // for the console, and for whoever wants the numbers

  const TITLES = {
    row: "What this place attends to",
    column: "Who attends to this place",
    entropy: "Where attention is sharp",
    distance: "How far attention reaches",
    received: "Where attention goes",
    labels: "Labels",
    photo: "The picture",
  };
  const UNITS = {
    entropy: (value) => `${Panels.number(Math.pow(2, value))} places`,
    distance: (value) => `${Panels.number((value * facts.picture.width) / facts.grid.placeColumns)} pixels`,
    received: (value) => `${Panels.number(value)} × average`,
  };

  function looksAtMap() {
    return state.view === "row" || state.view === "column";
  }

  /** Weights of a place in the view's direction. */
  function look(place, into) {
    return state.view === "column" ? map.column(place, into) : map.row(place, into);
  }

  function scaleOf(values) {
    if (looksAtMap()) {
      const high = Attention.maximum(values);
      return { low: state.logarithmic ? Math.min(0.1 / places, high / 10) : 0, high, fading: true };
    }
    const [low, high] = [Attention.minimum(values), Attention.maximum(values)];
    if (state.view !== "received") return { low, high, fading: false };
    return { low: state.logarithmic ? Math.max(low, high / 1e4) : 0, high, fading: false };
  }

  function painting(values) {
    const logarithmic = state.logarithmic && (looksAtMap() || state.view === "received");
    return { ...scaleOf(values), logarithmic, palette: state.palette, opacity: state.opacity / 100 };
  }

  /** What is drawn for one place, or of the whole map. */
  function viewOf(place, values, shown) {
    const view = { base: state.grey ? "grey" : "photo", marks: shown };
    if (state.view === "photo") return { ...view, base: "photo" };
    if (state.view === "labels") {
      const { labels: kind, differences, chosen } = state;
      view.base = differences || chosen >= 0 ? "grey" : "photo";
      const opacity = differences || chosen >= 0 ? 255 : Math.round((255 * state.opacity * 0.75) / 100);
      return { ...view, labels: { kind, differences, chosen, opacity } };
    }
    view.values = looksAtMap() ? values : arrays[state.view];
    view.paint = painting(view.values);
    if (looksAtMap() && state.lines && place !== null) {
      const colour = shown.find((mark) => mark.place === place)?.colour || "#fff";
      view.lines = [{ from: place, to: Attention.strongest(values, 10), weights: values, colour }];
    }
    return view;
  }

  function marks() {
    return state.pins.map((place, i) => ({ place, colour: Colours.MARKS[i], text: String(i + 1) }));
  }

  function stageMarks() {
    const ring = state.pins.includes(state.at) || state.view === "photo" ? [] : [{ place: state.at, colour: "#fff" }];
    return [...marks(), ...ring];
  }

  function fitted() {
    const box = stage.getBoundingClientRect();
    const factor = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(box.width * factor));
    const height = Math.max(1, Math.round(box.height * factor));
    if (stage.width !== width || stage.height !== height) Object.assign(stage, { width, height });
  }

  /** The row or column of the place under the mouse, on the picture and in its card. */
  function show() {
    const started = performance.now();
    if (map && looksAtMap()) look(state.at, weights);
    fitted();
    const view = viewOf(state.at, weights, stageMarks());
    painter.draw(stage.getContext("2d"), stage.width, stage.height, view);
    page.milliseconds = performance.now() - started;
    stage.setAttribute("aria-label", describe());
    legendOfScale(view.paint);
    const looked = map && {
      column: state.view === "column",
      strongest: looksAtMap() ? Attention.maximum(weights) : Attention.maximum(map.row(state.at)),
      classes: looksAtMap() ? shares(weights) : Attention.byClass(map.row(state.at), firstClass, 5),
    };
    byId("place").replaceChildren(...Panels.card(facts, arrays, painter, state.at, looked));
    byId("timing").textContent = map && looksAtMap() ? `computed and drawn in ${page.milliseconds.toFixed(1)} ms` : "";
  }

  /** A row's weights by class; of a column, whose weights sum to what the place receives, the shares. */
  function shares(values) {
    const sum = values.reduce((total, value) => total + value, 0) || 1;
    return Attention.byClass(values, firstClass, 5).map(([index, value]) => [index, value / sum]);
  }

  function describe() {
    const [[index, share] = [255, 0]] = Panels.topThree(facts, arrays, state.at);
    const name = Panels.className(facts, index);
    return `${TITLES[state.view]}: ${Panels.where(facts, painter, state.at)}, ${name} ${Panels.percent(share)}`;
  }

  function legendOfScale(paint) {
    const legend = byId("scale");
    legend.hidden = !paint;
    if (!paint) return;
    const bar = byId("ramp");
    const context = bar.getContext("2d");
    const ramp = Float32Array.from({ length: bar.width }, (_, i) => i / (bar.width - 1));
    const pixels = context.createImageData(bar.width, 1);
    Colours.paint(ramp, pixels.data, { ...paint, low: 0, high: 1, logarithmic: false });
    context.putImageData(pixels, 0, 0);
    const unit = UNITS[state.view] || Panels.percent;
    byId("low").textContent = unit(paint.low);
    byId("high").textContent = unit(paint.high);
    byId("kind").textContent = paint.logarithmic ? "logarithmic" : "";
  }

  function showPins() {
    const cards = state.pins.map((place, i) => {
      const width = 320;
      const height = Math.max(1, Math.round((width * facts.picture.height) / facts.picture.width));
      const picture = Stage.canvas(width, height);
      const own = new Float32Array(places);
      const direction = state.view === "column" ? "column" : "row";
      const kept = state.view;
      if (map) {
        state.view = direction;
        look(place, own);
        const mark = { place, colour: Colours.MARKS[i], text: String(i + 1) };
        painter.draw(picture.getContext("2d"), width, height, viewOf(place, own, [mark]));
        state.view = kept;
      } else {
        painter.draw(picture.getContext("2d"), width, height, viewOf(place, null, [marks()[i]]));
      }
      const [[index, share] = [255, 0]] = Panels.topThree(facts, arrays, place);
      const remove = make("button.remove", { type: "button", "aria-label": `remove pin ${i + 1}` }, "×");
      remove.addEventListener("click", () => change({ pins: state.pins.filter((other) => other !== place) }));
      const title = make("span.pinname", {}, `${Panels.className(facts, index)} ${Panels.percent(share)}`);
      const badge = make("span.badge", { style: { background: Colours.MARKS[i] } }, String(i + 1));
      const rows = map ? [Panels.bars(facts, Attention.byClass(own, firstClass, 3))] : [];
      const note = map
        ? `about ${Panels.number(Math.pow(2, arrays.entropy[place]))} places, strongest ${Panels.percent(Attention.maximum(own))}`
        : Panels.where(facts, painter, place);
      if (map && direction === "column") rows.length = 0;
      return make("div.pin", {}, make("header", {}, badge, title, remove), picture, make("p.note", {}, note), ...rows);
    });
    byId("pins").replaceChildren(...cards);
    byId("nopins").hidden = cards.length > 0;
    byId("unpin").hidden = cards.length === 0;
  }

  function showChannels() {
    if (!facts.channels) return;
    const shown = Object.keys(facts.channels.ofClass);
    const counted = shown.includes(String(state.chosen)) ? String(state.chosen) : classesFound().find((i) => shown.includes(String(i)));
    const parts = Panels.channels(facts, arrays, state.palette, String(counted));
    byId("channelmap").replaceChildren(parts.map);
    byId("attended").replaceChildren(parts.attended);
    byId("after").replaceChildren(parts.after);
    byId("ofclass").replaceChildren(parts.ofClass);
    const select = byId("classchannels");
    if (!select.options.length) {
      for (const index of classesFound().filter((i) => shown.includes(String(i)))) {
        select.append(make("option", { value: index }, Panels.className(facts, index)));
      }
    }
    select.value = String(counted);
  }

  let found = null;
  /** Classes in any of the label maps, the largest in the result first. */
  function classesFound() {
    if (!found) {
      const counts = new Float64Array(256);
      for (const label of arrays["labels.fusion"]) counts[label] += 1;
      for (const { kind } of facts.labels) for (const label of arrays[`labels.${kind}`]) counts[label] += 1e-9;
      found = [...counts.keys()].filter((i) => counts[i] > 0).sort((a, b) => counts[b] - counts[a]);
      found.counts = counts;
    }
    return found;
  }

  function showLegend() {
    const total = arrays["labels.fusion"].length;
    const entries = classesFound().map((index) => {
      const share = Math.floor(found.counts[index]) / total;
      const pressed = state.chosen === index;
      const button = make(
        "button.class",
        { type: "button", "aria-pressed": pressed, title: "show this class alone" },
        Panels.swatch(facts, index),
        make("span.name", {}, Panels.className(facts, index)),
        make("span.share", {}, Panels.percent(share)),
      );
      button.addEventListener("click", () => change({ chosen: pressed ? -1 : index, view: pressed ? state.view : "labels" }));
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
    const label = facts.labels.find(({ kind }) => kind === state.labels);
    const changes = label.kind === "fusion" ? "" : `, ${Panels.percent(label.changed)} of the picture differs from the result`;
    byId("subtitle").textContent = state.view === "labels" ? `${label.title}: ${label.note}${changes}` : SUBTITLES[state.view];
    for (const name of ["lines", "logarithmic", "grey", "differences"]) byId(name).checked = state[name];
    byId("opacity").value = state.opacity;
    byId("palette").value = state.palette;
    document.documentElement.dataset.theme = state.theme;
    byId("theme").textContent = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" }[state.theme];
  }

  const SUBTITLES = {
    row: "each place's weight in the row of the map, over the picture",
    column: "the weight of this place in every other place's row",
    entropy: "dark: attends to few places; light: to many alike",
    distance: "mean distance of what each place attends to",
    received: "the sum of each place's column; 1 is the average",
    photo: "",
  };

  let linkTimer = 0;
  function keepInLink() {
    clearTimeout(linkTimer);
    linkTimer = setTimeout(() => {
      const text = State.encode(state, facts);
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }, 150);
  }

  /** Moves the mouse's place only. */
  function moveTo(place) {
    if (place === state.at) return;
    state.at = place;
    show();
    keepInLink();
  }

  function change(changes) {
    Object.assign(state, changes);
    if (!map && !["labels", "photo"].includes(state.view)) state.view = "labels";
    showControls();
    show();
    showPins();
    showLegend();
    if ("chosen" in changes || "palette" in changes) showChannels();
    keepInLink();
  }

  function pin(place) {
    const pins = state.pins.includes(place)
      ? state.pins.filter((other) => other !== place)
      : [...state.pins, place].slice(-State.MOST_PINS);
    change({ pins, at: place });
  }

  function placeOf(event) {
    const box = stage.getBoundingClientRect();
    return painter.place((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  /** A pin that a click is close enough to, else the place itself. */
  function pinOrPlace(event) {
    const box = stage.getBoundingClientRect();
    const near = state.pins.find((place) => {
      const [x, y] = painter.middle(place);
      return Math.hypot(box.left + x * box.width - event.clientX, box.top + y * box.height - event.clientY) < 9;
    });
    return near === undefined ? placeOf(event) : near;
  }

  stage.addEventListener("pointermove", (event) => moveTo(placeOf(event)));
  stage.addEventListener("pointerdown", (event) => moveTo(placeOf(event)));
  stage.addEventListener("click", (event) => pin(pinOrPlace(event)));

  function step(rows, columns) {
    const { rows: height, columns: width } = facts.grid;
    const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));
    moveTo(clamp(Math.floor(state.at / width) + rows, height) * width + clamp((state.at % width) + columns, width));
  }

  const KINDS = facts.labels.map(({ kind }) => kind);
  function nextLabels(by) {
    const at = (KINDS.indexOf(state.labels) + by + KINDS.length) % KINDS.length;
    change({ labels: KINDS[at], view: "labels" });
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
  for (const name of ["lines", "logarithmic", "grey", "differences"]) {
    byId(name).addEventListener("change", (event) => change({ [name]: event.target.checked }));
  }
  byId("opacity").addEventListener("input", (event) => change({ opacity: Number(event.target.value) }));
  byId("palette").addEventListener("change", (event) => change({ palette: event.target.value }));
  byId("classchannels")?.addEventListener("change", (event) => {
    state.chosen = Number(event.target.value);
    change({ chosen: state.chosen });
  });
  byId("unpin").addEventListener("click", () => change({ pins: [] }));

  function nextTheme() {
    change({ theme: { auto: "dark", dark: "light", light: "auto" }[state.theme] });
  }
  byId("theme").addEventListener("click", nextTheme);

  byId("copy").addEventListener("click", async () => {
    const text = State.encode(state, facts);
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    try {
      await navigator.clipboard.writeText(location.href);
      byId("copy").textContent = "Copied";
    } catch {
      byId("copy").textContent = "It is in the address bar";
    }
    setTimeout(() => (byId("copy").textContent = "Copy link"), 1500);
  });

  /** The view as a picture of its own, with a caption. */
  function saved() {
    const { shownWidth, shownHeight } = facts.picture;
    const factor = Math.max(1, 1200 / Math.max(shownWidth, shownHeight));
    const [width, height] = [Math.round(shownWidth * factor), Math.round(shownHeight * factor)];
    const line = Math.max(22, Math.round(width / 42));
    const picture = Stage.canvas(width, height + 2 * line);
    const context = picture.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, picture.width, picture.height);
    painter.draw(context, width, height, viewOf(state.at, weights, stageMarks()));
    context.fillStyle = "#000";
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.font = `${Math.round(line * 0.62)}px system-ui, sans-serif`;
    const scale = byId("scale").hidden ? "" : `  (${byId("low").textContent} to ${byId("high").textContent})`;
    context.fillText(`${facts.name}: ${describe()}`, line / 2, height + line * 0.62, width - line);
    context.fillStyle = "#555";
    context.fillText(`${byId("subtitle").textContent}${scale}`, line / 2, height + line * 1.42, width - line);
    return picture;
  }
  page.saved = saved;

  function save() {
    saved().toBlob((blob) => {
      const link = make("a", { href: URL.createObjectURL(blob), download: `${facts.name}_${state.view}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }, "image/png");
  }
  byId("save").addEventListener("click", save);

  window.addEventListener("hashchange", () => {
    Object.assign(state, State.decode(location.hash, facts));
    change({ chosen: state.chosen });
  });
  new ResizeObserver(show).observe(stage);
  change({ chosen: state.chosen });
  page.ready = true;
  document.documentElement.dataset.ready = "1";
})();
