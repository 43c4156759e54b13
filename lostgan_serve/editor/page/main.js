// Puts the parts of the page together.

import { Editor } from "./editor.js";
import { Files } from "./files.js";
import { History } from "./history.js";
import { bindKeys } from "./keys.js";
import { at, Panel } from "./panel.js";
import { colorsOf, Picture } from "./picture.js";
import { Live, Server } from "./server.js";
import { Stage } from "./stage.js";

const SHARES = { overlay: "Opacity", split: "Split" };
const LATENCY = "release to pixels"; // the name under which the browser keeps how long pictures took

async function start() {
  const server = new Server();
  const model = await server.reached(warn);
  warn(null);
  const labelColors = new Map(model.labels.map(({ name, color }) => [name, color]));
  const history = new History();
  const editor = new Editor(model, history);
  const live = new Live(server, model);
  const picture = new Picture(at("picture"), model.resolution, labelColors);
  const clock = new Clock();
  const colors = () => colorsOf(editor.objects, labelColors);
  const onRelease = (time) => clock.start(time, editor.state, picture.shown);
  const actions = {};
  const stage = new Stage(at("boxes"), editor, colors, { onRelease, onDrawn: () => panel.label.focus(), onLabel: () => actions.label() });
  const panel = new Panel(editor, stage, colors, onRelease);
  const files = new Files(editor, server, picture);
  Object.assign(actions, {
    add: () => panel.add(),
    label: () => { if (editor.single) panel.label.focus(); },
    save: () => files.save(),
    open: () => at("open").click(),
  });
  bindKeys(editor, stage, actions);
  bindButtons(editor);
  const view = () => document.querySelector("[name=view]:checked").value;
  const draw = () => picture.draw(view(), Number(at("share").value), editor.selection);
  const want = () => {
    const withMasks = view() === "mask";
    const there = picture.shown?.layout === editor.state && (!withMasks || picture.shown.masks);
    at("picture").ariaBusy = String(editor.objects.length > 0 && !there);
    if (editor.objects.length && !there) live.want(editor.state, withMasks);
    else if (!editor.objects.length) {
      picture.clear();
      editor.note("Draw a box, or start from an example.");
    }
  };

  editor.addEventListener("change", () => { want(); if (view() === "mask") draw(); });
  editor.addEventListener("note", ({ detail }) => say(detail));
  live.addEventListener("picture", ({ detail }) => {
    picture.shown = detail;
    draw();
    clock.shown(detail.layout);
    at("picture").ariaBusy = String(detail.layout !== editor.state);
    at("status").classList.remove("error");
    describe(detail.layout);
  });
  live.addEventListener("failure", ({ detail }) => {
    at("picture").ariaBusy = "false";
    say(detail, true);
  });
  live.addEventListener("away", ({ detail }) => warn(detail));
  live.addEventListener("back", () => { warn(null); say("The server is back. Nothing was lost."); });
  for (const control of [...document.querySelectorAll("[name=view]"), at("share")]) {
    control.addEventListener("input", () => { showShare(view()); want(); draw(); });
  }
  at("show-boxes").addEventListener("change", () => at("boxes").classList.toggle("unseen-boxes", !at("show-boxes").checked));

  at("model").textContent = `${model.name}, ${model.resolution} px${model.untrained ? ", untrained: its pictures are noise" : ""}`;
  if (model.start && model.start.id !== history.opened) {
    history.opened = model.start.id;
    files.show(model.start.name, model.start.layout, `Opened ${model.start.name}.`);
  } else editor.use(editor.tool);
}

function bindButtons(editor) {
  at("tool-select").addEventListener("click", () => editor.use("select"));
  at("tool-draw").addEventListener("click", () => editor.use("draw"));
  at("undo").addEventListener("click", () => editor.undo());
  at("redo").addEventListener("click", () => editor.redo());
}

function showShare(view) {
  at("share-label").hidden = !(view in SHARES);
  at("share-name").textContent = SHARES[view] ?? "";
}

function describe(layout) {
  const labels = layout.objects.map(({ label }) => label).join(", ");
  at("picture").setAttribute("aria-label", `Generated picture of ${labels}`);
}

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

/** Tell that the server is away, or where the text is null, take that back. */
function warn(text) {
  at("away").hidden = text === null;
  const said = text === null ? "" : `${text} Your layout is kept in this browser. Trying again every second.`;
  if (at("away").textContent !== said) at("away").textContent = said;
}

/** Measures how long the picture of a layout takes from the end of a gesture until its pixels are on the screen. */
class Clock {
  #since = null;

  start(time, layout, shown) {
    this.#since = { time, layout };
    if (shown?.layout === layout) this.shown(layout);
  }

  shown(layout) {
    if (this.#since?.layout !== layout) return;
    const { time } = this.#since;
    this.#since = null;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel(); // its message comes when the frame has been painted
      port1.onmessage = () => performance.measure(LATENCY, { start: time, end: performance.now() });
      port2.postMessage(null);
    });
  }
}

await start();
