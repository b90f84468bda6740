"""Frozen, validated settings: the shape of a model, and how it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from musicgen.errors import InvalidValue
from musicgen.typed_data import check_schema

CELLS: Final = ("lstm", "gru", "rnn", "irnn")
MOST_EPOCHS: Final = 1e6
MOST_MINUTES: Final = 1e6  # two years
MOST_SEED: Final = 2**63 - 1
MOST_LAYERS: Final = 64
MOST_UNITS: Final = 2**16
MOST_TOKENS: Final = 10**15  # per run
MOST_LANES: Final = 2**16  # lanes of a batch, or ids of a window
MOST_EVENTS: Final = 2**15  # ids are stored in 16 bits
_FRAME_SETS: Final = {  # of `tokens/frame_context.py`, with their bits
    "frame_tones": 12, "before_tones": 12, "recent_tones": 12,
    "under": 15, "over": 15, "near_chord": 15, "far_chord": 15,
}  # fmt: skip
HELD_FIELDS: Final = tuple(f"held{octave}" for octave in range(11))  # pitches, octave by octave
TONES_FIELDS: Final = ("tones0", "tones500", "tones1000", "tones2000")
MULTI_HOT_FIELDS: Final = {  # number of bits of the fields that are sets; the network reads bits
    "sounding": 12, "drums": 10, "onsets": 15, "kicks": 15, "tones": 12, "last_tones": 12,
    "prior_tones": 12, "next_tones": 12,
    **dict.fromkeys((*HELD_FIELDS, *TONES_FIELDS), 12),
    **_FRAME_SETS,
}  # fmt: skip
FRAME_LAGS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # frames
FRAME_LOOK_BACKS: Final = (*map(str, FRAME_LAGS), "_echo")  # suffixes of the fields that look back
FRAME_WIDTHS: Final = {  # the fields of `tokens/frame_context.py`; 0: for gates alone
    "of12": 8, "of16": 8, "of128": 8, "count": 8, "above": 0, "motion": 12, "first_motion": 12,
    "age": 8, "key": 12, **_FRAME_SETS,
    **{f"ago{name}": 32 if name == "1" else 0 for name in FRAME_LOOK_BACKS},
    **{f"apart{name}": 6 for name in FRAME_LOOK_BACKS},
    **{f"run{name}": 6 for name in FRAME_LOOK_BACKS},
}  # fmt: skip
FRAME_FIELDS: Final = tuple(FRAME_WIDTHS)
MOTION_OFFSETS: Final = {  # semitones from a looked-up pitch to those whose logits a gate adds to
    "ago1": range(-12, 13), "above": range(-24, 0),
}  # fmt: skip
CONTEXT_WIDTHS: Final = {  # inputs per field of a context: embedding width, or bits
    "position": 24, "left": 24, "bar": 24, "section": 8,
    **{f"lag{lag}": 48 for lag in (1, 2, 4, 8)}, **{f"match{lag}": 8 for lag in (1, 2, 4, 8)},
    "lowest": 24, "highest": 24, "until": 24, "root": 12, "quality": 8, "bass": 8,
    "role": 8, "family": 16, "next_role": 8, "own": 24, "fermata": 12, "mode": 8,
    "echo": 48, "alike": 8, "echoed": 8,
    "since": 16, **{f"interval{n}": 8 for n in (1, 2, 3)}, "due1": 16, "due2": 16,
    "held_count": 8, **{f"age{n}": 8 for n in (1, 2, 3)}, "low": 16, "high": 16,
    **{f"until{lag}": 8 for lag in (500, 1000, 2000, 4000)}, "repeat_run": 8, "motif_run": 8,
    **{f"ago{lag}": 24 for lag in (500, 1000, 2000, 4000)}, "repeat": 24, "motif": 24,
    **{f"oldest{n}": 24 for n in (1, 2, 3)}, "lowest_off": 24, "newest": 24,
    **FRAME_WIDTHS,
    **MULTI_HOT_FIELDS,
}  # fmt: skip
_POSITION_FIELDS: Final = "position left bar section"
_LOOK_BACK_FIELDS: Final = "lag1 lag2 lag4 lag8 match1 match2 match4 match8"
VERTICAL_FIELDS: Final = (  # of `tokens/vertical_context.py`
    "sounding", "lowest", "highest", "drums", "onsets", "kicks", "until", "root", "quality", "bass",
    "tones", "last_tones", "role", "family", "next_role", "own", "fermata",
    "prior_tones", "next_tones", "mode",
)  # fmt: skip
ECHO_FIELDS: Final = ("echo", "alike", "echoed")  # of `tokens/echo.py`
TIME_LOOK_UPS: Final = (  # of `tokens/time_context.py`
    "ago500", "ago1000", "ago2000", "ago4000", "repeat", "motif",
    "oldest1", "oldest2", "oldest3", "lowest_off", "newest",
)  # fmt: skip
TIME_FIELDS: Final = (  # of `tokens/time_context.py`
    "since", "interval1", "interval2", "interval3", "due1", "due2",
    "held_count", "age1", "age2", "age3", "low", "high",
    "until500", "until1000", "until2000", "until4000", "repeat_run", "motif_run",
    *TIME_LOOK_UPS,
    *HELD_FIELDS, *TONES_FIELDS,
)  # fmt: skip
LOOKED_UP_FIELDS: Final = (  # each is an id + 1, or 0
    "lag1", "lag2", "lag4", "lag8", "echo", *TIME_LOOK_UPS,
    *(f"ago{name}" for name in FRAME_LOOK_BACKS),
)  # fmt: skip
PARTS_FIELDS: Final = (*VERTICAL_FIELDS, *ECHO_FIELDS)  # what several parts and voices need
CONTEXTS: Final = {  # values of `musicgen train --context`, and the fields that a model then reads
    "all": f"{_POSITION_FIELDS} {_LOOK_BACK_FIELDS}",
    "all+vertical": f"{_POSITION_FIELDS} {_LOOK_BACK_FIELDS} {' '.join(PARTS_FIELDS)}",
    "position": _POSITION_FIELDS,
    "look-back": _LOOK_BACK_FIELDS,
    "time": " ".join(TIME_FIELDS),
    "none": "",
}
BEGIN_ID: Final = 0  # the id that is fed before a tune's first event; never predicted


def name_context(fields_read: str) -> str:
    """Return the name in CONTEXTS of some fields; the fields themselves where they have none."""
    return next((name for name, value in CONTEXTS.items() if value == fields_read), fields_read)


class Settings:
    """Base class of both kinds of settings, which are read from JSON."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a JSON object. Raises InvalidValue for an unknown key or a wrong type."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(values.keys() - names):
            raise InvalidValue(f"setting {unknown[0]!r} is unknown: update musicgen")
        check_schema(values, cls, "settings")
        return cls(**values)  # not converted: 0 and 0.0 differ in a fingerprint


