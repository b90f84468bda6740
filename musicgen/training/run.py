"""A training run: train, save the progress regularly, and write the final checkpoint.

plan = make_plan(dataset, TrainingOptions())
run = TrainingRun(dataset, plan, name="mine", folder=Path("checkpoints/mine"))
for progress in run.train():
    ...
run.score_test()

checkpoints/mine/
├── progress/STEP/    the last three saved states, from which the run can be resumed
├── best/STEP/        the checkpoint of the best weights so far
├── metrics.jsonl     one line per tenth update and per evaluation
└── weights.safetensors, receipt.bin, MODEL_CARD.md, manifest.json: at the end of the run
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from musicgen import checkpoint
from musicgen.checkpoint import BEST, Checkpoint, Manifest, Weights, round_to_float16
from musicgen.corpus.store import Dataset, EncodedTune, get_id_arrays, select_as_written
from musicgen.errors import DamagedCheckpoint, Interrupted, MusicgenError, NotFound, to_one_line
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.evaluation.ngram_models import KneserNey
from musicgen.files import translate_os_errors, write_atomically
from musicgen.folder_contents import CONFIG, METRICS, MODEL_CARD
from musicgen.model.devices import choose_device
from musicgen.model.network import LanguageModel
from musicgen.music.theory import Key
from musicgen.similarity.build_index import build_overlap_index
from musicgen.similarity.note_index import INDEX_FILE
from musicgen.similarity.overlap_report import load_index
from musicgen.tokens.codec import Setting
from musicgen.tokens.grammar import HEADER_KINDS
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training import fine_tune, run_folder
from musicgen.training.batches import find_transposition_range, transpose_ids
from musicgen.training.distributed import SINGLE_PROCESS, Ranks
from musicgen.training.heldout_loss import evaluate
from musicgen.training.model_card import ScoreSummary, render_model_card
from musicgen.training.part_densities import find_density_thirds
from musicgen.training.plan import (
    CONTEXT_SAMPLING,
    LARGE_CORPUS_TUNES,
    LIVE_SAMPLING,
    PARTS_SAMPLING,
    Plan,
    get_note_counts,
    make_trainer,
)
from musicgen.training.resume import SavedRun, describe_machine, describe_vocabulary, plan_to_json
from musicgen.training.run_folder import (
    RunLock,
    lock_run,
    read_metrics,
    render_metrics,
    translate_memory_errors,
)
from musicgen.training.sampled_tunes import FormCheck, MemorisationCheck, stop_on_memorisation
from musicgen.training.trainer import Diverged, Progress, Trainer, TrainerState

SAVE_EVERY: Final = 180.0  # seconds between saves, if saving is fast
MAX_SAVE_INTERVAL: Final = 540.0  # seconds: a crash loses at most ten minutes
SAVE_COST_FACTOR: Final = 150  # saving may take one 150th of the time of a run


@dataclass
class SaveSchedule:
    """Decides when to save: after evaluations and every few minutes, less often if that is slow."""

    interval: float | None = None  # seconds between saves; None depends on the time a save takes
    saved_at: float = field(default_factory=time.monotonic)  # seconds; at first, the start
    last_save_seconds: float = 0.0
    total_save_seconds: float = 0.0

    def is_due(self, *, is_evaluated: bool) -> bool:
        """Tell whether to save now, after an update that `is_evaluated` or not."""
        elapsed = time.monotonic() - self.saved_at
        if self.interval is not None:
            return elapsed >= self.interval
        cheap_interval = min(MAX_SAVE_INTERVAL, SAVE_COST_FACTOR * self.last_save_seconds)
        return elapsed >= (cheap_interval if is_evaluated else max(SAVE_EVERY, cheap_interval))

    @contextlib.contextmanager
    def time_save(self) -> Iterator[None]:
        """Measure the time of a save."""
        started_at = time.monotonic()
        yield
        self.saved_at = time.monotonic()
        self.last_save_seconds = self.saved_at - started_at
        self.total_save_seconds += self.last_save_seconds


@dataclass
class TrainingRun:
    """A training run and the folder that it writes."""

    dataset: Dataset
    plan: Plan
    name: str
    folder: Path
    version: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)  # entries of the model card
    requested_options: dict[str, Any] = field(default_factory=dict)  # command-line options
    force: bool = False  # replace an existing run, once this one has saved a checkpoint
    lock: RunLock | None = None  # on the folder, if the caller already holds it
    base: Checkpoint | None = None  # the model to fine-tune
    ranks: Ranks = SINGLE_PROCESS  # the processes that train together
    no_index: bool = False  # do not store the similarity index of the training tunes
    config: bytes = b""  # content of the configuration file that repeats the run
    save_schedule: SaveSchedule = field(default_factory=SaveSchedule)
    notify: Callable[[str], None] = print  # called with each message for the user
    trainer: Trainer = field(init=False)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scores: ScoreSummary = field(default_factory=ScoreSummary)
    started_at: float = field(default_factory=time.monotonic)
    saved_step: int = -1  # last update whose state this process saved
    best_step: int = 0
    saved_best_step: int = -1  # update of the last checkpoint that this process saved
    is_over: bool = False  # whether the last update is done
    is_stopping: bool = False
    is_resumed: bool = False
    shows_samples: bool = True  # whether the model card includes sampled tunes
    notes: list[str] = field(default_factory=list)  # what has changed since the run was saved

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
        lock: RunLock | None = None,
        base: Checkpoint | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        no_index: bool | None = None,
        save_schedule: SaveSchedule | None = None,
        notify: Callable[[str], None] = print,
    ) -> TrainingRun:
        """Continue a saved run. The options that are not given here are those of the saved run.

        Args:
            saved_run: the progress to continue from.
            dataset: the data set that the run was started with.
            folder: the folder of the run.
            device: as in TrainingOptions; None keeps that of the run.
            learning_rate: the peak rate from here on; None keeps that of the run.
            lock: on the folder, if the caller already holds it.
            base: the model that the run fine-tunes.
            ranks: the processes that train together.
            no_index: whether to leave out the similarity index; None keeps the option of the run.
            save_schedule: when to save.
            notify: called with each message for the user.

        Raises:
            Mismatch: the data set is not that of the run.
            DamagedCheckpoint: the saved progress does not fit the plan.
        """
        saved_run.refuse_other_corpus(dataset)
        plan, notes = apply_changes(saved_run.read_plan(), device, learning_rate)
        record = saved_run.run_record
        options = dict(record["asked"])
        run = cls(dataset, plan, record["name"], folder, record["version"], dict(record["corpus"]),
                  options, lock=lock, base=base, ranks=ranks, notify=notify,
                  no_index=bool(options.get("no_index")) if no_index is None else no_index,
                  save_schedule=save_schedule or SaveSchedule())  # fmt: skip
        run.restore(saved_run)
        run.notes = [*saved_run.notes, *notes, *saved_run.list_differences(run.machine)]
        return run

    def restore(self, saved_run: SavedRun) -> None:
        """Restore a saved state; later metrics are discarded."""
        record = saved_run.run_record
        try:
            self.trainer.restore(
                TrainerState(saved_run.progress.arrays, saved_run.progress.values["trainer"])
            )
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError) as error:
            raise checkpoint.damage_error(
                saved_run.progress.folder, f"its contents do not fit the plan ({error})"
            ) from error
        self.scores = ScoreSummary(dict(record["scores"]))
        self.best_step, self.is_over = record["best_step"], record["over"]
        self.save_schedule.total_save_seconds = record["saving_seconds"]
        self.started_at = time.monotonic() - record["seconds"]
        with contextlib.suppress(NotFound):
            self.metrics = [
                row for row in read_metrics(self.folder) if row["step"] <= saved_run.step
            ]
        self.event_counts, self.tonic_counts = tuple(record["seen"]), dict(record["tonics"])
        self.is_resumed = True

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.ranks.is_main_process

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What the bits of the result depend on, other than plan and corpus."""
        return describe_machine(self.plan.device, self.ranks.world_size * torch.get_num_threads())

    def stop(self) -> None:
        """Request that the run finishes the current update, saves, and raises Interrupted."""
        self.is_stopping = True

    def train(self) -> Iterator[Progress]:
        """Train and save, yielding the progress of updates.

        Raises:
            Interrupted: `stop` was called, and the progress is saved.
            Diverged: the loss or the gradient is not finite.
            MusicgenError: out of memory, or the folder cannot be used.
        """
        with self._hold_lock() as lock, self.explain_errors():
            self._prepare_folder(lock)
            if self.is_over:  # only the final checkpoint was missing
                self.finish()
                return
            for progress in self._iter_progress():
                self._handle_progress(progress, lock)
                if self.is_over:
                    self.finish()
                yield progress
                if not self.is_over and self.ranks.all_reduce_any(self.is_stopping):
                    self.save(lock)
                    raise self._make_interrupted()

    def _iter_progress(self) -> Iterator[Progress]:
        steps = self.trainer.run()
        if self.memorisation_check is not None:
            steps = stop_on_memorisation(self.trainer, self.memorisation_check, self.notify)
        if not self.is_main_process or not find_codec(self.dataset.codec).has_bars:
            return steps
        check = FormCheck(self.make_manifest, self.trainer.model.copy_weights, self.notify)
        return check.add_figures(steps)

    @cached_property
    def memorisation_check(self) -> MemorisationCheck | None:
        """The check that stops the run on memorisation; None for a large corpus."""
        return MemorisationCheck.of(self.dataset, self.event_counts) if self.plan.guarded else None

    @contextlib.contextmanager
    def _hold_lock(self) -> Iterator[RunLock]:
        if self.lock is not None or not self.is_main_process:
            yield self.lock or RunLock(self.folder)
            return
        with lock_run(self.folder, exists=self.is_resumed, force=self.force) as lock:
            yield lock

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Add to an error how the run can be continued after lack of memory or divergence."""
        try:
            with translate_memory_errors(self.folder):
                yield
        except Diverged as error:
            lower_rate = f"{self.plan.training.learning_rate / 2:g}"
            raise Diverged(
                f"{error}; or continue from the saved progress with --resume --learning-rate"
                f" {lower_rate}"
            ) from error

    def _prepare_folder(self, lock: RunLock) -> None:
        """Create the folder, and write the metrics so far."""
        if self.is_main_process:
            lock.create_folder(force=self.force)
            if self.config and not self.is_resumed:
                write_atomically(self.folder / CONFIG, self.config, force=True)
            write_atomically(self.folder / METRICS, render_metrics(self.metrics), force=True)

    def _handle_progress(self, progress: Progress, lock: RunLock) -> None:
        """Record an update, and save if that is due."""
        self.is_over = progress.is_last
        if progress.is_best:
            self.best_step = progress.step
            if progress.held_out_score is not None:
                self.scores = self.scores.with_valid(progress.held_out_score)
        self.record_metrics(progress)
        is_evaluated = progress.is_best or progress.held_out_score is not None
        is_due = self.is_stopping or (
            self.is_main_process and self.save_schedule.is_due(is_evaluated=is_evaluated)
        )
        # save before the caller shows the progress: its terminal may be gone
        if self.is_over or self.ranks.all_reduce_any(is_due):
            self.save(lock)

    def _make_interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped after update {self.trainer.step}, all saved;"
            f" musicgen train --name {self.name} --resume continues it"
        )

    def record_metrics(self, progress: Progress) -> None:
        """Append a line to the metrics after each evaluation and each tenth update."""
        if progress.step % 10 and progress.held_out_score is None:
            return
        line: dict[str, Any] = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(progress.epoch, 4),
            "seconds": round(time.monotonic() - self.started_at, 2),
            "saving_seconds": round(self.save_schedule.total_save_seconds, 3),  # included above
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
        if progress.form_figures is not None:
            known = {
                key: value for key, value in progress.form_figures.items() if not math.isnan(value)
            }
            line["form"] = {key: round(value, 4) for key, value in known.items()}
        self.metrics.append(line)
        if self.is_main_process:
            with (
                translate_os_errors(self.folder / METRICS),
                (self.folder / METRICS).open("ab") as file,
            ):
                file.write(render_metrics([line]))

    def save(self, lock: RunLock) -> None:
        """Save the progress, and the best weights if they are new; all processes must call this."""
        if self.saved_step == self.trainer.step:
            return
        with self.save_schedule.time_save():
            state = self.trainer.copy_state()  # a collective operation
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
        """Return the record of the run as JSON values, for resuming."""
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
        """Save the checkpoint of the best weights, then remove the previous one."""
        weights, parent = self.trainer.best.weights, self.folder / BEST
        folder = parent / f"{self.best_step:08d}"
        if not weights or has_same_checkpoint(folder, weights):
            return
        manifest = self.make_manifest()
        card = render_model_card(manifest, self.scores, weights, with_samples=False)
        files = {MODEL_CARD: card.encode()}
        checkpoint.save(
            run_folder.prepare_step_path(parent, self.best_step), weights, manifest, files
        )
        run_folder.prune_saves(folder, 1, checkpoint.FORMAT)

    def finish(self) -> None:
        """Score the best weights, and write them as the final checkpoint."""
        if not self.is_main_process:
            return
        if self.dataset.valid:
            is_small = len(self.dataset) < LARGE_CORPUS_TUNES
            self.scores = self.scores.with_valid(
                self._score_stored_weights(self.dataset.valid),
                self._score_ngram(self.dataset.valid) if is_small else None,
            )
        self.write_checkpoint()

    def write_checkpoint(self) -> None:
        """Write the final checkpoint, replacing an existing one."""
        manifest, weights = self.make_manifest(), self.trainer.best.weights
        card = self._render_card(manifest, weights)
        files = {MODEL_CARD: card.encode(), METRICS: render_metrics(self.metrics)}
        if self.index is not None:
            files[INDEX_FILE] = self.index
        checkpoint.publish(self.folder, weights, manifest, files)

    def _render_card(self, manifest: Manifest, weights: Weights) -> str:
        """Render the model card; if no tune can be sampled, report that and leave samples out."""
        if self.shows_samples:
            try:
                return render_model_card(manifest, self.scores, weights)
            except Exception as error:  # noqa: BLE001 - sampling must not abort training
                self.shows_samples = False
                self.notify(
                    f"model card: no tune could be sampled ({to_one_line(error)}); none is shown"
                )
        return render_model_card(manifest, self.scores, weights, with_samples=False)

    def score_test(self) -> None:
        """Score the model and a 5-gram on the test split, and save both in the checkpoint.

        Raises:
            MusicgenError: there is no test split.
        """
        if not self.dataset.test:
            raise MusicgenError(
                "the corpus is too small for a test split; there is nothing to score"
            )
        test = self.dataset.test
        self.scores = self.scores.with_test(
            self._score_stored_weights(test), self._score_ngram(test)
        )
        if self.is_main_process:
            self.write_checkpoint()

    def _score_ngram(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score a Kneser-Ney 5-gram of the training tunes."""
        ngram = KneserNey(get_id_arrays(self.dataset.train), self.dataset.vocabulary_size, order=5)
        return ngram.score(get_id_arrays(tunes), get_note_counts(tunes))

    def _score_stored_weights(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score the best weights, rounded to float16 as they are stored."""
        model = LanguageModel(self.plan.model).to(self.plan.device)
        model.load_weights(round_to_float16(self.trainer.best.weights))
        return evaluate(model, get_id_arrays(tunes), get_note_counts(tunes))

    @cached_property
    def index(self) -> bytes | None:
        """The similarity index of the training tunes, including those of the base model."""
        if self.no_index:
            return None
        base_index = load_index(self.base) if self.base else None
        index = build_overlap_index(self.dataset, previous_index=base_index)
        return index.note_index.to_bytes() if index else None

    @cached_property
    def tonic_counts(self) -> dict[str, dict[str, int]]:
        """The number of tunes per mode and tonic."""
        if not find_codec(self.dataset.codec).has_bars:
            return {}
        counts = count_tonics(self.dataset.train)
        return fine_tune.merge_tonic_counts(self.base, counts) if self.base else counts

    @cached_property
    def dance_counts(self) -> dict[str, dict[str, int]]:
        """The number of tunes per dance and meter; {} if that is unknown for the base model."""
        if not find_codec(self.dataset.codec).has_bars:
            return {}
        counts = count_dances(self.dataset.train)
        return fine_tune.merge_dance_counts(self.base, counts) if self.base else counts

    @cached_property
    def density_thirds(self) -> dict[str, list[int]]:
        """The thirds of the densities of each role; {} without roles."""
        if not find_codec(self.dataset.codec).has_bars:
            return {}
        return find_density_thirds(self.dataset.train)

    @cached_property
    def event_counts(self) -> tuple[int, ...]:
        """The number of occurrences of each event in the training split, by id.

        If tunes are transposed, a tune counts once in each of its keys.
        """
        counts = np.zeros(self.dataset.vocabulary_size, dtype=np.int64)
        pitch_ranges = self.trainer.window_stream.pitch_ranges
        for ids in get_id_arrays(self.dataset.train):
            for semitones in find_transposition_range(ids, pitch_ranges) if pitch_ranges else (0,):
                counts += np.bincount(
                    transpose_ids(ids, pitch_ranges, semitones), minlength=len(counts)
                )
        return (
            fine_tune.merge_event_counts(self.base, counts.tolist())
            if self.base
            else tuple(counts.tolist())
        )

    def make_manifest(self) -> Manifest:
        """Return the manifest of the current best weights."""
        corpus = self.corpus | {
            "sources": list(self.dataset.sources),
            "fingerprint": self.dataset.fingerprint,
            "tunes": {
                part: sum(1 for _ in select_as_written(getattr(self.dataset, part)))
                for part in ("train", "valid", "test")
            },
            "tonics": self.tonic_counts,
        }
        if self.dance_counts:
            corpus["dances"] = self.dance_counts
        if self.density_thirds:
            corpus["densities"] = self.density_thirds
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
            sampling=self._choose_sampling_defaults(),
        )

    def _choose_sampling_defaults(self) -> Mapping[str, float]:
        """Return the base model's defaults, or those of a model that reads the score context."""
        if self.base is not None:
            return self.base.manifest.sampling
        if self.plan.model.reads_vertical:
            return PARTS_SAMPLING
        if self.plan.model.reads_time:
            return LIVE_SAMPLING
        return CONTEXT_SAMPLING if self.plan.model.lags else {}


def count_tonics(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count tunes by mode and tonic: the distribution from which sampled tunes take their key."""
    counts: dict[str, Counter[str]] = {}
    for tune in select_as_written(tunes):
        tonic = Setting.from_json(tune.setting).tonic
        mode = tune.key.split(" ")[1]
        counts.setdefault(mode, Counter())[Key(tonic, mode).tonic] += 1
    return {mode: dict(sorted(counter.items())) for mode, counter in sorted(counts.items())}


def count_dances(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count tunes by dance and meter, to refuse requests for combinations that do not occur."""
    meter_index, rhythm_index = HEADER_KINDS.index("meter"), HEADER_KINDS.index("rhythm")
    pairs = Counter((int(ids[rhythm_index]), int(ids[meter_index])) for ids in get_id_arrays(tunes))
    counts: dict[str, dict[str, int]] = {}
    for ids, count in pairs.items():
        name, meter_name = (str(MEASURES.events[id_].value) for id_ in ids)
        counts.setdefault(name, {})[meter_name] = count
    return {name: dict(sorted(table.items())) for name, table in sorted(counts.items())}


def apply_changes(
    plan: Plan, device: str | None, learning_rate: float | None
) -> tuple[Plan, list[str]]:
    """Apply changes to the plan of a resumed run, and describe them, one per line."""
    notes = []
    saved_rate = plan.training.learning_rate
    if learning_rate not in (None, saved_rate):
        notes.append(f"learning rate: {saved_rate:g} so far, {learning_rate:g} from here on")
        plan = replace(plan, training=replace(plan.training, learning_rate=learning_rate))
    try:
        new_device = str(choose_device(device or plan.device))
    except MusicgenError:
        if device is not None:
            raise
        new_device = str(choose_device("auto"))
    return replace(plan, device=new_device), notes


def has_same_checkpoint(folder: Path, weights: Weights) -> bool:
    """Tell whether a folder holds an intact checkpoint of these weights.

    Args:
        folder: of the checkpoint.
        weights: by name, float32; shapes (...) as in `checkpoint.weight_shapes`.
    """
    if not folder.exists():
        return False
    try:
        stored = checkpoint.load_one(folder).weights
    except DamagedCheckpoint:
        return False
    rounded = round_to_float16(weights)
    return stored.keys() == rounded.keys() and all(
        np.array_equal(stored[name], array) for name, array in rounded.items()
    )
