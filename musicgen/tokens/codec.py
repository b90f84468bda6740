"""The `Codec` protocol: pieces to ids and back, and the ids that may come next.

A piece is a `Score` for codecs of notes, a `str` for codecs of text. `registry.find_codec` looks
codecs up by name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from musicgen import formats
from musicgen.errors import InvalidValue, Refusal
from musicgen.music.accompaniment import split_accompaniment
from musicgen.music.arrays import unique_sorted
from musicgen.music.score import DEFAULT_VELOCITY, Part, Score
from musicgen.music.swing import Swing
from musicgen.music.theory import Key
from musicgen.tokens.vocabulary import Vocabulary
from musicgen.typed_data import decode_json

Piece = TypeVar("Piece", bound=Score | str)
Unit: TypeAlias = Literal["note", "character"]
PieceParseResult = tuple[tuple[Piece, ...], tuple[Refusal, ...]]


@dataclass(frozen=True, slots=True)
class Setting:
    """The properties of a tune that the ids do not model; they are stored beside the ids."""

    tonic: str = "C"
    title: str = ""
    rhythm: str = ""  # as the corpus spells it; "" where the rhythm event is exact
    tempos: tuple[tuple[int, float], ...] = ()  # step, quarter notes per minute
    parts: tuple[Part, ...] = (Part(),)
    velocities: tuple[int, ...] = (DEFAULT_VELOCITY,)  # MIDI velocity per part
    swing: Swing | None = None

    def __post_init__(self) -> None:
        if len(self.velocities) != len(self.parts):
            raise InvalidValue(
                f"a setting of {len(self.parts)} parts has {len(self.velocities)} velocities; give"
                " one for each part"
            )

    @property
    def tonic_pitch(self) -> int:
        """The MIDI note number, 57 to 68, from which pitches are counted."""
        return 57 + (Key(self.tonic).pitch_class - 57) % 12

    def to_json(self) -> str:
        """Serialize the setting as one line of JSON."""
        values = asdict(self)
        if self.swing is None:  # so that data sets without swing have the bytes of before
            del values["swing"]
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """Parse what `to_json` wrote. Raises InvalidValue."""
        return decode_json(text, cls, "setting")


PLAIN_SETTING: Final = Setting()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A piece as ids, and what the ids leave out."""

    ids: tuple[int, ...]
    setting: Setting
    lost: int = 0  # notes or characters that the ids cannot express


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Piece]):
    """A piece read from ids."""

    piece: Piece
    dropped: int  # ids that could not be used

    @property
    def score(self: Decoded[Score]) -> Score:
        """The piece of a codec of notes."""
        return self.piece


class Grammar(Protocol):
    """The state of one piece while it is written id by id."""

    is_done: bool

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the piece is done."""
        ...

    def take(self, id_: int) -> None:
        """Advance by a legal id."""
        ...


class Codec(Protocol[Piece]):
    """Converts pieces to ids and back. Encoding makes pieces canonical; decoding never fails."""

    @property
    def name(self) -> str:
        """The name in data sets, checkpoints and on the command line."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The table of events; the first is `begin`."""
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
    def contexts(self) -> tuple[str, ...]:
        """The score contexts that a model can read, as names in `config.CONTEXTS`."""
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
        """Read all pieces of a file's bytes; a malformed piece becomes a refusal."""
        ...

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Piece | Refusal]:
        """Read pieces and refusals one by one, in the order of the file."""
        ...

    def encode(self, piece: Piece) -> Encoded:
        """Encode a piece. Raises Refusal for music that the vocabulary has no event for."""
        ...

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Piece]:
        """Decode any ids; count those that mean nothing at their position."""
        ...

    def create_grammar(self, setting: Setting = PLAIN_SETTING, *, strict: bool = True) -> Grammar:
        """Create the grammar of a new piece.

        Args:
            setting: of the piece.
            strict: for sampling; without it, everything that `encode` writes is legal.
        """
        ...


AnyCodec = Codec[Any]


def separate_refusals(items: Iterable[Piece | Refusal]) -> PieceParseResult[Piece]:
    """Split a mixed sequence into pieces and refusals."""
    pieces: list[Piece] = []
    refusals: list[Refusal] = []
    for item in items:
        if isinstance(item, Refusal):
            refusals.append(item)
        else:
            pieces.append(item)
    return tuple(pieces), tuple(refusals)


class ScoreCodec:
    """Base class of the codecs of notes: they read every format of tunes."""

    suffixes = formats.READABLE_SUFFIXES
    writable_suffixes: tuple[str, ...] = (".mid", ".midi", ".wav", ".html")
    unit: Unit = "note"
    has_bars = False
    contexts: tuple[str, ...] = ("none",)
    pitch_range = (0, 127)
    setting_options: tuple[str, ...] = ("program", "tempo")

    def read(self, data: bytes, suffix: str, source: str = "") -> PieceParseResult[Score]:
        """Read all tunes of a file's bytes, as `formats.parse` does."""
        return separate_refusals(self.iter_pieces(data, suffix, source))

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Score | Refusal]:
        """Read tunes, without accompaniment, and refusals one by one."""
        return leave_out_accompaniment(formats.iter_tunes(data, suffix, source))


def leave_out_accompaniment(pieces: Iterable[Score | Refusal]) -> Iterator[Score | Refusal]:
    """Yield pieces without the parts that only play their chord symbols; pass refusals on."""
    for piece in pieces:
        yield split_accompaniment(piece)[0] if isinstance(piece, Score) else piece


def count_doubled_notes(score: Score) -> int:
    """Count the notes beyond the first of equal part, onset and pitch: ids express only one."""
    onsets, pitches, _, _, parts = score.columns
    return len(onsets) - len(unique_sorted((parts << 7 | pitches) << _ONSET_BITS | onsets))


_ONSET_BITS: Final = 32


def find_main_part(score: Score) -> Part:
    """Return the part with the most notes, which stands for all parts of a merged score.

    Raises:
        Refusal: drums play, whose notes have no pitch.
    """
    counts = Counter(note.part for note in score.notes)
    if any(score.parts[number].is_drums for number in counts):
        raise Refusal(
            "drums cannot be merged with the pitches of other parts; the tune was left out: remove"
            " them, or use --codec measures",
            code="no-event",
        )
    busiest = min(counts, key=lambda number: (-counts[number], number), default=0)
    return score.parts[busiest]


class LengthLimitedGrammar:
    """Base class of grammars that end the piece once it has `max_ids` ids."""

    def __init__(self, max_ids: int | None) -> None:
        self.max_ids = max_ids  # None: not strict, so pieces may be empty and of any length
        self.is_done = False
        self.id_count = 0

    @property
    def is_strict(self) -> bool:
        """Whether the grammar is for sampling."""
        return self.max_ids is not None

    @property
    def is_closing(self) -> bool:
        """Whether only ids that lead to the end are legal."""
        return self.max_ids is not None and self.id_count >= self.max_ids


def find_first_illegal(ids: Iterable[int], grammar: Grammar) -> int | None:
    """Return the index of the first id that a grammar does not allow; None if it allows all."""
    for index, id_ in enumerate(ids):
        if id_ not in grammar.legal_ids():
            return index
        grammar.take(id_)
    return None
