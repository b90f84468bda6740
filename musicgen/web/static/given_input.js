/** The parts of a user's file, of which some are given: a new tune keeps them and draws others around them. */

import { byId, html } from "/static/render/dom.js";
import * as api from "./api.js";
import { namesOf } from "./part_rows.js";

// The roles that are drawn unless the file gives them, of a model of bands or of choirs
const BAND = ["melody", "chords", "bass", "drums"];
const CHOIR = ["soprano", "alto", "tenor", "bass"];

export class GivenInput {
  #file = /** @type {any} */ (null);
  #parts = /** @type {any[]} */ ([]);
  #roles = /** @type {string[]} */ ([]); // that the model can write
  #choosesRoles = false; // whether the user chose the roles to draw

  /** @param {(error: unknown) => void} onError @param {() => void} onChange whenever `isOn` may change */
  constructor(onError, onChange) {
    [this.onError, this.onChange] = [onError, onChange];
    this.list = byId("given-parts");
    this.roles = byId("given-roles");
    for (const id of ["use-given", "use-primer"]) byId(id).addEventListener("change", () => this.#update());
    this.list.addEventListener("change", () => this.#chooseRoles());
    this.roles.addEventListener("change", () => (this.#choosesRoles = true));
  }

  /** Whether new tunes keep parts of the file; else they continue from its notes, if there is one. */
  get isOn() {
    return this.#canGive && byId("use-given").checked;
  }

  get #canGive() {
    return this.#parts.length > 0 && this.#roles.length > 1;
  }

  /** The roles of the parts that are drawn. */
  get drawnRoles() {
    return checkedValues(this.roles);
  }

  /** What a request for a new tune needs. */
  get request() {
    const given = checkedValues(this.list);
    if (!given.length) throw new Error("no part of the file is given: switch one on");
    const parts = this.drawnRoles.length ? { parts: this.drawnRoles.join() } : {};
    return { given: this.#file, given_parts: given.map((number) => `${number}:all`).join(), ...parts };
  }

  /** The number of parts that are given. */
  get count() {
    return checkedValues(this.list).length;
  }

  /** Take another model, which can write other roles. */
  setModel({ roles }) {
    this.#roles = roles;
    if (!this.#parts.length) this.#load();
    this.roles.replaceChildren(...roles.map((role) => createSwitch(role, role, null)));
    this.#choosesRoles = false;
    this.#chooseRoles();
    this.#update();
  }

  /** Take another file, and list its parts; null: none. */
  async setFile(file) {
    [this.#file, this.#parts, this.#choosesRoles] = [file, [], false];
    this.#update();
    await this.#load();
  }

  /** List the parts of the file, if the model can write parts. */
  async #load() {
    const file = this.#file;
    if (!file || this.#roles.length < 2) return;
    try {
      const { parts } = await api.fetchParts(file);
      if (file === this.#file) this.#showParts(parts);
    } catch (error) {
      this.onError(error);
    }
  }

  #showParts(parts) {
    this.#parts = parts;
    const names = namesOf({ parts });
    this.list.replaceChildren(...parts.map(({ instrument, role, bars }, index) => {
      const facts = [role, instrument, `${bars} bars`].filter(Boolean).join(" · ");
      return createSwitch(index + 1, names[index], facts, bars > 0);
    }));
    this.#chooseRoles();
    this.#update();
  }

  /** Draw the usual roles that are not given, unless the user chose. */
  #chooseRoles() {
    if (this.#choosesRoles) return;
    const given = new Set(checkedValues(this.list).map((number) => this.#parts[number - 1]?.role));
    const usual = this.#roles.includes("melody") ? BAND : CHOIR;
    for (const input of this.roles.querySelectorAll("input")) {
      input.checked = usual.includes(input.value) && !given.has(input.value);
    }
  }

  #update() {
    byId("given").hidden = !this.#canGive;
    byId("given-choice").hidden = !this.isOn;
    this.onChange();
  }
}

function checkedValues(container) {
  return [...container.querySelectorAll("input:checked")].map(({ value }) => value);
}

function createSwitch(value, name, facts, isOn = false) {
  const input = html("input", { type: "checkbox", value });
  input.checked = isOn;
  const more = facts && html("span", { class: "facts", text: ` ${facts}` });
  return html("li", {}, html("label", { class: "switch" }, input, html("span", {}, name, more)));
}
