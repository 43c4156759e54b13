// Files in and out: layout.json, COCO annotations, pictures, and the command that generates the picture.

import { fromJson } from "./layout.js";
import { at } from "./panel.js";

const MOST_BYTES = 16 * 2 ** 20;

export class Files {
  constructor(editor, server, picture) {
    Object.assign(this, { editor, server, picture, name: "layout" });
    const told = (action) => () => action().catch((error) => editor.note(error.message));
    at("open").addEventListener("click", () => at("file").click());
    at("file").addEventListener("change", told(async () => {
      await this.open(at("file").files[0]);
      at("file").value = "";
    }));
    at("save").addEventListener("click", () => this.save());
    at("save-image").addEventListener("click", told(() => this.#saveImage()));
    at("save-masks").addEventListener("click", told(() => this.#saveMade("masks", "masks.zip")));
    at("save-coco").addEventListener("click", told(() => this.#saveMade("coco", "coco.json")));
    at("copy-command").addEventListener("click", told(() => this.#copyCommand()));
    this.#listExamples();
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) told(() => this.open(event.dataTransfer.files[0]))();
    });
  }

  /** Show a layout in place of the present one, as one step. */
  show(name, layout, note) {
    this.name = name;
    this.editor.selection = new Set();
    this.editor.tool = "select";
    this.editor.change(fromJson(layout));
    this.editor.note(note);
  }

  async open(file) {
    if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than 16 MiB: give the layout of one image.`);
    const { layouts } = await this.server.open(file);
    const [{ name, layout }] = layouts;
    this.show(name, layout, layouts.length > 1 ? `${file.name} holds ${layouts.length} layouts; this is the first.` : `Opened ${file.name}.`);
  }

  save() {
    download(new Blob([JSON.stringify(this.editor.state, null, 1), "\n"], { type: "application/json" }), `${this.name}.json`);
  }

  async #saveImage() {
    if (!this.picture.shown) throw new Error("There is no picture yet.");
    download(await this.picture.file(), `${this.name}.png`);
  }

  async #saveMade(kind, suffix) {
    download(await this.server.made(kind, this.editor.state), `${this.name}.${suffix}`);
  }

  async #copyCommand() {
    const words = this.editor.model.command.map((word) => (/^[\w./:@=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`));
    const command = `${words.join(" ")} <<'EOF'\n${JSON.stringify(this.editor.state)}\nEOF\n`;
    if (!navigator.clipboard) throw new Error(`Browsers keep the clipboard from pages without TLS. The command: ${command}`);
    await navigator.clipboard.writeText(command);
    this.editor.note("The command is in the clipboard. It generates this picture as out/stdin.png.");
  }

  #listExamples() {
    const { examples } = this.editor.model;
    const list = at("examples");
    list.hidden = !examples.length;
    list.append(...examples.map(({ name }) => new Option(name)));
    list.addEventListener("change", () => {
      const { name, layout } = examples.find((example) => example.name === list.value);
      list.value = "";
      this.show(name, layout, `Started from ${name}.`);
    });
  }
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
