"""What made a tune: its model, seed and every option, as it travels inside of the file.

A recipe is one JSON object. With it and the model the same tune is drawn again, to the byte; its
hash of the notes tells whether the file was edited since.
"""

from __future__ import annotations

import base64
import hashlib
import json
import operator
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, SupportsIndex

import msgspec
from msgspec import Meta

from musicgen.checkpoint import Checkpoint
from musicgen.errors import InvalidValue, Mismatch
from musicgen.music.score import Score
from musicgen.music.theory import Key
from musicgen.number_parsing import shorten
from musicgen.sampling.infill import KeptBars
from musicgen.sampling.options import MIN_BARS, SamplingOptions, SamplingOptionsTable
from musicgen.sampling.primer import Primer, PrimerTable
from musicgen.tokens.codec import Encoded
from musicgen.tokens.grammar import HEADER_KINDS
from musicgen.tokens.song_form import FREE, THROUGH
from musicgen.tokens.vocabulary import MEASURES, Event
from musicgen.typed_data import decode_json

REMARK_PREFIX: Final = "musicgen:recipe "  # before each piece of one among a file's remarks
MOST_BYTES: Final = 2**20  # of a recipe's JSON
_REMARK_LENGTH: Final = 3000  # characters of one remark
_COMPRESSED_PREFIX: Final = "z:"  # a recipe that is compressed, where it is long
_COMPRESS_ABOVE: Final = 1500
_MOST_SEED: Final = 10**300  # more than anybody asked for


@dataclass(frozen=True, slots=True)
class ModelName:
    """Which model it was."""

    name: Annotated[str, Meta(min_length=1, max_length=1000)]
    version: int
    fingerprint: str  # of weights, settings and events

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ModelName:
        """Name a checkpoint."""
        manifest = checkpoint.manifest
        return cls(manifest.name, manifest.version, checkpoint.fingerprint)

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.fingerprint})"


@dataclass(frozen=True, slots=True)
class DrawnHeader:
    """What was drawn, or asked, of a tune before its first bar; None: it is to be drawn anew."""

    meter: str | None
    mode: str | None
    rhythm: str | None
    parts: int | None
    tonic: str | None
    qpm: Annotated[int, Meta(gt=0, le=10**9)] | Annotated[float, Meta(gt=0, le=1e9)] | None

    def __post_init__(self) -> None:
        if self.tonic is not None:
            _ = Key(self.tonic)
        for kind, value in zip(HEADER_KINDS, self._values, strict=True):
            if value is not None and Event(kind, value) not in MEASURES.ids:
                raise InvalidValue(f"{kind} {shorten(str(value))}: there is no such {kind}")

    @classmethod
    def of(cls, encoded: Encoded) -> DrawnHeader:
        """Say what was drawn of a tune."""
        events = [MEASURES.events[id_].value for id_ in encoded.ids[: len(HEADER_KINDS)]]
        meter, mode, rhythm, parts = events
        setting = encoded.setting
        return cls(str(meter), str(mode), str(rhythm), int(parts or 1), setting.tonic,
                   setting.tempos[0][1])  # fmt: skip

    @property
    def header(self) -> tuple[int | None, ...]:
        """The events of the header."""
        pairs = zip(HEADER_KINDS, self._values, strict=True)
        return tuple(None if value is None else MEASURES.id(kind, value) for kind, value in pairs)

    @property
    def _values(self) -> tuple[str | int | None, ...]:
        return self.meter, self.mode, self.rhythm, self.parts


class GenerationRequestTable(msgspec.Struct, frozen=True):
    """An order as JSON has it; unknown entries are passed over."""

    seed: int
    number: Annotated[int, Meta(ge=0, le=2**53)]
    wishes: SamplingOptionsTable
    drawn: DrawnHeader | None = None
    primer: PrimerTable | None = None
    writes_primer: bool = True
    keep: KeptBars | None = None
    engine: Literal["numpy", "torch"] = "numpy"

    def __post_init__(self) -> None:
        """Refuse a seed of hundreds of digits."""
        if abs(self.seed) > _MOST_SEED:
            raise ValueError("the seed has too many digits")


def _to_int(value: SupportsIndex, name: str) -> int:
    """Return a whole number of any library as an int. Raises InvalidValue for what is none."""
    try:
        return operator.index(value)
    except TypeError as fault:
        raise InvalidValue(f"{name} {shorten(repr(value))}: write a whole number") from fault


