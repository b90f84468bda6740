/** The list of saved tunes, each with a link that opens it. */

import { byId, html } from "/static/render/dom.js";
import * as api from "./api.js";
import { formatLength, joinFacts } from "./tune_info.js";

export class SavedTunes {
  #ids = /** @type {Set<string>} */ (new Set());

  /** @param {(error: unknown) => void} onError @param {() => void} onDelete after a deletion */
  constructor(onError, onDelete) {
    this.onError = onError;
    this.onDelete = onDelete;
    this.list = byId("shelf-list");
  }

  has(id) {
    return this.#ids.has(id);
  }

  /** Fetch the list and show it. */
  async refresh() {
    const tunes = await api.fetchSavedTunes();
    this.#ids = new Set(tunes.map(({ id }) => id));
    this.list.replaceChildren(...tunes.map((tune) => this.#createRow(tune)));
    byId("shelf-empty").hidden = tunes.length > 0;
    byId("shelf-count").textContent = tunes.length ? String(tunes.length) : "";
  }

  #createRow({ id, title, key, meter, bars, seconds, when }) {
    const facts = joinFacts(key, meter, formatLength({ bars, seconds }), formatDate(when));
    const link = html("a", { href: `#tune=${encodeURIComponent(id)}` },
      html("span", { class: "name", text: title || "Untitled" }), html("span", { class: "facts", text: facts }));
    const button = html("button", { type: "button", class: "quiet", text: "Delete",
      "aria-label": `Delete ${title || "the tune"}`, onclick: () => this.#confirmDelete(button, id) });
    return html("li", {}, link, button);
  }

  /** Ask for a second press, since the file cannot be restored; moving the focus away cancels. */
  #confirmDelete(button, id) {
    if (button.dataset.confirming) return this.#delete(id);
    const label = button.getAttribute("aria-label");
    button.dataset.confirming = "yes";
    button.textContent = "Delete the file?";
    button.setAttribute("aria-label", "Delete the file permanently?");
    button.addEventListener("blur", () => {
      delete button.dataset.confirming;
      button.textContent = "Delete";
      button.setAttribute("aria-label", label);
    }, { once: true });
    return null;
  }

  async #delete(id) {
    try {
      await api.deleteTune(id);
      await this.refresh();
      this.onDelete();
    } catch (error) {
      this.onError(error);
    }
  }
}

/** Write a time of today as the time of day, any other as a date. */
function formatDate(when) {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  if (Number.isNaN(date.getTime())) return "";
  const today = new Date().toDateString() === date.toDateString();
  return today
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}
