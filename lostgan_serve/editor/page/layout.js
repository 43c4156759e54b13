// Layouts as values: never changed, only replaced. Boxes are [x, y, width, height] in [0, 1].

export const EMPTY = { objects: [], seed: 0, truncation: 2 };

export const MAX_SEED = Number.MAX_SAFE_INTEGER;

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

/** A layout.json value, which `/api/open` and the examples give, as a state: without fields that are not set. */
export function fromJson({ objects, seed, style, truncation }) {
  return plain({ objects: objects.map(({ id, label, box, seed, style }) => plain({ id, label, box, seed, style })),
    seed: style ? undefined : seed ?? 0, style, truncation: truncation ?? 2 });
}

export function find(state, id) {
  return state.objects.find((object) => object.id === id);
}

export function freshId(state, label) {
  const taken = new Set(state.objects.map((object) => object.id));
  let number = 1;
  while (taken.has(`${label}-${number}`)) number += 1;
  return `${label}-${number}`;
}

/** The state with new objects, which get ids of their own. Returns it and the ids. */
export function added(state, objects) {
  let next = state;
  const ids = [];
  for (const object of objects) {
    const id = freshId(next, object.label);
    ids.push(id);
    next = { ...next, objects: [...next.objects, plain({ ...object, id })] };
  }
  return [next, ids];
}

export function changed(state, ids, change) {
  return { ...state, objects: state.objects.map((object) => (ids.has(object.id) ? plain(change(object)) : object)) };
}

export function without(state, ids) {
  return { ...state, objects: state.objects.filter((object) => !ids.has(object.id)) };
}

/** The state with an object by so many places later in the list. */
export function reordered(state, id, places) {
  const from = state.objects.findIndex((object) => object.id === id);
  const to = Math.min(Math.max(from + places, 0), state.objects.length - 1);
  const objects = state.objects.toSpliced(from, 1).toSpliced(to, 0, state.objects[from]);
  return { ...state, objects };
}

/** Whether an object's style is its own, so that the whole picture's does not touch it. */
export function isLocked(object) {
  return object.seed !== undefined || object.style !== undefined;
}

/** The seed, or mix, that an object or the whole picture (id null) is generated with. */
export function styleOf(state, id) {
  const object = id === null ? undefined : find(state, id);
  const { seed, style } = object && isLocked(object) ? object : state;
  return plain({ seed, style });
}

/** The state in which an object, or the whole picture (id null), has a style: {seed}, {style}, or {} for the picture's. */
export function withStyle(state, id, style) {
  const own = { seed: undefined, style: undefined, ...style };
  return id === null ? plain({ ...state, ...own }) : changed(state, new Set([id]), (object) => ({ ...object, ...own }));
}

function plain(value) {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined && field !== null));
}
