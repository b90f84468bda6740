"""What goes over the wire, as /openapi.json describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct
from pydantic import BaseModel, ConfigDict, Field

from musicgen.sampling.option_table import OPTIONS, Option
from musicgen.typed_data import decode_json
from musicgen.web.limits import BODY_BYTES

MAX_TEXT_LENGTH: Final = 100  # characters of a value
ShortText = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
FileText = Annotated[str, Meta(max_length=BODY_BYTES)]


class StrictModel(BaseModel):
    """A body that holds nothing but what it names."""

    model_config = ConfigDict(extra="forbid")


class ErrorResponse(StrictModel):
    """Why not."""

    error: str = Field(description="one line: what is wrong, and the way out")


class Control(StrictModel):
    """Bounds of an option's input; null where they do not apply."""

    min: float | None = None
    max: float | None = None
    step: float | None = None
    choices: list[str] | None = None


class ModelInfo(StrictModel):
    """A model that can be asked for tunes."""

    name: str
    version: int
    keys: list[str] = Field(description="the commonest first, as the key of a wish is written")
    meters: list[str]
    rhythms: list[str]
    codec: str
    options: list[str] = Field(description="what can be asked of it, by the names of a wish")
    controls: dict[str, Control] = Field(description="bounds of the inputs, by option")
    max_bars: int = Field(description="0: its tunes have no bars")
    forms: list[str] = Field(description="some that are common; others are of the letters A to H")
    default_form: str = Field("free", description="where no form, bars or primer are named")
    has_index: bool = Field(description="whether it tells what a tune shares with others")


class PrimerUpload(Struct, frozen=True, forbid_unknown_fields=True):
    """The notes that a tune starts from: the text of an ABC tune, or the bytes of a file."""

    name: ShortText = "primer.abc"
    text: FileText | None = None
    base64: FileText | None = None


def _build_option_field(option: Option) -> tuple[str, Any, Any]:
    """Return name, type and default of an option in a request; null frees it in a tweak."""
    types: dict[type, Any] = {str: ShortText, int: Int32, float: float}
    annotation = types[option.json_type] | UnsetType | None
    if option.parser is not None:  # as a person writes it
        annotation |= ShortText
    return option.name, Annotated[annotation, Meta(description=option.help)], UNSET


if TYPE_CHECKING:
    _OptionFields = Struct
else:
    _OptionFields = defstruct(
        "_OptionFields",
        map(_build_option_field, OPTIONS),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


class TuneRequest(_OptionFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a new tune or a variant; its options are those of `musicgen sample`."""

    do: Literal["sample", "tweak"]
    model: ShortText = "folk"
    seed: Seed | None = None
    primer: PrimerUpload | None = None
    of: (
        Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$", description="tweak: the tune it varies")]
        | None
    ) = None
    keep: (
        Annotated[
            str, Meta(max_length=MAX_TEXT_LENGTH, description="tweak: bars that stay: 1-8,13-16")
        ]
        | None
    ) = None


def parse_tune_request(body: bytes) -> TuneRequest:
    """Parse the body of a request for a tune.

    The time is linear in the bytes: what the schema does not name is refused before it is built.

    Raises:
        InvalidValue: the body is not JSON, or does not fit the schema.
    """
    return decode_json(body, TuneRequest, "the request")


class JobId(StrictModel):
    """A job that waits or is at work."""

    id: str


class JobState(StrictModel):
    """How a job stands."""

    state: Literal["waiting", "working", "done", "failed", "cancelled"]
    ahead: int = Field(description="jobs that come before it")
    bars: int = Field(description="bars written so far")
    of: int | None = Field(description="bars to write, at the most, where that is known")
    tune: str | None = Field(description="the tune's id, once it is done")
    error: str | None


class TuneResponse(BaseModel):
    """All that a page shows of a tune."""

    id: str
    kept: bool
    told: list[str] = Field(description="what was changed of a primer, what candidates are worth")
    wishes: dict[str, Any] = Field(description="what was asked, by the names of the options")
    seed: int
    title: str
    rhythm: str
    key: str
    meter: str
    qpm: float | None = Field(description="null: the tune has no bars")
    seconds: float
    codec: str = Field(description="of the model")
    files: list[str] = Field(description="the suffixes of what can be downloaded")
    bars: int = Field(description="as heard; 0: the tune has none")
    numbers: list[int] = Field(description="of measures, as they are printed: a pickup is 0")
    keep_numbers: list[int] = Field(description="of measures, as `keep` names them")
    count_in: dict[str, float] = Field(description="beats before it begins, and seconds of each")
    names: list[str] = Field(description="the name of each note, as its key spells it")
    svg: str | None = Field(description="the score: note i has the id n{i}, written bar k has m{k}")
    unwritten: str | None = Field(description="why there is no score")
    sounds: list[list[float]] = Field(
        description="start and length in seconds, pitch, velocity, part, note, bar"
    )
    heard: list[list[float]] = Field(description="start and end in seconds, written bar")
    programs: list[int]
    recipe: dict[str, Any] | None
    receipt: dict[str, Any] | None
    surprise: dict[str, Any] | None
    abc: str | None
    midi: str | None = Field(description="base64; null: no MIDI file can hold it")


class Differences(StrictModel):
    """Where two tunes differ."""

    notes_a: list[int] = Field(description="notes of the first that the second has not")
    notes_b: list[int]
    bars: list[int] = Field(description="written bars that differ, from 0")


class SavedTuneResponse(StrictModel):
    """A tune on the shelf."""

    id: str
    title: str
    key: str
    meter: str
    bars: int = Field(description="0: it has none")
    seconds: float
    when: float = Field(description="seconds since 1970")


class Curve(StrictModel):
    """Points of a curve."""

    steps: list[int]
    values: list[float]


class TrainingRun(StrictModel):
    """A run in ./checkpoints."""

    run: str
    finished: bool
    updated: float = Field(description="when it last wrote a line, in seconds since 1970")
    step: int
    tokens: int
    best: float | None = Field(description="the best held-out bits a note, or a character, so far")
    loss: Curve = Field(description="nats a token in training, averaged between points")
    held_loss: Curve = Field(description="nats a token of held-out tunes")
    held_bits_per_note: Curve
    has_model: bool = Field(description="whether a model can be heard yet")
