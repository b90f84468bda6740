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
from musicgen.checkpoint import BEST, Checkpoint, Manifest, stored
from musicgen.corpus.store import Dataset, EncodedTune, flat_ids
from musicgen.errors import DamagedCheckpoint, Interrupted, MusicgenError, one_line
from musicgen.files import explaining, write_whole
from musicgen.folder_contents import CARD, CONFIG, METRICS
from musicgen.model.devices import choose_device
from musicgen.model.network import LanguageModel
from musicgen.music.theory import Key
from musicgen.similarity.build_index import index_of
from musicgen.similarity.note_index import NAME as INDEX
from musicgen.similarity.overlap_report import index_beside
from musicgen.tokens.codec import Setting
from musicgen.tokens.grammar import HEADER
from musicgen.tokens.registry import DEFAULT as DEFAULT_CODEC
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training import fine_tune, run_folder
from musicgen.training.batches import moved, room_of
from musicgen.training.distributed import ALONE, Ranks
from musicgen.training.heldout_loss import Held, evaluate
from musicgen.training.memorisation import Judge, guarded
from musicgen.training.model_card import Scores, model_card
from musicgen.training.ngram import KneserNey
from musicgen.training.plan import Plan, new_trainer, notes_of
from musicgen.training.resume import Found, describe, machine, vocabulary
from musicgen.training.run_folder import Claim, claimed, foreseen
from musicgen.training.trainer import Diverged, Progress, Trainer, TrainerState

SAVE_EVERY: Final = 180.0  # seconds, where a save is cheap
SAVE_AT_LEAST: Final = 540.0  # seconds, whatever it costs: at most ten minutes are ever lost
DEAR: Final = 50  # a save may take one part in so many of a run's time


