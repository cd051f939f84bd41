// The reader's choices: buttons, the mouse, keys.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const sides = { left: element("left"), right: element("right") };
// `hovered` and `pinned` are null or {side, index}.
const state = { row: 0, part: 0, layer: 0, heads: new Set(), hovered: null, pinned: null };

const partsOf = () => data.rows[state.row];
const partOf = () => partsOf()[state.part];
const layerOf = () => partOf().layers[state.layer];
const headsOf = () => layerOf().scales.map((_, head) => head);
const chosenHeads = () => headsOf().filter((head) => state.heads.has(head));

// Text is never parsed as HTML.
function make(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// ---- the view of heads

function showTokens() {
  for (const [side, list] of Object.entries(sides)) {
    const tokens = partOf()[side].map((token, index) => {
      const button = make("button", token, { type: "button", class: "token", dir: "auto" });
      button.title = token;
      button.tabIndex = index ? -1 : 0;
      return button;
    });
    list.replaceChildren(...tokens);
  }
}

function showHeads() {
  document.querySelectorAll(".head").forEach((button) => button.remove());
  const buttons = headsOf().map((head) => {
    const button = make("button", head, { type: "button", class: "head" });
    button.dataset.head = head;
    button.style.setProperty("--head", colourOf(head));
    button.setAttribute("aria-label", `Head ${head}`);
    button.setAttribute("aria-pressed", state.heads.has(head));
    return button;
  });
  element("all").before(...buttons);
}

function showLines() {
  const part = partOf();
  const chosen = state.hovered ?? state.pinned;
  const canvas = element("lines");
  const row = sides.left.firstChild?.offsetHeight ?? 24;
  const height = row * Math.max(part.left.length, part.right.length);
  canvas.style.height = `${height}px`;
  const width = canvas.clientWidth;
  const exponent = chosen ? 0.5 : 0.8; // a few lines may be stronger
  const box = { width, height, leftRow: row, rightRow: row, line: 2, least: 0.005, exponent };
  canvas.dataset.count = drawLines(canvas, part, layerOf(), chosenHeads(), chosen, box);
  showStripes(part, chosen);
  showReadout(part, chosen);
}

function weightsOf(part, chosen, index) {
  const [query, key] = chosen.side === "left" ? [chosen.index, index] : [index, chosen.index];
  return chosenHeads().map((head) => weightOf(part, layerOf(), head, query, key));
}

function showStripes(part, chosen) {
  const heads = chosenHeads();
  element("lines-view").style.setProperty("--strip", `${Math.max(4, heads.length) * 7}px`);
  for (const [side, list] of Object.entries(sides)) {
    [...list.children].forEach((button, index) => {
      button.classList.toggle("chosen", chosen?.side === side && chosen.index === index);
      const striped = chosen && chosen.side !== side && heads.length;
      const weights = striped ? weightsOf(part, chosen, index) : [];
      button.style.setProperty("--stripes", striped ? stripesOf(heads, weights) : "none");
    });
  }
}

function showReadout(part, chosen) {
  const heads = chosenHeads();
  const readout = element("readout");
  if (!chosen || !heads.length) {
    readout.textContent = heads.length
      ? "Point at a token, or choose it by Tab and arrow keys, to see its lines only. Click to " +
        "keep it selected. Press Escape to clear it."
      : "Choose a head.";
    return;
  }
  const [own, other] = chosen.side === "left" ? [part.left, part.right] : [part.right, part.left];
  const mean = other.map((token, index) => {
    const weights = weightsOf(part, chosen, index);
    return { token, weight: weights.reduce((sum, weight) => sum + weight, 0) / weights.length };
  });
  mean.sort((a, b) => b.weight - a.weight);
  const most = mean.filter(({ weight }) => weight >= 0.0005).slice(0, 5);
  const verb = chosen.side === "left" ? "takes from" : "is taken by";
  const what = heads.length > 1 ? ` (mean of ${heads.length} heads)` : "";
  readout.replaceChildren(make("b", own[chosen.index]), ` ${verb} `);
  most.forEach(({ token, weight }, place) => {
    readout.append(place ? ", " : "", make("b", token), ` ${(100 * weight).toFixed(1)} %`);
  });
  readout.append(most.length ? what : "nothing");
}

// ---- the view of all layers

function showGrid() {
  const part = partOf();
  const count = Math.max(...part.layers.map((layer) => layer.scales.length));
  const grid = element("grid");
  onSight.disconnect();
  grid.style.gridTemplateColumns = `max-content repeat(${count}, minmax(44px, 110px))`;
  const cells = [make("span", "", { class: "label" })];
  for (let head = 0; head < count; head++) {
    cells.push(make("span", `head ${head}`, { class: "label" }));
  }
  part.layers.forEach((layer, place) => {
    const name = make("span", `layer ${place}`, { class: "label layer" });
    name.style.gridColumn = 1;
    cells.push(name, ...layer.scales.map((_, head) => thumbnailOf(place, head)));
  });
  grid.replaceChildren(...cells);
  grid.querySelector(".thumbnail").tabIndex = 0;
}

function thumbnailOf(layer, head) {
  const button = make("button", "", { type: "button", class: "thumbnail", tabindex: -1 });
  Object.assign(button.dataset, { layer, head });
  button.setAttribute("aria-label", `Layer ${layer}, head ${head}`);
  button.title = `Layer ${layer}, head ${head}`;
  button.append(document.createElement("canvas"));
  onSight.observe(button);
  return button;
}

// Thumbnails are drawn when they become visible.
const onSight = new IntersectionObserver((entries) => {
  const part = partOf();
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    onSight.unobserve(target);
    const [layer, head] = [Number(target.dataset.layer), Number(target.dataset.head)];
    const least = Math.min(0.02, 0.5 / part.right.length);
    const box = { width: 90, height: 90, line: 0.8, least, exponent: 1 };
    box.leftRow = box.height / part.left.length;
    box.rightRow = box.height / part.right.length;
    drawLines(target.firstChild, part, part.layers[layer], [head], null, box);
  }
});

