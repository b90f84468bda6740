"""What every codec offers, and the list of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from musicgen.music.score import DEFAULT_VELOCITY, Part, Score
from musicgen.music.theory import Key


@dataclass(frozen=True, slots=True)
class Setting:
    """What a tune has that is not modelled: it travels beside the ids."""

    tonic: str = "C"
    title: str = ""
    rhythm: str = ""  # the corpus' own word; "" where the event says it all
    tempos: tuple[tuple[int, float], ...] = ()  # steps and quarters a minute
    parts: tuple[Part, ...] = (Part(),)
    velocities: tuple[int, ...] = (DEFAULT_VELOCITY,)

    @property
    def tonic_pitch(self) -> int:
        """The MIDI number, in 57..68, from which pitches are counted."""
        return 57 + (Key(self.tonic).pitch_class - 57) % 12

    def to_json(self) -> str:
        """Write it as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["tempos"] = tuple((int(step), float(qpm)) for step, qpm in fields["tempos"])
        fields["parts"] = tuple(Part(**part) for part in fields["parts"])
        fields["velocities"] = tuple(fields["velocities"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tune as ids, and what they leave out."""

    ids: tuple[int, ...]
    setting: Setting


@dataclass(frozen=True, slots=True)
class Decoded:
    """A tune from ids, and how many of them could not be used."""

    score: Score
    dropped: int


class Codec(Protocol):
    """Score to ids and back. Decoding never fails."""

    def encode(self, score: Score) -> Encoded:
        """Write a canonical score as ids. Raises Refusal for what the table has no event for."""
        ...

    def decode(self, ids: Sequence[int], setting: Setting) -> Decoded:
        """Read ids as a canonical score."""
        ...
