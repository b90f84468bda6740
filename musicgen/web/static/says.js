/** The one line that tells what happened, and the one that tells what went wrong. */

import { part } from "./dom.js";
import { Cancelled } from "./writer.js";

/** Tell what happened. */
export function say(text) {
  part("status").textContent = text;
  complain("");
}

/** Tell what is wrong, with a way out where there is one. */
export function complain(text, wayOut = null) {
  part("alert").textContent = text;
  const button = part("way-out");
  button.hidden = !wayOut;
  button.textContent = wayOut?.label ?? "";
  button.onclick = wayOut?.act ?? null;
  if (text) part("status").textContent = "";
}

/** Tell a fault; what was taken back is none. */
export function tellFault(fault, wayOut = null) {
  if (fault instanceof Cancelled) return;
  complain(fault instanceof Error ? fault.message : String(fault), wayOut);
}
