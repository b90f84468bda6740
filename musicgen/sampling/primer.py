"""The notes that a tune starts from: any score, fitted to what a model can write.

A primer is one line of notes in the model's key and grid. Every change is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.bars import find_bars
from musicgen.music.score import DEFAULT_VELOCITY, Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.sampling.primer_choice import PrimerChoice, take_melody
from musicgen.tokens.bar_split import BarSplit
from musicgen.tokens.codec import Setting
from musicgen.tokens.constraints import Rules
from musicgen.tokens.measures import MeasuresCodec, normalise_rhythm
from musicgen.tokens.vocabulary import MEASURES
from musicgen.typed_data import shorten

MAX_PRIMER_BARS: Final = 128
MAX_PRIMER_NOTES: Final = 10_000  # of all parts of the score
SIXTEENTH: Final = 12  # steps
PrimerBars = tuple[tuple[int, tuple[int, ...]], ...]  # of each bar what opens it, and what it holds


class PrimerTable(msgspec.Struct, frozen=True):
    """A primer as JSON has it."""

    meter: str
    key: str
    rhythm: Annotated[str, Meta(max_length=100)]
    tempo: Annotated[float, Meta(gt=0, le=1e9)]
    end: Annotated[int, Meta(ge=0, le=10**9)]
    # of each bar the name of what opens it, and the ids of what it holds
    bars: Annotated[
        tuple[Annotated[tuple[str | int, ...], Meta(min_length=1, max_length=10**5)], ...],
        Meta(min_length=1, max_length=MAX_PRIMER_BARS + 1),
    ]
    chosen_part: Annotated[str, Meta(max_length=1000)] = ""
    chosen_bars: Annotated[str, Meta(max_length=20)] = ""


@dataclass(frozen=True, slots=True)
class Primer:
    """The first bars of a tune, the last of them perhaps not whole."""

    meter: Meter
    key: Key
    rhythm: str  # one of RHYTHMS
    tempo: float
    bars: PrimerBars
    end: int  # the step at which its last note ends
    chosen_part: str = ""  # the part of its file that was asked for; "" for the melody
    chosen_bars: str = ""  # and the bars; "" for all
    changes: tuple[str, ...] = ()  # what is not as it was, for people

    def to_json(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        chosen = {"chosen_part": self.chosen_part, "chosen_bars": self.chosen_bars}
        return {
            "meter": str(self.meter), "key": str(self.key), "rhythm": self.rhythm,
            "tempo": self.tempo, "end": self.end,
            "bars": [[MEASURES.names[opener], *ids] for opener, ids in self.bars],
            **{name: value for name, value in chosen.items() if value},
        }  # fmt: skip

    @classmethod
    def from_table(cls, table: PrimerTable) -> Primer:
        """Read what `to_json` returned. Raises InvalidValue."""
        contents = tuple(
            (_parse_opener(opener), tuple(map(_check_event_id, ids))) for opener, *ids in table.bars
        )
        return cls(Meter.parse(table.meter), Key.parse(table.key), table.rhythm, table.tempo,
                   contents, table.end, table.chosen_part, table.chosen_bars)  # fmt: skip

    @property
    def bar_count(self) -> int:
        """Bars that it fills or begins; a pickup is none."""
        return len(self.bars) - (MEASURES.events[self.bars[0][0]].kind == "partial")


def _parse_opener(name: str | int) -> int:
    """Return the id of what opens a bar."""
    if name not in MEASURES.names:
        raise InvalidValue(
            f"a primer's bar is opened by {shorten(str(name))!r}: there is no such event"
        )
    return MEASURES.names.index(str(name))


def _check_event_id(id_: str | int) -> int:
    if not isinstance(id_, int) or not 0 <= id_ < len(MEASURES):
        raise InvalidValue("a primer holds an event that there is none of")
    return id_


@dataclass(frozen=True, slots=True)
class PrimerTarget:
    """What a primer is fitted to."""

    rules: Rules  # what the model may write
    meter: Meter | None = None  # None: the primer's own
    key: Key | None = None
    lowest: int = 0  # MIDI numbers
    highest: int = 127


def fit_score(
    score: Score,
    target: PrimerTarget,
    name: str = "primer",
    choice: PrimerChoice = PrimerChoice(),  # noqa: B008 - frozen
) -> Primer:
    """Fit the notes of a score. Raises InvalidValue where it has none, or too many."""
    changes: list[str] = []
    if not target.rules.ids_of_kind("pitch"):
        raise InvalidValue(f"{name}: the model knows drums and no pitches; leave the primer out")
    _check_note_count(score, name)
    score = select_first_pass(score, changes)
    score, choice_messages = take_melody(score, choice, name)
    changes += choice_messages
    meter = target.meter or score.meter
    _check_length(score, meter, name)
    line = _extract_line(score, changes)
    if not line:
        raise InvalidValue(f"{name}: it has no notes; a primer needs one or more")
    _check_meter(meter, target.rules, name)
    if meter != score.meter:
        changes.append(f"its bars are cut anew, in {meter} instead of {score.meter}")
    key = _choose_key(score, target, name, changes)
    line = _transpose(line, score.key, key, target, changes)
    line, pickup = _align_start(line, _measure_pickup(score, meter), meter, target.rules, changes)
    _check_bars(line[-1].end - pickup, meter, name)
    contents = _encode_bars(line, pickup, meter, key, target.rules, changes)
    return Primer(meter, key, normalise_rhythm(score.rhythm), score.qpm, contents,
                  line[-1].end, choice.part, choice.bars_text, tuple(changes))  # fmt: skip


def check_primer_size(score: Score, name: str) -> None:
    """Check the number of notes and bars of a score. Raises InvalidValue."""
    _check_note_count(score, name)
    _check_length(score, score.meter, name)


def _check_note_count(score: Score, name: str) -> None:
    """Refuse what is far too long before anything is made of it."""
    if len(score.notes) > MAX_PRIMER_NOTES:
        raise InvalidValue(
            f"{name}: it has {len(score.notes):,} notes; a primer has at most"
            f" {MAX_PRIMER_NOTES:,}, so"
            " cut it"
        )


def _check_length(score: Score, meter: Meter, name: str) -> None:
    """Refuse too many bars, of which one may be a pickup."""
    if score.notes:
        onsets, durations = score.columns[0], score.columns[2]
        steps = int((onsets + durations).max() - onsets[0])
        _check_bars(steps, meter, name, MAX_PRIMER_BARS + 1)


def _check_bars(steps: int, meter: Meter, name: str, max_bars: int = MAX_PRIMER_BARS) -> None:
    if (count := -(-steps // meter.steps)) > max_bars:
        raise InvalidValue(
            f"{name}: it lasts {count:,} bars; a primer has at most {MAX_PRIMER_BARS}, so cut it,"
            " or choose some of them with --primer-bars"
        )


def select_first_pass(score: Score, changes: list[str]) -> Score:
    """Return a score as it is heard at first, without repeats."""
    if not any(score.of("repeat_end")):
        return score
    changes.append("its repeat signs are left out")
    return score.join_passages(_find_first_pass(score))


def _extract_line(score: Score, changes: list[str]) -> list[Note]:
    """Return the highest notes of a part."""
    notes = [note for note in score.notes if not score.parts[note.part].is_drums]
    line = list(_skyline(notes)) if notes else []
    if len(line) < len(notes):
        changes.append("of chords and voices the highest notes are taken")
    return line


def _find_first_pass(score: Score) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a score that are heard in a first pass."""
    at = 0
    for mark in score.of("ending"):
        if 1 not in mark.value.passes:
            yield at, mark.onset
            at = mark.value.end
    yield at, score.end


