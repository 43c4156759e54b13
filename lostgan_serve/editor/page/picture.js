// The generated picture on a canvas, in the view that is chosen.

const NO_OBJECT = 255;
const SHADES = 4;
const SHADE = 0.17; // of the way to black, or from dark colours to white, for each further object of a label

/** Colours of a layout's objects, [r, g, b] each: that of the label, in another shade where it stands again. */
export function colorsOf(objects, labelColors) {
  const seen = new Map();
  return objects.map(({ label }) => {
    const number = seen.get(label) ?? 0;
    seen.set(label, number + 1);
    const color = rgb(labelColors.get(label));
    const toward = isLight(color) ? 0 : 255;
    const share = SHADE * (number % SHADES);
    return color.map((level) => Math.round((1 - share) * level + share * toward));
  });
}

function rgb(color = "#888888") {
  return [1, 3, 5].map((start) => Number.parseInt(color.slice(start, start + 2), 16));
}

/** Whether black is more legible on a colour than white (WCAG). */
function isLight(color) {
  const light = color.map((level) => level / 255).map((share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4));
  return (0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] + 0.05) ** 2 > 0.05 * 1.05;
}

export class Picture {
  #context;
  #pixels;

  constructor(canvas, resolution, labelColors) {
    canvas.width = canvas.height = resolution;
    this.labelColors = labelColors;
    this.#context = canvas.getContext("2d");
    this.#pixels = this.#context.createImageData(resolution, resolution);
    this.shown = null; // what the server generated last
  }

  clear() {
    this.shown = null;
    this.#context.clearRect(0, 0, this.#pixels.width, this.#pixels.height);
  }

  /** The generated image as a PNG file, whatever the view. */
  async file() {
    const { width, height } = this.#pixels;
    const canvas = new OffscreenCanvas(width, height);
    const data = new ImageData(width, height);
    for (let pixel = 0; pixel < width * height; pixel += 1) {
      data.data.set(this.shown.image.subarray(3 * pixel, 3 * pixel + 3), 4 * pixel);
      data.data[4 * pixel + 3] = 255;
    }
    canvas.getContext("2d").putImageData(data, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }

  /** Draw what was generated. view: image, objects, mask, overlay or split. share: opacity, or where the split is. */
  draw(view, share, selected) {
    const { shown } = this;
    if (!shown) return;
    const { objects } = shown.layout;
    const colors = colorsOf(objects, this.labelColors);
    const side = this.#pixels.width;
    const border = view === "split" ? share * side : 0;
    const mask = view === "mask" ? this.#mask(objects, selected) : null;
    const data = this.#pixels.data;
    for (let pixel = 0; pixel < side * side; pixel += 1) {
      const color = colors[shown.objectMap[pixel]];
      const owned = view === "objects" || (view === "split" && pixel % side >= border);
      const opacity = owned ? 1 : view === "overlay" ? share : 0;
      for (let channel = 0; channel < 3; channel += 1) {
        const level = shown.image[3 * pixel + channel];
        data[4 * pixel + channel] = mask ? mask[pixel] : level + opacity * ((color ? color[channel] : 0) - level);
      }
      data[4 * pixel + 3] = 255;
    }
    this.#context.putImageData(this.#pixels, 0, 0);
  }

  /** The soft mask of the selected object; where none is, of nothing. */
  #mask(objects, selected) {
    const { masks, objectMap } = this.shown;
    const index = objects.findIndex(({ id }) => selected.has(id));
    if (!masks) return objectMap.map((owner) => (owner === index && owner !== NO_OBJECT ? 255 : 0)); // until they come
    const size = objectMap.length;
    return index < 0 ? new Uint8Array(size) : masks.subarray(index * size, (index + 1) * size);
  }
}
