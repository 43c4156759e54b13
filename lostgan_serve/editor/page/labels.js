// A field with a search that knows the vocabulary: a combobox after the ARIA patterns.

const SHOWN = 200;

/** Labels that match a text, the best first: equal, at the start, at the start of a word, inside, letters in order. */
export function matching(labels, text) {
  const wanted = text.trim().toLowerCase();
  const rank = (label) => {
    if (label === wanted) return 0;
    if (label.startsWith(wanted)) return 1;
    if (label.split(/[\s-]/).some((word) => word.startsWith(wanted))) return 2;
    if (label.includes(wanted)) return 3;
    return new RegExp([...wanted].map(RegExp.escape ?? escaped).join(".*")).test(label) ? 4 : 5;
  };
  const ranked = labels.map((label) => [rank(label.toLowerCase()), label]).filter(([place]) => place < 5);
  return ranked.sort(([a], [b]) => a - b).map(([, label]) => label);
}

function escaped(character) { return character.replace(/[^\p{L}\p{N}]/u, "\\$&"); }

export class LabelField {
  #active = -1;
  #current = "";

  constructor(input, list, labels, { onChoose, onLeave }) {
    Object.assign(this, { input, list, labels, onChoose, onLeave });
    input.addEventListener("input", () => this.#open(input.value));
    input.addEventListener("focus", () => input.select());
    input.addEventListener("click", () => this.#open(""));
    input.addEventListener("blur", () => this.#close());
    input.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // keeps the focus in the field
      const option = event.target.closest("[role=option]");
      if (option) this.#choose(option.dataset.label);
    });
  }

  set value(label) {
    this.#current = label;
    if (document.activeElement !== this.input) this.input.value = label;
  }

  focus() {
    this.input.focus();
    this.#open("");
  }

  #open(text) {
    const found = matching(this.labels, text).slice(0, SHOWN);
    this.list.replaceChildren(...found.map((label, index) => {
      const option = document.createElement("li");
      Object.assign(option, { role: "option", id: `label-${index}`, textContent: label });
      option.dataset.label = label;
      return option;
    }));
    this.list.hidden = !found.length;
    this.input.setAttribute("aria-expanded", String(found.length > 0));
    this.#point(text.trim() && found.length ? 0 : found.indexOf(this.#current));
  }

  #close() {
    this.list.hidden = true;
    this.#active = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.input.value = this.#current;
  }

  #point(index) {
    this.list.children[this.#active]?.removeAttribute("aria-selected");
    this.#active = index;
    const option = this.list.children[index];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const count = this.list.children.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (this.list.hidden) this.#open("");
      else this.#point((this.#active + (event.key === "ArrowDown" ? 1 : -1) + count) % count);
    } else if (event.key === "Enter") {
      const option = this.list.hidden ? null : this.list.children[this.#active];
      if (option) this.#choose(option.dataset.label);
      else this.onLeave();
    } else if (event.key === "Escape") {
      this.#close();
      this.onLeave();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #choose(label) {
    this.#current = label;
    this.#close();
    this.onChoose(label);
    this.onLeave();
  }
}
