/** The status line and the error line above the score. */

import { byId } from "/static/render/dom.js";
import { Cancelled } from "./generation_job.js";

/** Show what happened, and clear the error. */
export function showStatus(text) {
  byId("status").textContent = text;
  showError("");
}

/**
 * Show an error in place of the status; a cancelled request is none.
 * @param {unknown} error an Error, or a text; "": clear the error
 * @param {{label: string, act: () => void} | null} action a button that offers a way out
 */
export function showError(error, action = null) {
  if (error instanceof Cancelled) return;
  const text = error instanceof Error ? error.message : String(error);
  byId("alert").textContent = text;
  const button = byId("error-action");
  button.hidden = !action;
  button.textContent = action?.label ?? "";
  button.onclick = action?.act ?? null;
  if (text) byId("status").textContent = "";
}
