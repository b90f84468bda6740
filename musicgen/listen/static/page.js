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
  if (hasLittleRoom) view.show({ ...tune, svg: tune.narrow });
  else view.show(tune, wide.cloneNode(true));
}

show(isNarrow.matches);
const transport = new Transport(document.getElementById("player"), player, view);

function showAgain(hasLittleRoom) {
  show(hasLittleRoom);
  transport.refresh();
}

isNarrow.addEventListener("change", () => showAgain(isNarrow.matches));
window.addEventListener("beforeprint", () => isNarrow.matches && showAgain(false));
window.addEventListener("afterprint", () => isNarrow.matches && showAgain(true));

/** Hand out a file that the page has inside. */
function download(suffix) {
  const [bytes, type] = suffix === "mid"
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
document.getElementById("keys").append(
  ...SHORTCUTS.map(([keys, what]) => html("div", {}, html("dt", {}, ...keys.split(" ").map((key) => html("kbd", {}, key))), html("dd", {}, what))),
);

globalThis.musicgen = { player, view, transport, Instrument }; // for the console, and for tests
