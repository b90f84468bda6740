"""The piano roll: a set of pitches at each step of even length (Boulanger-Lewandowski, 2012).

===========  ==========================================================================
event        meaning
===========  ==========================================================================
begin, end   before the first frame; after the last
pitch p      sounds in the frame; the pitches of a frame stand from high to low
frame        the frame is complete
===========  ==========================================================================

A frame is as long as its codec says, an eighth or a 16th, and holds what sounds at its first step.
`encode_frames` and `decode_frames` are exact inverses on rolls. A score loses what a roll cannot
say: which of its parts plays, where a pitch is struck again without a rest, and notes between two
frames; the notes that disappear so are counted as lost. Repeats are played out, parts sound as one,
drums are refused. A score that came from frames loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.score import DEFAULT_VELOCITY, STEPS_PER_QUARTER, Mark, Note, Score
from musicgen.tokens.codec import (
    PLAIN_SETTING,
    Decoded,
    Encoded,
    LengthLimitedGrammar,
    ScoreCodec,
    Setting,
    find_main_part,
)
from musicgen.tokens.vocabulary import Vocabulary

Frame = frozenset[int]  # MIDI numbers

EIGHTH: Final = STEPS_PER_QUARTER // 2
SIXTEENTH: Final = STEPS_PER_QUARTER // 4
MAX_IDS: Final = 4096  # of a sampled piece

FRAMES: Final = Vocabulary(
    (("begin", (None,)), ("end", (None,)), ("frame", (None,)), ("pitch", range(128)))
)
END, FRAME, PITCH = FRAMES.id("end"), FRAMES.id("frame"), FRAMES.ranges["pitch"]


def encode_frames(frames: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """Write sets of MIDI numbers as ids: pitches from high to low, `frame` after each set."""
    ids: list[int] = []
    for frame in frames:
        ids += [PITCH[pitch] for pitch in sorted(set(frame), reverse=True)]
        ids.append(FRAME)
    return (*ids, END)


def decode_frames(ids: Iterable[int]) -> tuple[tuple[Frame, ...], int]:
    """Read any ids at all as frames, and count those that could not be used."""
    frames: list[Frame] = []
    pitches: list[int] = []
    dropped = 0
    ended = False
    for id_ in ids:
        if ended or id_ not in _MEANINGFUL_IDS or (pitches and id_ >= PITCH[pitches[-1]]):
            dropped += 1
        elif id_ in PITCH:
            pitches.append(id_ - PITCH.start)
        elif id_ == FRAME:
            frames.append(frozenset(pitches))
            pitches.clear()
        else:
            ended = True
    return (*frames, *([frozenset(pitches)] if pitches else [])), dropped


_MEANINGFUL_IDS: Final = frozenset((END, FRAME, *PITCH))


def score_to_frames(score: Score, frame_steps: int = EIGHTH) -> tuple[Frame, ...]:
    """Return what sounds at the first step of each frame, repeats played out."""
    played = score.unfolded()
    frames: list[set[int]] = [set() for _ in range(-(-played.end // frame_steps))]
    for note in played.notes:
        for frame in frames[-(-note.onset // frame_steps) : -(-note.end // frame_steps)]:
            frame.add(note.pitch)
    return tuple(map(frozenset, frames))


def frames_to_notes(
    frames: Sequence[Frame], frame_steps: int = EIGHTH, velocity: int = DEFAULT_VELOCITY
) -> Iterator[Note]:
    """Yield the notes of a roll: a pitch that stays in the next frame is held."""
    started: dict[int, int] = {}
    for number, frame in enumerate((*frames, frozenset())):
        for pitch in sorted(started.keys() - frame):
            onset = started.pop(pitch)
            yield Note(onset * frame_steps, pitch, (number - onset) * frame_steps, velocity)
        started |= dict.fromkeys(frame - started.keys(), number)


class FramesCodec(ScoreCodec):
    """A piano roll to ids of FRAMES and back."""

    vocabulary = FRAMES

    def __init__(self, name: str = "frames", frame_steps: int = EIGHTH) -> None:
        self.name = name
        self.frame_steps = frame_steps

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Score | Refusal]:
        """Read a file's tunes, repeats played out."""
        for one in formats.iter_tunes(data, suffix, source):
            yield _unfold_without_bars(one) if isinstance(one, Score) else one

    def encode(self, piece: Score) -> Encoded:
        """Write a score, played out, as ids. Raises Refusal for drums."""
        played = piece.unfolded()
        part = find_main_part(played)
        frames = score_to_frames(played, self.frame_steps)
        kept = sum(1 for _ in frames_to_notes(frames, self.frame_steps))
        velocities = [note.velocity for note in played.notes] if kept else [DEFAULT_VELOCITY]
        setting = Setting(
            title=played.title,
            rhythm=played.rhythm,
            tempos=tuple(
                (mark.onset, float(mark.value))
                for mark in played.of("tempo")
                if mark.onset < len(frames) * self.frame_steps
            ),
            parts=(part,),
            velocities=(max(sorted(set(velocities)), key=velocities.count),),
        )
        return Encoded(encode_frames(frames), setting, len(played.notes) - kept)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Read any ids at all as a score; those that could not be used are counted."""
        frames, dropped = decode_frames(ids)
        notes = tuple(frames_to_notes(frames, self.frame_steps, setting.velocities[0]))
        marks = tuple(self._marks(len(frames), setting))
        score = Score(notes, marks, setting.parts[:1], setting.title, setting.rhythm)
        return Decoded(score, dropped)

    def _marks(self, frame_count: int, setting: Setting) -> Iterator[Mark]:
        """Yield the tempos, and the bar line that says how many frames there are."""
        end = frame_count * self.frame_steps
        yield from (Mark(step, "tempo", qpm) for step, qpm in setting.tempos if step < end)
        if frame_count:
            yield Mark(end, "bar")

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> FramesGrammar:
        """Start a piece."""
        del setting
        return FramesGrammar(MAX_IDS if strict else None)


def _unfold_without_bars(score: Score) -> Score:
    """Play repeats out and leave out the bar lines, which a repeat may split: a roll has none."""
    played = score.unfolded()
    kept = [mark for mark in played.marks if mark.kind in ("key", "tempo")]
    kept += [mark for mark in played.of("meter") if mark.onset == 0]
    if played.end:
        kept.append(Mark(played.end, "bar"))
    return replace(played, marks=tuple(kept))


class FramesGrammar(LengthLimitedGrammar):
    """Which ids may come next: pitches from high to low, the end only between two frames."""

    def __init__(self, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.has_sounded = not self.is_strict
        self.lowest_pitch_id: int | None = None  # the id of the last pitch of the frame under way

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the piece is done."""
        if self.is_done:
            return ()
        if self.lowest_pitch_id is not None:
            return (FRAME, *(() if self.is_closing else range(PITCH.start, self.lowest_pitch_id)))
        end = (END,) if self.has_sounded else ()
        return end or tuple(PITCH) if self.is_closing else (*end, FRAME, *PITCH)

    def take(self, id_: int) -> None:
        """Follow a legal id."""
        self.id_count += 1
        self.is_done = id_ == END
        self.lowest_pitch_id = id_ if id_ in PITCH else None
        self.has_sounded = self.has_sounded or id_ in PITCH