@dataclass
class Pace:
    """When to save: after each evaluation and every few minutes, unless it costs too much."""

    every: float | None = None  # seconds; None goes by what a save costs
    saved: float = field(default_factory=time.monotonic)  # when, or when the run began
    cost: float = 0.0  # seconds that the last save took
    spent: float = 0.0  # seconds that all of them took

    def is_due(self, *, judged: bool) -> bool:
        """Tell whether to save now."""
        since = time.monotonic() - self.saved
        if self.every is not None:
            return since >= self.every
        cheap = min(SAVE_AT_LEAST, DEAR * self.cost)
        return since >= (cheap if judged else max(SAVE_EVERY, cheap))

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what a save takes."""
        began = time.monotonic()
        yield
        self.saved = time.monotonic()
        self.cost = self.saved - began
        self.spent += self.cost


@dataclass
class Run:
    """A run under way, and the folder that it fills."""

    dataset: Dataset
    plan: Plan
    name: str
    folder: Path
    version: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)  # what the card says of the sources
    asked: dict[str, Any] = field(default_factory=dict)  # what the command line said
    force: bool = False  # replace what stands in the folder, once there is something better
    claim: Claim | None = None  # on the folder, where the caller has it already
    start: Checkpoint | None = None  # the model that it goes on from
    ranks: Ranks = ALONE  # of several processes that train together, this one
    no_index: bool = False  # leave out the index of the tunes that receipts are told by
    config: bytes = b""  # its options as a file, which starts it again
    pace: Pace = field(default_factory=Pace)
    tell: Callable[[str], None] = print  # takes what a person should know, a line each
    trainer: Trainer = field(init=False)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scores: Scores = field(default_factory=Scores)
    started: float = field(default_factory=time.monotonic)
    saved_step: int = -1  # the update whose state was saved last, by this process
    best_step: int = 0
    kept_best: int = -1  # the update whose weights are the checkpoint, as this process knows
    over: bool = False  # whether the last update was done
    stopping: bool = False
    resumed: bool = False
    heard: bool = True  # whether the model card shows tunes
    notes: list[str] = field(default_factory=list)  # what is not as it was when it was saved

    def __post_init__(self) -> None:
        with self.told():
            self.trainer = new_trainer(self.dataset, self.plan, self.start, self.ranks)
        if self.start is not None:
            self.corpus = {**self.corpus, "adapted_from": fine_tune.origin(self.start)}

    @classmethod
    def resume(
        cls,
        found: Found,
        dataset: Dataset,
        folder: Path,
        *,
        device: str | None = None,
        learning_rate: float | None = None,
        **more: Any,
    ) -> Run:
        """Go on where a run was saved. Raises Mismatch where the data set is not the run's own."""
        found.refuse_other_corpus(dataset)
        plan, notes = changed(found.plan(), device, learning_rate)
        known = found.run
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
        run.restore(found)
        run.notes = [*found.notes, *notes, *found.differences(run.machine)]
        return run

    def restore(self, found: Found) -> None:
        """Take back what was saved; what came after it never was."""
        known = found.run
        try:
            self.trainer.restore(TrainerState(found.saved.arrays, found.saved.values["trainer"]))
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError) as fault:
            raise checkpoint.damaged(
                found.saved.folder, f"its contents do not fit the plan ({fault})"
            ) from fault
        self.scores = Scores(dict(known["scores"]))
        self.best_step, self.over = known["best_step"], known["over"]
        self.pace.spent = known["saving_seconds"]
        self.started = time.monotonic() - known["seconds"]
        self.metrics = read_metrics(self.folder, found.step)
        self.seen, self.tonics = tuple(known["seen"]), dict(known["tonics"])
        self.resumed = True

    @property
    def writes(self) -> bool:
        """Whether this process writes: of several that train together, one does."""
        return self.ranks.writes

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What its bits depend on, plan and corpus left aside."""
        return machine(self.plan.device, self.ranks.world * self.trainer.crew.workers)

    def stop(self) -> None:
        """Ask the run to finish its update, save, and end with Interrupted."""
        self.stopping = True

    def train(self) -> Iterator[Progress]:
        """Train, and save every so often. Raises Interrupted after `stop`, once all is saved."""
        with self._held() as claim, self.told():
            self._begin(claim)
            if self.over:  # only its own checkpoint was missing
                self.finish()
                return
            for progress in self._learning():
                self._take(progress, claim)
                if self.over:
                    self.finish()
                yield progress
                if not self.over and self.ranks.any(self.stopping):
                    self.save(claim)
                    raise self._interrupted()

    def _learning(self) -> Iterator[Progress]:
        if self.judge is None:
            return self.trainer.run()
        return guarded(self.trainer, self.judge, self.tell)

    @cached_property
    def judge(self) -> Judge | None:
        """Who stops the run when it copies too much; none where tunes are many."""
        return Judge.of(self.dataset, self.seen) if self.plan.guarded else None

    @contextlib.contextmanager
    def _held(self) -> Iterator[Claim]:
        if self.claim is not None or not self.writes:
            yield self.claim or Claim(self.folder)
            return
        with claimed(self.folder, exists=self.resumed, force=self.force) as claim:
            yield claim

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Say what short memory or a loss that is no number means for the run."""
        try:
            with foreseen(self.folder):
                yield
        except Diverged as fault:
            lower = f"{self.plan.training.learning_rate / 2:g}"
            raise Diverged(
                f"{fault}; or go on from what was saved with --resume --learning-rate {lower}"
            ) from fault

    def _begin(self, claim: Claim) -> None:
        """Make the folder; its metrics go on from here."""
        if self.writes:
            claim.begin(force=self.force)
            if self.config and not self.resumed:
                write_whole(self.folder / CONFIG, self.config, force=True)
            write_whole(self.folder / METRICS, lines(self.metrics), force=True)

    def _take(self, progress: Progress, claim: Claim) -> None:
        """Note an update, and save if it is time."""
        self.over = progress.is_last
        if progress.is_best:
            self.best_step = progress.step
            if progress.held is not None:
                self.scores = self.scores.with_valid(progress.held)
        self.note(progress)
        judged = progress.is_best or progress.held is not None
        is_due = self.stopping or (self.writes and self.pace.is_due(judged=judged))
        if self.over or self.ranks.any(is_due):  # before it is shown: the terminal may be gone
            self.save(claim)

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped after update {self.trainer.step}, all saved;"
            f" musicgen train --name {self.name} --resume goes on"
        )

    def note(self, progress: Progress) -> None:
        """Keep a line of metrics for each evaluation, and for every tenth update."""
        if progress.step % 10 and progress.held is None:
            return
        line = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(progress.epoch, 4),
            "seconds": round(time.monotonic() - self.started, 2),
            "saving_seconds": round(self.pace.spent, 3),  # of them, so far
            "loss": round(progress.loss, 5),
            "norm": round(progress.norm, 5),
            "clipped": round(progress.clipped, 4),
            "learning_rate": round(progress.learning_rate, 7),
            "tokens_a_second": round(progress.rate, 1),
            "memory": progress.memory,
        }
        if progress.held is not None:
            line |= {
                "held_loss": round(progress.held.loss, 5),
                "held_bits_per_note": round(progress.held.bits_per_note, 5),
            }
        if progress.copied is not None:
            line["copied"] = round(progress.copied, 5)
        self.metrics.append(line)
        if self.writes:
            with explaining(self.folder / METRICS), (self.folder / METRICS).open("ab") as file:
                file.write(lines([line]))

    def save(self, claim: Claim) -> None:
        """Save what resuming needs, and the best weights if they are new."""
        if self.saved_step == self.trainer.step:
            return
        with self.pace.counted():
            state = self.trainer.state()  # all processes together
            self.saved_step = self.trainer.step
            if not self.writes:
                return
            values = {"trainer": state.values, "run": self.described()}
            run_folder.save(self.folder, self.trainer.step, state.arrays, values)
            claim.settle()
            if self.kept_best != self.best_step:
                self.save_best()
                self.kept_best = self.best_step

    def described(self) -> dict[str, Any]:
        """Return what a resumed run must know beside the trainer's state."""
        return {
            "name": self.name,
            "version": self.version,
            "corpus": self.corpus,
            "asked": self.asked,
            "plan": describe(self.plan),
            "machine": self.machine,
            "codec": self.dataset.codec,
            "vocabulary": vocabulary(self.dataset),
            "fingerprint": self.dataset.fingerprint,
            "seen": self.seen,
            "tonics": self.tonics,
            "scores": self.scores.as_table(),
            "best_step": self.best_step,
            "over": self.over,
            "seconds": time.monotonic() - self.started,
            "saving_seconds": self.pace.spent,
        }

    def save_best(self) -> None:
        """Save the checkpoint of the best weights; the one before it goes after that."""
        best, shelf = self.trainer.best, self.folder / BEST
        folder = shelf / f"{self.best_step:08d}"
        if not best.weights or holds(folder, best.weights):
            return
        manifest = self.manifest()
        card = model_card(manifest, self.scores, best.weights, heard=False)
        files = {CARD: card.encode()}
        checkpoint.save(run_folder.place(shelf, self.best_step), best.weights, manifest, files)
        run_folder.let_go(folder, 1, checkpoint.FORMAT)

    def finish(self) -> None:
        """Make the run's own folder the checkpoint of its best weights."""
        if not self.writes:
            return
        if self.dataset.valid:
            self.scores = self.scores.with_valid(self._measured(self.dataset.valid))
        self.publish()

    def publish(self) -> None:
        """Write the run's own checkpoint, in place of one that it had."""
        manifest, weights = self.manifest(), self.trainer.best.weights
        card = self._card(manifest, weights)
        files = {CARD: card.encode(), METRICS: lines(self.metrics)}
        if self.index is not None:
            files[INDEX] = self.index
        checkpoint.publish(self.folder, weights, manifest, files)

    def _card(self, manifest: Manifest, weights: Mapping[str, np.ndarray]) -> str:
        """Render the model card; where no tune can be drawn, that is told and none is shown."""
        if self.heard:
            try:
                return model_card(manifest, self.scores, dict(weights))
            except Exception as fault:  # noqa: BLE001 - no example may cost a finished training
                self.heard = False
                self.tell(f"model card: no tune could be drawn ({one_line(fault)}); it shows none")
        return model_card(manifest, self.scores, dict(weights), heard=False)

    def score_test(self) -> None:
        """Score the test part once, beside a 5-gram of the same tunes, and save that."""
        if not self.dataset.test:
            raise MusicgenError("the corpus is too small for a test part; nothing to score")
        grams = KneserNey(flat_ids(self.dataset.train), self.dataset.vocabulary_size, order=5)
        test = self.dataset.test
        self.scores = self.scores.with_test(
            self._measured(test), grams.score(flat_ids(test), notes_of(test))
        )
        if self.writes:
            self.publish()

    def _measured(self, tunes: Sequence[EncodedTune]) -> Held:
        """Score the best weights as they are stored, in float16."""
        model = LanguageModel(self.plan.model).to(self.plan.device)
        model.put(stored(self.trainer.best.weights))
        return evaluate(model, flat_ids(tunes), notes_of(tunes), crew=self.trainer.crew)

    @cached_property
    def index(self) -> bytes | None:
        """The index of the tunes that it learnt from, and of those its start did; once a run."""
        if self.no_index:
            return None
        before = index_beside(self.start) if self.start else None
        found = index_of(self.dataset, before=before)
        return found.known.render() if found else None

    @cached_property
    def tonics(self) -> dict[str, dict[str, int]]:
        """How often each mode's tonics occur: read once, for all checkpoints."""
        if self.dataset.codec != DEFAULT_CODEC:
            return {}
        counted = tonics(self.dataset.train)
        return fine_tune.tonics(self.start, counted) if self.start else counted

    @cached_property
    def dances(self) -> dict[str, dict[str, int]]:
        """How often each dance occurs in each meter; {} where that is not known of all tunes."""
        if self.dataset.codec != DEFAULT_CODEC:
            return {}
        counted = count_dances(self.dataset.train)
        return fine_tune.add_dances(self.start, counted) if self.start else counted

    @cached_property
    def seen(self) -> tuple[int, ...]:
        """How often each event occurs in the training part: counted once, for all checkpoints.

        A tune that is moved counts in each of its keys.
        """
        counts = np.zeros(self.dataset.vocabulary_size, dtype=np.int64)
        pitches = self.trainer.lanes.pitches
        for ids in flat_ids(self.dataset.train):
            for semitones in room_of(ids, pitches) if pitches else (0,):
                counts += np.bincount(moved(ids, pitches, semitones), minlength=len(counts))
        return fine_tune.met(self.start, counts.tolist()) if self.start else tuple(counts.tolist())

    def manifest(self) -> Manifest:
        """Say what the checkpoint is."""
        corpus = self.corpus | {
            "sources": list(self.dataset.sources),
            "fingerprint": self.dataset.fingerprint,
            "tunes": {
                part: len(getattr(self.dataset, part)) for part in ("train", "valid", "test")
            },
            "tonics": self.tonics,
        }
        if self.dances:
            corpus["dances"] = self.dances
        return Manifest(
            name=self.name,
            version=self.version,
            settings=self.plan.model,
            vocabulary=self.dataset.vocabulary,
            seen=self.seen,
            codec=self.dataset.codec,
            corpus=corpus,
            scores=self.scores.as_table(),
            training=asdict(self.plan.training)
            | {"device": self.plan.device, "best_at_tokens": self.trainer.best.tokens},
        )


