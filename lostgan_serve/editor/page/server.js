// The editor's server, and pictures of the newest layout from it: one request at a time, the last layout wins.

const TIMEOUT_MS = 60_000;
const RETRY_MS = 1000;
const AWAY = "The editor's server does not answer.";

/** A failure that passes: the same request may succeed later. */
export class AwayError extends Error {}

export class Server {
  #token;

  constructor() {
    this.#token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
    addEventListener("hashchange", () => location.reload());
  }

  async model() { return (await this.#call("/api/model")).json(); }

  /** The model, once the server answers. onAway: is told each time why it does not. */
  async reached(onAway) {
    for (;;) {
      try {
        return await this.model();
      } catch (error) {
        onAway(error.message);
        await new Promise((done) => { setTimeout(done, RETRY_MS); });
      }
    }
  }

  /** The outputs of a layout: {image, objectMap, masks} as bytes, see docs/editor.md. */
  async generate(layout, withMasks, resolution) {
    const outputs = withMasks ? "image,object_map,masks" : "image,object_map";
    const answer = await this.#call(`/api/generate?outputs=${outputs}`, JSON.stringify(layout));
    const bytes = new Uint8Array(await received(answer));
    const pixels = resolution * resolution;
    const masks = withMasks ? bytes.subarray(4 * pixels) : null;
    return { layout, image: bytes.subarray(0, 3 * pixels), objectMap: bytes.subarray(3 * pixels, 4 * pixels), masks };
  }

  /** The layouts in a file. */
  async open(file) {
    return (await this.#call(`/api/open?name=${encodeURIComponent(file.name)}`, file)).json();
  }

  /** A file made of a layout: "coco" or "masks". */
  async made(kind, layout) { return (await this.#call(`/api/${kind}`, JSON.stringify(layout))).blob(); }

  async #call(path, body) {
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (typeof body === "string") headers["Content-Type"] = "application/json";
    const options = { method: body === undefined ? "GET" : "POST", headers, body, signal: AbortSignal.timeout(TIMEOUT_MS) };
    const answer = await fetch(path, options).catch(() => { throw new AwayError(AWAY); });
    if (answer.ok) return answer;
    const { error } = await answer.json().catch(() => ({}));
    const message = error ?? `The server answered ${answer.status}.`;
    throw answer.status === 502 || answer.status === 503 ? new AwayError(message) : new Error(message);
  }
}

/** Generates the newest layout that was asked for. Events: "picture", "failure", "away", "back". */
export class Live extends EventTarget {
  #wanted = null;
  #busy = false;

  constructor(server, model) {
    super();
    this.server = server;
    this.model = model;
  }

  want(layout, withMasks) {
    this.#wanted = { layout, withMasks };
    if (!this.#busy) this.#work();
  }

  async #work() {
    this.#busy = true;
    while (this.#wanted) {
      const { layout, withMasks } = this.#wanted;
      this.#wanted = null;
      try {
        const picture = await this.server.generate(layout, withMasks, this.model.resolution);
        this.#tell("picture", picture);
      } catch (error) {
        if (!(error instanceof AwayError)) this.#tell("failure", error.message);
        else {
          this.#wanted ??= { layout, withMasks };
          this.#tell("away", error.message);
          await this.#back();
        }
      }
    }
    this.#busy = false;
  }

  /** Wait until the server answers again. */
  async #back() {
    await new Promise((done) => { setTimeout(done, RETRY_MS); });
    const { id } = await this.server.reached((message) => this.#tell("away", message));
    if (id !== this.model.id) location.reload(); // another model: labels, sizes and pictures differ
    this.#tell("back");
  }

  #tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}

async function received(answer) {
  try {
    return await answer.arrayBuffer();
  } catch {
    throw new AwayError(AWAY); // it went away in mid-answer
  }
}
