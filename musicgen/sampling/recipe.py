"""Recipes: model, seed and options of a tune, stored in its file.

A recipe is one JSON object. With the model it generates the same tune again, byte for byte; its
hash of the notes shows whether the file was edited.
"""

from __future__ import annotations

import base64
import contextlib
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
from musicgen.sampling.given_form import check_given_form, has_letters
from musicgen.sampling.given_parts import GivenParts, GivenPartsTable, GivenTune
from musicgen.sampling.infill import KeptBars
from musicgen.sampling.kept_bars import KeepRequest
from musicgen.sampling.live_primer import LivePrimer, LivePrimerTable
from musicgen.sampling.options import MIN_BARS, SamplingOptions, SamplingOptionsTable
from musicgen.sampling.primer import Primer, PrimerTable
from musicgen.sampling.role_values import select_range_roles, select_roles
from musicgen.tokens.codec import Encoded
from musicgen.tokens.grammar import HEADER_KINDS
from musicgen.tokens.lineup import LINEUP_KINDS, measure_header
from musicgen.tokens.song_form import FREE, THROUGH
from musicgen.tokens.vocabulary import MAX_PARTS, MEASURES, Event
from musicgen.typed_data import decode_json, shorten

REMARK_PREFIX: Final = "musicgen:recipe "  # prefix of each remark of a file that holds a part
MOST_BYTES: Final = 2**20  # of a recipe's JSON
_REMARK_LENGTH: Final = 3000  # characters of one remark
_COMPRESSED_PREFIX: Final = "z:"  # a recipe that is compressed, where it is long
_COMPRESS_ABOVE: Final = 1500
_MOST_SEED: Final = 10**300
_LINEUP_IDS: Final = {
    MEASURES.names[id_]: id_
    for kind in ("lineup", *LINEUP_KINDS)
    for id_ in MEASURES.ids_by_kind[kind]
}
_MOST_LINEUP_EVENTS: Final = 1 + MAX_PARTS * len(LINEUP_KINDS)


