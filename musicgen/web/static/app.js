/** Entry point of the playground: connects its controls, the history, the score and the player. */

import { byId, downloadBlob, html, scrollBehavior } from "/static/render/dom.js";
import * as api from "./api.js";
import { barCountOf, barNumbersOf, formatBars } from "./bar_ranges.js";
import { BarStrip } from "./bar_strip.js";
import { ChordsInput } from "./chords_input.js";
import { Controls, describeChange } from "./controls.js";
import { Cancelled, GenerationJob } from "./generation_job.js";
import { GivenInput } from "./given_input.js";
import { HistoryList } from "./history_list.js";
import { Locks, range } from "./locks.js";
import { showError, showStatus } from "./messages.js";
import { PartRows, namesOf } from "./part_rows.js";
import { PlaybackControls } from "./playback_controls.js";
import { PrimerInput } from "./primer_input.js";
import { changedRoles, keepRoles, withRoleValue } from "./role_values.js";
import { SavedTunes } from "./saved_tunes.js";
import { ScorePanes } from "./score_panes.js";
import { TrainingPanel } from "./training_panel.js";
import { TuneHistory } from "./tune_history.js";
import { describeChangedParts, describeChanges, showTuneInfo, titleOf } from "./tune_info.js";

/** @typedef {import("./tune_history.js").Entry} Entry */

const CHANGE_DELAY = 220; // milliseconds without a change before a variant is requested
const PLAYBACK_OPTIONS = new Set(["tempo", "program"]); // changing them leaves the notes alone
const ROLE_OPTIONS = new Set(["density", "range"]); // which have a value per role
const GIVEN_OPTIONS = ["key", "meter", "rhythm", "bars", "min_bars", "form", "pickup", "parts"]; // settled by given parts
const TYPING_FIELDS = "input:not([type=range], [type=checkbox], [type=file]), textarea";
const SPACE_ACTIVATED = "button, a, summary, select, input";
const MAX_SEED = 2 ** 31;

class Playground {
  history = new TuneHistory();
  models = /** @type {any[]} */ ([]);
  #timer = 0;
  #other = /** @type {Entry | null} */ (null); // the tune that the current one is compared with
  #playingPane = /** @type {import("./score_panes.js").Pane} */ ("b");