class RecipeTable(GenerationRequestTable, frozen=True, kw_only=True):
    """A recipe as JSON has it."""

    musicgen: str
    model: ModelName
    notes: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """All that decides a tune of one model."""

    options: SamplingOptions
    seed: int
    number: int = 0  # of the tunes of this seed, from 0
    drawn: DrawnHeader | None = None  # what a variant holds on to
    primer: Primer | None = None
    writes_primer: bool = True
    keep: KeptBars | None = None
    engine: str = "numpy"

    def __post_init__(self) -> None:
        for name in ("seed", "number"):
            object.__setattr__(self, name, _to_int(getattr(self, name), name))

    def to_json(self) -> dict[str, Any]:
        """Return it as values that JSON has; what is plain is left out."""
        found: dict[str, Any] = {"seed": self.seed, "number": self.number}
        found |= {"wishes": self.options.to_dict()}
        if self.engine != "numpy":
            found["engine"] = self.engine
        if self.drawn:
            found["drawn"] = {name: getattr(self.drawn, name) for name in DrawnHeader.__slots__}
        if self.primer:
            found |= {"primer": self.primer.to_json(), "writes_primer": self.writes_primer}
        if self.keep:
            found["keep"] = self.keep.to_json()
        return found

    @classmethod
    def from_json(cls, text: str) -> GenerationRequest:
        """Read what `to_json` returned, as text. Raises InvalidValue."""
        return cls.from_table(decode_json(text, GenerationRequestTable, "order"))

    @classmethod
    def from_table(cls, table: GenerationRequestTable) -> GenerationRequest:
        """Make an order of checked JSON. Raises InvalidValue for a value that is out of range."""
        return cls(
            SamplingOptions.from_table(table.wishes),
            table.seed,
            table.number,
            table.drawn,
            Primer.from_table(table.primer) if table.primer else None,
            table.writes_primer,
            table.keep,
            table.engine,
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """A tune's order, the model that it went to, and the notes that came of it."""

    request: GenerationRequest
    model: ModelName
    musicgen_version: str  # version of musicgen
    notes_hash: str  # their hash

    def to_json(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return {
            "musicgen": self.musicgen_version,
            "model": {name: getattr(self.model, name) for name in ModelName.__slots__},
            "notes": self.notes_hash,
            **self.request.to_json(),
        }

    def to_text(self) -> str:
        """Write it on one line of ASCII."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        if len(text) <= _COMPRESS_ABOVE:
            return text
        return _COMPRESSED_PREFIX + base64.b64encode(zlib.compress(text.encode(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> Recipe:
        """Read what `to_text` wrote. Raises InvalidValue for anything else."""
        try:
            table = decode_json(_decompress(text), RecipeTable, "recipe")
            return cls(
                GenerationRequest.from_table(table), table.model, table.musicgen, table.notes
            )
        except ValueError as fault:
            raise InvalidValue(
                f"its recipe cannot be read ({fault}); it was damaged, or a newer musicgen wrote it"
            ) from fault

    def check(self, model: ModelName, file: str) -> None:
        """Raise Mismatch unless a model is the one that made the file."""
        if model.fingerprint != self.model.fingerprint:
            raise Mismatch(
                f"{file}: it was made by {self.model}, and this model is {model}; name the one"
                " that made it with --model, or start from its notes with sample --primer"
            )

    def remarks(self) -> Iterator[str]:
        """Yield it as remarks that travel with a file."""
        text = self.to_text()
        for start in range(0, len(text), _REMARK_LENGTH):
            yield f"{REMARK_PREFIX}{text[start : start + _REMARK_LENGTH]}"


def _decompress(text: str) -> str:
    if not text.startswith(_COMPRESSED_PREFIX):
        return text
    packed = base64.b64decode(text[len(_COMPRESSED_PREFIX) :], validate=True)
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(packed, MOST_BYTES)
    except zlib.error as fault:
        raise ValueError(str(fault)) from fault
    if not inflater.eof:
        raise ValueError("it is too long")
    return body.decode()


def join_recipe_remarks(remarks: Iterable[str]) -> str | None:
    """Return the recipe among a file's remarks; None where there is none."""
    return (
        "".join(text[len(REMARK_PREFIX) :] for text in remarks if text.startswith(REMARK_PREFIX))
        or None
    )


def hash_notes(score: Score) -> str:
    """Return a hash of what is played: onsets, pitches, durations."""
    rows = sorted(zip(*score.unfolded().columns[:3].tolist(), strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def hash_text(text: str) -> str:
    """Return a hash of what a model of text wrote."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def make_variant_request(
    request: GenerationRequest, changes: Mapping[str, Any], keep: KeptBars | None = None
) -> GenerationRequest:
    """Return the order of a variant: what is not changed stays as it was drawn.

    changes: wishes by their names. Where the meter or the rhythm changes, the other is drawn anew.
    Raises InvalidValue for a change that what is kept, or the primer, does not allow.
    """
    before = request.options
    wishes = replace(before, **_add_min_bars(changes, before))
    fixed = "its primer" if request.primer else "what is kept of it" if keep or request.keep else ""
    bound = ("meter", "bars", "min_bars", "form", "pickup") if keep or request.keep else ("meter",)
    for name in bound if fixed else ():
        if getattr(wishes, name) != getattr(before, name):
            raise InvalidValue(f"{name}: {fixed} does not allow another; sample a new tune instead")
    drawn = request.drawn
    if drawn and (wishes.meter, wishes.rhythm) != (before.meter, before.rhythm):
        drawn = replace(drawn, meter=None, rhythm=None, qpm=None)
    if drawn and wishes.key is not None and wishes.key.mode != drawn.mode:
        drawn = replace(drawn, mode=None)
    return replace(request, options=wishes, drawn=drawn, keep=keep or request.keep)


def _add_min_bars(
    changes: Mapping[str, Any], previous_options: SamplingOptions
) -> Mapping[str, Any]:
    """Add what changes mean for the least number of bars, where it is not among them."""
    form, bars = changes.get("form"), changes.get("bars")
    if "min_bars" in changes:
        return changes
    if bars is not None or form not in (None, FREE, THROUGH):
        return {**changes, "min_bars": None}  # the number of bars is fixed
    if form == THROUGH and previous_options.bars is None:
        return {**changes, "min_bars": previous_options.min_bars or MIN_BARS}
    return changes
