"""The sampling options as one table.

The command line, the API schema, the page's controls, `SamplingOptions` and recipes read their
option names, help texts, bounds and conversions from `OPTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Meta

from musicgen.errors import InvalidValue
from musicgen.music.accompaniment import ACCOMPANIMENTS, NONE
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.score import STEPS_PER_WHOLE
from musicgen.music.theory import Key, Meter
from musicgen.sampling.cadences import CadencePoints, parse_cadences
from musicgen.sampling.noise import TEMPERATURE_RANGE
from musicgen.sampling.part_requests import (
    RolePrograms,
    format_parts,
    format_programs,
    parse_parts,
    parse_programs,
)
from musicgen.sampling.role_values import (
    RoleRanges,
    RoleValues,
    format_ranges,
    parse_densities,
    parse_polyphony,
    parse_ranges,
)
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.constraints import DEFAULT_MAX_BARS
from musicgen.tokens.song_form import parse_form
from musicgen.typed_data import parse_decimal, parse_fraction, parse_integer, shorten

MAX_BARS: Final = 512
MAX_TEXT: Final = 300  # characters of a line-up
MIN_TEMPO, MAX_TEMPO = 10, 1000  # quarter notes per minute
MAX_PICKUP: Final = 64 * STEPS_PER_WHOLE  # steps: the longest bar
MIN_COPY, MAX_COPY = 4, 1000  # notes: any two tunes share three; no tune has a thousand
# Suggestions for `form`; any letters from A to H are accepted.
COMMON_FORMS: Final = ("AABB", "AABA", "AABBCC", "ABAC", "AABC", "AB", "AA", "through", "free")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One sampling option.

    Attributes:
        name: the field of `SamplingOptions`, of a recipe and of an API request.
        help: what the option does, for --help and /openapi.json.
        json_type: the type of the value in a recipe: str, int or float.
        default: the value where the option is not given.
        parser: reads a value that a person wrote; None: plain text, or a number within the bounds.
        formatter: writes a value for JSON; None: JSON has the value's type.
        value_type: the type or types that `parser` returns, where JSON does not have them.
        metavar: the value's name in --help; None: click's own.
        least: smallest number accepted.
        most: largest number accepted; of text, the most characters.
        choices: the only values accepted, where they are few.
        remedy: how an error about the bounds goes on; "": the bounds themselves.
        page_range: lowest value, highest value and step of the page's control, where they are
            not the bounds of a whole number.
        may_be_text: whether a value in JSON may be text although its usual type is a number.
        is_repeatable: whether the option may be given several times on the command line.
        is_file: whether the command line reads the value from a file; elsewhere it is its text.
        is_filter: whether the option only changes how an id is drawn from the distribution; every
            codec offers these.
    """

    name: str
    help: str
    json_type: type[str | int | float]
    default: Any = None
    parser: Callable[[str], object] | None = None
    formatter: Callable[[Any], str | int] | None = None
    value_type: type | tuple[type, ...] | None = None
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    remedy: str = ""
    page_range: tuple[float, float, float] | None = None
    may_be_text: bool = False
    is_repeatable: bool = False
    is_file: bool = False
    is_filter: bool = False

    @property
    def flag(self) -> str:
        """The name on the command line, without dashes before it: top-k."""
        return self.name.replace("_", "-")

    def parse(self, text: str) -> object:
        """Parse a value that a person wrote.

        Raises:
            InvalidValue: the text is not a value of the option.
        """
        if self.parser is not None:
            return self.parser(text)
        if self.json_type is int:
            return parse_integer(text, self.flag, int(self.least or 0), int(self.most or 0))
        if self.json_type is float:
            return parse_decimal(text, self.flag, self.least or 0, self.most or 0)
        return text

    def to_json(self, value: object) -> str | int | float | None:
        """Convert a value to what JSON has: a key to "D mixolydian", a range to "D4-B5"."""
        json_value: Any = self.formatter(value) if self.formatter else value
        return json_value  # type: ignore[no-any-return]

    def check(self, value: object) -> None:
        """Check a value against the bounds or the choices.

        Raises:
            InvalidValue: the value is out of bounds, or not one of the choices.
        """
        if self.choices and value not in self.choices:
            raise InvalidValue(f"{self.flag} {value!r}: choose {' or '.join(self.choices)}")
        if self.value_type is not None and isinstance(value, self.value_type):
            return  # checked when it was made
        if self.json_type is str or value is None or self.least is None or self.most is None:
            return
        if not isinstance(value, int | float) or not self.least <= value <= self.most:
            remedy = self.remedy or f"choose {self.least:g} to {self.most:g}"
            raise InvalidValue(f"{self.flag} {value}: {remedy}")

    @property
    def json_annotation(self) -> object:
        """The annotation of the option's field in the schema of a recipe."""
        if self.json_type is float:
            return int | float | None
        if self.json_type is str and self.most is not None:
            return Annotated[str, Meta(max_length=int(self.most))] | None
        if self.may_be_text:
            return self.json_type | Annotated[str, Meta(max_length=MAX_TEXT)] | None
        return self.json_type | None

    @property
    def control(self) -> dict[str, Any]:
        """The page's bounds: `min`, `max` and `step`, or `choices`; empty for free text."""
        if self.choices:
            return {"choices": list(self.choices)}
        bounds = self.page_range
        if bounds is None and self.json_type is int and self.parser is None:
            bounds = (self.least or 0, self.most or 0, 1)
        return {} if bounds is None else dict(zip(("min", "max", "step"), bounds, strict=True))