  constructor() {
    this.controls = new Controls(byId("knobs"), byId("more"), (isFinal) => this.#handleControlChange(isFinal));
    this.strip = new BarStrip(byId("bars"), (bars, isLocked) => this.#lock(this.#allParts, bars, isLocked));
    this.rows = new PartRows(byId("parts"), {
      onLock: (parts, bars, isLocked) => this.#lock(parts, bars, isLocked),
      onDrawAgain: (part) => this.drawAgain(part),
      onMix: (silent) => this.#mix(silent),
      onRoleValue: (option, role, value) => this.#setRoleValue(option, role, value),
    });
    this.panes = new ScorePanes((measure, isExtended) => this.#toggleLock(measure, isExtended));
    this.playback = new PlaybackControls({
      onNote: (note, isOn) => this.panes.light(this.#playingPane, note, isOn),
      onBar: (measure) => this.#followBar(measure),
      onPosition: (seconds) => this.panes.setPosition(this.#playingPane, seconds),
    });
    this.panes.onSeek = (seconds) => this.playback.seek(seconds);
    this.chords = new ChordsInput();
    this.given = new GivenInput(showError, () => this.#updatePrimer());
    this.primer = new PrimerInput(showError, (file) => this.given.setFile(file));
    this.savedTunes = new SavedTunes(showError, () => this.#updateSaveButton());
    this.historyList = new HistoryList((entry) => this.#goTo(entry));
    this.training = new TrainingPanel((run, container) => this.#playTrainingTune(run, container));
    this.job = new GenerationJob((state) => this.#showProgress(state));
    this.#listen();
  }

  get current() {
    return this.history.current;
  }

  get #allParts() {
    return range(0, (this.current?.tune.parts.length ?? 0) - 1);
  }

  get #model() {
    return this.models.find(({ name }) => name === byId("model").value);
  }

  /** Load the models and the saved tunes, and the tune that the address names. */
  async start() {
    try {
      this.models = await api.fetchModels();
      byId("model").replaceChildren(...this.models.map(({ name }) => html("option", { value: name, text: name })));
      this.#updateModel();
      await this.savedTunes.refresh();
      await this.#loadFromAddress();
    } catch (error) {
      showError(error);
    }
  }

  #listen() {
    const on = (id, act, event = "click") => byId(id).addEventListener(event, act);
    on("panel", (event) => (event.preventDefault(), this.sample()), "submit");
    on("panel", (event) => this.#handleEnter(event), "keydown");
    on("cancel", () => this.#cancel());
    on("undo", () => this.#step("undo"));
    on("redo", () => this.#step("redo"));
    on("redraw", () => this.regenerate());
    on("compare", () => this.#compare(this.#other ? null : this.#defaultComparison()));
    on("choose-a", () => this.#compare(this.history.all[byId("choose-a").value - 1]), "change");
    on("hear-a", () => this.#switchPlayback("a"));
    on("hear-b", () => this.#switchPlayback("b"));
    on("keep", () => this.#saveOrDelete());
    on("model", () => this.#updateModel(), "change");
    on("surprise-on", () => this.#fetchSurprise(), "change");
    on("skip", () => byId("stage").focus());
    on("to-shelf", () => scrollToAndFocus(byId("shelf")));
    on("to-training", () => ((byId("training").open = true), scrollToAndFocus(byId("training"))));
    document.addEventListener("keydown", (event) => this.#handleKey(event));
    window.addEventListener("hashchange", () => this.#loadFromAddress().catch(showError));
  }

  /** Generate a new tune: to the chords, from the primer or around the given parts if there are any. */
  async sample(wishes = this.controls.wishes) {
    clearTimeout(this.#timer);
    const { value: chords } = this.chords;
    if (chords) {
      const settings = omit(wishes, ["min_bars", "pickup", "parts"]); // the chords settle them
      return this.#generate({ do: "sample", model: byId("model").value, ...settings, chords }, null, "New tune to chords");
    }
    if (this.given.isOn && !byId("primer").hidden) return this.#sampleAround(wishes);
    const primer = byId("primer").hidden ? null : this.primer.value;
    const request = { do: "sample", model: byId("model").value, ...wishes, ...(primer ? { primer } : {}) };
    const label = primer ? `New tune from ${primer.name}` : "New tune";
    return this.#generate(request, null, label);
  }

  /** Generate a tune around the given parts, which are then locked. */
  async #sampleAround(wishes) {
    try {
      const settings = omit(wishes, GIVEN_OPTIONS);
      const { given, ...parts } = this.given.request;
      const roles = roleOptions(settings, new Set(this.given.drawnRoles));
      const request = { do: "sample", model: byId("model").value, ...settings, ...roles, given, ...parts };
      const givenParts = range(0, this.given.count - 1);
      await this.#generate(request, null, `New tune around ${given.name}`, { givenParts });
    } catch (error) {
      showError(error);
    }
  }

  /** Regenerate all bars that are not locked, with another seed. */
  async regenerate() {
    const entry = this.current;
    if (!entry) return;
    const { locked } = entry;
    const origin = locked.isEmpty ? originOf(entry) : entry;
    const changes = origin === entry ? {} : this.controls.changesFrom(origin.settings);
    const request = { ...tweakOf(origin), ...changes, seed: randomSeed(), ...variantOptions(origin, locked, entry.settings) };
    const label = locked.isEmpty ? "Regenerated" : `Regenerated all except ${locked.describe(namesOf(entry.tune))}`;
    await this.#generate(request, origin, label);
  }

  /** Draw one part again around the others, except for its locked bars. */
  async drawAgain(part) {
    const entry = this.current;
    if (!entry) return;
    const kept = entry.locked.keepAllExcept([part]);
    const request = { ...tweakOf(entry), seed: randomSeed(), ...variantOptions(entry, kept, entry.settings) };
    await this.#generate(request, entry, `Drew ${namesOf(entry.tune)[part]} again`);
  }

  /** Set the density or the range of the parts of a role, which are then drawn again. */
  #setRoleValue(option, role, value) {
    this.controls.set(option, withRoleValue(this.controls.values[option], role, value));
  }

  /** Silence some parts, and dim their notes. */
  #mix(silent) {
    this.playback.mute(silent);
    this.panes.markSilent(silent);
  }

  /** Request a variant of the current tune soon, or at once for a final value. */
  #handleControlChange(isFinal) {
    clearTimeout(this.#timer);
    this.#markChangedControls();
    if (this.current) this.#timer = window.setTimeout(() => this.#tweak(), isFinal ? 0 : CHANGE_DELAY);
  }

  async #tweak() {
    const entry = this.current;
    const changes = entry ? this.controls.changesFrom(entry.settings) : {};
    const names = Object.keys(changes);
    if (!entry || !names.length) return;
    const changesNotes = names.some((name) => !PLAYBACK_OPTIONS.has(name));
    const settings = { ...entry.settings, ...changes };
    delete settings.seed; // each tune has its own
    const kept = changesNotes ? variantOptions(entry, this.#keptAfter(entry, changes), settings) : {};
    const request = { ...tweakOf(entry), ...changes, ...kept };
    const label = names.map((name) => describeChange(name, entry.settings[name], changes[name])).join(", ");
    const wishes = this.controls.wishes;
    const onError = (/** @type {unknown} */ error) => {
      this.#showSettings(entry);
      showError(error, { label: "New tune with these settings", act: () => this.#sampleWith(wishes) });
    };
    await this.#generate(request, entry, label, { settings, onError });
  }

  /** Set all controls to the settings of a tune. */
  #showSettings({ tune, settings }) {
    this.controls.show(settings, tune.seed);
    this.rows.show(tune, settings, this.#model?.density_roles ?? []);
    this.#markChangedControls();
  }

  /** Return what stays after some options change: all other parts where only values of roles do. */
  #keptAfter({ tune, settings, locked }, changes) {
    if (tune.parts.length < 2 || Object.keys(changes).some((name) => !ROLE_OPTIONS.has(name))) return locked;
    const roles = Object.keys(changes).map((name) => changedRoles(settings[name], changes[name]));
    if (roles.includes(null)) return locked;
    const affected = tune.parts.flatMap(({ role }, part) => (roles.some((each) => each?.has(role)) ? [part] : []));
    return affected.length ? locked.keepAllExcept(affected) : locked;
  }

  #sampleWith(wishes) {
    this.controls.show({ form: null, ...wishes }, this.current?.tune.seed);
    return this.sample(wishes);
  }

  /**
   * Generate a tune and show it; the current tune stays until then. What is locked in it stays locked
   * in a variant, and given parts are locked in a new tune.
   *
   * @param {Record<string, any>} request @param {Entry | null} parent @param {string} label
   * @param {{settings?: any, givenParts?: number[], onError?: (error: unknown) => void}} options
   *   settings: to show of a variant that keeps parts; those of the current tune if missing
   */
  async #generate(request, parent, label, { settings = null, givenParts = [], onError = showError } = {}) {
    showStatus("");
    const { current } = this;
    try {
      const tune = await this.#withTuneId(parent, (id) => this.job.run(id ? { ...request, of: id } : request));
      const locked = (parent && current?.locked) || locksOf(tune).set(givenParts, range(1, barCountOf(tune)), true);
      const isAround = Boolean(tune.recipe?.given && parent); // its notes settle some options
      await this.#add({ number: 0, tune, label, request, parent, locked, changed: null,
        settings: (isAround && (settings ?? current?.settings)) || tune.wishes });
    } catch (error) {
      if (!(error instanceof Cancelled)) onError(error);
    }
  }

  /** Add a tune to the history, show it, and play it if the user wants that. */
  async #add(entry) {
    this.history.push(entry);
    entry.locked = entry.locked.fit(partCountOf(entry.tune), barCountOf(entry.tune));
    this.#show();
    if (entry.parent && entry.tune.bars) await this.#markChanges(entry);
    else showStatus(`${entry.label}: ${titleOf(entry.tune)}.`);
    scrollToTune();
    this.#autoplay(entry);
  }

  /** Fetch and mark what changed from the tune's parent. */
  async #markChanges(entry) {
    const differences = await this.#fetchDifferences(entry.parent, entry);
    const { bars, parts } = numberDifferences(differences, [entry.tune]);
    entry.changed = { bars, parts, notes: differences.notes_b, measures: differences.bars };
    if (entry !== this.current) return;
    this.#drawMarks();
    showStatus(describeChanges(entry.label, entry.changed, barCountOf(entry.tune), namesOf(entry.tune)));
  }

  #fetchDifferences(a, b) {
    return this.#withTuneId(a, (idA) => this.#withTuneId(b, (idB) => api.fetchDifferences(idA, idB)));
  }

  /** Play a new tune from the bar before its first change. */
  #autoplay(entry) {
    if (!byId("at-once").checked || this.playback.isPlaying) return;
    if (entry !== this.current) return;
    const first = entry.changed?.measures.length ? Math.min(...entry.changed.measures) : 0;
    this.playback.playFrom(Math.max(0, first - 1)).catch(() => {}); // browsers may require a click first
  }

  /**
   * Call a function with the server's id of a tune; without an entry: with undefined. A server that
   * was restarted no longer knows the tune, which is then generated again by its request.
   */
  async #withTuneId(entry, act) {
    try {
      return await act(entry?.tune.id);
    } catch (error) {
      if (!entry || error.status !== 404) throw error;
      await this.#restore(entry);
      return act(entry.tune.id);
    }
  }

  async #restore(entry) {
    const { request, parent, tune } = entry;
    if (!request) throw new Error("this tune was not saved, and the server no longer has it");
    if (parent) await this.#restore(parent);
    const body = parent ? { ...request, of: parent.tune.id } : { ...request, seed: tune.seed };
    entry.tune = { ...tune, id: (await this.job.run(body)).id };
  }

  /** Show the current tune and its settings. */
  #show() {
    const entry = this.current;
    if (!entry) return;
    byId("empty").hidden = true;
    for (const id of ["playback", "actions", "display-options"]) byId(id).hidden = false;
    this.#selectModelOf(entry.tune);
    this.panes.show("b", entry);
    this.chords.show(entry.tune);
    this.#showSettings(entry);
    this.#mix(this.rows.silent);
    if (this.#playingPane === "t") this.#playingPane = "b";
    this.playback.load(this.#playingPane === "a" && this.#other ? this.#other.tune : entry.tune);
    showTuneInfo(entry.tune, (suffix) => this.#download(suffix));
    this.historyList.show(this.history.all, entry);
    this.#drawMarks();
    this.#updateSaveButton();
    this.#updateHistoryButtons();
    this.#fetchSurprise();
    if (this.#other) this.#compare(this.#other === entry ? this.#defaultComparison() : this.#other);
    window.history.replaceState(null, "", `#tune=${entry.tune.id}`);
    document.title = `${titleOf(entry.tune)} · musicgen`;
  }

  #drawMarks() {
    const entry = this.current;
    if (!entry) return;
    this.strip.show(barCountOf(entry.tune), entry.changed?.bars ?? new Set());
    this.rows.markChanged(entry.changed?.parts ?? []);
    this.#drawLocks(entry);
    if (!this.#other) this.panes.markDifferences("b", entry.changed?.notes ?? []);
  }

  #drawLocks({ tune, locked }) {
    this.strip.markLocked(locked);
    this.rows.markLocked(locked);
    this.panes.markLocked(locked.bars);
    const hasParts = tune.parts.length > 1;
    const what = locked.describe(namesOf(tune));
    byId("redraw").textContent = locked.isEmpty ? "Regenerate" : "Regenerate the rest";
    byId("redraw").disabled = hasParts && tune.bars > 0 && locked.isFull;
    byId("bars-told").hidden = !tune.bars;
    byId("bars-told").textContent = locked.isEmpty
      ? `Click bars here or in the score to lock them${hasParts ? " in all parts" : ""}; Shift-click locks a range`
      : `${what} locked: the next change keeps ${!hasParts && locked.bars.size === 1 ? "it" : "them"}`;
  }

  #updateHistoryButtons() {
    byId("undo").disabled = !this.history.canUndo;
    byId("redo").disabled = !this.history.canRedo;
    byId("compare").disabled = this.history.all.length < 2;
  }

  #updateSaveButton() {
    const isSaved = Boolean(this.current && this.savedTunes.has(this.current.tune.id));
    byId("keep").setAttribute("aria-pressed", String(isSaved));
    byId("keep-told").textContent = isSaved ? "Saved" : "Save";
  }

  #markChangedControls() {
    const settings = this.current?.settings;
    this.controls.markChanged(new Set(settings ? Object.keys(this.controls.changesFrom(settings)) : []));
  }

  #lock(parts, bars, isLocked) {
    const entry = this.current;
    if (!entry) return;
    entry.locked = entry.locked.set(parts, bars, isLocked);
    this.#drawLocks(entry);
  }

  /** Fetch the surprise of the tunes that are shown, where the user wants it and a tune lacks it. */
  async #fetchSurprise() {
    if (!byId("surprise-on").checked) return;
    for (const [pane, entry] of [["b", this.current], ["a", this.#other]]) {
      if (!entry || entry.tune.surprise || entry.tune.parts.length < 2) continue;
      try {
        const surprise = await this.#withTuneId(entry, api.fetchSurprise);
        entry.tune.surprise = surprise;
        if (entry === { a: this.#other, b: this.current }[pane]) this.panes.addSurprise(pane, surprise);
        if (entry === this.current) showTuneInfo(entry.tune, (suffix) => this.#download(suffix));
      } catch (error) {
        showError(error);
      }
    }
  }

  #toggleLock(measure, isExtended) {
    const entry = this.current;
    if (entry) this.strip.toggle(barNumbersOf(entry.tune)[measure], isExtended);
  }

  /** Mark the measure that sounds; null: playback stopped. */
  #followBar(measure) {
    this.panes.setBar(this.#playingPane, measure);
    if (measure === null && this.#playingPane === "t") return this.#switchPlayback("b");
    const tune = { a: this.#other, b: this.current }[this.#playingPane]?.tune;
    const bar = tune && measure !== null ? barNumbersOf(tune)[measure] : null;
    this.rows.highlight(bar);
    return this.strip.highlight(bar);
  }

  /** @param {"undo" | "redo"} direction */
  #step(direction) {
    this.job.cancel();
    clearTimeout(this.#timer);
    const before = this.current;
    const after = this.history[direction]();
    if (!after || after === before) return;
    this.#show();
    showStatus(`${direction === "undo" ? "Undone" : "Redone"}: back to tune ${after.number}.`);
  }

  #goTo(entry) {
    if (entry === this.current) return;
    this.history.push(entry);
    this.#show();
    showStatus(`Back to tune ${entry.number}.`);
  }

  /** Return the tune that the current one is a variant of, or the latest other tune. */
  #defaultComparison() {
    const entry = this.current;
    return entry?.parent ?? this.history.all.filter((other) => other !== entry).at(-1) ?? null;
  }

  /** Show a tune beside the current one and mark the differences; null: the current tune alone. */
  async #compare(other) {
    this.#other = other;
    byId("compare").setAttribute("aria-pressed", String(Boolean(other)));
    byId("ab").hidden = !other;
    this.panes.compare(other, this.history.all, this.current);
    if (!other) this.#switchPlayback("b");
    const entry = this.current;
    if (!other || !entry) return this.#drawMarks();
    this.#fetchSurprise();
    try {
      const differences = await this.#fetchDifferences(other, entry);
      if (other !== this.#other || entry !== this.current) return undefined;
      this.panes.markDifferences("a", differences.notes_a);
      this.panes.markDifferences("b", differences.notes_b);
      const { bars, parts } = numberDifferences(differences, [entry.tune, other.tune]);
      this.rows.markChanged(parts);
      const where = describeWhere(entry.tune, bars, parts);
      showStatus(bars.size ? `A and B differ${where}.` : "A and B are the same.");
    } catch (error) {
      showError(error);
    }
    return undefined;
  }

  /** Play tune a or b; playback continues at the same musical position. */
  #switchPlayback(pane) {
    const entry = pane === "a" ? this.#other : this.current;
    if (!entry) return;
    if (pane !== this.#playingPane) {
      this.panes.setBar(this.#playingPane, null);
      this.playback.load(entry.tune); // before #playingPane changes: it ends the notes lit in the old pane
      this.#playingPane = pane;
    }
    byId("hear-a").setAttribute("aria-pressed", String(pane === "a"));
    byId("hear-b").setAttribute("aria-pressed", String(pane === "b"));
  }

  async #saveOrDelete() {
    const entry = this.current;
    if (!entry) return;
    try {
      const isSaved = this.savedTunes.has(entry.tune.id);
      await this.#withTuneId(entry, (id) => (isSaved ? api.deleteTune(id) : api.saveTune(id)));
      await this.savedTunes.refresh();
      this.#updateSaveButton();
      showStatus(isSaved ? "Deleted from the saved tunes." : "Saved. Its link is in the address bar.");
    } catch (error) {
      showError(error);
    }
  }

  async #download(suffix) {
    const entry = this.current;
    if (!entry) return;
    try {
      const file = await this.#withTuneId(entry, (id) => api.fetchFile(id, suffix));
      downloadBlob(file.content, file.name);
    } catch (error) {
      showError(error);
    }
  }

  /** Show the tune that the address names (#tune=id). */
  async #loadFromAddress() {
    const id = new URLSearchParams(location.hash.slice(1)).get("tune");
    if (!id || id === this.current?.tune.id) return;
    const entry = this.history.all.find(({ tune }) => tune.id === id);
    if (entry) return this.#goTo(entry);
    const tune = await api.fetchTune(id);
    await this.#add({ number: 0, tune, label: "Opened from link", request: null, parent: null,
      locked: locksOf(tune), settings: tune.wishes, changed: null });
    return undefined;
  }

  /** Show and play the latest tune of a training run; the current tune stays in its pane. */
  async #playTrainingTune(run, container) {
    try {
      const tune = await api.fetchTrainingTune(run);
      this.playback.stop();
      byId("playback").hidden = false;
      this.panes.showTraining(tune, container);
      this.playback.mute(new Set());
      this.playback.load(tune);
      this.#playingPane = "t";
      await this.playback.playFrom(0);
    } catch (error) {
      showError(error);
    }
  }

  /** Select the model that made a tune. */
  #selectModelOf(tune) {
    const name = tune.recipe?.model?.name;
    if (name === byId("model").value || !this.models.some((model) => model.name === name)) return;
    byId("model").value = name;
    this.#updateModel();
  }

  #updateModel() {
    const model = this.#model;
    if (!model) return;
    this.controls.setModel(model);
    this.chords.setModel(model);
    this.given.setModel(model);
    const isLive = model.codec === "performance";
    byId("primer").hidden = !model.max_bars && !isLive; // no other model can continue a primer
    this.primer.chooseSeconds(isLive);
  }

  /** Show what becomes of the user's notes: given parts, or a beginning. */
  #updatePrimer() {
    const { isOn } = this.given;
    byId("primer-choice").hidden = isOn || this.primer.value === null;
    byId("primer-told").textContent = isOn
      ? "New tunes keep these parts, in their key and meter." : "New tunes continue from these notes.";
  }

  #cancel() {
    this.job.cancel();
    const entry = this.current;
    if (entry) this.#showSettings(entry);
    else this.#markChangedControls();
    showStatus("Cancelled.");
  }

