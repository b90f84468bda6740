import { byId, downloadBlob, html } from "./dom.js";
import { Instrument } from "./instrument.js";
import { Player } from "./player.js";
import { PlayerToolbar, SHORTCUTS } from "./player_toolbar.js";
import { TuneView } from "./tune_view.js";

/** Entry point of the one-file page: the file holds the tune, its score and this script. */

const tune = JSON.parse(byId("tune").textContent);
const wideScore = document.querySelector(".tune-score > svg");
const player = new Player();
const view = new TuneView(byId("view"));
const narrowScreen = matchMedia("(max-width: 40rem)");

/** Show the score that fits: a phone has its own line breaks, paper those of a wide screen. */
function showScore(isNarrow) {
  if (!wideScore) view.show(tune);
  else if (isNarrow) view.show({ ...tune, svg: tune.narrow });
  else view.show(tune, wideScore.cloneNode(true));
}

showScore(narrowScreen.matches);
const toolbar = new PlayerToolbar(byId("player"), player, view);

function redrawScore(isNarrow) {
  showScore(isNarrow);
  toolbar.refresh();
}

/** Yield one drawing per system, so that page breaks fall between systems. */
function* splitSystems(root) {
  const { x, y, width, height } = root.viewBox.baseVal;
  const box = root.getBoundingClientRect();
  const scale = height / box.height;
  const systems = [...root.querySelectorAll(".system")]
    .map((system) => system.getBoundingClientRect())
    .filter((system) => system.height)
    .map(({ top, bottom }) => [(top - box.top) * scale, (bottom - box.top) * scale]);
  const cuts = systems.slice(1).map(([top], index) => (systems[index][1] + top) / 2);
  const edges = [y, ...cuts, y + height];
  for (const [index, start] of edges.slice(0, -1).entries()) {
    const piece = root.cloneNode(true);
    piece.setAttribute("viewBox", `${x} ${start} ${width} ${edges[index + 1] - start}`);
    piece.setAttribute("class", "piece");
    for (const name of ["width", "height"]) piece.removeAttribute(name); // viewBox sets the shape
    yield piece;
  }
}

function prepareForPrint() {
  if (narrowScreen.matches) redrawScore(false);
  const root = view.score.querySelector("svg");
  if (!root) return;
  view.score.append(...splitSystems(root));
  root.classList.add("whole");
}

function restoreAfterPrint() {
  for (const piece of view.score.querySelectorAll(".piece")) piece.remove();
  view.score.querySelector("svg")?.classList.remove("whole");
  if (narrowScreen.matches) redrawScore(true);
}

narrowScreen.addEventListener("change", () => {
  const isPrinting = view.score.querySelector(".piece"); // the width of the paper triggers this too
  if (!isPrinting) redrawScore(narrowScreen.matches);
});
window.addEventListener("beforeprint", prepareForPrint);
window.addEventListener("afterprint", restoreAfterPrint);

/** Download a file that is embedded in the page. */
function downloadFile(suffix) {
  const [content, type] =
    suffix === "mid"
      ? [Uint8Array.from(atob(tune.midi), (c) => c.charCodeAt(0)), "audio/midi"]
      : [tune.abc, "text/vnd.abc;charset=utf-8"];
  downloadBlob(new Blob([content], { type }), `${document.body.dataset.name}.${suffix}`);
}

for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => downloadFile(button.dataset.download));
}

const shortcutsBox = byId("shortcuts");
shortcutsBox.addEventListener("change", () => (toolbar.hasShortcuts = shortcutsBox.checked));
byId("keys").append(
  ...SHORTCUTS.map(([keys, description]) =>
    html(
      "div",
      {},
      html("dt", {}, ...keys.split(" ").map((key) => html("kbd", {}, key))),
      html("dd", {}, description),
    ),
  ),
);

globalThis.musicgen = { player, view, toolbar, Instrument }; // for the console and for tests