@dataclass(frozen=True, slots=True)
class ModelSettings(Settings):
    """The shape of a recurrent language model: everything needed to rebuild it."""

    vocabulary_size: int  # number of events, including the begin event (id 0)
    cell: str = "lstm"
    layers: int = 2
    hidden: int = 256
    embedding: int = 256
    tied: bool = True  # the output layer shares the embedding weights
    dropout: float = 0.2  # between layers and before the output layer
    embedding_dropout: float = 0.05  # drops whole events
    weight_dropout: float = 0.0  # drops recurrent weights
    context: str = ""  # the fields of the score context that it reads, separated by spaces
    context_dropout: float = 0.0  # drops values of the look-back fields
    input_dropout: float = 0.0  # drops inputs of the first layer

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InvalidValue(f"cell {self.cell!r} is unknown: choose one of {', '.join(CELLS)}")
        for name, maximum in _MODEL_BOUNDS:
            _check_count(name, getattr(self, name), maximum)
        if unknown := sorted(set(self.context_fields) - set(CONTEXT_WIDTHS)):
            raise InvalidValue(f"context {unknown[0]!r} is unknown: update musicgen")
        if self.reads_frames and not set(self.context_fields) <= set(FRAME_FIELDS):
            raise InvalidValue("context mixes fields of frames with those of bars: choose one kind")
        for name in _DROPOUT_RATES:
            if not 0 <= getattr(self, name) < 1:
                raise InvalidValue(f"{name} is {getattr(self, name)}: it must be in 0..1")

    @property
    def context_fields(self) -> tuple[str, ...]:
        """The names of the fields of the score context that the model reads."""
        return tuple(self.context.split())

    @property
    def multi_hot_fields(self) -> tuple[str, ...]:
        """Those of them that are sets of bits; the others have embeddings."""
        return tuple(name for name in self.context_fields if name in MULTI_HOT_FIELDS)

    @property
    def reads_vertical(self) -> bool:
        """Whether the model reads fields of the vertical context or the echo."""
        return not set(PARTS_FIELDS).isdisjoint(self.context_fields)

    @property
    def reads_time(self) -> bool:
        """Whether the model reads fields of the context by time."""
        return not set(TIME_FIELDS).isdisjoint(self.context_fields)

    @property
    def reads_frames(self) -> bool:
        """Whether the model reads fields of the context of frames."""
        return not set(FRAME_FIELDS).isdisjoint(self.context_fields)

    @property
    def embedded_fields(self) -> tuple[str, ...]:
        """The fields that have embeddings: neither sets of bits nor for gates alone."""
        return tuple(
            name
            for name in self.context_fields
            if name not in MULTI_HOT_FIELDS and CONTEXT_WIDTHS[name]
        )

    @property
    def motions(self) -> tuple[str, ...]:
        """The fields that have a gate for each interval from the pitch that they looked up."""
        return tuple(name for name in self.context_fields if name in MOTION_OFFSETS)

    @property
    def lags(self) -> tuple[str, ...]:
        """The fields that look back; each has a gate that makes the event it saw more likely."""
        return tuple(name for name in self.context_fields if name in LOOKED_UP_FIELDS)

    @property
    def input_size(self) -> int:
        """The number of inputs of the first layer: the embedding of the id, and the context."""
        return self.embedding + sum(CONTEXT_WIDTHS[name] for name in self.context_fields)


