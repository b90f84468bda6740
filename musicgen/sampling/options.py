"""Sampling options, checked once, and what holds without them: form, tempo and tonic.

Defaults that depend on the tune are customary: tempos by dance and meter, tonics by mode. The
default form is AABB, the most common form of dance tunes; a recipe records the completed options,
so a recipe without a form leaves the form to the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from musicgen.checkpoint import Manifest
from musicgen.errors import InvalidValue
from musicgen.music.accompaniment import AUTO, NONE
from musicgen.music.score import CHOIR_ROLES, UPPER_VOICE_ROLES
from musicgen.music.symbols_part import LEAD_SHEET_ROLES
from musicgen.music.theory import Key, Meter
from musicgen.sampling.cadences import CadencePoints
from musicgen.sampling.noise import Filter, min_p, temperature, top_k, top_p
from musicgen.sampling.option_table import OPTIONS, OPTIONS_BY_NAME
from musicgen.sampling.part_requests import PartRequest, PartRequests, RolePrograms
from musicgen.sampling.role_values import RoleRanges, RoleValues, get_common_range
from musicgen.tokens.registry import find_codec
from musicgen.tokens.song_form import FREE, THROUGH, FormLayout, check_form
from musicgen.tokens.vocabulary import MEASURES
from musicgen.typed_data import check_schema, decode_json, shorten

if TYPE_CHECKING:
    _OptionFields = msgspec.Struct
else:
    _OptionFields = msgspec.defstruct(
        "_OptionFields",
        [(option.name, option.json_annotation, None) for option in OPTIONS],
        frozen=True,
        forbid_unknown_fields=True,
    )


MIN_BARS: Final = 8  # of a tune without a given number of bars, unless its form is "free"


class SamplingOptionsTable(_OptionFields, frozen=True, forbid_unknown_fields=True):
    """The sampling options as JSON; None is an option that is not given."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The options of one tune, as `option_table.OPTIONS` describes them.

    None leaves a choice to the model. The order of the fields is the order in a recipe.
    """

    key: Key | None = None
    meter: Meter | None = None
    rhythm: str | None = None
    bars: int | None = None  # as heard
    form: str | None = None  # letters, or "through"; "free" is None
    pickup: int | None = None  # steps; 0: none
    # the lowest and the highest pitch, MIDI note numbers, of all parts or by role
    range: tuple[int, int] | RoleRanges | None = None
    end: str = "any"  # last note: "any", "tonic" or "cadence"; of choirs also "close"
    tempo: float | None = None  # quarter notes per minute
    program: int | RolePrograms = 0  # General MIDI, 0..127
    temperature: float = 0.8  # 1: the model's distribution unchanged
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_copy: int | None = None  # notes in a row that a training tune may have too
    parts: PartRequests | None = None
    parts_from: PartRequests | None = None  # the line-up of a file
    min_bars: int | None = None  # as heard, where neither bars nor letters fix their number
    density: RoleValues | None = None  # "low", "medium" or "high" by role
    polyphony: RoleValues | None = None  # the most notes at once by role
    cadence: CadencePoints | None = None  # kinds by bar, of voices
    accompaniment: str = NONE  # one of accompaniment.ACCOMPANIMENTS

    def __post_init__(self) -> None:
        for option in OPTIONS:
            if not option.is_filter:
                option.check(getattr(self, option.name))
        if self.range is not None and not _is_range(self.range):
            raise InvalidValue(
                f"range {shorten(repr(self.range))}: name its lowest and highest note as two MIDI"
                ' numbers from 0 to 127, such as (62, 83), or as text: "D4-B5"'
            )
        self._check_form()
        self._check_min_bars()
        self._check_parts()
        _ = self.filters  # each checks its own value

    def _check_form(self) -> None:
        if self.form in (None, FREE):
            object.__setattr__(self, "form", None)
            return
        object.__setattr__(self, "form", check_form(self.form))
        layout = self.layout
        if self.pickup and layout is not None and not layout.allows_pickup:
            raise InvalidValue(
                f"pickup: the form {self.form} in {self.heard_bars} bars cannot have one, since a"
                " part that returns would end in a different bar; ask for more bars, or leave one"
                " of them out"
            )

    def _check_min_bars(self) -> None:
        if self.min_bars is not None and self.heard_bars is not None:
            raise InvalidValue(
                f"min-bars {self.min_bars}: the tune has {self.heard_bars} bars, by --bars or"
                " --form; leave one of them out"
            )

    def _check_parts(self) -> None:
        for name in ("parts", "parts_from"):
            value = getattr(self, name)
            if value is not None and not all(isinstance(part, PartRequest) for part in value):
                raise InvalidValue(
                    f"{name} {shorten(repr(value))}: write it as text, such as melody,bass,drums"
                )
        if self.parts is not None and self.parts_from is not None:
            raise InvalidValue("parts and parts-from both name the parts; leave one of them out")

    @property
    def requested_parts(self) -> PartRequests | None:
        """The requested line-up; None leaves it to the model."""
        return self.parts if self.parts is not None else self.parts_from

    @property
    def ends_on_tonic(self) -> bool:
        """Whether the last note must be a tonic."""
        return self.end in ("tonic", "cadence")

    @property
    def common_range(self) -> tuple[int, int] | None:
        """The requested range of all parts whose roles have none of their own."""
        return get_common_range(self.range)

    @property
    def layout(self) -> FormLayout | None:
        """The sections of the form; None where bars and repeats are free."""
        if self.form is None or (self.form == THROUGH and self.bars is None):
            return None
        return FormLayout.of(self.form, self.bars)

    @property
    def heard_bars(self) -> int | None:
        """The number of bars as heard, where it is fixed."""
        layout = self.layout
        if layout is None:
            return self.bars
        return sum(section.bars * section.plays for section in layout.sections)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """The filters of the distribution, in the order in which they apply.

        Raises:
            InvalidValue: a filter's value is out of range.
        """
        makers = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
        values = {name: getattr(self, name) for name in makers}
        return (
            temperature(self.temperature),
            *(makers[name](value) for name, value in values.items() if value is not None),
        )

    @classmethod
    def parse(cls, **options: Any) -> SamplingOptions:
        """Make options from values or text: key="Dmix", range="D4-B5", bars=16.

        Raises:
            InvalidValue: an option is unknown, or its value is not valid.
        """
        return cls(**cls.parse_changes(**options))

    @classmethod
    def from_recipe(cls, form: str | None = None, **options: Any) -> SamplingOptions:
        """Make options from those of a recipe, whose form may have any letters.

        Raises:
            InvalidValue: an option is unknown, or its value is not valid.
        """
        return replace(cls.parse(**options), form=form)

    @classmethod
    def parse_changes(cls, **options: Any) -> dict[str, Any]:
        """Parse some options by name, without the defaults of the others.

        Raises:
            InvalidValue: an option is unknown, or its value is of the wrong type.
        """
        unknown = sorted(options.keys() - OPTIONS_BY_NAME.keys())
        if unknown:
            raise InvalidValue(
                f"option {unknown[0]!r} is unknown: choose from {', '.join(OPTIONS_BY_NAME)}"
            )
        values = {
            name: OPTIONS_BY_NAME[name].parse(text)
            if isinstance(text := _join_words(value), str)
            else _to_python_value(value)
            for name, value in options.items()
        }
        json_values = {
            name: value
            for name, value in values.items()
            if not isinstance(value, OPTIONS_BY_NAME[name].value_type or ())
        }
        check_schema(json_values, SamplingOptionsTable, "the options")
        return values

    @classmethod
    def from_table(cls, table: SamplingOptionsTable) -> SamplingOptions:
        """Make options from JSON that fits the schema.

        Raises:
            InvalidValue: a value is out of range.
        """
        values = msgspec.structs.asdict(table)
        given = {name: value for name, value in values.items() if value is not None}
        return cls.from_recipe(**given)

    def to_json(self) -> str:
        """Return the options that differ from their defaults, as JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> SamplingOptions:
        """Parse what `to_json` returned.

        Raises:
            InvalidValue: the text is not JSON, or an option is unknown or not valid.
        """
        return cls.from_table(decode_json(text, SamplingOptionsTable, "the options"))

    def to_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as JSON values by name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {
            name: OPTIONS_BY_NAME[name].to_json(value)
            for name, value in values.items()
            if value != OPTIONS_BY_NAME[name].default
        }


