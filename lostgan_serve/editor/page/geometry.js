// Boxes in pixels of the picture, [x, y, width, height].

export const LEAST_PX = 2; // of a side

export function contains([x, y, width, height], [px, py]) {
  return px >= x && px <= x + width && py >= y && py <= y + height;
}

export function meets([x, y, width, height], [ox, oy, owidth, oheight]) {
  return x < ox + owidth && ox < x + width && y < oy + oheight && oy < y + height;
}

/** The box between two corners. */
export function between([ax, ay], [bx, by]) {
  return [Math.min(ax, bx), Math.min(ay, by), Math.abs(ax - bx), Math.abs(ay - by)];
}

/** The least box around boxes. */
export function around(boxes) {
  const left = Math.min(...boxes.map(([x]) => x));
  const top = Math.min(...boxes.map(([, y]) => y));
  const right = Math.max(...boxes.map(([x, , width]) => x + width));
  const bottom = Math.max(...boxes.map(([, y, , height]) => y + height));
  return [left, top, right - left, bottom - top];
}

/** A step by which a box may move and stay inside the picture. */
export function boundedStep([x, y, width, height], [dx, dy], side) {
  return [clamp(dx, -x, side - x - width), clamp(dy, -y, side - y - height)];
}

/** A box with some of its edges moved. edges: of n, e, s, w. It keeps its least size, and stays inside the picture. */
export function resized([x, y, width, height], edges, [dx, dy], side) {
  let [left, top, right, bottom] = [x, y, x + width, y + height];
  if (edges.includes("w")) left = clamp(left + dx, 0, right - LEAST_PX);
  if (edges.includes("e")) right = clamp(right + dx, left + LEAST_PX, side);
  if (edges.includes("n")) top = clamp(top + dy, 0, bottom - LEAST_PX);
  if (edges.includes("s")) bottom = clamp(bottom + dy, top + LEAST_PX, side);
  return [left, top, right - left, bottom - top];
}

/** The least move that brings one of `places` onto one of `lines`, if it is within `reach`: [move, line], or null. */
export function snapped(places, lines, reach) {
  let best = null;
  for (const place of places) {
    for (const line of lines) {
      const move = line - place;
      if (Math.abs(move) <= reach && (best === null || Math.abs(move) < Math.abs(best[0]))) best = [move, line];
    }
  }
  return best;
}

/** Lines to snap to along an axis (0: x, 1: y): the edges and middles of the picture and of boxes. */
export function linesOf(boxes, axis, side) {
  return [[0, side], ...boxes.map((box) => [box[axis], box[axis + 2]])].flatMap(([start, length]) => [
    start, start + length / 2, start + length]);
}

export function clamp(value, least, most) {
  return Math.max(least, Math.min(most, value));
}
