/** All tunes of this visit, to come back to and to compare with. */

import { el, part } from "./dom.js";

export class Takes {
  /** @param {(take: import("./history.js").Take) => void} onChoose */
  constructor(onChoose) {
    this.onChoose = onChoose;
  }

  show(takes, current) {
    part("takes-home").hidden = takes.length < 2;
    const row = part("takes");
    row.replaceChildren(...takes.map((take) => this.#item(take, take === current)));
    const shown = row.querySelector("[aria-current]");
    if (shown) row.scrollLeft = shown.offsetLeft - row.clientWidth / 2 + shown.clientWidth / 2;
  }

  #item(take, isCurrent) {
    const button = el("button", { type: "button", "aria-current": isCurrent ? "true" : null,
      onclick: () => this.onChoose(take) },
      el("b", { text: take.number }), el("span", { text: take.label }));
    return el("li", {}, button);
  }
}
