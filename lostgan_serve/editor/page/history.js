// One history for everything. It survives a reload, since the browser keeps it.

import { EMPTY } from "./layout.js";

const KEY = "lostgan-serve.editor"; // its value is of this form; another form takes another key
const STEPS = 500;
const SAVE_AFTER_MS = 300;

export class History extends EventTarget {
  #past = [];
  #future = [];
  #key = null; // of the gesture that made the last step
  #timer = 0;

  constructor() {
    super();
    this.state = EMPTY;
    this.opened = null; // the start that the server named when the page was last loaded
    try {
      const kept = JSON.parse(localStorage.getItem(KEY));
      if (kept) [this.state, this.#past, this.#future, this.opened] = [kept.state, kept.past, kept.future, kept.opened];
    } catch {
      localStorage.removeItem(KEY);
    }
    addEventListener("pagehide", () => this.#save());
  }

  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#future.length > 0; }

  /** Replace the state. Changes with the same key, such as those of one drag, are one step. */
  change(state, key = null) {
    if (state === this.state) return;
    if (key === null || key !== this.#key) {
      this.#past = [...this.#past, this.state].slice(-STEPS);
      this.#future = [];
    }
    this.#key = key;
    this.#show(state);
  }

  /** End a gesture: what comes next is another step. */
  settle() { this.#key = null; }

  undo() { this.#step(this.#past, this.#future); }
  redo() { this.#step(this.#future, this.#past); }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.state);
    this.#key = null;
    this.#show(from.pop());
  }

  #show(state) {
    this.state = state;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(), SAVE_AFTER_MS);
    this.dispatchEvent(new Event("change"));
  }

  #save() {
    const kept = { state: this.state, past: this.#past, future: this.#future, opened: this.opened };
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
    } catch {
      localStorage.setItem(KEY, JSON.stringify({ ...kept, past: [], future: [] })); // the browser's room is used up
    }
  }
}
