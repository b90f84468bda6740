"""The live notes that a performance starts from: some seconds of a file, as ids.

A primer of live notes keeps its times and velocities. It ends where it is cut: the notes that sound
there sound on, and the model says for how long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from musicgen.errors import InvalidValue
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Score
from musicgen.sampling.primer_choice import PrimerChoice
from musicgen.tokens.performance import (
    END,
    PERFORMANCE,
    SHIFT,
    UNIT_MILLISECONDS,
    PerformanceCodec,
)

MAX_PRIMER_EVENTS: Final = 4096  # about two minutes


class LivePrimerTable(msgspec.Struct, frozen=True):
    """A primer of live notes as JSON has it."""

    ids: Annotated[
        tuple[Annotated[int, Meta(ge=1, lt=len(PERFORMANCE))], ...],
        Meta(min_length=1, max_length=MAX_PRIMER_EVENTS),
    ]


@dataclass(frozen=True, slots=True)
class LivePrimer:
    """The first events of a performance."""

    ids: tuple[int, ...]  # without the end
    changes: tuple[str, ...] = ()  # what is not as it was, for people

    @property
    def end(self) -> int:
        """The milliseconds that the events last."""
        return UNIT_MILLISECONDS * sum(map(_count_units, self.ids))

    def to_json(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return {"ids": list(self.ids)}

    @classmethod
    def from_table(cls, table: LivePrimerTable) -> LivePrimer:
        """Read what `to_json` returned."""
        return cls(table.ids)


def fit_live_primer(
    score: Score, codec: PerformanceCodec, name: str, choice: PrimerChoice
) -> LivePrimer:
    """Take the live notes of a score, or of some seconds of it.

    Args:
        score: a performance, or a written score, which is played out.
        codec: of the model.
        name: of the primer, for messages.
        choice: the seconds to take; a part or bars cannot be chosen.

    Raises:
        InvalidValue: there are no notes, or too many, or a part or bars are asked for.
        Refusal: drums play.
    """
    _check_choice(choice, name)
    played = to_performance(score)
    changes = [f"its {len(played.parts)} parts are played as one"] * (len(played.parts) > 1)
    first, last = choice.seconds or (0.0, played.end / 1_000)
    start, stop = round(1_000 * first), round(1_000 * last)
    notes = tuple(
        replace(note, onset=note.onset - start)
        for note in played.notes
        if start <= note.onset < stop
    )
    if not notes:
        where = f"from {first:g} to {last:g} s; it lasts {played.end / 1_000:.1f} s"
        raise InvalidValue(f"{name}: it has no notes{f' {where}' if choice.seconds else ''}")
    encoded = codec.encode(replace(played, notes=notes))
    ids = tuple(_iter_until(encoded.ids, (stop - start) // UNIT_MILLISECONDS))
    if len(ids) > MAX_PRIMER_EVENTS:
        raise InvalidValue(
            f"{name}: it has {len(ids):,} events; a primer has at most {MAX_PRIMER_EVENTS:,}, so"
            " choose some of it with --primer-seconds 0-30"
        )
    if encoded.lost:
        changes.append(f"{encoded.lost} notes that repeat a pitch at once are left out")
    return LivePrimer(ids, tuple(changes))


def _check_choice(choice: PrimerChoice, name: str) -> None:
    if choice.part:
        raise InvalidValue(
            f"{name}: a performance is one part; leave --primer-part out, or take the part from the"
            " file first"
        )
    if choice.bars is not None:
        raise InvalidValue(
            f"{name}: a performance has no bars; choose seconds with --primer-seconds 0-15"
        )


def _iter_until(ids: Sequence[int], units: int) -> Iterator[int]:
    """Yield the ids up to a time, without the end and the time that passes before it."""
    now, shifts = 0, list[int]()
    for id_ in ids:
        now += _count_units(id_)
        if now > units or id_ == END:
            return
        if id_ in SHIFT:
            shifts.append(id_)
            continue
        yield from shifts
        shifts.clear()
        yield id_


def _count_units(id_: int) -> int:
    return id_ - SHIFT.start + 1 if id_ in SHIFT else 0
