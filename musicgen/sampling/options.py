"""Sampling options: what a user asks of a tune, checked once, from text or from JSON.

Where nothing is asked, the defaults are customary: tempos by dance and meter, tonics by mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from musicgen.errors import InvalidValue
from musicgen.music.general_midi import parse_program as program_number
from musicgen.music.score import STEPS_PER_WHOLE
from musicgen.music.theory import Key, Meter, parse_range, pitch_name
from musicgen.number_parsing import parse_decimal, parse_fraction, parse_integer, shorten
from musicgen.sampling.noise import TEMPERATURE_RANGE, Filter, min_p, temperature, top_k, top_p
from musicgen.tokens.constraints import DEFAULT_MAX_BARS
from musicgen.tokens.song_form import FREE, THROUGH, FormLayout, check_form, parse_form
from musicgen.typed_data import check_schema, decode_json

MOST_BARS: Final = 512
MIN_BARS: Final = 8  # of a tune without a named number of bars, unless its form is "free"
MOST_PICKUP: Final = 64 * STEPS_PER_WHOLE  # steps: the longest bar
TEMPO_RANGE: Final = (10, 1000)  # quarters a minute
MOST_TOP_K: Final = 10**6  # more than any codec has events
MAX_RHYTHM_LENGTH: Final = 100  # characters of a dance
ENDS: Final = ("any", "tonic")
LEAST_COPY: Final = 4  # notes; every tune shares three with some other
MOST_COPY: Final = 1000  # more than any tune has


def parse_pickup(text: str) -> int:
    """Read "none", steps ("24", 48 to the quarter) or a note value ("1/8")."""
    plain = text.strip().lower()
    if plain == "none":
        return 0
    with suppress(InvalidValue):
        steps = parse_fraction(plain, "pickup", 0, MOST_PICKUP)
        steps *= STEPS_PER_WHOLE if "/" in plain else 1
        if steps.denominator == 1 and steps <= MOST_PICKUP:
            return steps.numerator
    raise InvalidValue(
        f"pickup {shorten(text)!r} is unknown: write none, a note value such as 1/8, or steps,"
        " 48 to the quarter"
    )


class SamplingOptionsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wishes as JSON has them; their ranges are those of `Wishes`."""

    key: str | None = None
    meter: str | None = None
    rhythm: Annotated[str, Meta(max_length=MAX_RHYTHM_LENGTH)] | None = None
    bars: int | None = None
    min_bars: int | None = None
    form: str | None = None
    pickup: Annotated[int, Meta(ge=0, le=MOST_PICKUP)] | None = None
    range: str | None = None
    end: str | None = None
    tempo: int | float | None = None
    program: int | None = None
    temperature: int | float | None = None
    top_k: int | None = None
    top_p: int | float | None = None
    min_p: int | float | None = None
    max_copy: int | None = None


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """What is asked of a tune; None leaves it to the model."""

    key: Key | None = None
    meter: Meter | None = None
    rhythm: str | None = None
    bars: int | None = None  # as heard
    form: str | None = None  # letters, or "through"; "free" is None
    pickup: int | None = None  # steps; 0: none
    range: tuple[int, int] | None = None  # the lowest and the highest pitch, MIDI numbers
    end: str = "any"  # on which note: one of ENDS
    tempo: float | None = None  # quarters a minute
    program: int = 0  # General MIDI, 0..127
    temperature: float = 0.8  # 1 is the model as it is
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_copy: int | None = None  # notes in a row that a training tune may have too
    min_bars: int | None = None  # as heard, where neither bars nor letters fix their number

    def __post_init__(self) -> None:
        if self.bars is not None and not 1 <= self.bars <= MOST_BARS:
            raise InvalidValue(f"bars {self.bars}: ask for 1 to {MOST_BARS} bars")
        if self.tempo is not None and not TEMPO_RANGE[0] <= self.tempo <= TEMPO_RANGE[1]:
            slowest, fastest = TEMPO_RANGE
            raise InvalidValue(
                f"tempo {self.tempo}: choose {slowest} to {fastest} quarters a minute"
            )
        if not 0 <= self.program <= 127:
            raise InvalidValue(f"program {self.program}: choose 0 to 127, or a General MIDI name")
        if self.range is not None and not _is_range(self.range):
            raise InvalidValue(
                f"range {shorten(repr(self.range))}: name its lowest and highest note as two MIDI"
                ' numbers from 0 to 127, such as (62, 83), or as text: "D4-B5"'
            )
        if self.end not in ENDS:
            raise InvalidValue(f"end {self.end!r}: choose {' or '.join(ENDS)}")
        if self.max_copy is not None and not LEAST_COPY <= self.max_copy <= MOST_COPY:
            raise InvalidValue(
                f"max-copy {self.max_copy}: every tune shares three notes with some other; ask for"
                f" {LEAST_COPY} or more, up to {MOST_COPY:,}"
            )
        self._check_form()
        self._check_min_bars()
        _ = self.filters

    def _check_form(self) -> None:
        if self.form in (None, FREE):
            object.__setattr__(self, "form", None)
            return
        object.__setattr__(self, "form", check_form(self.form))
        layout = self.layout
        if self.pickup and layout is not None and not layout.allows_pickup:
            raise InvalidValue(
                f"pickup: the form {self.form} in {self.heard_bars} bars has none, for a part that"
                " returns would end in another bar; ask for more bars, or leave one of them out"
            )

    def _check_min_bars(self) -> None:
        if self.min_bars is None:
            return
        if not 1 <= self.min_bars <= DEFAULT_MAX_BARS:
            raise InvalidValue(
                f"min-bars {self.min_bars}: ask for 1 to {DEFAULT_MAX_BARS}, the most that a"
                f" tune has"
                " whose number of bars is free"
            )
        if self.heard_bars is not None:
            raise InvalidValue(
                f"min-bars {self.min_bars}: the tune has {self.heard_bars} bars, by --bars or"
                " --form; leave one of them out"
            )

    @property
    def layout(self) -> FormLayout | None:
        """The form laid out; None where bars and repeats are free."""
        if self.form is None or (self.form == THROUGH and self.bars is None):
            return None
        return FormLayout.of(self.form, self.bars)

    @property
    def heard_bars(self) -> int | None:
        """The bars that are to be heard, where their number is fixed."""
        layout = self.layout
        return sum(one.bars * one.plays for one in layout.sections) if layout else self.bars

    @property
    def filters(self) -> tuple[Filter, ...]:
        """What is done to the distribution before the noise. Raises InvalidValue."""
        found = [temperature(self.temperature)]
        if self.top_k is not None:
            found.append(top_k(self.top_k))
        if self.top_p is not None:
            found.append(top_p(self.top_p))
        if self.min_p is not None:
            found.append(min_p(self.min_p))
        return tuple(found)

    @classmethod
    def parse(cls, **options: Any) -> SamplingOptions:
        """Make wishes from values as a person writes them: key="Dmix", range="D4-B5"."""
        return cls(**cls.parse_changes(**options))

    @classmethod
    def from_recipe(cls, form: str | None = None, **options: Any) -> SamplingOptions:
        """Make wishes from those of a recipe, whose form may have any letters."""
        return replace(cls.parse(**options), form=form)

    @classmethod
    def parse_changes(cls, **options: Any) -> dict[str, Any]:
        """Read some wishes, by their names. Raises InvalidValue for one that there is none of."""
        unknown = sorted(options.keys() - {entry.name for entry in fields(cls)})
        if unknown:
            known = ", ".join(entry.name for entry in fields(cls))
            raise InvalidValue(f"{unknown[0]!r} cannot be asked for: choose from {known}")
        for name, reader in _READERS.items():
            if isinstance(options.get(name), str):
                options[name] = reader(options[name])
        options = {name: _to_python_value(value) for name, value in options.items()}
        plain = {n: v for n, v in options.items() if not isinstance(v, _PARSED_TYPES.get(n, ()))}
        check_schema(plain, SamplingOptionsTable, "what is asked for")
        return options

    @classmethod
    def from_table(cls, table: SamplingOptionsTable) -> SamplingOptions:
        """Make wishes of checked JSON. Raises InvalidValue for one that is out of range."""
        said = {name: getattr(table, name) for name in table.__struct_fields__}
        return cls.from_recipe(**{name: value for name, value in said.items() if value is not None})

    def to_json(self) -> str:
        """Write them as text: those that are not the plain ones, as a person would."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> SamplingOptions:
        """Read what `to_json` wrote."""
        return cls.from_table(decode_json(text, SamplingOptionsTable, "what is asked for"))

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the plain wishes, as values that JSON has."""
        plain = asdict(SamplingOptions())
        told = {name: getattr(self, name) for name in plain if getattr(self, name) != plain[name]}
        return {name: _WRITERS.get(name, _identity)(value) for name, value in told.items()}


