"""The surprise of each note: its bits under a model, for any tune.

What is asked of the model is what `model.evaluation` asks: each id after all before it, without the
grammar's mask; so all bits over all notes are the same bits per note. A note's bits are those of
its own ids (`tokens.written`); header, bar lines, rests and the end are listed beside them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from musicgen.config import BEGIN
from musicgen.music.runs import bar_numbers
from musicgen.music.score import Score
from musicgen.music.theory import Key, spell
from musicgen.sampling.draw import log_softmax
from musicgen.sampling.engine import Engine
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.written import Writing, written

MARKED: Final = 0.1  # of the notes: the most surprising ones


@dataclass(frozen=True, slots=True)
class NoteSurprise:
    """A note and its bits."""

    onset: int  # steps
    pitch: int
    duration: int
    part: int
    bar: int  # of the written form; a pickup is bar 0
    bits: float


@dataclass(frozen=True, slots=True)
class Surprise:
    """The bits of a tune under a model: those of its notes, and those of all else by kind."""

    notes: tuple[NoteSurprise, ...]  # in time
    rest: Mapping[str, float]  # kind of event to bits
    count: int  # notes of the tune, or characters of a text
    key: Key

    @property
    def bits(self) -> float:
        """All bits of the tune."""
        return sum(note.bits for note in self.notes) + sum(self.rest.values())

    @property
    def bits_per_note(self) -> float:
        """All bits over all notes; over all characters of a text."""
        return self.bits / max(1, self.count)

    @property
    def marked(self) -> frozenset[NoteSurprise]:
        """The most surprising notes: one in ten."""
        ranked = sorted(self.notes, key=lambda note: -note.bits)
        return frozenset(ranked[: math.ceil(MARKED * len(ranked))])

    def lines(self) -> Iterator[str]:
        """Say the bits of each note, bar by bar, and of all else."""
        marked = self.marked
        for bar, notes in groupby(self.notes, key=lambda note: note.bar):
            told = list(notes)
            each = (f"{'*' * (note in marked)}{self._name(note)} {note.bits:.1f}" for note in told)
            yield f"bar {bar}: {sum(note.bits for note in told):.1f} bits: {', '.join(each)}"
        unit = "note" if self.notes else "character"
        most = sorted(self.rest.items(), key=lambda item: -item[1])
        rest = ", ".join(f"{kind} {bits:.1f}" for kind, bits in most)
        yield (
            f"{self.bits:.1f} bits, {self.bits_per_note:.2f} a {unit}; of them"
            f" {sum(self.rest.values()):.1f} for what is no note ({rest})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        marked = self.marked
        return {
            "bits": round(self.bits, 4),
            "bits_per_note": round(self.bits_per_note, 4),
            "notes": [
                {
                    "bar": note.bar,
                    "onset": note.onset,
                    "duration": note.duration,
                    "part": note.part,
                    "pitch": note.pitch,
                    "bits": round(note.bits, 4),
                    "marked": note in marked,
                }
                for note in self.notes
            ],
            "rest": {kind: round(bits, 4) for kind, bits in self.rest.items()},
        }

    def _name(self, note: NoteSurprise) -> str:
        name = spell(note.pitch, self.key)
        sign = "#" * name.alteration if name.alteration > 0 else "b" * -name.alteration
        return f"{name.letter}{sign}{name.octave}"


def surprise(engine: Engine, codec: AnyCodec, piece: Score | str) -> Surprise:
    """Ask a model for the bits of a piece. Raises Refusal for what the codec cannot write."""
    encoded = codec.encode(piece)
    bits = bits_of(engine, encoded.ids)
    notes = written(codec, encoded.ids, encoded.setting)
    own = {place for note in notes for place in note.places}
    rest: dict[str, float] = defaultdict(float)
    for place, id_ in enumerate(encoded.ids):
        if place not in own:
            rest[codec.vocabulary.event(id_).kind] += float(bits[place])
    if isinstance(piece, str):
        return Surprise((), rest, len(piece), Key("C"))
    shown = codec.decode(encoded.ids, encoded.setting).piece
    return Surprise(_told(notes, bits, shown), rest, len(piece.canonical().notes), piece.key)


def bits_of(engine: Engine, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the bits of each id after all before it."""
    state = engine.start()
    bits = np.empty(len(ids))
    for place, (fed, wanted) in enumerate(zip((BEGIN, *ids), ids, strict=False)):
        logits, state = engine.step([fed], None, state)
        bits[place] = -log_softmax(np.asarray(logits, dtype=np.float64))[wanted] / math.log(2)
    return bits


def _told(
    notes: Sequence[Writing], bits: npt.NDArray[np.float64], score: Score
) -> tuple[NoteSurprise, ...]:
    """Put the notes in order of time, each with its bar and bits."""
    bars = bar_numbers(score, np.array([note.onset for note in notes], dtype=np.int64)).tolist()
    found = [
        NoteSurprise(
            note.onset, note.pitch, note.end - note.onset, note.part, bar,
            float(bits[note.places].sum()),
        )
        for note, bar in zip(notes, bars, strict=True)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda note: (note.onset, note.part, -note.pitch)))
