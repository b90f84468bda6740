import { Instrument } from "./instrument.js";
import { Player } from "./player.js";
import { Transport, SHORTCUTS } from "./transport.js";
import { TuneView, html } from "./view.js";

/** The one-file page: everything it shows stands in the file. */

const tune = JSON.parse(document.getElementById("tune").textContent);
const wide = document.querySelector(".tune-score > svg");
const player = new Player();
const view = new TuneView(document.getElementById("view"));
const isNarrow = matchMedia("(max-width: 40rem)");

/** Show the score that fits: a phone has lines of its own, paper has those of a wide screen. */
function show(hasLittleRoom) {
  if (!wide) view.show(tune);
  else if (hasLittleRoom) view.show({ ...tune, svg: tune.narrow });
  else view.show(tune, wide.cloneNode(true));
}

show(isNarrow.matches);
const transport = new Transport(document.getElementById("player"), player, view);

function showAgain(hasLittleRoom) {
  show(hasLittleRoom);
  transport.refresh();
}

/** One drawing a system, so that a page of paper ends between two of them. */
function* systemsApart(root) {
  const { x, y, width, height } = root.viewBox.baseVal;
  const box = root.getBoundingClientRect();
  const scale = height / box.height;
  const edges = [...root.querySelectorAll(".system")]
    .map((system) => system.getBoundingClientRect())
    .filter((system) => system.height)
    .map(({ top, bottom }) => [(top - box.top) * scale, (bottom - box.top) * scale]);
  const cuts = edges.slice(1).map(([top], index) => (edges[index][1] + top) / 2);
  const borders = [y, ...cuts, y + height];
  for (const [index, start] of borders.slice(0, -1).entries()) {
    const piece = root.cloneNode(true);
    piece.setAttribute("viewBox", `${x} ${start} ${width} ${borders[index + 1] - start}`);
    piece.setAttribute("class", "piece");
    for (const name of ["width", "height"]) piece.removeAttribute(name); // the box alone says its shape
    yield piece;
  }
}

function preparePaper() {
  if (isNarrow.matches) showAgain(false);
  const root = view.score.querySelector("svg");
  if (!root) return;
  view.score.append(...systemsApart(root));
  root.classList.add("whole");
}

function putPaperAway() {
  for (const piece of view.score.querySelectorAll(".piece")) piece.remove();
  view.score.querySelector("svg")?.classList.remove("whole");
  if (isNarrow.matches) showAgain(true);
}

isNarrow.addEventListener("change", () => {
  if (!view.score.querySelector(".piece")) showAgain(isNarrow.matches); // paper has a width too
});
window.addEventListener("beforeprint", preparePaper);
window.addEventListener("afterprint", putPaperAway);

/** Hand out a file that the page has inside. */
function download(suffix) {
  const [bytes, type] =
    suffix === "mid"
      ? [Uint8Array.from(atob(tune.midi), (c) => c.charCodeAt(0)), "audio/midi"]
      : [tune.abc, "text/vnd.abc;charset=utf-8"];
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  const link = html("a", { href: url, download: `${document.body.dataset.name}.${suffix}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => download(button.dataset.download));
}

const isOn = document.getElementById("shortcuts");
isOn.addEventListener("change", () => (transport.hasShortcuts = isOn.checked));
document
  .getElementById("keys")
  .append(
    ...SHORTCUTS.map(([keys, what]) =>
      html(
        "div",
        {},
        html("dt", {}, ...keys.split(" ").map((key) => html("kbd", {}, key))),
        html("dd", {}, what),
      ),
    ),
  );

globalThis.musicgen = { player, view, transport, Instrument }; // for the console, and for tests