  /** Show the state of the generation job; null: none in progress. */
  #showProgress(state) {
    const progress = byId("progress-told");
    byId("cancel").hidden = progress.hidden = state === null;
    byId("stage").classList.toggle("busy", state !== null);
    byId("stage").setAttribute("aria-busy", String(state !== null));
    if (state === null) return this.strip.hideProgress();
    progress.textContent = describeProgress(state);
    progress.setAttribute("aria-valuetext", progress.textContent);
    return this.strip.showProgress(state.bars, state.of);
  }

  /** With a current tune, Enter in a field changes that tune instead of submitting the form. */
  #handleEnter(event) {
    if (event.key !== "Enter" || !this.current || !event.target.matches("input, select")) return;
    event.preventDefault();
    event.target.blur(); // fires the change event
    event.target.focus();
  }

  #handleKey(event) {
    if (event.target.matches?.(TYPING_FIELDS)) return;
    const key = event.key.toLowerCase();
    const bar = event.target.closest?.("#view-b [data-bar]");
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
      event.preventDefault();
      this.#step(key === "y" || event.shiftKey ? "redo" : "undo");
    } else if (key === " " && bar) {
      event.preventDefault();
      this.#toggleLock(Number(bar.dataset.bar), event.shiftKey);
    } else if (key === " " && !event.target.matches?.(SPACE_ACTIVATED)) {
      event.preventDefault();
      this.playback.toggle();
    }
  }
}

