"""Resuming: load a saved run, and check that its options and its data set have not changed.

saved_run = load_saved_run(Path("checkpoints/mine"))
if saved_run is not None:
    saved_run.refuse_other_flags({"hidden": 512})
    saved_run.refuse_other_corpus(dataset)
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
from musicgen.config import (
    MOST_EVENTS,
    MOST_TOKENS,
    ModelSettings,
    TrainingSettings,
    name_context,
)
from musicgen.corpus.store import Dataset
from musicgen.errors import DamagedCheckpoint, InvalidValue, Mismatch
from musicgen.folder_contents import MANIFEST
from musicgen.training.plan import Plan
from musicgen.training.run_folder import SavedProgress, load_latest_progress
from musicgen.training.trainer import select_prefix
from musicgen.typed_data import Count, check_schema

# Flags whose value is part of the plan: its table and its key.
PLAN_FIELDS: Final = {
    "cell": ("model", "cell"),
    "layers": ("model", "layers"),
    "hidden": ("model", "hidden"),
    "context": ("model", "context"),
    "dropout": ("model", "dropout"),
    "bptt": ("training", "bptt"),
    "batch": ("training", "lanes"),
    "precision": ("training", "precision"),
    "seed": ("training", "seed"),
}
# Flags that may change when a run is resumed; changes are reported.
CHANGEABLE_FLAGS: Final = ("device", "learning_rate", "no_index")


class LanesTable(msgspec.Struct):
    """The position of the window stream: see `WindowStream.get_position`."""

    queue: tuple[Count, ...]
    at: tuple[tuple[int, int, int], ...]
    generator: dict[str, Any]  # checked by NumPy


class TrainerTable(msgspec.Struct):
    """The values of a trainer, other than its arrays."""

    step: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    evaluated: Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
    clipped: float
    lanes: LanesTable
    best: tuple[float | None, int, int]


class PlanTable(msgspec.Struct):
    """A plan; its settings are checked by ModelSettings and TrainingSettings."""

    model: dict[str, Any]
    training: dict[str, Any]
    device: str
    origin: str = ""
    guarded: bool = False
    lines: tuple[str, ...] = ()


class RequestedOptionsTable(msgspec.Struct):
    """Command-line options that a resumed run uses; the others are only compared."""

    sources: tuple[str, ...] = ()
    no_index: bool | None = None
    # name or folder of the base model
    origin: str | None = msgspec.field(name="from", default=None)


class RunTable(msgspec.Struct):
    """The record of a run: see `TrainingRun.describe`."""

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
        check_name(self.name)


class StateTable(msgspec.Struct):
    """The values of a saved state."""

    trainer: TrainerTable
    run: RunTable


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A saved run: its progress, and why later progress was not used."""

    progress: SavedProgress
    notes: Sequence[str] = ()  # a line per later progress folder that is damaged

    @property
    def run_record(self) -> Mapping[str, Any]:
        """The record of the run, as in RunTable."""
        return self.progress.values["run"]  # type: ignore[no-any-return]

    @property
    def requested_options(self) -> Mapping[str, Any]:
        """The command-line options of the run."""
        return self.run_record["asked"]  # type: ignore[no-any-return]

    @property
    def is_over(self) -> bool:
        """Whether the run has done its last update."""
        return bool(self.run_record["over"])

    @property
    def step(self) -> int:
        """Number of updates so far."""
        return int(self.progress.values["trainer"]["step"])

    def read_plan(self) -> Plan:
        """Return the plan of the run.

        Raises:
            Mismatch: this version does not know one of the settings.
            DamagedCheckpoint: the saved arrays do not fit the plan.
        """
        values: dict[str, Any] = dict(self.run_record["plan"])
        values |= {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        try:
            model = ModelSettings.from_dict(values.pop("model"))
            training = TrainingSettings.from_dict(values.pop("training"))
            plan = Plan(model, training, **values)
        except (InvalidValue, TypeError) as fault:
            raise Mismatch(
                f"{self.progress.folder}: its plan is from another version ({fault});"
                " update musicgen"
            ) from fault
        try:
            self._check_size(model, training)
        except InvalidValue as fault:
            message = f"its contents do not fit the plan ({fault})"
            raise damage_error(self.progress.folder, message) from fault
        return plan

    def _check_size(self, model: ModelSettings, training: TrainingSettings) -> None:
        """Check the sizes of the arrays, before anything is allocated. Raises InvalidValue."""
        check_weights(select_prefix("model", self.progress.arrays), model)
        lanes = len(self.progress.values["trainer"]["lanes"]["at"])
        if lanes != training.lanes:
            raise InvalidValue(f"lanes is {training.lanes}, and the state has {lanes}")
        if len(self.run_record["seen"]) != model.vocabulary_size:
            raise InvalidValue(
                f"seen does not have the {model.vocabulary_size} events of the model"
            )

    def refuse_other_flags(self, flags: Mapping[str, Any]) -> None:
        """Check that command-line flags do not contradict the run.

        Raises:
            Mismatch: a flag differs, and is not in CHANGEABLE_FLAGS.
        """
        for flag, value in flags.items():
            saved_value = self.get_flag_value(flag)
            if flag not in CHANGEABLE_FLAGS and value not in (
                saved_value,
                self.requested_options.get(flag),
            ):
                raise Mismatch(
                    f"--{flag.replace('_', '-')} {value}: the run that is resumed has"
                    f" {'none' if saved_value is None else saved_value}; leave the flag out, or"
                    " choose another --name"
                )

    def get_flag_value(self, flag: str) -> object:
        """Return the value of a flag in the run, derived from the corpus if it was not given."""
        if flag == "codec":
            return self.run_record["codec"]
        if flag in PLAN_FIELDS:
            table, name = PLAN_FIELDS[flag]
            value = self.run_record["plan"][table].get(name)
            return name_context(value or "") if name == "context" else value
        return self.requested_options.get(flag)

    def refuse_other_corpus(self, dataset: Dataset) -> None:
        """Check that a data set is the one that the run was trained on.

        Raises:
            Mismatch: its codec, vocabulary or fingerprint differs.
        """
        for name, saved_value, current_value in (
            ("codec", self.run_record["codec"], dataset.codec),
            ("vocabulary", self.run_record["vocabulary"], describe_vocabulary(dataset)),
            ("corpus", self.run_record["fingerprint"][:16], dataset.fingerprint[:16]),
        ):
            if saved_value != current_value:
                raise Mismatch(
                    f"{self.progress.folder}: its {name} was {saved_value}, now it is"
                    f" {current_value}; resume with the same tunes, or choose another --name"
                )

    def list_differences(self, current: Mapping[str, Any]) -> list[str]:
        """List how the machine differs; results are bit-identical only if it does not."""
        saved_machine = self.run_record["machine"]
        return [
            f"{name} was {saved_machine.get(name)}, now it is {value}: the last bits may differ"
            for name, value in current.items()
            if saved_machine.get(name) != value
        ]


def load_saved_run(folder: Path) -> SavedRun | None:
    """Return the last intact progress of a run, or None if nothing was saved."""
    progress, notes = load_latest_progress(folder)
    if progress is None:
        return None
    try:
        check_schema(progress.values, StateTable, "its values")
    except InvalidValue as fault:
        raise damage_error(progress.folder, str(fault)) from fault
    return SavedRun(progress, [f"{note}; using the previous one" for note in notes])


def is_finished(folder: Path) -> bool:
    """Tell whether a run is finished and its checkpoint is intact. Raises Mismatch."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        load_one(folder)
    except DamagedCheckpoint:
        return False
    return True


def describe_vocabulary(dataset: Dataset) -> str:
    """Identify a vocabulary by its size and a hash of its content."""
    content = json.dumps(dataset.vocabulary).encode()
    return f"{dataset.vocabulary_size} events ({hashlib.sha256(content).hexdigest()[:16]})"


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return json.loads(json.dumps(asdict(plan)))  # type: ignore[no-any-return]


def describe_machine(device: str, workers: int) -> dict[str, Any]:
    """Return what the bits of a result depend on, other than plan and corpus."""
    packages = {
        name: version
        for name, version in get_package_versions().items()
        if name in ("numpy", "torch")
    }
    return packages | {"processor": platform.machine(), "device": device, "threads": workers}
