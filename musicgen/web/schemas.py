"""Requests and responses: their schemas, which /openapi.json describes, and the jobs of requests.

A job is built after the options, the primer and the bars to keep of a request were checked.
"""

from __future__ import annotations

import secrets
from base64 import b64decode
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct
from pydantic import BaseModel, ConfigDict, Field

from musicgen.errors import InvalidValue
from musicgen.sampling.kept_bars import KeepRequest
from musicgen.sampling.option_table import OPTIONS, OPTIONS_BY_NAME, Option
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.primer_choice import parse_bar_range, parse_seconds
from musicgen.typed_data import decode_json
from musicgen.web.limits import BODY_BYTES, PRIMER_BYTES, PRIMER_SUFFIXES
from musicgen.web.worker_pool import Job
from musicgen.web.worker_process import HttpError

MAX_TEXT_LENGTH: Final = 100  # characters
MAX_KEEP_LENGTH: Final = 4000  # characters: every other bar of several parts
ShortText = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
FileText = Annotated[str, Meta(max_length=BODY_BYTES)]


class StrictModel(BaseModel):
    """A response without additional fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorResponse(StrictModel):
    """Error message."""

    error: str = Field(description="one line: what is wrong, and how to fix it")


class Control(StrictModel):
    """Bounds of an option's input; null where they do not apply."""

    min: float | None = None
    max: float | None = None
    step: float | None = None
    choices: list[str] | None = None


class ModelInfo(StrictModel):
    """A model, and the options that it supports."""

    name: str
    version: int
    keys: list[str] = Field(description="most frequent first, in the notation of the option `key`")
    meters: list[str]
    rhythms: list[str]
    codec: str
    options: list[str] = Field(description="names of the sampling options that the model supports")
    controls: dict[str, Control] = Field(description="bounds of the inputs, by option")
    max_bars: int = Field(description="0: tunes of the model have no bars")
    forms: list[str] = Field(description="common forms; others combine the letters A to H")
    defaults: dict[str, float | str] = Field(
        description="values of the sampling options that a request leaves out, where they are the"
        " model's own"
    )
    default_form: str = Field("free", description="used if a request has no form, bars or primer")
    roles: list[str] = Field(description="roles of the parts that the model can write")
    density_roles: list[str] = Field(description="roles that the option `density` can name")
    has_index: bool = Field(
        description="whether tunes have a receipt: overlap with the training data"
    )


class NotesUpload(Struct, frozen=True, forbid_unknown_fields=True):
    """A user's notes: the text of an ABC tune, or the bytes of a file."""

    name: ShortText = "primer.abc"
    text: FileText | None = None
    base64: FileText | None = None


class PrimerUpload(NotesUpload, frozen=True, forbid_unknown_fields=True):
    """The notes that a tune starts from."""

    part: ShortText = ""  # name or number, from 1, of the part to take; "" for the melody
    bars: ShortText = ""  # such as "1-8"; "" for all
    seconds: ShortText = ""  # for a model of performances, such as "0-15"; "" for all


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
    given: NotesUpload | None = None  # its parts stay; the option `parts` are drawn around them
    given_parts: (
        Annotated[
            str,
            Meta(
                max_length=MAX_KEEP_LENGTH,
                description="parts of `given` that stay, and their bars: melody:1-8,drums; all if"
                " missing",
            ),
        ]
        | None
    ) = None
    chords: (
        Annotated[
            str,
            Meta(
                max_length=MAX_KEEP_LENGTH,
                description='chords that a melody is written to, bar by bar: "D | D | G A7 | D"',
            ),
        ]
        | None
    ) = None
    of: (
        Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$", description="tweak: the tune it varies")]
        | None
    ) = None
    keep: (
        Annotated[
            str,
            Meta(
                max_length=MAX_KEEP_LENGTH,
                description="tweak: bars that stay, of all parts or of some:"
                " 1-8,13-16 or melody:1-8,drums",
            ),
        ]
        | None
    ) = None


def parse_notes_upload(body: bytes) -> NotesUpload:
    """Parse the body of a request that only uploads notes. Raises InvalidValue."""
    return decode_json(body, NotesUpload, "the request")


def parse_tune_request(body: bytes) -> TuneRequest:
    """Parse the body of a request for a tune.

    The time is linear in the size of the body: unknown fields are refused before they are built.

    Raises:
        InvalidValue: the body is not JSON, or does not match the schema.
    """
    return decode_json(body, TuneRequest, "the request")


class JobId(StrictModel):
    """A submitted job."""

    id: str


class JobState(StrictModel):
    """Job status."""

    state: Literal["waiting", "working", "done", "failed", "cancelled"]
    ahead: int = Field(description="waiting jobs that will run before this one")
    bars: int = Field(description="bars written so far")
    of: int | None = Field(description="maximum number of bars to write; null if unknown")
    tune: str | None = Field(description="id of the tune, once the job is done")
    error: str | None


