/** The row of all tunes of this visit; a click goes back to one. */

import { byId, html } from "/static/render/dom.js";

/** @typedef {import("./tune_history.js").Entry} Entry */

export class HistoryList {
  /** @param {(entry: Entry) => void} onSelect */
  constructor(onSelect) {
    this.onSelect = onSelect;
  }

  /** @param {Entry[]} entries @param {Entry} current */
  show(entries, current) {
    byId("history").hidden = entries.length < 2;
    const row = byId("takes");
    row.replaceChildren(...entries.map((entry) => this.#createItem(entry, entry === current)));
    const item = row.querySelector("[aria-current]");
    if (item) row.scrollLeft = item.offsetLeft - row.clientWidth / 2 + item.clientWidth / 2;
  }

  #createItem(entry, isCurrent) {
    const button = html("button", { type: "button", "aria-current": isCurrent ? "true" : null,
      onclick: () => this.onSelect(entry) },
      html("b", { text: entry.number }), html("span", { text: entry.label }));
    return html("li", {}, button);
  }
}