def _join_words(value: Any) -> Any:
    """Return words such as ("bass", "drums") as one text, and other values as they are."""
    is_words = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
    return ",".join(value) if is_words and value else value


def _to_python_value(value: Any) -> Any:
    """Convert NumPy's values to Python's own, and lists to tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_to_python_value, value)) if isinstance(value, list | tuple) else value


def _is_range(value: tuple[Any, ...] | RoleRanges) -> bool:
    """Return whether a value is a lowest and a highest MIDI note number, or ranges by role."""
    if isinstance(value, RoleRanges):
        return True
    is_pair = isinstance(value, tuple) and len(value) == 2
    return is_pair and all(type(note) is int for note in value) and 0 <= value[0] <= value[1] <= 127


# Customary tempos in quarter notes per minute: by dance, else by meter.
RHYTHM_QPM: Final[Mapping[str, float]] = {
    "air": 80, "chorale": 84, "clog": 150, "double jig": 174, "fling": 160, "highland fling": 160,
    "hornpipe": 160, "jig": 174, "march": 110, "reel": 200, "set dance": 160, "single jig": 180,
    "slide": 190, "slip jig": 174, "strathspey": 136, "waltz": 150,
}  # fmt: skip
METER_QPM: Final[Mapping[str, float]] = {
    "2/2": 180, "2/4": 112, "3/2": 140, "3/4": 132, "4/4": 150, "6/4": 150,
    "3/8": 132, "6/8": 165, "9/8": 165, "12/8": 165,
}  # fmt: skip
# How often tunebooks use each tonic of a mode, for models whose manifest does not count them.
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
    """Warn that the training tunes have a dance in other meters only.

    Args:
        dance_counts: number of training tunes by dance and meter.
        rhythm: the dance.
        meter: its meter, such as "6/8".

    Returns:
        The warning; None where the corpus has the dance in this meter, or not at all.
    """
    meters = dance_counts.get(rhythm, {})
    if not meters or meter in meters:
        return None
    by_count = ", ".join(sorted(meters, key=lambda name: -meters[name]))
    return f"the corpus has no {rhythm} in {meter}, only in {by_count}; it is written anyway"


def usual_qpm(rhythm: str, meter: str) -> float:
    """Return the customary tempo of a dance, else of a meter, in quarter notes per minute."""
    return RHYTHM_QPM.get(rhythm) or METER_QPM.get(meter, USUAL_QPM)


DEFAULT_FORM: Final = "AABB"  # 32 bars, as every form has 8 bars a letter
_PART_OPTIONS: Final = ("parts", "parts_from", "max_copy")  # and these, the default parts
# of models that know these roles, the first that fits; a free line-up may be one part alone
_DEFAULT_LINEUPS: Final = (
    CHOIR_ROLES,
    LEAD_SHEET_ROLES,
    ("melody", "bass", "drums"),
    ("melody", "chords"),
)
CHOIR_BARS: Final = 16  # of a tune without form and number of bars
BAND_BARS: Final = 32
_FORM_OPTIONS: Final = ("form", "bars", "min_bars")  # any of them leaves the default form out


def complete_options(
    requested: Mapping[str, Any], manifest: Manifest, *, has_primer: bool = False
) -> SamplingOptions:
    """Make options from those that a user gave, with defaults for the others.

    The temperature and the filters are those that the model is best sampled with. A model that
    writes chord symbols plays them. A model without repeats in its training data, or a primer,
    which may be longer than the form, gets a free form of at least MIN_BARS bars; so does the form
    `through` without a number of bars. A model of choirs writes 16 bars for four voices that close
    with a cadence, a model of bands 32 bars for a small band: both repeat themselves rather than
    end. Bars with cadences are counted as written, so a tune with cadences is not repeated without
    a form.

    Args:
        requested: options by name, as values or text; None is an option that is not given.
        manifest: of the model.
        has_primer: whether the tune starts from given notes.

    Raises:
        InvalidValue: an option is unknown or not valid.
    """
    named = {
        name: value
        for name, value in SamplingOptions.parse_changes(**requested).items()
        if value is not None
    }
    defaults = {**manifest.sampling, **find_accompaniment_default(manifest.seen, manifest.codec)}
    if find_codec(manifest.codec).has_bars and choose_choir(manifest.seen):
        defaults["end"] = "close"
    options = SamplingOptions(**{**defaults, **named})
    if not find_codec(manifest.codec).has_bars:
        return options
    if not has_primer and named.keys().isdisjoint(_PART_OPTIONS):
        options = replace(options, parts=choose_default_parts(manifest.seen))
    if options.cadence is not None and options.form is None and not has_primer:
        most = options.bars or max(CHOIR_BARS, options.cadence.last_bar)
        return replace(options, form=THROUGH, bars=most, min_bars=None)
    if named.keys().isdisjoint(_FORM_OPTIONS):
        form = FREE if has_primer else choose_default_form(manifest.seen)
        bars = choose_default_bars(manifest.seen) if form == FREE and not has_primer else None
        needs_minimum = form == FREE and bars is None
        return replace(options, form=form, bars=bars, min_bars=MIN_BARS if needs_minimum else None)
    if options.form == THROUGH and options.bars is None and options.min_bars is None:
        return replace(options, min_bars=MIN_BARS)
    return options


def find_accompaniment_default(event_counts: Sequence[int], codec: str) -> dict[str, str]:
    """Return the default accompaniment of a model that writes chord symbols; else none.

    Args:
        event_counts: how often each event occurs in the training part, by id.
        codec: its name.
    """
    if not find_codec(codec).has_bars:
        return {}
    chord_ids = MEASURES.ranges["chord"]
    has_chords = any(event_counts[chord_ids.start : chord_ids.stop])
    return {"accompaniment": AUTO} if has_chords else {}


def choose_default_parts(event_counts: Sequence[int]) -> PartRequests | None:
    """Return the default parts: those of a choir, a lead sheet or a band; None: the model's choice.

    Args:
        event_counts: how often each event occurs in the training part, by id.
    """
    choices = (_choose_lineup(roles, event_counts) for roles in _DEFAULT_LINEUPS)
    return next(filter(None, choices), None)


def choose_lead_sheet(event_counts: Sequence[int]) -> PartRequests | None:
    """Return the parts of a lead sheet, melody and chord symbols, if a model writes them."""
    return _choose_lineup(LEAD_SHEET_ROLES, event_counts)


def choose_choir(event_counts: Sequence[int]) -> PartRequests | None:
    """Return the four voices of a choir, if a model writes them."""
    return _choose_lineup(CHOIR_ROLES, event_counts)


def _choose_lineup(roles: Sequence[str], event_counts: Sequence[int]) -> PartRequests | None:
    """Return parts of some roles, if a model knows all of them and their number."""
    counts = dict(enumerate(event_counts))
    needed = MEASURES.id("lineup", len(roles)), *(MEASURES.id("role", role) for role in roles)
    return tuple(map(PartRequest, roles)) if all(counts.get(i, 0) > 0 for i in needed) else None


def choose_default_bars(event_counts: Sequence[int]) -> int | None:
    """Return the default number of bars of a free form; None leaves it to the model.

    Args:
        event_counts: how often each event occurs in the training part, by id.
    """
    if choose_choir(event_counts):
        return CHOIR_BARS
    return BAND_BARS if choose_default_parts(event_counts) else None


def choose_default_form(event_counts: Sequence[int]) -> str:
    """Return the default form of a model with bars: free for choirs, and without repeats.

    Args:
        event_counts: how often each event occurs in the training part, by id.
    """
    signs = MEASURES.id("repeat_start"), MEASURES.id("repeat_end", 2)
    counts = dict(enumerate(event_counts))
    has_repeats = all(counts.get(id_, 0) > 0 for id_ in signs)
    has_voices = any(counts.get(MEASURES.id("role", role), 0) > 0 for role in UPPER_VOICE_ROLES)
    return DEFAULT_FORM if has_repeats and not has_voices else FREE