class Phrase(StrictModel):
    """Four bars of a section, and the earlier phrase that they return; null: they are new."""

    measures: list[int] = Field(description="first and last measure, counted from 0")
    bars: list[int] = Field(description="their printed bar numbers")
    source: int | None = Field(description="index of the earlier phrase")
    relation: Literal["exact", "transposed", "varied"] | None
    likeness: float | None = Field(
        description="share of notes and rests equal place by place, averaged over the bars"
    )
    semitones: int | None = Field(description="by which a transposed phrase is higher, else 0")
    words: str = Field(description="such as: bars 9-12 return bars 1-4 (varied: 78% alike)")


class TunePart(StrictModel):
    """A part of a tune."""

    name: str
    role: str = Field(description="such as melody, bass or drums; empty: unknown")
    instrument: str
    measures: list[int] = Field(description="written bars in which its notes start, from 0")


class FilePart(StrictModel):
    """A part of a file."""

    name: str
    role: str = Field(description="the likeliest, such as melody, bass or drums")
    instrument: str
    bars: int = Field(description="number of written bars in which its notes start")


class FileParts(StrictModel):
    """The parts of a file."""

    title: str
    key: str
    meter: str
    bars: int
    parts: list[FilePart]


class TuneSurprise(StrictModel):
    """The surprise of a tune."""

    notes: list[float | None] = Field(description="bits of each note")
    bits_per_note: float


class TuneResponse(BaseModel):
    """Everything that a page shows of a tune."""

    id: str
    kept: bool = Field(description="whether the tune is saved")
    told: list[str] = Field(description="messages: changes to a primer, scores of candidates")
    wishes: dict[str, Any] = Field(description="sampling options of the request")
    seed: int
    title: str
    rhythm: str
    key: str
    meter: str
    qpm: float | None = Field(description="null: the tune has no bars")
    seconds: float
    codec: str = Field(description="codec of the model")
    files: list[str] = Field(description="suffixes of the files that can be downloaded")
    bars: int = Field(description="number of bars as heard; 0: the tune has no bars")
    numbers: list[int] = Field(description="printed bar numbers of the measures; a pickup is 0")
    keep_numbers: list[int] = Field(description="bar numbers of the measures for `keep`")
    count_in: dict[str, float] = Field(description="number of clicks, seconds per click")
    names: list[str] = Field(description="name of each note, spelled in its key")
    phrases: list[Phrase] = Field(description="empty: no bars, over 512 bars, or too large")
    svg: str | None = Field(description="score; note i has the id n{i}, written bar k has m{k}")
    unwritten: str | None = Field(description="reason if there is no score")
    sounds: list[list[float]] = Field(
        description="each note heard: start and length in seconds, pitch, velocity, part, note, bar"
    )
    heard: list[list[float]] = Field(
        description="each bar heard: start and end in seconds, written bar"
    )
    programs: list[int] = Field(description="General MIDI program of each part; -1: drums")
    recipe: dict[str, Any] | None
    receipt: dict[str, Any] | None
    surprise: dict[str, Any] | None = Field(
        description="null: the tune has several parts, and `surprise` is a path of its own"
    )
    parts: list[TunePart]
    chords: str = Field(description='its chord symbols bar by bar: "D | D | G A7 | D"; empty: none')
    abc: str | None
    midi: str | None = Field(description="base64; null: too long for a MIDI file")


class Differences(StrictModel):
    """Where two tunes differ."""

    notes_a: list[int] = Field(description="notes of the first tune that the second lacks")
    notes_b: list[int] = Field(description="notes of the second tune that the first lacks")
    bars: list[int] = Field(description="written bars that differ, counted from 0")
    parts: list[list[int]] = Field(description="by part: written bars that differ")


class SavedTuneResponse(StrictModel):
    """A saved tune."""

    id: str
    title: str
    key: str
    meter: str
    bars: int = Field(description="0: the tune has no bars")
    seconds: float
    when: float = Field(description="time of saving, in seconds since 1970")


class Curve(StrictModel):
    """A curve over training steps."""

    steps: list[int]
    values: list[float]


class TrainingRun(StrictModel):
    """A training run in ./checkpoints."""

    run: str
    finished: bool
    updated: float = Field(description="time of the last metrics, in seconds since 1970")
    step: int
    tokens: int
    best: float | None = Field(description="best held-out bits per note (or per character) so far")
    loss: Curve = Field(description="training loss in nats per token, averaged between points")
    held_loss: Curve = Field(description="held-out loss in nats per token")
    held_bits_per_note: Curve
    has_model: bool = Field(description="whether the run has a model that can generate")


