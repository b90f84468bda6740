/** What is told beside a tune: its receipt, its surprise, how it came to be, its files. */

import { barsText } from "./ranges.js";
import { el, part } from "./dom.js";

const FILES = [["mid", "MIDI"], ["abc", "ABC"], ["musicxml", "MusicXML"], ["wav", "WAV"],
  ["svg", "SVG"], ["png", "PNG"], ["html", "Page"]];

/** Tell it of a tune. `onFile` is asked for a file by its suffix. */
export function tellTune(tune, onFile) {
  part("told").hidden = false;
  part("receipt").replaceChildren(...receiptOf(tune));
  part("surprise").textContent = tune.surprise
    ? `Surprise: ${tune.surprise.bits_per_note.toFixed(2)} bits a note under the model.` : "";
  part("told-list").replaceChildren(...tune.told.map((line) => el("li", { text: line })));
  const files = FILES.filter(([suffix]) => tune.files.includes(suffix));
  part("files").replaceChildren(...files.map(([suffix, name]) =>
    el("button", { type: "button", class: "file", text: name, "data-file": suffix, onclick: () => onFile(suffix) })));
}

function receiptOf({ receipt, bars }) {
  if (!receipt) return ["The model has no index of its training tunes: no copy receipt."];
  if (!receipt.tune) return ["Copies nothing: no run is shared with a training tune."];
  const [first, last] = receipt.bars;
  const where = !bars ? "" : first === last ? ` bar ${first},` : ` bars ${first}–${last},`;
  const share = Math.round(receipt.share * 100);
  return [
    `Longest run shared with a training tune: ${receipt.longest_run} of ${receipt.notes} notes,${where} from “`,
    el("cite", { text: receipt.tune }),
    `”; ${share} % of its 8-note runs are copied.`,
  ];
}

/** Say how much of a tune changed. */
export function changesText(label, changed, count) {
  if (!changed.size) return `${label}: no bar was redrawn.`;
  if (changed.size === count) return `${label}: every bar changed.`;
  return `${label}: ${changed.size} of ${count} bars changed (${barsText(changed)}).`;
}

/** Name a tune that may have no title. */
export function nameOf(tune) {
  if (tune.title) return tune.title;
  if (!tune.key) return "Untitled";
  const dance = tune.rhythm && tune.rhythm !== "other" ? tune.rhythm : "tune";
  return `${dance[0].toUpperCase()}${dance.slice(1)} in ${tune.key}`;
}

export function factsOf(tune) {
  return [tune.key, tune.meter, lengthOf(tune), `seed ${tune.seed}`].filter(Boolean).join(" · ");
}

/** Say how long a tune is: in bars, where it has any. */
export function lengthOf({ bars, seconds }) {
  return bars ? `${bars} bars` : `${Math.round(seconds)} s`;
}
