"""What a saved run was, and whether what it is asked to go on with is still the same.

found = find(Path("checkpoints/mine"))
if found is not None:
    found.refuse_other_flags({"hidden": 512})
    found.refuse_other_corpus(dataset)
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from musicgen.checkpoint import (
    CorpusTable,
    ScoresTable,
    Tonics,
    check_name,
    check_weights,
    damage_error,
    get_package_versions,
    load_one,
)
from musicgen.config import MOST_EVENTS, MOST_TOKENS, ModelSettings, TrainingSettings
from musicgen.corpus.store import Dataset
from musicgen.errors import DamagedCheckpoint, InvalidValue, Mismatch
from musicgen.folder_contents import MANIFEST
from musicgen.training.plan import Plan
from musicgen.training.run_folder import SavedProgress, load_latest_progress
from musicgen.training.trainer import select_prefix
from musicgen.typed_data import Count, check_schema

# Where the value of a flag stands in a plan, for those that a run's plan decides.
PLAN_FIELDS: Final = {
    "cell": ("model", "cell"),
    "layers": ("model", "layers"),
    "hidden": ("model", "hidden"),
    "dropout": ("model", "dropout"),
    "bptt": ("training", "bptt"),
    "batch": ("training", "lanes"),
    "precision": ("training", "precision"),
    "seed": ("training", "seed"),
}
# What may change: spoken of, but not refused.
CHANGEABLE_FLAGS: Final = ("device", "learning_rate", "no_index")


class LanesTable(msgspec.Struct):
    """Where the stream of windows stood."""

    queue: tuple[Count, ...]
    at: tuple[tuple[int, int, int], ...]
    generator: dict[str, Any]  # numpy's own, which checks it


class TrainerTable(msgspec.Struct):
    """What a trainer keeps beside its arrays."""

    step: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    evaluated: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    clipped: float
    lanes: LanesTable
    best: tuple[float | None, int, int]


class PlanTable(msgspec.Struct):
    """A plan; its settings are read by their own classes."""

    model: dict[str, Any]
    training: dict[str, Any]
    device: str
    origin: str = ""
    guarded: bool = False
    lines: tuple[str, ...] = ()


class RequestedOptionsTable(msgspec.Struct):
    """What of the command line a resumed run goes by; the rest is compared only."""

    sources: tuple[str, ...] = ()
    no_index: bool | None = None
    # the model that it goes on from, by name or folder
    origin: str | None = msgspec.field(name="from", default=None)


class RunTable(msgspec.Struct):
    """What a run says of itself."""

    name: str
    version: Count
    corpus: CorpusTable
    asked: RequestedOptionsTable
    plan: PlanTable
    machine: dict[str, Any]
    codec: str
    vocabulary: str
    fingerprint: str
    seen: Annotated[tuple[Count, ...], Meta(max_length=MOST_EVENTS)]
    tonics: Tonics
    scores: ScoresTable
    best_step: Count
    over: bool
    seconds: float
    saving_seconds: float

    def __post_init__(self) -> None:
        """Refuse a name that no model can have."""
        check_name(self.name)


class StateTable(msgspec.Struct):
    """The values of a saved state."""

    trainer: TrainerTable
    run: RunTable


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A run that was saved."""

    progress: SavedProgress
    notes: Sequence[str] = ()  # a line for each later state that was damaged

    @property
    def run_record(self) -> Mapping[str, Any]:
        """What the run says of itself."""
        return self.progress.values["run"]  # type: ignore[no-any-return]

    @property
    def requested_options(self) -> Mapping[str, Any]:
        """What was asked on the command line."""
        return self.run_record["asked"]  # type: ignore[no-any-return]

    @property
    def is_over(self) -> bool:
        """Whether the last update was done."""
        return bool(self.run_record["over"])

    @property
    def step(self) -> int:
        """Updates so far."""
        return int(self.progress.values["trainer"]["step"])

    def read_plan(self) -> Plan:
        """Return what was planned. Raises Mismatch where this version knows no such settings."""
        values: dict[str, Any] = dict(self.run_record["plan"])
        values |= {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        try:
            model = ModelSettings.from_dict(values.pop("model"))
            training = TrainingSettings.from_dict(values.pop("training"))
            found = Plan(model, training, **values)
        except (InvalidValue, TypeError) as fault:
            raise Mismatch(
                f"{self.progress.folder}: its plan is another version's ({fault}); update musicgen"
            ) from fault
        try:
            self._check_size(model, training)
        except InvalidValue as fault:
            message = f"its contents do not fit the plan ({fault})"
            raise damage_error(self.progress.folder, message) from fault
        return found

    def _check_size(self, model: ModelSettings, training: TrainingSettings) -> None:
        """Raise InvalidValue, before anything is allocated, unless the arrays are of this size."""
        check_weights(select_prefix("model", self.progress.arrays), model)
        lanes = len(self.progress.values["trainer"]["lanes"]["at"])
        if lanes != training.lanes:
            raise InvalidValue(f"lanes is {training.lanes}, and the state has {lanes}")
        if len(self.run_record["seen"]) != model.vocabulary_size:
            raise InvalidValue(
                f"seen does not have the {model.vocabulary_size} events of the model"
            )

    def refuse_other_flags(self, flags: Mapping[str, Any]) -> None:
        """Raise Mismatch for the first flag that contradicts the run."""
        for flag, value in flags.items():
            known = self.get_flag_value(flag)
            if flag not in CHANGEABLE_FLAGS and value not in (
                known,
                self.requested_options.get(flag),
            ):
                raise Mismatch(
                    f"--{flag.replace('_', '-')} {value}: the run that is resumed has"
                    f" {'none' if known is None else known}; leave the flag out, or train another"
                    " --name"
                )

    def get_flag_value(self, flag: str) -> Any:
        """Return the value that the run has for a flag, which it may have derived."""
        if flag == "codec":
            return self.run_record["codec"]
        if flag in PLAN_FIELDS:
            table, name = PLAN_FIELDS[flag]
            return self.run_record["plan"][table][name]
        return self.requested_options.get(flag)

    def refuse_other_corpus(self, dataset: Dataset) -> None:
        """Raise Mismatch unless a data set is the one that was learnt from."""
        for what, known, now in (
            ("codec", self.run_record["codec"], dataset.codec),
            ("vocabulary", self.run_record["vocabulary"], describe_vocabulary(dataset)),
            ("corpus", self.run_record["fingerprint"][:16], dataset.fingerprint[:16]),
        ):
            if known != now:
                raise Mismatch(
                    f"{self.progress.folder}: its {what} was {known}, now it is {now};"
                    " go on with the tunes that it began with, or train another --name"
                )

    def list_differences(self, current: Mapping[str, Any]) -> list[str]:
        """Say in a line each what is not as it was: equal bits are promised where all of it is."""
        before = self.run_record["machine"]
        return [
            f"{name} was {before.get(name)}, now it is {value}: the last bits may differ"
            for name, value in current.items()
            if before.get(name) != value
        ]


def load_saved_run(folder: Path) -> SavedRun | None:
    """Return the last state of a run that is whole, None where nothing was saved."""
    saved, notes = load_latest_progress(folder)
    if saved is None:
        return None
    try:
        check_schema(saved.values, StateTable, "its values")
    except InvalidValue as fault:
        raise damage_error(saved.folder, str(fault)) from fault
    return SavedRun(saved, [f"{note}; the one before it is taken" for note in notes])


def is_finished(folder: Path) -> bool:
    """Tell whether a run has come to its end, with a whole checkpoint. Raises Mismatch."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        load_one(folder)
    except DamagedCheckpoint:
        return False
    return True


def describe_vocabulary(dataset: Dataset) -> str:
    """Name a vocabulary by its size and content."""
    content = json.dumps(dataset.vocabulary).encode()
    return f"{dataset.vocabulary_size} events ({hashlib.sha256(content).hexdigest()[:16]})"


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON's own types."""
    return json.loads(json.dumps(asdict(plan)))  # type: ignore[no-any-return]


def describe_machine(device: str, workers: int) -> dict[str, Any]:
    """Return what the bits of a run depend on, its plan and corpus left aside."""
    packages = {name: v for name, v in get_package_versions().items() if name in ("numpy", "torch")}
    return packages | {"processor": platform.machine(), "device": device, "threads": workers}
