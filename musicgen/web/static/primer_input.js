/** The primer, which a new tune continues from: pasted ABC, or a file that was chosen or dropped. */

import { byId } from "/static/render/dom.js";

const MAX_BYTES = 8 * 2 ** 20;
const BASE64_CHUNK = 0x8000; // bytes; a call takes a limited number of arguments

export class PrimerInput {
  /** @type {{name: string, text?: string, base64?: string} | null} */ #file = null;

  #isLive = false; // whether seconds are chosen, not a part and bars

  /**
   * @param {(message: string) => void} onError receives one line on what is wrong with a file
   * @param {(file: {name: string, base64: string} | null) => void} onFile receives each other file
   */
  constructor(onError, onFile) {
    [this.onError, this.onFile] = [onError, onFile];
    this.text = byId("primer-text");
    this.fileInput = byId("primer-file");
    this.part = byId("primer-part");
    this.bars = byId("primer-bars");
    this.seconds = byId("primer-seconds");
    this.fileInput.addEventListener("change", () => this.#read(this.fileInput.files[0]));
    byId("primer-clear").addEventListener("click", () => this.clear());
    this.text.addEventListener("input", () => this.#update());
    this.#acceptDrops(byId("drop"));
  }

  /** The primer as a job takes it; null: none. */
  get value() {
    const text = this.text.value.trim();
    const notes = this.#file ?? (text ? { name: "pasted.abc", text: addAbcHeader(text) } : null);
    if (!notes || this.#isLive) return notes && { ...notes, seconds: this.seconds.value.trim() };
    return { ...notes, part: this.part.value.trim(), bars: this.bars.value.trim() };
  }

  /** Ask for seconds, for a model of performances, or for a part and bars. */
  chooseSeconds(isLive) {
    this.#isLive = isLive;
    for (const label of document.querySelectorAll("#primer .in-bars")) label.hidden = isLive;
    for (const label of document.querySelectorAll("#primer .in-seconds")) label.hidden = !isLive;
  }

  clear() {
    this.#setFile(null);
    const inputs = [this.text, this.fileInput, this.part, this.bars, this.seconds];
    for (const input of inputs) input.value = "";
    this.#update();
  }

  async #read(file) {
    if (!file) return;
    if (file.size > MAX_BYTES) {
      this.onError(`${file.name} is larger than 8 MiB; choose a smaller file`);
      return;
    }
    this.#setFile({ name: file.name, base64: toBase64(new Uint8Array(await file.arrayBuffer())) });
    this.text.value = "";
    this.#update();
  }

  #setFile(file) {
    if (file === this.#file) return;
    this.#file = file;
    this.onFile(file);
  }

  #update() {
    if (this.text.value) this.#setFile(null);
    byId("primer-name").textContent = this.#file?.name ?? (this.value ? "pasted notes" : "");
    byId("primer-set").hidden = byId("primer-choice").hidden = this.value === null;
    byId("primer").classList.toggle("set", this.value !== null);
  }

  /** Accept files dropped anywhere on the page; the overlay says so while one is dragged. */
  #acceptDrops(overlay) {
    const hasFile = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => (overlay.hidden = !hasFile(event)));
    document.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) overlay.hidden = true; // it left the window
    });
    document.addEventListener("drop", (event) => {
      overlay.hidden = true;
      if (!hasFile(event)) return;
      event.preventDefault();
      byId("primer").open = true;
      this.#read(event.dataTransfer.files[0]);
    });
  }
}

/** Add the header fields that ABC requires, where they are missing. */
function addAbcHeader(text) {
  if (/^X:/m.test(text)) return text;
  return /^K:/m.test(text) ? `X:1\n${text}` : `X:1\nL:1/8\nK:C\n${text}`;
}

function toBase64(bytes) {
  let binary = "";
  for (let start = 0; start < bytes.length; start += BASE64_CHUNK) {
    binary += String.fromCharCode(...bytes.subarray(start, start + BASE64_CHUNK));
  }
  return btoa(binary);
}
