// Boxes over the picture: drawing, selecting, moving and resizing them with the pointer.

import { around, between, boundedStep, clamp, contains, LEAST_PX, linesOf, meets, resized, snapped } from "./geometry.js";

const SVG = "http://www.w3.org/2000/svg";
const EDGES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const SNAP_CSS_PX = 6;

export class Stage {
  #nodes = new Map(); // by object id
  #gesture = null;
  #number = 0; // of the gesture

  /** colors: gives those of the objects. onRelease: is told the time at which a gesture ended. onDrawn: is called after
   *  a box was drawn. */
  constructor(svg, editor, colors, { onRelease, onDrawn, onLabel }) {
    Object.assign(this, { svg, editor, colors, onRelease, onDrawn });
    svg.setAttribute("viewBox", `0 0 ${editor.side} ${editor.side}`);
    this.objects = svg.appendChild(node("g"));
    this.guides = svg.appendChild(node("g", { class: "guides" }));
    this.sketch = svg.appendChild(node("rect", { class: "sketch", visibility: "hidden" }));
    this.handles = svg.appendChild(node("g", { class: "handles" }));
    for (const edges of EDGES) {
      const handle = this.handles.appendChild(node("g", { "data-edges": edges, class: `handle ${edges}` }));
      handle.append(node("rect", { class: "reach" }), node("rect", { class: "dot" }));
    }
    svg.addEventListener("pointerdown", (event) => this.#begin(event));
    svg.addEventListener("pointermove", (event) => this.#go(event));
    svg.addEventListener("pointerup", (event) => this.#end(event));
    svg.addEventListener("pointercancel", () => this.cancel());
    svg.addEventListener("dblclick", () => onLabel());
    new ResizeObserver(() => this.draw()).observe(svg);
    editor.addEventListener("change", () => this.draw());
  }

  /** Pixels of the picture for one on the screen. */
  get scale() { return this.editor.side / (this.svg.clientWidth || 1); }

  /** Give up the gesture under way: all is as before. */
  cancel() {
    if (!this.#gesture) return;
    const { before } = this.#gesture;
    if (this.editor.state !== before.state) this.editor.undo();
    this.#finish();
    this.editor.select(before.selection);
  }

  focus(id) { this.#nodes.get(id)?.focus(); }

  draw() {
    const { editor, scale } = this;
    const ids = new Set(editor.objects.map(({ id }) => id));
    for (const [id, group] of this.#nodes) {
      if (!ids.has(id)) { group.remove(); this.#nodes.delete(id); }
    }
    const colors = this.colors();
    editor.objects.forEach((object, index) => {
      const group = this.#nodes.get(object.id) ?? this.#created(object.id);
      if (this.objects.children[index] !== group) this.objects.insertBefore(group, this.objects.children[index] ?? null);
      this.#drawObject(group, object, colors[index], scale);
    });
    this.svg.classList.toggle("drawing", editor.tool === "draw");
    this.#drawHandles(scale);
  }

  #created(id) {
    const group = node("g", { class: "object", tabindex: 0, role: "button" });
    group.append(node("rect"), node("text"));
    group.addEventListener("focus", () => { if (!this.#gesture && !this.editor.selection.has(id)) this.editor.select([id]); });
    this.#nodes.set(id, group);
    return group;
  }

  #drawObject(group, object, color, scale) {
    const [x, y, width, height] = this.editor.boxOf(object.id);
    const selected = this.editor.selection.has(object.id);
    const [rect, text] = group.children;
    group.classList.toggle("selected", selected);
    group.setAttribute("aria-pressed", selected);
    const place = [x, y, width, height].map((value) => Math.round(value));
    group.setAttribute("aria-label", `${object.label}, ${object.id}: x ${place[0]}, y ${place[1]}, width ${place[2]}, height ${place[3]}`);
    set(rect, { x, y, width, height });
    rect.style.stroke = `rgb(${color.join(" ")})`;
    text.textContent = object.label;
    text.style.fontSize = `${13 * scale}px`;
    set(text, { x: x + 5 * scale, y: clamp(y + 16 * scale, 0, this.editor.side - 3 * scale) });
  }

  #drawHandles(scale) {
    const object = this.editor.single;
    this.handles.setAttribute("visibility", object && this.editor.tool === "select" ? "visible" : "hidden");
    if (!object) return;
    const [x, y, width, height] = this.editor.boxOf(object.id);
    for (const handle of this.handles.children) {
      const edges = handle.dataset.edges;
      const cx = x + width * (edges.includes("e") ? 1 : edges.includes("w") ? 0 : 0.5);
      const cy = y + height * (edges.includes("s") ? 1 : edges.includes("n") ? 0 : 0.5);
      [...handle.children].forEach((rect, index) => {
        const size = (index ? 9 : matchMedia("(pointer: coarse)").matches ? 32 : 16) * scale;
        set(rect, { x: cx - size / 2, y: cy - size / 2, width: size, height: size });
      });
    }
  }

  #point(event) {
    const { left, top, width, height } = this.svg.getBoundingClientRect();
    return [((event.clientX - left) / width) * this.editor.side, ((event.clientY - top) / height) * this.editor.side];
  }

  #begin(event) {
    if (event.button !== 0 || this.#gesture) return;
    const { editor } = this;
    const start = this.#point(event);
    const before = { state: editor.state, selection: [...editor.selection] };
    const edges = event.target.closest("[data-edges]")?.dataset.edges;
    const hit = this.#smallestAt(start);
    let kind = "marquee";
    if (editor.tool === "draw" || event.altKey) kind = "draw";
    else if (edges) kind = "resize";
    else if (hit && event.shiftKey) { editor.toggle(hit); return; }
    else if (hit) {
      kind = "move";
      if (!editor.selection.has(hit)) editor.select([hit]);
    } else if (!event.shiftKey) editor.select([]);
    this.#number += 1;
    const boxes = new Map([...editor.selection].map((id) => [id, editor.boxOf(id)]));
    this.#gesture = { kind, start, edges, before, boxes, key: `drag ${this.#number}` };
    this.svg.setPointerCapture(event.pointerId);
    event.preventDefault(); // of selecting text; focus is set here instead
    if (hit && kind === "move") this.focus(hit);
  }

  /** The smallest of the boxes at a place: one inside another can be reached. */
  #smallestAt(place) {
    const area = (id) => this.editor.boxOf(id).slice(2).reduce((a, b) => a * b);
    const hit = this.editor.objects.map(({ id }) => id).filter((id) => contains(this.editor.boxOf(id), place));
    return hit.sort((a, b) => area(a) - area(b))[0];
  }

  #go(event) {
    if (!this.#gesture) return;
    const { kind, start } = this.#gesture;
    const place = this.#point(event).map((value) => clamp(value, 0, this.editor.side));
    const step = [place[0] - start[0], place[1] - start[1]];
    const reach = event.ctrlKey || event.metaKey ? 0 : SNAP_CSS_PX * this.scale;
    if (kind === "move") this.#move(step, reach);
    else if (kind === "resize") this.#resize(step, reach);
    else this.#outline(place, kind);
  }

  #move(step, reach) {
    const { boxes, key } = this.#gesture;
    const whole = around([...boxes.values()]);
    const wanted = boundedStep(whole, step.map(Math.round), this.editor.side);
    const lines = [0, 1].map((axis) => {
      const [start, length] = [whole[axis] + wanted[axis], whole[axis + 2]];
      return this.#snap([start, start + length / 2, start + length], axis, reach, wanted);
    });
    const [dx, dy] = boundedStep(whole, wanted, this.editor.side);
    this.#showGuides(lines);
    this.editor.place(new Map([...boxes].map(([id, [x, y, w, h]]) => [id, [x + dx, y + dy, w, h]])), key);
  }

  #resize(step, reach) {
    const { boxes, edges, key } = this.#gesture;
    const [[id, box]] = boxes;
    const wanted = step.map(Math.round);
    const lines = [["w", "e"], ["n", "s"]].map((pair, axis) => {
      const edge = pair.findIndex((name) => edges.includes(name));
      return edge < 0 ? null : this.#snap([box[axis] + edge * box[axis + 2] + wanted[axis]], axis, reach, wanted);
    });
    this.#showGuides(lines);
    this.editor.place(new Map([[id, resized(box, edges, wanted, this.editor.side)]]), key);
  }

  /** Change `wanted` along an axis so that one of `places` lies on a line of what is not moved. Returns the line. */
  #snap(places, axis, reach, wanted) {
    const others = this.editor.objects.filter(({ id }) => !this.#gesture.boxes.has(id)).map(({ id }) => this.editor.boxOf(id));
    const found = reach ? snapped(places, linesOf(others, axis, this.editor.side), reach) : null;
    if (!found) return null;
    wanted[axis] += found[0];
    return found[1];
  }

  #showGuides([x, y]) {
    const { side } = this.editor;
    this.guides.replaceChildren(
      ...(x === null || x === undefined ? [] : [node("line", { x1: x, x2: x, y1: 0, y2: side })]),
      ...(y === null || y === undefined ? [] : [node("line", { x1: 0, x2: side, y1: y, y2: y })]),
    );
  }

  #outline(place, kind) {
    const [x, y, width, height] = this.#gesture.outline = between(this.#gesture.start, place).map(Math.round);
    set(this.sketch, { x, y, width, height, visibility: "visible" });
    if (kind === "marquee") {
      const inside = this.editor.objects.filter(({ id }) => meets(this.editor.boxOf(id), [x, y, width, height]));
      this.editor.select(inside.map(({ id }) => id));
    }
  }

  #end(event) {
    if (!this.#gesture) return;
    const { kind, outline } = this.#gesture;
    const drawn = kind === "draw" && outline && Math.min(outline[2], outline[3]) >= LEAST_PX;
    this.#finish();
    if (drawn && this.editor.addBox(outline)) this.onDrawn();
    if (kind !== "marquee") this.onRelease(event.timeStamp);
  }

  #finish() {
    this.#gesture = null;
    this.editor.history.settle();
    this.guides.replaceChildren();
    this.sketch.setAttribute("visibility", "hidden");
  }
}

function node(name, attributes = {}) { return set(document.createElementNS(SVG, name), attributes); }

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