/** Start a request for a variant of a tune. */
/** Return an object without some keys. */
function omit(values, names) {
  return Object.fromEntries(Object.entries(values).filter(([name]) => !names.includes(name)));
}

function tweakOf(entry) {
  return { do: "tweak", of: entry.tune.id };
}

/** Return the part of a request that keeps the locked bars, with the values of the roles that are drawn. */
function variantOptions({ tune }, locked, settings) {
  const keep = locked.isEmpty ? {} : { keep: locked.keep };
  return tune.parts.length > 1 ? { ...keep, ...roleOptions(settings, drawnRolesOf(tune, locked)) } : keep;
}

/** Return the options with a value per role, without the values of parts that stay. */
function roleOptions(settings, roles) {
  const names = [...ROLE_OPTIONS].filter((name) => settings[name]);
  return Object.fromEntries(names.map((name) => [name, keepRoles(settings[name], roles)]));
}

/** Return the roles of the parts that a variant draws, at least in some bars. */
function drawnRolesOf({ parts, recipe }, locked) {
  const given = (recipe?.given?.kept ?? []).filter(({ bars }) => !bars.length).map(({ part }) => part);
  const isDrawn = (part) => (locked.isEmpty ? !given.includes(part) : !locked.hasPart(part));
  return new Set(parts.filter((_, part) => isDrawn(part)).map(({ role }) => role));
}