def _to_python_value(value: Any) -> Any:
    """Return the values of NumPy as Python's own, and lists as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_to_python_value, value)) if isinstance(value, list | tuple) else value


def _is_range(value: tuple[Any, ...]) -> bool:
    """Tell whether a value is the lowest and the highest pitch."""
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(one) is int for one in value)
    return whole and 0 <= value[0] <= value[1] <= 127


def _make_integer_reader(name: str, low: int, high: int) -> Callable[[str], int]:
    return lambda text: parse_integer(text, name, low, high)


def _make_decimal_reader(name: str, low: float, high: float) -> Callable[[str], float]:
    return lambda text: parse_decimal(text, name, low, high)


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "key": Key.parse,
    "meter": Meter.parse,
    "form": parse_form,
    "program": program_number,
    "pickup": parse_pickup,
    "range": parse_range,
    "bars": _make_integer_reader("bars", 1, MOST_BARS),
    "min_bars": _make_integer_reader("min-bars", 1, DEFAULT_MAX_BARS),
    "top_k": _make_integer_reader("top-k", 1, MOST_TOP_K),
    "max_copy": _make_integer_reader("max-copy", LEAST_COPY, MOST_COPY),
    "tempo": _make_decimal_reader("tempo", *TEMPO_RANGE),
    "temperature": _make_decimal_reader("temperature", *TEMPERATURE_RANGE),
    "top_p": _make_decimal_reader("top-p", 0, 1),
    "min_p": _make_decimal_reader("min-p", 0, 1),
}
_PARSED_TYPES: Final[Mapping[str, type]] = {
    "key": Key,
    "meter": Meter,
    "range": tuple,
}  # not JSON's own


def _identity(value: Any) -> Any:
    return value


def range_text(lowest_and_highest: tuple[int, int]) -> str:
    """Write a range as it is read: "D4-B5"."""
    return "-".join(map(pitch_name, lowest_and_highest))


_WRITERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "key": str,
    "meter": str,
    "range": range_text,
}

# Quarters a minute at which a tune is played where none is asked for: by dance, else by meter.
RHYTHM_QPM: Final[Mapping[str, float]] = {
    "air": 80, "clog": 150, "double jig": 174, "fling": 160, "highland fling": 160, "hornpipe": 160,
    "jig": 174, "march": 110, "reel": 200, "set dance": 160, "single jig": 180, "slide": 190,
    "slip jig": 174, "strathspey": 136, "waltz": 150,
}  # fmt: skip
METER_QPM: Final[Mapping[str, float]] = {
    "2/2": 180, "2/4": 112, "3/2": 140, "3/4": 132, "4/4": 150, "6/4": 150,
    "3/8": 132, "6/8": 165, "9/8": 165, "12/8": 165,
}  # fmt: skip
# Tonics as tunebooks use them, for models that do not say what they learnt from.
TONICS: Final[Mapping[str, Mapping[str, int]]] = {
    "major": {"D": 4, "G": 4, "A": 2, "C": 1, "F": 1, "Bb": 1},
    "minor": {"A": 3, "E": 2, "D": 2, "G": 2, "B": 1},
    "dorian": {"D": 2, "E": 2, "A": 2, "G": 1},
    "mixolydian": {"D": 2, "A": 2, "G": 1},
    "lydian": {"G": 1, "F": 1}, "phrygian": {"E": 1, "A": 1}, "locrian": {"B": 1, "E": 1},
}  # fmt: skip
USUAL_QPM: Final = 120.0


def describe_unseen_dance(
    dance_counts: Mapping[str, Mapping[str, int]], rhythm: str, meter: str
) -> str | None:
    """Say that no training tune is such a dance in such a meter; None where some is.

    Args:
        dance_counts: how many training tunes there are of each dance in each meter.
        rhythm: the dance that is asked for.
        meter: the meter that is asked for.
    """
    meters = dance_counts.get(rhythm, {})
    if not meters or meter in meters:
        return None
    known = ", ".join(sorted(meters, key=lambda name: -meters[name]))
    return f"the corpus has no {rhythm} in {meter}, only in {known}; it is written anyway"


def usual_qpm(rhythm: str, meter: str) -> float:
    """Return the quarters a minute at which a dance, or a meter, is played."""
    return RHYTHM_QPM.get(rhythm) or METER_QPM.get(meter, USUAL_QPM)