def _skyline(notes: Sequence[Note]) -> Iterator[Note]:
    """Yield the highest note of each onset, cut where the next one starts."""
    highest: dict[int, Note] = {}  # by onset, in order; of equally high ones the first
    for note in notes:
        if note.onset not in highest or highest[note.onset].pitch < note.pitch:
            highest[note.onset] = note
    onsets = list(highest)
    for onset, following in zip(onsets, [*onsets[1:], None], strict=True):
        note = highest[onset]
        end = note.end if following is None else min(note.end, following)
        yield Note(onset, note.pitch, end - onset)


def _check_meter(meter: Meter, rules: Rules, name: str) -> None:
    meters = {str(MEASURES.events[id_].value) for id_ in rules.meter_ids}
    if str(meter) not in meters:
        raise InvalidValue(
            f"{name}: its meter is {meter}, and the model knows {', '.join(sorted(meters))}; add"
            " --meter to cut its bars anew"
        )


def _choose_key(score: Score, target: PrimerTarget, name: str, changes: list[str]) -> Key:
    """Return the key in which the primer is written."""
    key = target.key or score.key
    modes = {str(MEASURES.events[id_].value) for id_ in target.rules.ids_of_kind("mode")}
    if key.mode not in modes:
        raise InvalidValue(
            f"{name}: its key is {key}, and the model knows {', '.join(sorted(modes))}; add --key"
        )
    if target.key is not None and target.key != score.key:
        changes.append(f"it is moved from {score.key} to {key}")
    return key


def _transpose(
    line: Sequence[Note], old: Key, new: Key, target: PrimerTarget, changes: list[str]
) -> list[Note]:
    """Move notes to a key, and to the octave in which the model has most of them."""
    zero = Setting(new.tonic).tonic_pitch
    pitches = {
        zero + int(MEASURES.events[id_].value or 0) for id_ in target.rules.ids_of_kind("pitch")
    }
    pitches = {pitch for pitch in pitches if target.lowest <= pitch <= target.highest}
    by = (new.pitch_class - old.pitch_class + 6) % 12 - 6
    shifts = sorted((by + 12 * octave for octave in range(-6, 7)), key=abs)
    best = max(shifts, key=lambda shift: sum(note.pitch + shift in pitches for note in line))
    if best != by:
        changes.append(f"it is moved by {(best - by) // 12:+d} octaves")
    notes = [replace(note, pitch=_find_nearest_pitch(note.pitch + best, pitches)) for note in line]
    odd = sum(a.pitch + best != b.pitch for a, b in zip(line, notes, strict=True))
    if odd:
        changes.append(f"{odd} notes that the model cannot write are moved")
    return notes


