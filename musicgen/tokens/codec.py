"""What every codec offers: pieces to ids and back, and which ids may come next.

A piece is a `Score` for the codecs of notes, a `str` for those of text. `codecs.find` knows them by
name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from musicgen import formats
from musicgen.errors import InvalidValue, Refusal
from musicgen.music.arrays import unique_sorted
from musicgen.music.score import DEFAULT_VELOCITY, Part, Score
from musicgen.music.theory import Key
from musicgen.tokens.vocabulary import Vocabulary
from musicgen.typed_data import decode_json

Piece = TypeVar("Piece", bound=Score | str)
Unit: TypeAlias = Literal["note", "character"]
PieceParseResult = tuple[tuple[Piece, ...], tuple[Refusal, ...]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a tune has that is not modelled: it travels beside the ids."""

    tonic: str = "C"
    title: str = ""
    rhythm: str = ""  # the corpus' own word; "" where the event says it all
    tempos: tuple[tuple[int, float], ...] = ()  # steps and quarters a minute
    parts: tuple[Part, ...] = (Part(),)
    velocities: tuple[int, ...] = (DEFAULT_VELOCITY,)  # one for each part

    def __post_init__(self) -> None:
        if len(self.velocities) != len(self.parts):
            raise InvalidValue(
                f"a setting of {len(self.parts)} parts has {len(self.velocities)} velocities; give"
                " one for each part"
            )

    @property
    def tonic_pitch(self) -> int:
        """The MIDI number, in 57..68, from which pitches are counted."""
        return 57 + (Key(self.tonic).pitch_class - 57) % 12

    def to_json(self) -> str:
        """Write it as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """Read what `to_json` wrote. Raises InvalidValue."""
        return decode_json(text, cls, "setting")


PLAIN_SETTING: Final = Setting()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A piece as ids, and what they leave out."""

    ids: tuple[int, ...]
    setting: Setting
    lost: int = 0  # notes or characters that the ids cannot say


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Piece]):
    """A piece from ids, and how many of them could not be used."""

    piece: Piece
    dropped: int

    @property
    def score(self: Decoded[Score]) -> Score:
        """The piece, where it is a score."""
        return self.piece


class Grammar(Protocol):
    """One piece under way: `legal()` offers ids, `take(id)` follows one of them."""

    is_done: bool

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the piece is done."""
        ...

    def take(self, id_: int) -> None:
        """Follow a legal id."""
        ...


class Codec(Protocol[Piece]):
    """Pieces to ids and back. Decoding never fails. It makes pieces canonical itself."""

    @property
    def name(self) -> str:
        """What data sets, checkpoints and the command line call it."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Its table of events; the first is `begin`."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files that it reads."""
        ...

    @property
    def writable_suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files that a sampled piece can be written to, the usual one first."""
        ...

    @property
    def unit(self) -> Unit:
        """What pieces are measured in: bits per note or per character."""
        ...

    @property
    def has_bars(self) -> bool:
        """Whether the ids contain bars, so that bars, form, meter and key can be constrained."""
        ...

    @property
    def pitch_range(self) -> tuple[int, int] | None:
        """Lowest and highest MIDI note number that the ids can express; None for text."""
        ...

    @property
    def setting_options(self) -> tuple[str, ...]:
        """The sampling options that only fill in the setting of a sampled piece."""
        ...

    def read(self, data: bytes, suffix: str, source: str = "") -> PieceParseResult[Piece]:
        """Read all pieces of a file's bytes. A bad piece costs one piece; it is a refusal."""
        ...

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Piece | Refusal]:
        """Read the same piece by piece, in the order of the file."""
        ...

    def encode(self, piece: Piece) -> Encoded:
        """Write a piece as ids. Raises Refusal for what the table has no event for."""
        ...

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Piece]:
        """Read any ids at all as a piece; those that mean nothing where they stand are counted."""
        ...

    def create_grammar(self, setting: Setting = PLAIN_SETTING, *, strict: bool = True) -> Grammar:
        """Start a piece. Strict is for sampling: without it, all that `encode` writes is legal."""
        ...


AnyCodec = Codec[Any]


def separate_refusals(items: Iterable[Piece | Refusal]) -> PieceParseResult[Piece]:
    """Part the pieces from the refusals."""
    pieces: list[Piece] = []
    refusals: list[Refusal] = []
    for one in items:
        if isinstance(one, Refusal):
            refusals.append(one)
        else:
            pieces.append(one)
    return tuple(pieces), tuple(refusals)


class ScoreCodec:
    """What the codecs of notes share: they read every format of tunes."""

    suffixes = formats.READABLE_SUFFIXES
    writable_suffixes: tuple[str, ...] = (".mid", ".midi", ".wav", ".html")
    unit: Unit = "note"
    has_bars = False
    pitch_range = (0, 127)
    setting_options: tuple[str, ...] = ("program", "tempo")

    def read(self, data: bytes, suffix: str, source: str = "") -> PieceParseResult[Score]:
        """Read all tunes of a file's bytes, as `formats.parse` does."""
        return separate_refusals(self.iter_pieces(data, suffix, source))

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Score | Refusal]:
        """Read the same tune by tune, as `formats.iter_tunes` does."""
        return formats.iter_tunes(data, suffix, source)


def count_doubled_notes(score: Score) -> int:
    """Count the notes that their part strikes twice at a step, of which ids say only one."""
    onsets, pitches, _, _, parts = score.columns
    return len(onsets) - len(unique_sorted((parts << 7 | pitches) << _ONSET_BITS | onsets))


_ONSET_BITS: Final = 32


def find_main_part(score: Score) -> Part:
    """Return who plays, where all parts sound as one: the part with the most notes.

    Raises Refusal for drums, which have no pitch to share with the others.
    """
    counts = Counter(note.part for note in score.notes)
    if any(score.parts[number].is_drums for number in counts):
        raise Refusal(
            "its drums have no place among the pitches of one instrument; it was left out: take"
            " them out, or use --codec measures",
            code="no-event",
        )
    first = min(counts, key=lambda number: (-counts[number], number), default=0)
    return score.parts[first]


class LengthLimitedGrammar:
    """A grammar that counts: after so many ids it offers only what ends the piece."""

    def __init__(self, max_ids: int | None) -> None:
        self.max_ids = max_ids  # None: as many as there are, and an empty piece too; for reading
        self.is_done = False
        self.id_count = 0

    @property
    def is_strict(self) -> bool:
        """Whether this is for sampling."""
        return self.max_ids is not None

    @property
    def is_closing(self) -> bool:
        """Whether the piece is long enough."""
        return self.max_ids is not None and self.id_count >= self.max_ids


def find_first_illegal(ids: Iterable[int], grammar: Grammar) -> int | None:
    """Return the place of the first id that a grammar does not allow, None if it allows all."""
    for place, id_ in enumerate(ids):
        if id_ not in grammar.legal_ids():
            return place
        grammar.take(id_)
    return None
