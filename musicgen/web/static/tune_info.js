/** The panel below the score: copy receipt, surprise, remarks and downloads. */

import { byId, html } from "/static/render/dom.js";
import { formatBarRange, formatTimeRange } from "/static/render/format.js";
import { formatBars } from "./bar_ranges.js";

const FILE_FORMATS = [["mid", "MIDI"], ["abc", "ABC"], ["musicxml", "MusicXML"], ["wav", "WAV"],
  ["svg", "SVG"], ["png", "PNG"], ["html", "Page"]];

/** Show the panel of a tune; `onDownload` receives the suffix of the chosen format. */
export function showTuneInfo(tune, onDownload) {
  byId("tune-info").hidden = false;
  byId("receipt").replaceChildren(...describeReceipt(tune));
  byId("surprise").textContent = tune.surprise
    ? `Surprise: ${tune.surprise.bits_per_note.toFixed(2)} bits per note under the model.` : "";
  byId("remarks").replaceChildren(...tune.told.map((remark) => html("li", { text: remark })));
  const formats = FILE_FORMATS.filter(([suffix]) => tune.files.includes(suffix));
  byId("files").replaceChildren(...formats.map(([suffix, name]) =>
    html("button", { type: "button", class: "file", text: name, "data-file": suffix,
      onclick: () => onDownload(suffix) })));
}

function describeReceipt({ receipt }) {
  if (!receipt) return ["No copy receipt: the model has no index of its training tunes."];
  if (!receipt.longest_run) return ["No copied runs: nothing is shared with a training tune."];
  const where = receipt.bars ? formatBarRange(receipt.bars) : formatTimeRange(receipt.seconds);
  const share = Math.round(receipt.share * 100);
  return [
    `Longest run shared with a training tune: ${receipt.longest_run} of ${receipt.notes} notes, ${where}, from “`,
    html("cite", { text: receipt.tune || receipt.source }),
    `”; ${share} % of the tune's 8-note runs are copied.`,
  ];
}

/**
 * Describe how much of a tune changed.
 * @param {string[]} names of its parts @param {{bars: Set<number>, parts: Set<number>[]}} changed
 */
export function describeChanges(label, changed, barCount, names) {
  const { bars: changedBars, parts } = changed;
  if (names.length > 1 && changedBars.size) return `${label}: changed ${describeChangedParts(parts, barCount, names)}.`;
  if (!changedBars.size) return `${label}: no bar changed.`;
  if (changedBars.size === barCount) return `${label}: every bar changed.`;
  return `${label}: ${changedBars.size} of ${barCount} bars changed (${formatBars(changedBars)}).`;
}

/** Describe in which bars each part differs: "Bass in bars 1–4, Drums". */
export function describeChangedParts(parts, barCount, names) {
  return parts.flatMap((bars, part) => {
    if (!bars.size) return [];
    const name = names[part] ?? `Part ${part + 1}`;
    return [bars.size === barCount ? name : `${name} in ${formatBars(bars)}`];
  }).join(", ");
}

/** Return a tune's title, or a description where it has none. */
export function titleOf(tune) {
  if (tune.title) return tune.title;
  if (!tune.key) return "Untitled";
  const rhythm = tune.rhythm && tune.rhythm !== "other" ? tune.rhythm : "tune";
  return `${rhythm[0].toUpperCase()}${rhythm.slice(1)} in ${tune.key}`;
}

/** Join facts, such as key and meter, leaving out those that are empty. */
export function joinFacts(...facts) {
  return facts.filter(Boolean).join(" · ");
}

/** Return a tune's length: in bars, or in seconds where it has none. */
export function formatLength({ bars, seconds }) {
  return bars ? `${bars} bars` : `${Math.round(seconds)} s`;
}