// ---- updates of the page

function showControls() {
  element("row").value = state.row;
  element("layer").replaceChildren(
    ...partOf().layers.map((_, place) => make("option", place, { value: place })),
  );
  element("layer").value = state.layer;
  element("previous").disabled = state.layer === 0;
  element("next").disabled = state.layer === partOf().layers.length - 1;
  document.querySelectorAll(".part").forEach((button, place) => {
    button.setAttribute("aria-pressed", place === state.part);
  });
}

function show() {
  state.hovered = state.pinned = null;
  state.layer = Math.min(state.layer, partOf().layers.length - 1);
  showControls();
  if (inModelView()) return showGrid();
  showTokens();
  showHeads();
  showLines();
}

const inModelView = () => !element("model-view").hidden;

function open(view) {
  for (const name of ["heads", "model"]) {
    element(`${name}-view`).hidden = name !== view;
    element(`tab-${name}`).setAttribute("aria-selected", name === view);
  }
  document.querySelectorAll(".heads-only").forEach((one) => (one.hidden = view === "model"));
  show();
}

function choosePart(place) {
  state.part = place;
  show();
}

function chooseLayer(place) {
  state.layer = place;
  showControls();
  showHeads();
  showLines();
}

function chooseHeads(heads) {
  state.heads = new Set(heads);
  document.querySelectorAll(".head").forEach((button) => {
    button.setAttribute("aria-pressed", state.heads.has(Number(button.dataset.head)));
  });
  showLines();
}

// ---- events

function tokenOf(event) {
  const button = event.target.closest?.(".token");
  if (!button) return null;
  const side = button.parentNode.id;
  return { side, index: [...sides[side].children].indexOf(button) };
}

const same = (a, b) => a !== null && a?.side === b?.side && a?.index === b?.index;