def parse_pickup(text: str) -> int:
    """Parse the length of a pickup: "none", a note value ("1/8"), or steps ("24").

    Returns:
        The length in steps, 48 to the quarter note; 0 for none.

    Raises:
        InvalidValue: the text is none of these, or longer than the longest bar.
    """
    plain = text.strip().lower()
    if plain == "none":
        return 0
    with suppress(InvalidValue):
        steps = parse_fraction(plain, "pickup", 0, MAX_PICKUP)
        steps *= STEPS_PER_WHOLE if "/" in plain else 1
        if steps.denominator == 1 and steps <= MAX_PICKUP:
            return steps.numerator
    raise InvalidValue(
        f"pickup {shorten(text)!r} is unknown: write none, a note value such as 1/8, or steps,"
        " 48 to the quarter"
    )


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        name="key",
        help="Tonic and mode: D, Am, Edor, Dmix, Bb minor.",
        json_type=str, parser=Key.parse, formatter=str, value_type=Key, metavar="KEY",
    ),
    Option(
        name="meter",
        help="Time signature, such as 6/8.",
        json_type=str, parser=Meter.parse, formatter=str, value_type=Meter, metavar="METER",
    ),
    Option(
        name="rhythm",
        help="Dance type: jig, reel, hornpipe, slip jig, ...",
        json_type=str, most=100,
    ),
    Option(
        name="bars",
        help="Exact number of bars as heard, repeats included; without a form, the model chooses"
        " the form.",
        json_type=int, least=1, most=MAX_BARS, remedy=f"ask for 1 to {MAX_BARS} bars",
    ),
    Option(
        name="min_bars",
        help="Minimum number of bars as heard, where neither bars nor the letters of a form fix"
        " the number.",
        json_type=int, least=1, most=DEFAULT_MAX_BARS,
        remedy=f"ask for 1 to {DEFAULT_MAX_BARS}, the maximum of a tune whose number of bars is"
        " not fixed",
    ),
    Option(
        name="form",
        help="Parts of equal length by letters A to H, 8 bars per letter unless the number of bars"
        " is given: AABB is two repeated parts, in ABAC the A returns note for note; through: no"
        " repeats; free: the model chooses the form and the number of bars.",
        json_type=str, parser=parse_form, metavar="FORM",
    ),
    Option(
        name="pickup",
        help="Length of the pickup: none, a note value (1/8), or steps, 48 to the quarter note.",
        json_type=int, parser=parse_pickup, metavar="none|1/8|STEPS", least=0, most=MAX_PICKUP,
        remedy=f"choose 0 to {MAX_PICKUP} steps, 48 to the quarter",
    ),
    Option(
        name="range",
        help="Lowest and highest note, such as D4-B5; bass=E1-G2 is the range of a role.",
        json_type=str, parser=parse_ranges, formatter=format_ranges,
        value_type=(tuple, RoleRanges), metavar="LOW-HIGH|ROLE=LOW-HIGH", most=MAX_TEXT,
    ),
    Option(
        name="end",
        help="Last note: any; tonic; or cadence, a tonic that starts on a beat and lasts to the end"
        " of the last bar, where it may be repeated. close, the default of choirs: phrases end with"
        " an authentic cadence and the tune with a cadence to the tonic, where one of some draws"
        " has it.",
        json_type=str, choices=("any", "tonic", "cadence", "close"), default="any",
    ),
    Option(
        name="program",
        help="General MIDI instrument: 0 to 127, or a name (flute); of several parts, of the first"
        " that is not of drums. bass=33 is the instrument of a role; may be given several times.",
        json_type=int, parser=parse_programs, formatter=format_programs, value_type=RolePrograms,
        may_be_text=True, is_repeatable=True, metavar="NAME|N|ROLE=N", least=0,
        most=len(PROGRAMS) - 1, default=0,
        remedy=f"choose 0 to {len(PROGRAMS) - 1}, or a General MIDI name",
    ),
    Option(
        name="parts",
        help="Parts by role, in this order: melody,bass,drums; also chords, pad and any. melody:73"
        " also names the instrument.",
        json_type=str, parser=parse_parts, formatter=format_parts, value_type=tuple,
        metavar="ROLES", most=MAX_TEXT,
    ),
    Option(
        name="parts_from",
        help="A file whose parts the tune is to have: the same roles and instruments.",
        json_type=str, parser=parse_parts, formatter=format_parts, value_type=tuple,
        metavar="FILE", most=MAX_TEXT, is_file=True,
    ),
    Option(
        name="density",
        help="How many notes start in a bar of a role's parts: drums=low,bass=high. low, medium and"
        " high are thirds of the training data's bars; a bar without notes counts as none.",
        json_type=str, parser=parse_densities, formatter=str, value_type=RoleValues,
        metavar="ROLE=low|medium|high", most=MAX_TEXT,
    ),
    Option(
        name="polyphony",
        help="The most notes at once of a role's parts: chords=3,melody=1.",
        json_type=str, parser=parse_polyphony, formatter=str, value_type=RoleValues,
        metavar="ROLE=N", most=MAX_TEXT,
    ),
    Option(
        name="cadence",
        help="How phrases of a choir end, by bar: 8=half,16=authentic; also plagal and deceptive. A"
        " pickup is bar 0.",
        json_type=str, parser=parse_cadences, formatter=str, value_type=CadencePoints,
        metavar="BAR=KIND", most=MAX_TEXT,
    ),
    Option(
        name="accompaniment",
        help="How chord symbols are played, in sound, MIDI and the page: boom-chick, jig, waltz,"
        " arpeggio; auto, by the meter; or none. A model that writes chord symbols plays auto.",
        json_type=str, choices=ACCOMPANIMENTS, default=NONE,
    ),
    Option(
        name="tempo",
        help="Tempo in quarter notes per minute.",
        json_type=float, metavar="QPM", least=MIN_TEMPO, most=MAX_TEMPO,
        remedy=f"choose {MIN_TEMPO} to {MAX_TEMPO} quarter notes per minute",
        page_range=(MIN_TEMPO, MAX_TEMPO, 1),
    ),
    Option(
        name="temperature",
        help="Divisor of the log-probabilities: 1 leaves the model's distribution unchanged, lower"
        " values favour likely events, higher values unlikely ones.",
        json_type=float, least=TEMPERATURE_RANGE[0], most=TEMPERATURE_RANGE[1], default=0.8,
        page_range=(0.1, 1.6, 0.05), is_filter=True,
    ),
    Option(
        name="top_k",
        help="Sample from the K most likely events only.",
        json_type=int, least=1, most=10**6, is_filter=True,  # no codec has a million events
    ),
    Option(
        name="top_p",
        help="Nucleus sampling: sample from the most likely events with cumulative probability P.",
        json_type=float, least=0, most=1, page_range=(0.05, 1, 0.05), is_filter=True,
    ),
    Option(
        name="min_p",
        help="Drop events less than P times as likely as the most likely one.",
        json_type=float, least=0, most=1, page_range=(0, 0.5, 0.01), is_filter=True,
    ),
    Option(
        name="max_copy",
        help="Maximum length, in notes, of a run that a training tune has too, in any key.",
        json_type=int, metavar="N", least=MIN_COPY, most=MAX_COPY,
        remedy="every tune shares three notes with some other; ask for"
        f" {MIN_COPY} or more, up to {MAX_COPY:,}",
    ),
)  # fmt: skip
OPTIONS_BY_NAME: Final[Mapping[str, Option]] = {option.name: option for option in OPTIONS}


def list_codec_options(codec: AnyCodec) -> tuple[Option, ...]:
    """Return the options that a codec offers, the filters first."""
    filters = tuple(option for option in OPTIONS if option.is_filter)
    return filters + tuple(
        option
        for option in OPTIONS
        if not option.is_filter and (codec.has_bars or option.name in codec.setting_options)
    )
