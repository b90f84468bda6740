/** What a new tune starts from: pasted ABC, or a file that was chosen or dropped. */

import { part } from "./dom.js";

const MOST_BYTES = 8 * 2 ** 20;

export class Primer {
  /** @type {{name: string, text?: string, base64?: string} | null} */ #file = null;

  /** @param {(message: string) => void} onFault told in one line what is wrong with a file */
  constructor(onFault) {
    this.onFault = onFault;
    this.text = part("primer-text");
    this.chosen = part("primer-file");
    this.chosen.addEventListener("change", () => this.#take(this.chosen.files[0]));
    part("primer-clear").addEventListener("click", () => this.clear());
    this.text.addEventListener("input", () => this.#changed());
    this.#dropAnywhere(part("drop"));
  }

  /** What a job is given; null: nothing. */
  get value() {
    if (this.#file) return this.#file;
    const text = this.text.value.trim();
    return text ? { name: "pasted.abc", text: complete(text) } : null;
  }

  clear() {
    this.#file = null;
    this.text.value = "";
    this.chosen.value = "";
    this.#changed();
  }

  async #take(file) {
    if (!file) return;
    if (file.size > MOST_BYTES) {
      this.onFault(`${file.name}: a primer has at most 8 MiB; choose a smaller file`);
      return;
    }
    this.#file = { name: file.name, base64: toBase64(new Uint8Array(await file.arrayBuffer())) };
    this.text.value = "";
    this.#changed();
  }

  #changed() {
    if (this.text.value) this.#file = null;
    part("primer-name").textContent = this.#file?.name ?? (this.value ? "the pasted notes" : "");
    part("primer-set").hidden = this.value === null;
    part("primer").classList.toggle("set", this.value !== null);
  }

  #dropAnywhere(veil) {
    const hasFile = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => (veil.hidden = !hasFile(event)));
    document.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) veil.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!hasFile(event)) return;
      event.preventDefault();
      part("primer").open = true;
      this.#take(event.dataTransfer.files[0]);
    });
  }
}

/** Give notes the head that ABC wants, where they have none. */
function complete(text) {
  if (/^X:/m.test(text)) return text;
  return /^K:/m.test(text) ? `X:1\n${text}` : `X:1\nL:1/8\nK:C\n${text}`;
}

function toBase64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}