/** Return the tune from which parts of another were kept: a variant of it is drawn as a whole. */
function originOf(entry) {
  const { parent, tune } = entry;
  return tune.recipe?.given && parent ? originOf(parent) : entry;
}

function randomSeed() {
  return Math.floor(Math.random() * MAX_SEED);
}

function partCountOf(tune) {
  return tune.bars ? tune.parts.length : 0;
}

/** Return the locks of a new tune: none. */
function locksOf(tune) {
  return new Locks(partCountOf(tune), barCountOf(tune));
}

/** Return the numbers of the bars that differ, and those of each part; a later tune numbers what the first lacks. */
function numberDifferences({ bars, parts }, tunes) {
  const numbers = tunes.map(barNumbersOf);
  const toNumbers = (measures) => new Set(measures.map((measure) =>
    numbers.map((each) => each[measure]).find(Boolean)).filter(Boolean));
  return { bars: toNumbers(bars), parts: parts.map(toNumbers) };
}

/** Describe where two tunes differ. */
function describeWhere(tune, bars, parts) {
  if (!tune.bars) return "";
  if (parts.length < 2) return ` in ${formatBars(bars)}`;
  return `: ${describeChangedParts(parts, barCountOf(tune), namesOf(tune))}`;
}

function describeProgress({ state, ahead, bars, of }) {
  if (state === "waiting") return ahead ? `Waiting: ${ahead} ahead in the queue` : "Waiting";
  return of ? `Generating: bar ${bars} of ${of}` : `Generating: bar ${bars}`;
}

/** On a narrow page, scroll from the controls to the tune if it is out of view. */
function scrollToTune() {
  const stage = byId("stage");
  if (stage.getBoundingClientRect().top > innerHeight * 0.6) scrollToSection(stage);
}

function scrollToSection(section) {
  section.scrollIntoView({ behavior: scrollBehavior(), block: "start" });
}

function scrollToAndFocus(section) {
  scrollToSection(section);
  (section.querySelector("summary") ?? section).focus({ preventScroll: true });
}

new Playground().start();
