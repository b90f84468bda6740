"""A whole training run: train, keep what a crash must not cost, and leave a checkpoint.

run = Run(dataset, plan(dataset, Options()), name="mine", folder=Path("checkpoints/mine"))
for progress in run.train():
    ...
run.score_test()

    checkpoints/mine/
    ├── progress/STEP/    what resuming needs: the last three
    ├── best/STEP/        the checkpoint of the best weights so far
    ├── metrics.jsonl     a line for each tenth update and for each evaluation
    └── weights.safetensors, receipt.bin, MODEL_CARD.md and, last, manifest.json: once it is done
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from musicgen import checkpoint
from musicgen.checkpoint import BEST, Checkpoint, Manifest, round_to_float16
from musicgen.corpus.store import Dataset, EncodedTune, get_id_arrays
from musicgen.errors import DamagedCheckpoint, Interrupted, MusicgenError, to_one_line
from musicgen.files import translate_os_errors, write_atomically
from musicgen.folder_contents import CONFIG, METRICS, MODEL_CARD
from musicgen.model.devices import choose_device
from musicgen.model.network import LanguageModel
from musicgen.music.theory import Key
from musicgen.similarity.build_index import build_overlap_index
from musicgen.similarity.note_index import INDEX_FILE as INDEX
from musicgen.similarity.overlap_report import load_index
from musicgen.tokens.codec import Setting
from musicgen.tokens.grammar import HEADER_KINDS
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training import fine_tune, run_folder
from musicgen.training.batches import find_transposition_range, transpose_ids
from musicgen.training.distributed import SINGLE_PROCESS, Ranks
from musicgen.training.heldout_loss import HeldOutScore, evaluate
from musicgen.training.memorisation import MemorisationCheck, stop_on_memorisation
from musicgen.training.model_card import ScoreSummary, render_model_card
from musicgen.training.ngram import KneserNey
from musicgen.training.plan import Plan, get_note_counts, make_trainer
from musicgen.training.resume import SavedRun, describe_machine, describe_vocabulary, plan_to_json
from musicgen.training.run_folder import RunLock, lock_run, translate_memory_errors
from musicgen.training.trainer import Diverged, Progress, Trainer, TrainerState

SAVE_EVERY: Final = 180.0  # seconds, where a save is cheap
MAX_SAVE_INTERVAL: Final = 540.0  # seconds, whatever it costs: at most ten minutes are ever lost
SAVE_COST_FACTOR: Final = 50  # a save may take one part in so many of a run's time


@dataclass
class SaveSchedule:
    """When to save: after each evaluation and every few minutes, unless it costs too much."""

    interval: float | None = None  # seconds; None goes by what a save costs
    saved_at: float = field(default_factory=time.monotonic)  # when, or when the run began
    last_save_seconds: float = 0.0  # seconds that the last save took
    total_save_seconds: float = 0.0  # seconds that all of them took

    def is_due(self, *, is_evaluated: bool) -> bool:
        """Tell whether to save now."""
        since = time.monotonic() - self.saved_at
        if self.interval is not None:
            return since >= self.interval
        cheap = min(MAX_SAVE_INTERVAL, SAVE_COST_FACTOR * self.last_save_seconds)
        return since >= (cheap if is_evaluated else max(SAVE_EVERY, cheap))

    @contextlib.contextmanager
    def time_save(self) -> Iterator[None]:
        """Count what a save takes."""
        began = time.monotonic()
        yield
        self.saved_at = time.monotonic()
        self.last_save_seconds = self.saved_at - began
        self.total_save_seconds += self.last_save_seconds


@dataclass
class TrainingRun:
    """A run under way, and the folder that it fills."""

    dataset: Dataset
    plan: Plan
    name: str
    folder: Path
    version: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)  # what the card says of the sources
    requested_options: dict[str, Any] = field(default_factory=dict)  # what the command line said
    force: bool = False  # replace what stands in the folder, once there is something better
    lock: RunLock | None = None  # on the folder, where the caller has it already
    base: Checkpoint | None = None  # the model that it goes on from
    ranks: Ranks = SINGLE_PROCESS  # of several processes that train together, this one
    no_index: bool = False  # leave out the index of the tunes that receipts are told by
    config: bytes = b""  # its options as a file, which starts it again
    save_schedule: SaveSchedule = field(default_factory=SaveSchedule)
    notify: Callable[[str], None] = print  # takes what a person should know, a line each
    trainer: Trainer = field(init=False)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scores: ScoreSummary = field(default_factory=ScoreSummary)
    started_at: float = field(default_factory=time.monotonic)
    saved_step: int = -1  # the update whose state was saved last, by this process
    best_step: int = 0
    saved_best_step: int = -1  # the update whose weights are the checkpoint, as this process knows
    is_over: bool = False  # whether the last update was done
    is_stopping: bool = False
    is_resumed: bool = False
    shows_samples: bool = True  # whether the model card shows tunes
    notes: list[str] = field(default_factory=list)  # what is not as it was when it was saved

    def __post_init__(self) -> None:
        with self.explain_errors():
            self.trainer = make_trainer(self.dataset, self.plan, self.base, self.ranks)
        if self.base is not None:
            self.corpus = {**self.corpus, "adapted_from": fine_tune.describe_base(self.base)}

    @classmethod
    def resume(
        cls,
        saved_run: SavedRun,
        dataset: Dataset,
        folder: Path,
        *,
        device: str | None = None,
        learning_rate: float | None = None,
        **more: Any,
    ) -> TrainingRun:
        """Go on where a run was saved. Raises Mismatch where the data set is not the run's own."""
        saved_run.refuse_other_corpus(dataset)
        plan, notes = apply_changes(saved_run.read_plan(), device, learning_rate)
        known = saved_run.run_record
        more.setdefault("no_index", bool(known["asked"].get("no_index")))
        run = cls(
            dataset,
            plan,
            known["name"],
            folder,
            known["version"],
            dict(known["corpus"]),
            dict(known["asked"]),
            **more,
        )
        run.restore(saved_run)
        run.notes = [*saved_run.notes, *notes, *saved_run.list_differences(run.machine)]
        return run

    def restore(self, saved_run: SavedRun) -> None:
        """Take back what was saved; what came after it never was."""
        known = saved_run.run_record
        try:
            self.trainer.restore(
                TrainerState(saved_run.progress.arrays, saved_run.progress.values["trainer"])
            )
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError) as fault:
            raise checkpoint.damage_error(
                saved_run.progress.folder, f"its contents do not fit the plan ({fault})"
            ) from fault
        self.scores = ScoreSummary(dict(known["scores"]))
        self.best_step, self.is_over = known["best_step"], known["over"]
        self.save_schedule.total_save_seconds = known["saving_seconds"]
        self.started_at = time.monotonic() - known["seconds"]
        self.metrics = read_metrics_until(self.folder, saved_run.step)
        self.event_counts, self.tonic_counts = tuple(known["seen"]), dict(known["tonics"])
        self.is_resumed = True

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes: of several that train together, one does."""
        return self.ranks.is_main_process

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What its bits depend on, plan and corpus left aside."""
        return describe_machine(self.plan.device, self.ranks.world_size * self.trainer.crew.workers)

    def stop(self) -> None:
        """Ask the run to finish its update, save, and end with Interrupted."""
        self.is_stopping = True

    def train(self) -> Iterator[Progress]:
        """Train, and save every so often. Raises Interrupted after `stop`, once all is saved."""
        with self._hold_lock() as claim, self.explain_errors():
            self._prepare_folder(claim)
            if self.is_over:  # only its own checkpoint was missing
                self.finish()
                return
            for progress in self._iter_progress():
                self._handle_progress(progress, claim)
                if self.is_over:
                    self.finish()
                yield progress
                if not self.is_over and self.ranks.all_reduce_any(self.is_stopping):
                    self.save(claim)
                    raise self._make_interrupted()

    def _iter_progress(self) -> Iterator[Progress]:
        if self.memorisation_check is None:
            return self.trainer.run()
        return stop_on_memorisation(self.trainer, self.memorisation_check, self.notify)

    @cached_property
    def memorisation_check(self) -> MemorisationCheck | None:
        """Who stops the run when it copies too much; none where tunes are many."""
        return MemorisationCheck.of(self.dataset, self.event_counts) if self.plan.guarded else None

    @contextlib.contextmanager
    def _hold_lock(self) -> Iterator[RunLock]:
        if self.lock is not None or not self.is_main_process:
            yield self.lock or RunLock(self.folder)
            return
        with lock_run(self.folder, exists=self.is_resumed, force=self.force) as claim:
            yield claim

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Say what short memory or a loss that is no number means for the run."""
        try:
            with translate_memory_errors(self.folder):
                yield
        except Diverged as fault:
            lower = f"{self.plan.training.learning_rate / 2:g}"
            raise Diverged(
                f"{fault}; or go on from what was saved with --resume --learning-rate {lower}"
            ) from fault

    def _prepare_folder(self, lock: RunLock) -> None:
        """Make the folder; its metrics go on from here."""
        if self.is_main_process:
            lock.create_folder(force=self.force)
            if self.config and not self.is_resumed:
                write_atomically(self.folder / CONFIG, self.config, force=True)
            write_atomically(self.folder / METRICS, render_metrics(self.metrics), force=True)

    def _handle_progress(self, progress: Progress, lock: RunLock) -> None:
        """Note an update, and save if it is time."""
        self.is_over = progress.is_last
        if progress.is_best:
            self.best_step = progress.step
            if progress.held_out_score is not None:
                self.scores = self.scores.with_valid(progress.held_out_score)
        self.record_metrics(progress)
        judged = progress.is_best or progress.held_out_score is not None
        is_due = self.is_stopping or (
            self.is_main_process and self.save_schedule.is_due(is_evaluated=judged)
        )
        if self.is_over or self.ranks.all_reduce_any(
            is_due
        ):  # before it is shown: the terminal may be gone
            self.save(lock)

    def _make_interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped after update {self.trainer.step}, all saved;"
            f" musicgen train --name {self.name} --resume goes on"
        )

    def record_metrics(self, progress: Progress) -> None:
        """Keep a line of metrics for each evaluation, and for every tenth update."""
        if progress.step % 10 and progress.held_out_score is None:
            return
        line = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(progress.epoch, 4),
            "seconds": round(time.monotonic() - self.started_at, 2),
            "saving_seconds": round(self.save_schedule.total_save_seconds, 3),  # of them, so far
            "loss": round(progress.loss, 5),
            "norm": round(progress.gradient_norm, 5),
            "clipped": round(progress.clipped_share, 4),
            "learning_rate": round(progress.learning_rate, 7),
            "tokens_a_second": round(progress.tokens_per_second, 1),
            "memory": progress.memory_bytes,
        }
        if progress.held_out_score is not None:
            line |= {
                "held_loss": round(progress.held_out_score.loss, 5),
                "held_bits_per_note": round(progress.held_out_score.bits_per_note, 5),
            }
        if progress.copied_share is not None:
            line["copied"] = round(progress.copied_share, 5)
        self.metrics.append(line)
        if self.is_main_process:
            with (
                translate_os_errors(self.folder / METRICS),
                (self.folder / METRICS).open("ab") as file,
            ):
                file.write(render_metrics([line]))

    def save(self, lock: RunLock) -> None:
        """Save what resuming needs, and the best weights if they are new."""
        if self.saved_step == self.trainer.step:
            return
        with self.save_schedule.time_save():
            state = self.trainer.copy_state()  # all processes together
            self.saved_step = self.trainer.step
            if not self.is_main_process:
                return
            values = {"trainer": state.values, "run": self.describe()}
            run_folder.save_progress(self.folder, self.trainer.step, state.arrays, values)
            lock.discard_previous()
            if self.saved_best_step != self.best_step:
                self.save_best()
                self.saved_best_step = self.best_step

    def describe(self) -> dict[str, Any]:
        """Return what a resumed run must know beside the trainer's state."""
        return {
            "name": self.name,
            "version": self.version,
            "corpus": self.corpus,
            "asked": self.requested_options,
            "plan": plan_to_json(self.plan),
            "machine": self.machine,
            "codec": self.dataset.codec,
            "vocabulary": describe_vocabulary(self.dataset),
            "fingerprint": self.dataset.fingerprint,
            "seen": self.event_counts,
            "tonics": self.tonic_counts,
            "scores": self.scores.to_dict(),
            "best_step": self.best_step,
            "over": self.is_over,
            "seconds": time.monotonic() - self.started_at,
            "saving_seconds": self.save_schedule.total_save_seconds,
        }

    def save_best(self) -> None:
        """Save the checkpoint of the best weights; the one before it goes after that."""
        best, shelf = self.trainer.best, self.folder / BEST
        folder = shelf / f"{self.best_step:08d}"
        if not best.weights or has_same_checkpoint(folder, best.weights):
            return
        manifest = self.make_manifest()
        card = render_model_card(manifest, self.scores, best.weights, with_samples=False)
        files = {MODEL_CARD: card.encode()}
        checkpoint.save(
            run_folder.prepare_step_path(shelf, self.best_step), best.weights, manifest, files
        )
        run_folder.prune_saves(folder, 1, checkpoint.FORMAT)

    def finish(self) -> None:
        """Make the run's own folder the checkpoint of its best weights."""
        if not self.is_main_process:
            return
        if self.dataset.valid:
            self.scores = self.scores.with_valid(self._score_stored_weights(self.dataset.valid))
        self.write_checkpoint()

    def write_checkpoint(self) -> None:
        """Write the run's own checkpoint, in place of one that it had."""
        manifest, weights = self.make_manifest(), self.trainer.best.weights
        card = self._render_card(manifest, weights)
        files = {MODEL_CARD: card.encode(), METRICS: render_metrics(self.metrics)}
        if self.index is not None:
            files[INDEX] = self.index
        checkpoint.publish(self.folder, weights, manifest, files)

    def _render_card(self, manifest: Manifest, weights: Mapping[str, np.ndarray]) -> str:
        """Render the model card; where no tune can be drawn, that is told and none is shown."""
        if self.shows_samples:
            try:
                return render_model_card(manifest, self.scores, dict(weights))
            except Exception as fault:  # noqa: BLE001 - no example may cost a finished training
                self.shows_samples = False
                self.notify(
                    f"model card: no tune could be drawn ({to_one_line(fault)}); it shows none"
                )
        return render_model_card(manifest, self.scores, dict(weights), with_samples=False)

    def score_test(self) -> None:
        """Score the test part once, beside a 5-gram of the same tunes, and save that."""
        if not self.dataset.test:
            raise MusicgenError("the corpus is too small for a test part; nothing to score")
        grams = KneserNey(get_id_arrays(self.dataset.train), self.dataset.vocabulary_size, order=5)
        test = self.dataset.test
        self.scores = self.scores.with_test(
            self._score_stored_weights(test),
            grams.score(get_id_arrays(test), get_note_counts(test)),
        )
        if self.is_main_process:
            self.write_checkpoint()

    def _score_stored_weights(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score the best weights as they are stored, in float16."""
        model = LanguageModel(self.plan.model).to(self.plan.device)
        model.load_weights(round_to_float16(self.trainer.best.weights))
        return evaluate(model, get_id_arrays(tunes), get_note_counts(tunes), crew=self.trainer.crew)

    @cached_property
    def index(self) -> bytes | None:
        """The index of the tunes that it learnt from, and of those its start did; once a run."""
        if self.no_index:
            return None
        before = load_index(self.base) if self.base else None
        found = build_overlap_index(self.dataset, previous_index=before)
        return found.note_index.to_bytes() if found else None

    @cached_property
    def tonic_counts(self) -> dict[str, dict[str, int]]:
        """How often each mode's tonics occur: read once, for all checkpoints."""
        if not find_codec(self.dataset.codec).has_bars:
            return {}
        counted = count_tonics(self.dataset.train)
        return fine_tune.merge_tonic_counts(self.base, counted) if self.base else counted

    @cached_property
    def dance_counts(self) -> dict[str, dict[str, int]]:
        """How often each dance occurs in each meter; {} where that is not known of all tunes."""
        if not find_codec(self.dataset.codec).has_bars:
            return {}
        counted = count_dances(self.dataset.train)
        return fine_tune.merge_dance_counts(self.base, counted) if self.base else counted

    @cached_property
    def event_counts(self) -> tuple[int, ...]:
        """How often each event occurs in the training part: counted once, for all checkpoints.

        A tune that is moved counts in each of its keys.
        """
        counts = np.zeros(self.dataset.vocabulary_size, dtype=np.int64)
        pitches = self.trainer.window_stream.pitch_ranges
        for ids in get_id_arrays(self.dataset.train):
            for semitones in find_transposition_range(ids, pitches) if pitches else (0,):
                counts += np.bincount(transpose_ids(ids, pitches, semitones), minlength=len(counts))
        return (
            fine_tune.merge_event_counts(self.base, counts.tolist())
            if self.base
            else tuple(counts.tolist())
        )

    def make_manifest(self) -> Manifest:
        """Say what the checkpoint is."""
        corpus = self.corpus | {
            "sources": list(self.dataset.sources),
            "fingerprint": self.dataset.fingerprint,
            "tunes": {
                part: len(getattr(self.dataset, part)) for part in ("train", "valid", "test")
            },
            "tonics": self.tonic_counts,
        }
        if self.dance_counts:
            corpus["dances"] = self.dance_counts
        return Manifest(
            name=self.name,
            version=self.version,
            settings=self.plan.model,
            vocabulary=self.dataset.vocabulary,
            seen=self.event_counts,
            codec=self.dataset.codec,
            corpus=corpus,
            scores=self.scores.to_dict(),
            training=asdict(self.plan.training)
            | {"device": self.plan.device, "best_at_tokens": self.trainer.best.tokens},
        )


def count_tonics(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count the tonics of each mode: what a sampled tune's key is drawn from."""
    counts: dict[str, Counter[str]] = {}
    for tune in tunes:
        tonic = Setting.from_json(tune.setting).tonic
        mode = tune.key.split(" ")[1]
        counts.setdefault(mode, Counter())[Key(tonic, mode).tonic] += 1
    return {mode: dict(sorted(counter.items())) for mode, counter in sorted(counts.items())}


def count_dances(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count the meters of each dance: what tells that a user asks for one that there is none of."""
    meter, rhythm = HEADER_KINDS.index("meter"), HEADER_KINDS.index("rhythm")
    pairs = Counter((int(ids[rhythm]), int(ids[meter])) for ids in get_id_arrays(tunes))
    counts: dict[str, dict[str, int]] = {}
    for ids, count in pairs.items():
        name, in_meter = (str(MEASURES.events[id_].value) for id_ in ids)
        counts.setdefault(name, {})[in_meter] = count
    return {name: dict(sorted(table.items())) for name, table in sorted(counts.items())}


def apply_changes(
    plan: Plan, device: str | None, learning_rate: float | None
) -> tuple[Plan, list[str]]:
    """Return a plan with what may be changed when it is resumed, and a line for each change."""
    notes = []
    rate = plan.training.learning_rate
    if learning_rate not in (None, rate):
        notes.append(f"learning rate: {rate:g} so far, {learning_rate:g} from here on")
        plan = replace(plan, training=replace(plan.training, learning_rate=learning_rate))
    try:
        where = str(choose_device(device or plan.device))
    except MusicgenError:
        if device is not None:
            raise
        where = str(choose_device("auto"))
    return replace(plan, device=where), notes


def has_same_checkpoint(folder: Path, weights: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a checkpoint of just these weights stands there, whole."""
    if not folder.exists():
        return False
    try:
        kept = checkpoint.load_one(folder).weights
    except DamagedCheckpoint:
        return False
    wanted = round_to_float16(dict(weights))
    return kept.keys() == wanted.keys() and all(
        np.array_equal(kept[name], array) for name, array in wanted.items()
    )


def render_metrics(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """Render metrics, one a line."""
    return "".join(json.dumps(line) + "\n" for line in metrics).encode()


def read_metrics_until(folder: Path, until: int) -> list[dict[str, Any]]:
    """Read the lines of a run's metrics up to an update; half a line is none."""
    path = folder / METRICS
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["step"] <= until:
                found.append(row)
    return found