@dataclass(frozen=True, slots=True)
class ModelName:
    """Name, version and fingerprint of a model."""

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
    """The header events of a tune, sampled or requested; None is to be sampled again.

    A tune with a line-up has no `parts`, but the names of the events of its line-up.
    """

    meter: str | None
    mode: str | None
    rhythm: str | None
    parts: int | None
    tonic: str | None
    qpm: Annotated[int, Meta(gt=0, le=10**9)] | Annotated[float, Meta(gt=0, le=1e9)] | None
    lineup: Annotated[tuple[str, ...], Meta(max_length=_MOST_LINEUP_EVENTS)] = ()

    def __post_init__(self) -> None:
        if self.tonic is not None:
            _ = Key(self.tonic)
        for kind, value in zip(HEADER_KINDS, self._values, strict=True):
            if value is not None and Event(kind, value) not in MEASURES.ids:
                raise InvalidValue(f"{kind} {shorten(str(value))} is unknown")
        for name in self.lineup:
            if name not in _LINEUP_IDS:
                raise InvalidValue(f"line-up: the event {shorten(name)!r} is unknown")

    @classmethod
    def of(cls, encoded: Encoded) -> DrawnHeader:
        """Return the header of encoded ids."""
        header = [MEASURES.events[id_] for id_ in encoded.ids[: measure_header(encoded.ids)]]
        meter, mode, rhythm, parts = (event.value for event in header[: len(HEADER_KINDS)])
        has_lineup = header[len(HEADER_KINDS) - 1].kind == "lineup"
        lineup = tuple(map(str, header[len(HEADER_KINDS) - 1 :])) if has_lineup else ()
        setting = encoded.setting
        return cls(str(meter), str(mode), str(rhythm), None if has_lineup else int(parts or 1),
                   setting.tonic, setting.tempos[0][1], lineup)  # fmt: skip

    @property
    def header(self) -> tuple[int | None, ...]:
        """The ids of the header events; None is to be sampled."""
        pairs = zip(HEADER_KINDS, self._values, strict=True)
        ids = tuple(None if value is None else MEASURES.id(kind, value) for kind, value in pairs)
        return (*ids[:-1], *(_LINEUP_IDS[name] for name in self.lineup)) if self.lineup else ids

    def to_json(self) -> dict[str, Any]:
        """Return the header as JSON values, without a line-up where there is none."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values if self.lineup else {k: v for k, v in values.items() if k != "lineup"}

    @property
    def _values(self) -> tuple[str | int | None, ...]:
        return self.meter, self.mode, self.rhythm, self.parts


class GenerationRequestTable(msgspec.Struct, frozen=True):
    """A request as JSON; unknown fields are ignored."""

    seed: int
    number: Annotated[int, Meta(ge=0, le=2**53)]
    wishes: SamplingOptionsTable
    drawn: DrawnHeader | None = None
    primer: PrimerTable | None = None
    live_primer: LivePrimerTable | None = None
    writes_primer: bool = True
    keep: KeptBars | None = None
    given: GivenPartsTable | None = None
    engine: Literal["numpy", "torch"] = "numpy"

    def __post_init__(self) -> None:
        """Refuse a seed of hundreds of digits."""
        if abs(self.seed) > _MOST_SEED:
            raise ValueError("the seed has too many digits")


def _to_int(value: SupportsIndex, name: str) -> int:
    """Convert an integer of any library, such as NumPy, to an int."""
    try:
        return operator.index(value)
    except TypeError as fault:
        raise InvalidValue(f"{name} {shorten(repr(value))}: write a whole number") from fault


class RecipeTable(GenerationRequestTable, frozen=True, kw_only=True):
    """A recipe as JSON."""

    musicgen: str
    model: ModelName
    notes: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """All that determines a tune of one model."""

    options: SamplingOptions
    seed: int
    number: int = 0  # of the tunes of this seed, from 0
    drawn: DrawnHeader | None = None  # the header that a variant keeps
    primer: Primer | LivePrimer | None = None
    writes_primer: bool = True
    keep: KeptBars | None = None
    engine: str = "numpy"
    given: GivenParts | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "number"):
            object.__setattr__(self, name, _to_int(getattr(self, name), name))

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values, without fields that have their default."""
        fields: dict[str, Any] = {"seed": self.seed, "number": self.number}
        fields |= {"wishes": self.options.to_dict()}
        if self.engine != "numpy":
            fields["engine"] = self.engine
        if self.drawn:
            fields["drawn"] = self.drawn.to_json()
        if self.primer:
            name = "live_primer" if isinstance(self.primer, LivePrimer) else "primer"
            fields |= {name: self.primer.to_json(), "writes_primer": self.writes_primer}
        if self.keep:
            fields["keep"] = self.keep.to_json()
        if self.given:
            fields["given"] = self.given.to_json()
        return fields

    @classmethod
    def from_json(cls, text: str) -> GenerationRequest:
        """Parse the JSON text of what `to_json` returned.

        Raises:
            InvalidValue: the text is not JSON, or does not fit the schema.
        """
        return cls.from_table(decode_json(text, GenerationRequestTable, "order"))

    @classmethod
    def from_table(cls, table: GenerationRequestTable) -> GenerationRequest:
        """Make a request from JSON that fits the schema.

        Raises:
            InvalidValue: a value is out of range.
        """
        primer = Primer.from_table(table.primer) if table.primer else None
        live_primer = LivePrimer.from_table(table.live_primer) if table.live_primer else None
        return cls(
            SamplingOptions.from_table(table.wishes),
            table.seed,
            table.number,
            table.drawn,
            primer or live_primer,
            table.writes_primer,
            table.keep,
            table.engine,
            table.given.parse() if table.given else None,
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """The request of a tune, its model, and a hash of the resulting notes."""

    request: GenerationRequest
    model: ModelName
    musicgen_version: str  # version of musicgen
    notes_hash: str  # their hash

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return {
            "musicgen": self.musicgen_version,
            "model": {name: getattr(self.model, name) for name in ModelName.__slots__},
            "notes": self.notes_hash,
            **self.request.to_json(),
        }

    def to_text(self) -> str:
        """Return the recipe as one line of ASCII; a long one is compressed."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        if len(text) <= _COMPRESS_ABOVE:
            return text
        return _COMPRESSED_PREFIX + base64.b64encode(zlib.compress(text.encode(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> Recipe:
        """Parse what `to_text` returned.

        Raises:
            InvalidValue: the text is not a recipe.
        """
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
        """Check that a model is the one that generated a file.

        Raises:
            Mismatch: it is another model, or another version.
        """
        if model.fingerprint != self.model.fingerprint:
            raise Mismatch(
                f"{file}: it was made by {self.model}, and this model is {model}; name the one"
                " that made it with --model, or start from its notes with sample --primer"
            )

    def remarks(self) -> Iterator[str]:
        """Yield the recipe as remarks for a file, each of limited length."""
        text = self.to_text()
        for start in range(0, len(text), _REMARK_LENGTH):
            yield f"{REMARK_PREFIX}{text[start : start + _REMARK_LENGTH]}"


def _decompress(text: str) -> str:
    if not text.startswith(_COMPRESSED_PREFIX):
        return text
    compressed = base64.b64decode(text[len(_COMPRESSED_PREFIX) :], validate=True)
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(compressed, MOST_BYTES)
    except zlib.error as fault:
        raise ValueError(str(fault)) from fault
    if not inflater.eof:
        raise ValueError("it is too long")
    return body.decode()


def join_recipe_remarks(remarks: Iterable[str]) -> str | None:
    """Join the remarks of a file that hold its recipe; None where there are none."""
    return (
        "".join(text[len(REMARK_PREFIX) :] for text in remarks if text.startswith(REMARK_PREFIX))
        or None
    )


def hash_notes(score: Score) -> str:
    """Return a hash of the sounding notes: onsets, pitches, durations."""
    rows = sorted(zip(*score.unfolded().columns[:3].tolist(), strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def hash_text(text: str) -> str:
    """Return a hash of a text model's output."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_LINEUP_OPTIONS: Final = ("parts", "parts_from")
_WHOLE_TUNE_OPTIONS: Final = (
    "key", "meter", "rhythm", "bars", "min_bars", "form", "pickup", *_LINEUP_OPTIONS,
)  # fmt: skip


def keep_parts(
    request: GenerationRequest, tune: Encoded, keep: KeepRequest, candidates: int | None
) -> GenerationRequest:
    """Return the request for a variant of a tune of several parts, some of which stay.

    What the options fix for the whole tune follows from its notes. Requests for parts that stay are
    met already.

    Args:
        request: of the tune.
        tune: its ids.
        keep: what stays.
        candidates: number of candidates for each bar that leads into given ones; None: 1.

    Raises:
        InvalidValue: there is no such part.
    """
    kept = keep.find_parts(tune.setting.parts, "the tune")
    given = GivenParts.of_tune(tune, kept)
    given = given if candidates is None else replace(given, candidates=candidates)
    whole = {each.part for each in kept if not each.bars}
    drawn_roles = {p.role for n, p in enumerate(tune.setting.parts) if n not in whole}
    options = request.options
    cleared: dict[str, Any] = dict.fromkeys(_WHOLE_TUNE_OPTIONS)
    if has_letters(options.form):
        with contextlib.suppress(InvalidValue):  # the repeats of the tune stay without it
            check_given_form(options.form, GivenTune.of(given, 0))
            cleared["form"] = options.form
    options = replace(
        options,
        **cleared,
        program=0,
        density=select_roles(options.density, drawn_roles),
        polyphony=select_roles(options.polyphony, drawn_roles),
        range=select_range_roles(options.range, drawn_roles),
    )
    return replace(request, options=options, given=given, drawn=None, primer=None, keep=None)


def make_variant_request(
    request: GenerationRequest, changes: Mapping[str, Any], keep: KeptBars | None = None
) -> GenerationRequest:
    """Return the request of a variant; what is not changed stays as it was sampled.

    Where the meter or the rhythm changes, the other is sampled again.

    Args:
        request: the request of the tune to vary.
        changes: sampling options by name.
        keep: bars to keep; None keeps those of the request.

    Raises:
        InvalidValue: kept bars or the primer do not allow a change.
    """
    before = request.options
    options = replace(before, **_add_min_bars(changes, before))
    obstacle = "its primer" if request.primer else "its kept part" if keep or request.keep else ""
    fixed_names = (
        ("meter", "bars", "min_bars", "form", "pickup", *_LINEUP_OPTIONS)
        if keep or request.keep
        else ("meter",)
    )
    for name in fixed_names if obstacle else ():
        if getattr(options, name) != getattr(before, name):
            raise InvalidValue(
                f"{name}: {obstacle} does not allow another; sample a new tune instead"
            )
    drawn = request.drawn
    if drawn and (options.meter, options.rhythm) != (before.meter, before.rhythm):
        drawn = replace(drawn, meter=None, rhythm=None, qpm=None)
    if drawn and any(getattr(options, name) != getattr(before, name) for name in _LINEUP_OPTIONS):
        drawn = replace(drawn, parts=None, lineup=())
    if drawn and options.key is not None and options.key.mode != drawn.mode:
        drawn = replace(drawn, mode=None)
    return replace(request, options=options, drawn=drawn, keep=keep or request.keep)


def _add_min_bars(
    changes: Mapping[str, Any], previous_options: SamplingOptions
) -> Mapping[str, Any]:
    """Add the minimum number of bars that the changes imply, where they do not set it."""
    form, bars = changes.get("form"), changes.get("bars")
    if "min_bars" in changes:
        return changes
    if bars is not None or form not in (None, FREE, THROUGH):
        return {**changes, "min_bars": None}  # the number of bars is fixed
    if form == THROUGH and previous_options.bars is None:
        return {**changes, "min_bars": previous_options.min_bars or MIN_BARS}
    return changes