function point(name, token) {
  if (token === state[name] || same(token, state[name])) return;
  state[name] = token;
  showLines();
}

function moveToken(event) {
  const token = tokenOf(event);
  const steps = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: 0, ArrowRight: 0 };
  if (!token || !(event.key in steps)) return;
  const turned = { ArrowLeft: "left", ArrowRight: "right" };
  const list = sides[turned[event.key] ?? token.side].children;
  const index = Math.max(0, Math.min(list.length - 1, token.index + steps[event.key]));
  event.preventDefault();
  move(event.target, list[index]);
}

function moveThumbnail(event) {
  const from = event.target.closest(".thumbnail");
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (!from || !(event.key in steps)) return;
  const [down, right] = steps[event.key];
  const layer = Number(from.dataset.layer) + down;
  const head = Number(from.dataset.head) + right;
  const to = document.querySelector(`.thumbnail[data-layer="${layer}"][data-head="${head}"]`);
  event.preventDefault();
  if (to) move(from, to);
}

// Tab reaches one element of a group, arrow keys the others.
function move(from, to) {
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

function clickHead(event) {
  const button = event.target.closest(".head");
  if (!button) return;
  const head = Number(button.dataset.head);
  const alone = event.shiftKey || event.type === "dblclick";
  const without = chosenHeads().filter((one) => one !== head);
  chooseHeads(alone ? [head] : state.heads.has(head) ? without : [...without, head]);
}

function listen() {
  const view = element("lines-view");
  let before = null; // the token that was pinned when the mouse went down
  view.addEventListener("pointerover", (event) => point("hovered", tokenOf(event)));
  view.addEventListener("pointerleave", () => point("hovered", null));
  view.addEventListener("pointerdown", () => (before = state.pinned), true);
  view.addEventListener("focusin", (event) => point("pinned", tokenOf(event)));
  view.addEventListener("click", (event) => {
    const token = tokenOf(event);
    point("pinned", event.detail && same(token, before) ? null : token);
  });
  view.addEventListener("keydown", moveToken);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") point("pinned", null);
  });
  element("heads").addEventListener("click", clickHead);
  element("heads").addEventListener("dblclick", clickHead);
  element("all").addEventListener("click", () => chooseHeads(headsOf()));
  element("none").addEventListener("click", () => chooseHeads([]));
  element("row").addEventListener("change", (event) => {
    state.row = Number(event.target.value);
    show();
  });
  element("layer").addEventListener("change", (event) => chooseLayer(Number(event.target.value)));
  element("previous").addEventListener("click", () => chooseLayer(state.layer - 1));
  element("next").addEventListener("click", () => chooseLayer(state.layer + 1));
  element("tab-heads").addEventListener("click", () => open("heads"));
  element("tab-model").addEventListener("click", () => open("model"));
  element("grid").addEventListener("keydown", moveThumbnail);
  element("grid").addEventListener("click", (event) => {
    const thumbnail = event.target.closest(".thumbnail");
    if (!thumbnail) return;
    state.layer = Number(thumbnail.dataset.layer);
    state.heads = new Set([Number(thumbnail.dataset.head)]);
    open("heads");
    element("layer").focus();
  });
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", () => inModelView() || showLines());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

function start() {
  const texts = data.rows.map(([first], place) => {
    const text = first.left.join(" ");
    return make("option", `${place}: ${text.slice(0, 80)}`, { value: place });
  });
  element("row").append(...texts);
  element("row-label").hidden = texts.length < 2;
  const parts = partsOf().map(({ name }, place) => {
    const button = make("button", name, { type: "button", class: "part" });
    button.addEventListener("click", () => choosePart(place));
    return button;
  });
  element("parts").append(...parts);
  element("parts").hidden = parts.length < 2;
  // Many lines hide each other, and drawing them takes a moment.
  const lines = headsOf().length * partOf().left.length * partOf().right.length;
  state.heads = new Set(lines > 6000 ? [0] : headsOf());
  listen();
  open("heads");
}

start();