def _find_nearest_pitch(pitch: int, allowed_pitches: Collection[int]) -> int:
    """Return a pitch that is known: itself, in another octave, or the nearest."""
    octaves = [candidate for candidate in allowed_pitches if (candidate - pitch) % 12 == 0]
    return min(
        octaves or allowed_pitches, key=lambda candidate: (abs(candidate - pitch), candidate)
    )


def _measure_pickup(score: Score, meter: Meter) -> int:
    """Return the steps before the first whole bar."""
    first = next(iter(find_bars(score)), None)
    if first is None or first.steps >= meter.steps or first.kind == "irregular":
        return 0
    return first.steps


def _align_start(
    line: Sequence[Note], pickup: int, meter: Meter, rules: Rules, changes: list[str]
) -> tuple[list[Note], int]:
    """Let the first note open the tune: as a pickup where the model knows such, else on the beat.

    Returns the line from step 0 and the steps of its pickup.
    """
    onset = line[0].onset
    lead = (pickup - onset) % meter.steps  # from the first note to the next bar line
    target = lead if lead in rules.pickup_lengths(meter.steps) else 0
    if lead and not target:
        changes.append("it begins on the first beat of a bar")
    elif onset:
        changes.append("its opening rest is left out")
    return [replace(note, onset=note.onset - onset) for note in line], target


def _encode_bars(
    line: Sequence[Note], pickup: int, meter: Meter, key: Key, rules: Rules, changes: list[str]
) -> PrimerBars:
    """Write a line as the ids of its bars, on the grid of sixteenths where it must."""
    exact = _try_encode(line, pickup, meter, key)
    if exact is not None and _is_allowed(exact, rules):
        return exact
    coarse = list(_snap_to_sixteenths(line))
    changes.append("its times are moved to sixteenths")
    encoded = _try_encode(coarse, pickup // SIXTEENTH * SIXTEENTH, meter, key)
    return encoded or ()


def _snap_to_sixteenths(line: Sequence[Note]) -> Iterator[Note]:
    """Move onsets and ends to the nearest sixteenth; of those that meet the first stays."""
    edges = [(round(n.onset / SIXTEENTH), round(n.end / SIXTEENTH)) for n in line]
    first = {start: position for position, (start, _) in reversed(list(enumerate(edges)))}
    starts = sorted(first)
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        stop = max(edges[first[start]][1], start + 1)
        end = stop if following is None else min(stop, following)
        yield Note(start * SIXTEENTH, line[first[start]].pitch, (end - start) * SIXTEENTH)


def _is_allowed(contents: PrimerBars, rules: Rules) -> bool:
    return all(id_ in rules.allowed_ids for _, ids in contents for id_ in ids)


def _try_encode(line: Sequence[Note], pickup: int, meter: Meter, key: Key) -> PrimerBars | None:
    """Return the bars of a line, up to its last note; None where they cannot be written."""
    end = line[-1].end
    lines = [*([pickup] if pickup else []), *range(pickup + meter.steps, end, meter.steps)]
    last = pickup + -(-max(1, end - pickup) // meter.steps) * meter.steps
    marks = (Mark(0, "key", key), Mark(0, "meter", meter),
             *(Mark(step, "bar") for step in {*lines, last}))  # fmt: skip
    notes = tuple(Note(n.onset, n.pitch, n.duration, DEFAULT_VELOCITY) for n in line)
    try:
        ids = MeasuresCodec().encode(Score(notes, marks, (Part(),))).ids
    except Refusal:
        return None
    encoded = tuple((bar.opening[-1], bar.content) for bar in BarSplit.of(ids).bars)
    return (*encoded[:-1], (encoded[-1][0], _strip_trailing_rests(encoded[-1][1])))


def strip_trailing_bars(bars: PrimerBars) -> PrimerBars:
    """Leave out the bars after the last one that sounds."""
    sounding = [
        number
        for number, (_, content) in enumerate(bars)
        if any(MEASURES.events[id_].kind in ("pitch", "drum", "hold") for id_ in content)
    ]
    return bars[: sounding[-1] + 1] if sounding else ()


def _strip_trailing_rests(content: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out the rests after the last note."""
    sounds = [position for position, id_ in enumerate(content)
              if MEASURES.events[id_].kind in ("pitch", "hold")]  # fmt: skip
    return content[: sounds[-1] + 1] if sounds else ()
