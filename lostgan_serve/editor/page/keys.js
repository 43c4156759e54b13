// Keys and the clipboard, wherever the focus is but in a field.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const BIG_STEP_PX = 10;
const CLIPBOARD_TYPE = "lostgan-serve.objects";

export function bindKeys(editor, stage, actions) {
  const plain = {
    Delete: () => editor.remove(),
    Backspace: () => editor.remove(),
    Enter: actions.label,
    Escape: () => { stage.cancel(); editor.select([]); editor.use("select"); },
    n: actions.add,
    d: () => editor.use("draw"),
    v: () => editor.use("select"),
    r: () => editor.dice(),
    l: () => editor.lock(),
    "[": () => editor.single && editor.reorder(editor.single.id, -1),
    "]": () => editor.single && editor.reorder(editor.single.id, 1),
  };
  const withControl = {
    z: (event) => (event.shiftKey ? editor.redo() : editor.undo()),
    y: () => editor.redo(),
    d: () => editor.paste(editor.copied()),
    a: () => editor.select(editor.objects.map(({ id }) => id)),
    s: actions.save,
    o: actions.open,
  };

  addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const typing = isTyping(event.target);
    const onButton = event.target.closest?.("button, summary, select, a") !== null && key === "Enter";
    const action = control ? withControl[key] : plain[key];
    if (typing && !(control && "zyso".includes(key) && !isText(event.target))) return;
    if (ARROWS[key] && !control) {
      if (!editor.selection.size || event.target.type === "radio") return;
      const size = event.shiftKey ? BIG_STEP_PX : 1;
      const step = ARROWS[key].map((direction) => direction * size);
      if (!event.repeat) editor.history.settle(); // a key that is held is one step
      if (event.altKey) editor.grow(step, "grow by key");
      else editor.move(step, "move by key");
    } else if (action && !onButton) action(event);
    else return;
    event.preventDefault();
  });

  const copy = (event) => {
    if (isTyping(event.target) || !editor.selection.size || String(getSelection())) return;
    event.clipboardData.setData("text/plain", JSON.stringify({ [CLIPBOARD_TYPE]: editor.copied() }));
    event.preventDefault();
    if (event.type === "cut") editor.remove();
  };
  addEventListener("copy", copy);
  addEventListener("cut", copy);
  addEventListener("paste", (event) => {
    if (isTyping(event.target)) return;
    const objects = pasted(event.clipboardData.getData("text/plain"));
    if (objects) editor.paste(objects);
  });
}

/** The objects in a text that an editor copied, or null for any other text. */
function pasted(text) {
  try {
    const objects = JSON.parse(text)[CLIPBOARD_TYPE];
    return Array.isArray(objects) && objects.every(isObject) ? objects : null;
  } catch {
    return null;
  }
}

function isObject({ label, box }) {
  const [x, y, width, height] = box;
  return typeof label === "string" && [x, y].every((start) => start >= 0) && width > 0 && height > 0
    && x + width <= 1 && y + height <= 1;
}

function isText(element) { return element.matches?.("input:not([type]), input[type=number]") ?? false; }

function isTyping(element) { return element.matches?.("input:not([type=checkbox]):not([type=radio]), textarea, select") ?? false; }
