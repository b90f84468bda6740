/** The playground: generate, turn a knob, lock bars, redraw, undo, compare, keep. */

import * as api from "./api.js";
import { BarStrip } from "./bars.js";
import { el, part } from "./dom.js";
import { History } from "./history.js";
import { Knobs, changeText } from "./knobs.js";
import { Primer } from "./primer.js";
import { barsText, numbersOf, rangesText } from "./ranges.js";
import { complain, say, tellFault } from "./says.js";
import { Shelf } from "./shelf.js";
import { Stage } from "./stage.js";
import { Takes } from "./takes.js";
import { changesText, nameOf, tellTune } from "./told.js";
import { Training } from "./training.js";
import { Transport } from "./transport.js";
import { Cancelled, Writer } from "./writer.js";

const PATIENCE = 220; // milliseconds that a knob is still before it is asked for
const PLAYING_ONLY = new Set(["tempo", "program"]); // knobs that redraw nothing

class Playground {
  history = new History();
  models = /** @type {any[]} */ ([]);
  #timer = 0;
  #other = /** @type {import("./history.js").Take | null} */ (null); // what is compared with
  #sounding = "b";

  constructor() {
    this.knobs = new Knobs(part("knobs"), part("more"), (settled) => this.#turned(settled));
    this.strip = new BarStrip(part("bars"), (locked) => this.#locked(locked));
    this.stage = new Stage((measure, through) => this.#barClicked(measure, through));
    this.transport = new Transport({
      onNote: (note, on) => this.stage.light(this.#sounding, note, on),
      onBar: (measure) => this.#barSounds(measure),
      onPlace: (seconds) => this.stage.at(this.#sounding, seconds),
    });
    this.stage.onSeek = (seconds) => this.transport.seek(seconds);
    this.primer = new Primer(complain);
    this.shelf = new Shelf(tellFault);
    this.takes = new Takes((take) => this.#goTo(take));
    this.training = new Training((run, home) => this.#hearTraining(run, home));
    this.writer = new Writer((state) => this.#progress(state));
    this.#listen();
  }

  get current() {
    return this.history.current;
  }

  /** Ask the server what there is, and bring back what the address names. */
  async start() {
    try {
      this.models = await api.models();
      part("model").replaceChildren(...this.models.map(({ name }) => el("option", { value: name, text: name })));
      this.#offer();
      await this.shelf.refresh();
      await this.#fromAddress();
    } catch (fault) {
      tellFault(fault);
    }
  }

  #listen() {
    const on = (id, act, event = "click") => part(id).addEventListener(event, act);
    on("panel", (event) => (event.preventDefault(), this.sample()), "submit");
    on("cancel", () => this.#cancel());
    on("undo", () => this.#step("undo"));
    on("redo", () => this.#step("redo"));
    on("redraw", () => this.redraw());
    on("compare", () => this.#compare(this.#other ? null : this.#before()));
    on("choose-a", () => this.#compare(this.history.all[part("choose-a").value - 1]), "change");
    on("hear-a", () => this.#hear("a"));
    on("hear-b", () => this.#hear("b"));
    on("keep", () => this.#keepOrDrop());
    on("model", () => this.#offer(), "change");
    on("skip", () => part("stage").focus());
    on("to-shelf", () => show(part("shelf")));
    on("to-training", () => ((part("training").open = true), show(part("training"))));
    on("shelf-list", () => this.#drawKept(), "dropped");
    on("panel", (event) => this.#entered(event), "keydown");
    document.addEventListener("keydown", (event) => this.#key(event));
    window.addEventListener("hashchange", () => this.#fromAddress().catch(tellFault));
  }

  /** Write a new tune with the knobs as they stand. */
  async sample(wishes = this.knobs.wishes) {
    clearTimeout(this.#timer);
    const primer = part("primer").hidden ? null : this.primer.value;
    const asked = { do: "sample", model: part("model").value, ...wishes, ...(primer ? { primer } : {}) };
    const label = primer ? `New tune from ${primer.name}` : "New tune";
    await this.#write(asked, null, label);
  }

  /** Draw the bars that are not locked anew; with none locked, another tune of the kind. */
  async redraw() {
    const take = this.current;
    if (!take) return;
    const locked = take.locked;
    const asked = { ...this.#variant(take), seed: Math.floor(Math.random() * 2 ** 31), ...keepOf(locked) };
    await this.#write(asked, take, locked.size ? `Redrawn but for ${barsText(locked)}` : "Another like it");
  }

  /** Ask for the near variant, once a knob stands still. */
  #turned(settled) {
    clearTimeout(this.#timer);
    this.#markMoved();
    if (this.current) this.#timer = window.setTimeout(() => this.#tweak(), settled ? 0 : PATIENCE);
  }

  async #tweak() {
    const take = this.current;
    const changes = take ? this.knobs.changesFrom(take.tune.wishes) : {};
    const names = Object.keys(changes);
    if (!take || !names.length) return;
    const redraws = names.some((name) => !PLAYING_ONLY.has(name));
    const asked = { ...this.#variant(take), ...changes, ...(redraws ? keepOf(take.locked) : {}) };
    const label = names.map((name) => changeText(name, take.tune.wishes[name], changes[name])).join(", ");
    const wishes = this.knobs.wishes;
    await this.#write(asked, take, label, (fault) => {
      this.knobs.show(take.tune.wishes, take.tune.seed);
      this.#markMoved();
      tellFault(fault, { label: "New tune with it", act: () => this.#sampleWith(wishes) });
    });
  }

  #sampleWith(wishes) {
    this.knobs.show({ form: null, ...wishes }, this.current?.tune.seed);
    return this.sample(wishes);
  }

  #variant(take) {
    return { do: "tweak", of: take.tune.id };
  }

  /** Write what is asked and show it; what stood stays until then. */
  async #write(asked, from, label, onFault = (/** @type {unknown} */ fault) => tellFault(fault)) {
    say("");
    try {
      const tune = await this.#held(from, (id) => this.writer.write(id ? { ...asked, of: id } : asked));
      const take = { number: 0, tune, label, asked, from, locked: new Set(from?.locked), changed: null };
      await this.#arrived(take);
    } catch (fault) {
      if (!(fault instanceof Cancelled)) onFault(fault);
    }
  }

  async #arrived(take) {
    this.history.push(take);
    const count = Math.max(0, ...numbersOf(take.tune));
    take.locked = new Set([...take.locked].filter((bar) => bar <= count));
    this.#show();
    if (take.from && take.tune.bars) await this.#markChanges(take);
    else say(`${take.label}: ${nameOf(take.tune)}.`);
    bringIntoSight();
    this.#hearAtOnce(take);
  }

  /** Find and mark what changed against the tune it was made from. */
  async #markChanges(take) {
    const found = await this.#differences(take.from, take);
    const numbers = numbersOf(take.tune);
    const changed = new Set(found.bars.map((measure) => numbers[measure]).filter(Boolean));
    take.changed = { bars: changed, notes: found.notes_b, measures: found.bars };
    if (take !== this.current) return;
    this.#drawMarks();
    say(changesText(take.label, changed, Math.max(...numbers)));
  }

  #differences(a, b) {
    return this.#held(a, (idA) => this.#held(b, (idB) => api.differences(idA, idB)));
  }

  #hearAtOnce(take) {
    if (!part("at-once").checked || this.transport.isPlaying) return;
    if (take !== this.current) return;
    const first = take.changed?.measures.length ? Math.min(...take.changed.measures) : 0;
    this.transport.playFrom(Math.max(0, first - 1)).catch(() => {}); // a browser may want a click first
  }

  /**
   * Do something with a tune that the server holds. One that it has forgotten, since it was started
   * again, is written again first, by what it was asked for with.
   */
  async #held(take, act) {
    try {
      return await act(take?.tune.id);
    } catch (fault) {
      if (!take || fault.status !== 404) throw fault;
      await this.#again(take);
      return act(take.tune.id);
    }
  }

  async #again(take) {
    const { asked, from, tune } = take;
    if (!asked) throw new Error("this tune was not kept, and the playground holds it no longer");
    if (from) await this.#again(from);
    const body = from ? { ...asked, of: from.tune.id } : { ...asked, seed: tune.seed };
    take.tune = { ...tune, id: (await this.writer.write(body)).id };
  }

  /** Show the tune that is current, and its knobs. */
  #show() {
    const take = this.current;
    if (!take) return;
    part("empty").hidden = true;
    for (const id of ["board", "acts", "looks"]) part(id).hidden = false;
    this.#follow(take.tune);
    this.knobs.show(take.tune.wishes, take.tune.seed);
    this.#markMoved();
    this.stage.show("b", take);
    if (this.#sounding === "t") this.#sounding = "b";
    this.transport.show(this.#sounding === "a" && this.#other ? this.#other.tune : take.tune);
    tellTune(take.tune, (suffix) => this.#download(suffix));
    this.takes.show(this.history.all, take);
    this.#drawMarks();
    this.#drawKept();
    this.#drawSteps();
    if (this.#other) this.#compare(this.#other === take ? this.#before() : this.#other);
    window.history.replaceState(null, "", `#tune=${take.tune.id}`);
    document.title = `${nameOf(take.tune)} · musicgen`;
  }

  #drawMarks() {
    const take = this.current;
    if (!take) return;
    const count = Math.max(0, ...numbersOf(take.tune));
    this.strip.show(count, take.locked, take.changed?.bars ?? new Set());
    this.stage.lock(take.locked);
    if (!this.#other) this.stage.differ("b", take.changed?.notes ?? []);
    this.#drawLocked();
  }

  #drawLocked() {
    const locked = this.current?.locked ?? new Set();
    part("bars-told").hidden = !this.current?.tune.bars;
    part("redraw").textContent = locked.size ? "Redraw the rest" : "Another like it";
    part("bars-told").textContent = locked.size
      ? `${barsText(locked)} locked: what you do next leaves ${locked.size > 1 ? "them" : "it"} alone`
      : "Click bars, here or in the score, to lock them; with Shift, a stretch";
  }

  #drawSteps() {
    part("undo").disabled = !this.history.canUndo;
    part("redo").disabled = !this.history.canRedo;
    part("compare").disabled = this.history.all.length < 2;
  }

  #drawKept() {
    const kept = Boolean(this.current && this.shelf.has(this.current.tune.id));
    part("keep").setAttribute("aria-pressed", String(kept));
    part("keep-told").textContent = kept ? "Kept" : "Keep";
  }

  #markMoved() {
    const wishes = this.current?.tune.wishes;
    this.knobs.mark(new Set(wishes ? Object.keys(this.knobs.changesFrom(wishes)) : []), "moved");
  }

  #locked(locked) {
    const take = this.current;
    if (!take) return;
    take.locked = locked;
    this.stage.lock(locked);
    this.#drawLocked();
  }

  #barClicked(measure, through) {
    const take = this.current;
    if (take) this.strip.toggle(numbersOf(take.tune)[measure], through);
  }

  #barSounds(measure) {
    this.stage.follow(this.#sounding, measure);
    if (measure === null && this.#sounding === "t") return this.#hear("b"); // it is over
    const tune = { a: this.#other, b: this.current }[this.#sounding]?.tune;
    return this.strip.light(tune && measure !== null ? numbersOf(tune)[measure] : null);
  }

  #step(way) {
    this.writer.cancel();
    clearTimeout(this.#timer);
    const before = this.current;
    const after = this.history[way]();
    if (!after || after === before) return;
    this.#show();
    say(`${way === "undo" ? "Undone" : "Redone"}: this is tune ${after.number}.`);
  }

  #goTo(take) {
    if (take === this.current) return;
    this.history.push(take);
    this.#show();
    say(`Back to tune ${take.number}.`);
  }

  /** The tune that the current one was made from, or the one before it. */
  #before() {
    const take = this.current;
    return take?.from ?? this.history.all.filter((other) => other !== take).at(-1) ?? null;
  }

  /** Show a tune beside the current one, with what differs; null: the current one alone. */
  async #compare(other) {
    this.#other = other;
    part("compare").setAttribute("aria-pressed", String(Boolean(other)));
    part("ab").hidden = !other;
    this.stage.compare(other, this.history.all, this.current);
    if (!other) this.#hear("b");
    const take = this.current;
    if (!other || !take) return this.#drawMarks();
    try {
      const found = await this.#differences(other, take);
      if (other !== this.#other || take !== this.current) return undefined;
      this.stage.differ("a", found.notes_a);
      this.stage.differ("b", found.notes_b);
      const numbers = numbersOf(take.tune);
      const bars = new Set(found.bars.map((measure) => numbers[measure] ?? numbersOf(other.tune)[measure]));
      const where = take.tune.bars ? ` in ${barsText(bars)}` : "";
      say(bars.size ? `A and B differ${where}.` : "A and B are the same.");
    } catch (fault) {
      tellFault(fault);
    }
    return undefined;
  }

  /** Let A or B sound, at the same place of the music. */
  #hear(which) {
    const take = which === "a" ? this.#other : this.current;
    if (!take) return;
    if (which !== this.#sounding) {
      this.stage.follow(this.#sounding, null);
      this.transport.show(take.tune); // which puts the lights out where they are lit
      this.#sounding = which;
    }
    part("hear-a").setAttribute("aria-pressed", String(which === "a"));
    part("hear-b").setAttribute("aria-pressed", String(which === "b"));
  }

  async #keepOrDrop() {
    const take = this.current;
    if (!take) return;
    try {
      const kept = this.shelf.has(take.tune.id);
      await this.#held(take, (id) => (kept ? api.drop(id) : api.keep(id)));
      await this.shelf.refresh();
      this.#drawKept();
      say(kept ? "Taken off the shelf." : "Kept: it stands on the shelf, and its link is in the address.");
    } catch (fault) {
      tellFault(fault);
    }
  }

  async #download(suffix) {
    const take = this.current;
    if (!take) return;
    try {
      const file = await this.#held(take, (id) => api.file(id, suffix));
      const link = el("a", { href: URL.createObjectURL(file.content), download: file.name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (fault) {
      tellFault(fault);
    }
  }

  async #fromAddress() {
    const id = new URLSearchParams(location.hash.slice(1)).get("tune");
    if (!id || id === this.current?.tune.id) return;
    const known = this.history.all.find(({ tune }) => tune.id === id);
    if (known) return this.#goTo(known);
    const tune = await api.tune(id);
    await this.#arrived({ number: 0, tune, label: "Brought back", asked: null, from: null,
      locked: new Set(), changed: null });
    return undefined;
  }

  /** Show and play the latest tune of a training; the tune on the stage stays where it is. */
  async #hearTraining(run, home) {
    try {
      const tune = await api.trainingTune(run);
      this.transport.stop();
      part("board").hidden = false;
      this.stage.showTraining(tune, home);
      this.transport.show(tune);
      this.#sounding = "t";
      await this.transport.playFrom(0);
    } catch (fault) {
      tellFault(fault);
    }
  }

  /** Let the model be the one that made a tune. */
  #follow(tune) {
    const name = modelOf(tune);
    if (name === part("model").value || !this.models.some((model) => model.name === name)) return;
    part("model").value = name;
    this.#offer();
  }

  #offer() {
    const model = this.models.find(({ name }) => name === part("model").value);
    if (!model) return;
    this.knobs.offer(model);
    part("primer").hidden = !model.max_bars; // notes are gone on from bar by bar
  }

  #cancel() {
    this.writer.cancel();
    const take = this.current;
    if (take) this.knobs.show(take.tune.wishes, take.tune.seed);
    this.#markMoved();
    say("Cancelled.");
  }

  #progress(state) {
    part("cancel").hidden = part("progress-told").hidden = state === null;
    part("stage").classList.toggle("busy", state !== null);
    part("stage").setAttribute("aria-busy", String(state !== null));
    if (state === null) return this.strip.rest();
    const told = part("progress-told");
    told.textContent = progressText(state);
    told.setAttribute("aria-valuetext", told.textContent);
    return this.strip.fill(state.bars, state.of);
  }

  /** Let Enter turn a knob of the tune that is there, rather than ask for another tune. */
  #entered(event) {
    if (event.key !== "Enter" || !this.current || !event.target.matches("input, select")) return;
    event.preventDefault();
    event.target.blur(); // which tells that it has changed
    event.target.focus();
  }

  #key(event) {
    if (event.target.matches?.("input:not([type=range], [type=checkbox], [type=file]), textarea")) return;
    const key = event.key.toLowerCase();
    const bar = event.target.closest?.("#view-b [data-bar]");
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
      event.preventDefault();
      this.#step(key === "y" || event.shiftKey ? "redo" : "undo");
    } else if (key === " " && bar) {
      event.preventDefault();
      this.#barClicked(Number(bar.dataset.bar), event.shiftKey);
    } else if (key === " " && !event.target.matches?.("button, a, summary, select, input")) {
      event.preventDefault();
      this.transport.toggle();
    }
  }
}

function keepOf(locked) {
  return locked.size ? { keep: rangesText(locked) } : {};
}

function modelOf(tune) {
  return tune.recipe?.model?.name;
}

function progressText({ state, ahead, bars, of }) {
  if (state === "waiting") return ahead ? `Waiting: ${ahead} before this one` : "Waiting";
  return of ? `Writing: bar ${bars} of ${of}` : `Writing: bar ${bars}`;
}

/** On a narrow page, scroll from the knobs to the tune where it is out of sight. */
function bringIntoSight() {
  const stage = part("stage");
  if (stage.getBoundingClientRect().top > innerHeight * 0.6) scrollTo(stage);
}

function scrollTo(section) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

function show(section) {
  scrollTo(section);
  (section.querySelector("summary") ?? section).focus({ preventScroll: true });
}

new Playground().start();
