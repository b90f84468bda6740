/** The shelf: tunes that were kept, each with a link that brings it back. */

import * as api from "./api.js";
import { el, part } from "./dom.js";
import { lengthOf } from "./told.js";

export class Shelf {
  #ids = /** @type {Set<string>} */ (new Set());

  /** @param {(fault: unknown) => void} onFault */
  constructor(onFault) {
    this.onFault = onFault;
    this.list = part("shelf-list");
  }

  has(id) {
    return this.#ids.has(id);
  }

  /** Ask what is on it, and show that. */
  async refresh() {
    const kept = await api.shelf();
    this.#ids = new Set(kept.map(({ id }) => id));
    this.list.replaceChildren(...kept.map((tune) => this.#row(tune)));
    part("shelf-empty").hidden = kept.length > 0;
    part("shelf-count").textContent = kept.length ? String(kept.length) : "";
  }

  #row({ id, title, key, meter, bars, seconds, when }) {
    const facts = [key, meter, lengthOf({ bars, seconds }), ago(when)].filter(Boolean).join(" · ");
    const link = el("a", { href: `#tune=${encodeURIComponent(id)}` },
      el("span", { class: "name", text: title || "Untitled" }), el("span", { class: "facts", text: facts }));
    const away = el("button", { type: "button", class: "quiet", text: "Remove",
      "aria-label": `Remove ${title || "the tune"} from the shelf`, onclick: () => this.#ask(away, id) });
    return el("li", {}, link, away);
  }

  /** Ask once more, for the file goes for good; whoever looks elsewhere has thought better of it. */
  #ask(button, id) {
    if (button.dataset.asked) return this.#drop(id);
    const before = button.getAttribute("aria-label");
    button.dataset.asked = "yes";
    button.textContent = "Delete the file?";
    button.setAttribute("aria-label", "Delete the file for good?");
    button.addEventListener("blur", () => {
      delete button.dataset.asked;
      button.textContent = "Remove";
      button.setAttribute("aria-label", before);
    }, { once: true });
    return null;
  }

  async #drop(id) {
    try {
      await api.drop(id);
      await this.refresh();
      this.list.dispatchEvent(new CustomEvent("dropped", { bubbles: true, detail: id }));
    } catch (fault) {
      this.onFault(fault);
    }
  }
}

/** Say when something was, shortly. */
function ago(when) {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  if (Number.isNaN(date.getTime())) return "";
  const today = new Date().toDateString() === date.toDateString();
  return today
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}