def tonics(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count the tonics of each mode: what a sampled tune's key is drawn from."""
    counts: dict[str, Counter[str]] = {}
    for tune in tunes:
        tonic = Setting.from_json(tune.setting).tonic
        mode = tune.key.split(" ")[1]
        counts.setdefault(mode, Counter())[Key(tonic, mode).tonic] += 1
    return {mode: dict(sorted(counter.items())) for mode, counter in sorted(counts.items())}


def count_dances(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count the meters of each dance: what tells that a user asks for one that there is none of."""
    meter, rhythm = HEADER.index("meter"), HEADER.index("rhythm")
    pairs = Counter((int(ids[rhythm]), int(ids[meter])) for ids in flat_ids(tunes))
    counts: dict[str, dict[str, int]] = {}
    for ids, count in pairs.items():
        name, in_meter = (str(MEASURES.events[id_].value) for id_ in ids)
        counts.setdefault(name, {})[in_meter] = count
    return {name: dict(sorted(table.items())) for name, table in sorted(counts.items())}


def changed(plan: Plan, device: str | None, learning_rate: float | None) -> tuple[Plan, list[str]]:
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


def holds(folder: Path, weights: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a checkpoint of just these weights stands there, whole."""
    if not folder.exists():
        return False
    try:
        kept = checkpoint.load_one(folder).weights
    except DamagedCheckpoint:
        return False
    wanted = stored(dict(weights))
    return kept.keys() == wanted.keys() and all(
        np.array_equal(kept[name], array) for name, array in wanted.items()
    )


def lines(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """Render metrics, one a line."""
    return "".join(json.dumps(line) + "\n" for line in metrics).encode()


def read_metrics(folder: Path, until: int) -> list[dict[str, Any]]:
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
