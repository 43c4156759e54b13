// What is edited: the history, the selection, and the actions that buttons and keys share.

import { around, boundedStep, clamp, resized } from "./geometry.js";
import { added, changed, find, isLocked, randomSeed, reordered, styleOf, without, withStyle } from "./layout.js";

const NEW_BOX = [0.3, 0.3, 0.4, 0.4];
const OFFSET = 0.04; // of a copy from its original, in shares of the picture

/** Events: "change" where the layout or the selection changed; "note" with a text for the user. */
export class Editor extends EventTarget {
  constructor(model, history) {
    super();
    this.model = model;
    this.side = model.resolution;
    this.history = history;
    this.selection = new Set();
    this.tool = history.state.objects.length ? "select" : "draw";
    this.lastLabel = model.labels[0].name;
    history.addEventListener("change", () => this.#refresh());
  }

  get state() { return this.history.state; }
  get objects() { return this.state.objects; }

  /** The one selected object, or null. */
  get single() {
    return this.selection.size === 1 ? find(this.state, [...this.selection][0]) : null;
  }

  boxOf(id) { return find(this.state, id).box.map((share) => share * this.side); }

  change(state, key) { this.history.change(state, key); }

  select(ids) {
    this.selection = new Set(ids);
    this.#refresh();
  }

  toggle(id) {
    this.select(this.selection.has(id) ? [...this.selection].filter((other) => other !== id) : [...this.selection, id]);
  }

  use(tool) {
    this.tool = tool;
    this.#refresh();
  }

  note(text) { this.dispatchEvent(new CustomEvent("note", { detail: text })); }

  /** Give objects boxes in pixels: a map by id. */
  place(boxes, key) {
    const change = (object) => ({ ...object, box: boxes.get(object.id).map((pixels) => pixels / this.side) });
    this.change(changed(this.state, new Set(boxes.keys()), change), key);
  }

  /** Move the selected objects by pixels, all by the same, as far as they stay inside. */
  move(step, key) {
    const boxes = [...this.selection].map((id) => this.boxOf(id));
    if (!boxes.length) return;
    const [dx, dy] = boundedStep(around(boxes), step, this.side);
    this.place(new Map([...this.selection].map((id) => [id, shifted(this.boxOf(id), dx, dy)])), key);
  }

  /** Resize the selected objects by pixels, at their right and lower edges. */
  grow(step, key) {
    this.place(new Map([...this.selection].map((id) => [id, resized(this.boxOf(id), "se", step, this.side)])), key);
  }

  /** Add objects, as far as the model has room, and select them. Returns whether there was room. */
  add(objects) {
    const room = this.model.capacity - this.objects.length;
    if (room < objects.length) {
      this.note(`This model has room for ${this.model.capacity} objects. Delete some first.`);
      return false;
    }
    const [next, ids] = added(this.state, objects);
    this.selection = new Set(ids);
    this.tool = "select";
    this.change(next);
    return true;
  }

  /** Add an object of the label that was used last. box: in pixels; by default in the middle. */
  addBox(box) {
    const share = box ? box.map((pixels) => pixels / this.side) : NEW_BOX;
    return this.add([{ label: this.lastLabel, box: share }]);
  }

  relabel(label) {
    this.lastLabel = label;
    this.change(changed(this.state, this.selection, (object) => ({ ...object, label })));
  }

  remove() {
    if (!this.selection.size) return;
    const gone = this.selection;
    this.selection = new Set();
    this.change(without(this.state, gone));
  }

  /** The selected objects, to copy. */
  copied() { return this.objects.filter(({ id }) => this.selection.has(id)); }

  /** Add copies of objects, a little beside them. */
  paste(objects) {
    return this.add(objects.map((object) => ({ ...object, box: beside(object.box) })));
  }

  reorder(id, places) { this.change(reordered(this.state, id, places)); }

  /** Another seed for the selected objects, or for the whole picture where none is. */
  dice() {
    const ids = this.selection.size ? [...this.selection] : [null];
    this.change(ids.reduce((state, id) => withStyle(state, id, { seed: randomSeed() }), this.state));
  }

  diceAll() { this.change(withStyle(this.state, null, { seed: randomSeed() })); }

  /** Keep the selected objects' styles, or let them follow the whole picture's again. */
  lock() {
    if (!this.selection.size) return;
    const ids = [...this.selection];
    const lock = !ids.every((id) => isLocked(find(this.state, id)));
    const own = (state, id) => withStyle(state, id, lock ? styleOf(state, id) : {});
    this.change(ids.reduce(own, this.state));
  }

  undo() { this.history.undo(); }
  redo() { this.history.redo(); }

  #refresh() {
    const ids = new Set(this.objects.map(({ id }) => id));
    this.selection = new Set([...this.selection].filter((id) => ids.has(id)));
    this.dispatchEvent(new Event("change"));
  }
}

function shifted([x, y, width, height], dx, dy) { return [x + dx, y + dy, width, height]; }

function beside([x, y, width, height]) {
  const [left, top] = [x + OFFSET, y + OFFSET];
  const fits = left + width <= 1 && top + height <= 1;
  return fits ? [left, top, width, height] : [clamp(x - OFFSET, 0, 1 - width), clamp(y - OFFSET, 0, 1 - height), width, height];
}