@dataclass(frozen=True, slots=True)
class TrainingSettings(Settings):
    """How a model is trained."""

    tokens: int  # planned training tokens; the learning-rate schedule spans them
    lanes: int = 64  # rows of a batch
    bptt: int = 32  # BPTT window length in tokens (final)
    first_bptt: int = 0  # initial window length, growing linearly to bptt; 0: always bptt
    learning_rate: float = 7e-3  # peak rate, reached after the warm-up
    final_rate: float = 0.02  # at the end, as a share of the peak rate
    warmup: float = 0.03  # share of the planned tokens
    weight_decay: float = 0.02
    clip: float = 1.0  # maximum gradient norm
    evaluate_every: int = 0  # tokens between evaluations; 0: once per epoch or less often
    patience: int = 6  # evaluations without a lower validation loss before training stops
    precision: str = "fp32"  # of matrix products: fp32 or bf16; weights are fp32
    transposed: bool = False  # transpose tunes at random; for codecs that do not normalise keys
    seed: int = 1

    def __post_init__(self) -> None:
        for name, maximum in _TRAINING_BOUNDS:
            _check_count(name, getattr(self, name), maximum)
        if not 0 <= self.first_bptt <= self.bptt:
            raise InvalidValue(f"first_bptt is {self.first_bptt}: it must be in 0..{self.bptt}")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidValue(
                f"learning_rate is {self.learning_rate}: it must be above 0 and finite"
            )
        if not self.clip > 0:  # infinity disables clipping
            raise InvalidValue(f"clip is {self.clip}: it must be above 0")
        if self.precision not in ("fp32", "bf16"):
            raise InvalidValue(f"precision is {self.precision!r}: it must be fp32 or bf16")


_DROPOUT_RATES: Final = (
    "dropout", "embedding_dropout", "weight_dropout", "context_dropout", "input_dropout",
)  # fmt: skip
_MODEL_BOUNDS: Final = (
    ("vocabulary_size", MOST_EVENTS),
    ("layers", MOST_LAYERS),
    ("hidden", MOST_UNITS),
    ("embedding", MOST_UNITS),
)
_TRAINING_BOUNDS: Final = (
    ("tokens", MOST_TOKENS),
    ("lanes", MOST_LANES),
    ("bptt", MOST_LANES),
    ("patience", MOST_TOKENS),
)


def _check_count(name: str, count: int, maximum: int) -> None:
    if not 1 <= count <= maximum:
        raise InvalidValue(f"{name} is {count}: it must be 1 to {maximum:,}")