def build_sample_job(tune_request: TuneRequest, client: str) -> Job:
    """Return the job that samples a new tune.

    Raises:
        HttpError: the request has fields of a tweak, or a primer that cannot be used.
        InvalidValue: an option or the primer is invalid.
    """
    if tune_request.of is not None or tune_request.keep is not None:
        raise HttpError(400, "of, keep: only a tweak has these; leave them out of a sample")
    if tune_request.given_parts is not None and tune_request.given is None:
        raise HttpError(400, "given_parts: nothing is given; send the notes as given")
    if tune_request.given is not None and tune_request.primer is not None:
        raise HttpError(400, "given, primer: a tune has one of them; leave the other out")
    if tune_request.chords is not None and tune_request.given is not tune_request.primer:
        raise HttpError(400, "chords: notes are given too; leave one of them out")
    named_options = get_named_options(tune_request)
    options = SamplingOptions.parse(**named_options)
    seed = secrets.randbelow(2**31) if tune_request.seed is None else tune_request.seed
    payload, notes = _decode_notes(tune_request)
    request = {
        "do": "sample",
        "model": tune_request.model,
        "wishes": named_options,
        "seed": seed,
        "chords": tune_request.chords,
        **notes,
    }
    return Job(client, request, payload, total_bars=count_bars_to_write(options))


def _decode_notes(tune_request: TuneRequest) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a primer or of given parts, and the worker's arguments about them."""
    if (primer := tune_request.primer) is not None:
        if primer.bars:
            parse_bar_range(primer.bars)
        if primer.seconds:
            parse_seconds(primer.seconds)
        payload, suffix = decode_notes(primer)
        return payload, {"primer": suffix, "primer_part": primer.part, "primer_bars": primer.bars,
                         "primer_seconds": primer.seconds}  # fmt: skip
    if tune_request.given is not None:
        if tune_request.given_parts is not None:
            KeepRequest.parse(tune_request.given_parts, "given_parts")
        payload, suffix = decode_notes(tune_request.given, "given")
        return payload, {"given": suffix, "given_parts": tune_request.given_parts}
    return b"", {}


def build_tweak_job(
    tune_request: TuneRequest, client: str, recipe: str, drawn: str | None = None
) -> Job:
    """Return the job that makes a variant of the tune of a recipe.

    Args:
        tune_request: the request.
        client: identity of the client.
        recipe: of the tune.
        drawn: the ids of the tune, as a worker wrote them; None: unknown.

    Raises:
        HttpError: the request has a primer.
        InvalidValue: an option or `keep` is invalid.
    """
    if tune_request.primer is not None:
        raise HttpError(400, "primer: only a sample has one; leave it out of a tweak")
    if tune_request.given is not None or tune_request.given_parts is not None:
        raise HttpError(400, "given: only a sample has given parts; name what stays with keep")
    if tune_request.chords is not None:
        raise HttpError(400, "chords: only a sample has them; leave them out of a tweak")
    changes = {
        name: OPTIONS_BY_NAME[name].default if value is None else value
        for name, value in get_named_options(tune_request, include_nulls=True).items()
    }
    SamplingOptions.parse(**changes)
    if tune_request.keep is not None:
        KeepRequest.parse(tune_request.keep)
    request = {"do": "tweak", "recipe": recipe, "wishes": changes, "seed": tune_request.seed,
               "keep": tune_request.keep, "drawn": drawn}  # fmt: skip
    return Job(client, request)


def get_named_options(tune_request: TuneRequest, *, include_nulls: bool = False) -> dict[str, Any]:
    """Return the sampling options that a request names.

    Args:
        tune_request: the request.
        include_nulls: include options that are null, which a tweak resets to their defaults.
    """
    values = {name: getattr(tune_request, name) for name in OPTIONS_BY_NAME}
    named = {name: value for name, value in values.items() if value is not UNSET}
    return {name: value for name, value in named.items() if include_nulls or value is not None}


def count_bars_to_write(options: SamplingOptions) -> int | None:
    """Return the number of bars to write, repeated sections once; None if unknown."""
    layout = options.layout
    return sum(section.bars for section in layout.sections) if layout else options.bars


def decode_notes(upload: NotesUpload, field: str = "primer") -> tuple[bytes, str]:
    """Return the bytes of a user's notes, and the suffix of their format.

    Args:
        upload: the notes.
        field: of the request that has them, for messages.

    Raises:
        HttpError: the upload has not exactly one of text and base64, or is too large.
        InvalidValue: the format is not ABC or MIDI.
    """
    if (upload.text is None) == (upload.base64 is None):
        raise HttpError(400, f"{field}: send either its text or its bytes as base64")
    data = (
        upload.text.encode("utf-8", "replace")
        if upload.text is not None
        else _decode_base64(upload, field)
    )
    if len(data) > PRIMER_BYTES:
        raise HttpError(413, f"{field}: larger than {PRIMER_BYTES:,} bytes; send a shorter one")
    if upload.text is not None:
        return data, ".abc"
    suffix = f".{upload.name.rpartition('.')[2].lower()}"
    if suffix not in PRIMER_SUFFIXES:
        suffix = ".mid" if data.startswith(b"MThd") else suffix[:12]
    if suffix not in PRIMER_SUFFIXES:
        raise InvalidValue(
            f"{field}: unsupported format of {upload.name[:60]!r}; send .abc or .mid"
        )
    return data, suffix


def _decode_base64(upload: NotesUpload, field: str) -> bytes:
    try:
        return b64decode(upload.base64 or "", validate=True)
    except ValueError as fault:
        raise HttpError(
            400, f"{field}: invalid base64; encode the bytes of the file again"
        ) from fault
