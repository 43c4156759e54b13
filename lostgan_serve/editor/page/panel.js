// The panel beside the picture: the list of objects, the selected one, and its style or that of the whole picture.

import { LabelField } from "./labels.js";
import { clamp, LEAST_PX } from "./geometry.js";
import { isLocked, MAX_SEED, randomSeed, styleOf, withStyle } from "./layout.js";

const FIELDS = ["box-x", "box-y", "box-w", "box-h"];

export class Panel {
  #listed = null; // what the list shows
  #number = 0; // of the slider's gesture

  /** colors: gives those of the objects. onRelease: is told the time at which a slider was let go. */
  constructor(editor, stage, colors, onRelease) {
    Object.assign(this, { editor, stage, colors, onRelease });
    const names = editor.model.labels.map(({ name }) => name);
    this.label = new LabelField(at("label"), at("label-list"), names, {
      onChoose: (label) => editor.relabel(label),
      onLeave: () => { if (editor.single) stage.focus(editor.single.id); },
    });
    at("add").addEventListener("click", () => this.add());
    FIELDS.forEach((name, index) => at(name).addEventListener("change", () => this.#resize(index)));
    at("dice").addEventListener("click", () => editor.dice());
    at("dice-all").addEventListener("click", () => editor.diceAll());
    at("lock").addEventListener("click", () => editor.lock());
    at("seed").addEventListener("change", () => this.#restyle({ seed: seedIn("seed") }));
    at("morph-to").addEventListener("change", () => this.#mix());
    at("path").addEventListener("change", () => this.#mix());
    this.#slider("mix", (key) => this.#mix(key));
    this.#slider("truncation", (key) => editor.change({ ...editor.state, truncation: Number(at("truncation").value) }, key));
    at("objects").addEventListener("click", (event) => this.#click(event));
    editor.addEventListener("change", () => this.draw());
  }

  /** Add an object and ask for its label. */
  add() {
    if (this.editor.addBox()) this.label.focus();
  }

  draw() {
    const { editor } = this;
    at("undo").disabled = !editor.history.canUndo;
    at("redo").disabled = !editor.history.canRedo;
    at("tool-select").setAttribute("aria-pressed", editor.tool === "select");
    at("tool-draw").setAttribute("aria-pressed", editor.tool === "draw");
    at("room").textContent = `${editor.objects.length} of ${editor.model.capacity}`;
    this.#drawList();
    this.#drawSelected(editor.single);
    this.#drawStyle();
  }

  #drawList() {
    const { objects, selection } = this.editor;
    const listed = JSON.stringify(objects.map((object) => [object.id, object.label, isLocked(object), selection.has(object.id)]));
    if (listed === this.#listed) return; // in a drag boxes alone change
    this.#listed = listed;
    const list = at("objects");
    const focused = document.activeElement?.closest?.("#objects button");
    const place = focused && [focused.closest("li").dataset.id, focused.dataset.action];
    const colors = this.colors();
    list.replaceChildren(...objects.map((object, index) => this.#row(object, colors[index])));
    if (!place) return;
    const row = [...list.children].find(({ dataset }) => dataset.id === place[0]);
    (row?.querySelector(`[data-action=${place[1]}]`) ?? at("add")).focus();
  }

  #row(object, color) {
    const row = element("li", { className: "object-row" });
    row.dataset.id = object.id;
    row.classList.toggle("selected", this.editor.selection.has(object.id));
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${color.join(" ")})`;
    const name = button("select", object.label, `${object.label}, ${object.id}`);
    name.prepend(swatch);
    name.setAttribute("aria-pressed", this.editor.selection.has(object.id));
    const lock = button("lock", isLocked(object) ? "locked" : "lock", `Lock the style of ${object.id}`);
    lock.setAttribute("aria-pressed", isLocked(object));
    row.append(name, button("dice", "dice", `Another style for ${object.id}`), lock,
      button("up", "↑", `Earlier: ${object.id}`), button("down", "↓", `Later: ${object.id}`),
      button("remove", "×", `Delete ${object.id}`));
    return row;
  }

  #click(event) {
    const pressed = event.target.closest("button");
    if (!pressed) return;
    const { editor } = this;
    const { id } = pressed.closest("li").dataset;
    if (pressed.dataset.action === "select" && event.shiftKey) return void editor.toggle(id);
    const moves = { up: -1, down: 1 };
    if (pressed.dataset.action in moves) return void editor.reorder(id, moves[pressed.dataset.action]);
    editor.select([id]);
    ({ select() {}, dice: () => editor.dice(), lock: () => editor.lock(), remove: () => editor.remove() })[pressed.dataset.action]();
  }

  #drawSelected(object) {
    at("selected").hidden = !object;
    if (!object) return;
    this.label.value = object.label;
    this.editor.boxOf(object.id).forEach((value, index) => show(FIELDS[index], Math.round(value * 100) / 100));
    at("identity").textContent = `Its style belongs to its id, ${object.id}: it keeps it under another label.`;
  }

  #drawStyle() {
    const { editor } = this;
    const several = editor.selection.size > 1;
    const object = editor.single;
    at("style-of").textContent = several ? `${editor.selection.size} objects` : object ? object.id : "the whole picture";
    const { seed, style } = styleOf(editor.state, object?.id ?? null);
    show("seed", seed ?? style?.from ?? "");
    show("morph-to", style?.to ?? "");
    show("mix", style?.mix ?? 0);
    at("mix-shown").textContent = `${Math.round(100 * (style?.mix ?? 0))}%`;
    show("path", style?.path ?? "linear");
    for (const name of ["seed", "morph-to", "mix", "path"]) at(name).disabled = several || Boolean(style?.code);
    at("lock").hidden = !editor.selection.size;
    const locked = editor.selection.size > 0 && editor.objects.every((one) => !editor.selection.has(one.id) || isLocked(one));
    at("lock").setAttribute("aria-pressed", locked);
    at("lock").textContent = locked ? "Locked" : "Lock";
    at("truncation-field").hidden = editor.selection.size > 0;
    show("truncation", editor.state.truncation);
    at("truncation-shown").textContent = String(editor.state.truncation);
  }

  #resize(index) {
    const { editor } = this;
    const box = editor.boxOf(editor.single.id);
    const value = Number(at(FIELDS[index]).value);
    const axis = index % 2;
    box[index] = index < 2 ? clamp(value, 0, editor.side - box[axis + 2]) : clamp(value, LEAST_PX, editor.side - box[axis]);
    editor.place(new Map([[editor.single.id, box]]));
  }

  #restyle(style, key) {
    this.editor.change(withStyle(this.editor.state, this.editor.single?.id ?? null, style), key);
  }

  /** Mix the style with that of another seed, a random one where none was given. */
  #mix(key) {
    const { seed, style } = styleOf(this.editor.state, this.editor.single?.id ?? null);
    const to = at("morph-to").value === "" ? randomSeed() : seedIn("morph-to");
    const path = at("path").value === "linear" ? {} : { path: at("path").value };
    this.#restyle({ style: { from: seed ?? style.from, to, mix: Number(at("mix").value), ...path } }, key);
  }

  /** A slider whose moves, from when it is grasped until it is let go, are one step. */
  #slider(name, change) {
    at(name).addEventListener("input", () => change(`${name} ${this.#number}`));
    at(name).addEventListener("change", (event) => {
      this.#number += 1;
      this.editor.history.settle();
      this.onRelease(event.timeStamp);
    });
  }
}

export function at(id) { return document.getElementById(id); }

function element(name, properties) { return Object.assign(document.createElement(name), properties); }

function button(action, text, label) {
  const made = element("button", { textContent: text, title: label, ariaLabel: label });
  made.dataset.action = action;
  return made;
}

/** Show a value in a field, unless it is being typed in. */
function show(id, value) {
  const field = at(id);
  if (document.activeElement !== field || field.type === "range") field.value = value;
}

function seedIn(id) { return clamp(Math.floor(Number(at(id).value)) || 0, 0, MAX_SEED); }
