"""Piano-roll codec: a set of pitches per frame of fixed length.

Source: Boulanger-Lewandowski, Bengio and Vincent, "Modeling temporal dependencies in
high-dimensional sequences: application to polyphonic music generation and transcription", 2012.

===========  ==========================================================================
event        meaning
===========  ==========================================================================
begin, end   before the first frame; after the last
pitch p      sounds in the frame; the pitches of a frame are ordered from high to low
frame        the frame is complete
===========  ==========================================================================

The codec sets the length of a frame, an eighth or a 16th; a frame contains what sounds at its first
step. `encode_frames` and `decode_frames` are exact inverses on rolls. A score loses what a roll
cannot express: which part plays, where a pitch is struck again without a rest, and notes between
two frames; notes that disappear are counted as lost. Repeats are unfolded, parts are merged, drums
are refused. A score that was decoded from frames loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import multimode
from typing import Final

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

Frame = frozenset[int]  # MIDI note numbers

EIGHTH: Final = STEPS_PER_QUARTER // 2  # steps
SIXTEENTH: Final = STEPS_PER_QUARTER // 4  # steps
MAX_IDS: Final = 4096  # of a sampled piece

FRAMES: Final = Vocabulary(
    (("begin", (None,)), ("end", (None,)), ("frame", (None,)), ("pitch", range(128)))
)
END, FRAME, PITCH = FRAMES.id("end"), FRAMES.id("frame"), FRAMES.ranges["pitch"]


def encode_frames(frames: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """Encode sets of MIDI note numbers: pitches from high to low, `frame` after each set."""
    ids: list[int] = []
    for frame in frames:
        ids += [PITCH[pitch] for pitch in sorted(set(frame), reverse=True)]
        ids.append(FRAME)
    return (*ids, END)


def decode_frames(ids: Iterable[int]) -> tuple[tuple[Frame, ...], int]:
    """Decode any ids to frames, and count the ids that could not be used."""
    frames: list[Frame] = []
    pitches: list[int] = []
    dropped = 0
    has_ended = False
    for id_ in ids:
        if has_ended or id_ not in _USABLE_IDS or (pitches and id_ >= PITCH[pitches[-1]]):
            dropped += 1
        elif id_ in PITCH:
            pitches.append(id_ - PITCH.start)
        elif id_ == FRAME:
            frames.append(frozenset(pitches))
            pitches.clear()
        else:
            has_ended = True
    return (*frames, *([frozenset(pitches)] if pitches else [])), dropped


_USABLE_IDS: Final = frozenset((END, FRAME, *PITCH))


def score_to_frames(score: Score, frame_steps: int = EIGHTH) -> tuple[Frame, ...]:
    """Return the pitches that sound at the first step of each frame, with repeats unfolded."""
    unfolded = score.unfolded()
    frames: list[set[int]] = [set() for _ in range(-(-unfolded.end // frame_steps))]
    for note in unfolded.notes:
        for frame in frames[-(-note.onset // frame_steps) : -(-note.end // frame_steps)]:
            frame.add(note.pitch)
    return tuple(map(frozenset, frames))


def frames_to_notes(
    frames: Sequence[Frame], frame_steps: int = EIGHTH, velocity: int = DEFAULT_VELOCITY
) -> Iterator[Note]:
    """Yield the notes of a roll: a pitch that is also in the next frame is held."""
    onset_by_pitch: dict[int, int] = {}  # in frames
    for index, frame in enumerate((*frames, frozenset())):
        for pitch in sorted(onset_by_pitch.keys() - frame):
            onset = onset_by_pitch.pop(pitch)
            yield Note(onset * frame_steps, pitch, (index - onset) * frame_steps, velocity)
        onset_by_pitch |= dict.fromkeys(frame - onset_by_pitch.keys(), index)


class FramesCodec(ScoreCodec):
    """Converts a piano roll to ids of FRAMES and back."""

    vocabulary = FRAMES

    def __init__(self, name: str = "frames", frame_steps: int = EIGHTH) -> None:
        self.name = name
        self.frame_steps = frame_steps

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Score | Refusal]:
        """Yield a file's tunes, with repeats unfolded, and refusals."""
        for item in super().iter_pieces(data, suffix, source):
            yield _unfold_without_bars(item) if isinstance(item, Score) else item

    def encode(self, piece: Score) -> Encoded:
        """Encode a score with its repeats unfolded. Raises Refusal for drums."""
        unfolded = piece.unfolded()
        part = find_main_part(unfolded)
        frames = score_to_frames(unfolded, self.frame_steps)
        note_count = sum(1 for _ in frames_to_notes(frames, self.frame_steps))
        velocities = [note.velocity for note in unfolded.notes] if note_count else []
        setting = Setting(
            title=unfolded.title,
            rhythm=unfolded.rhythm,
            tempos=tuple(
                (mark.onset, float(mark.value))
                for mark in unfolded.of("tempo")
                if mark.onset < len(frames) * self.frame_steps
            ),
            parts=(part,),
            velocities=(min(multimode(velocities), default=DEFAULT_VELOCITY),),
        )
        return Encoded(encode_frames(frames), setting, len(unfolded.notes) - note_count)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Decode any ids to a score; count the ids that could not be used."""
        frames, dropped = decode_frames(ids)
        notes = tuple(frames_to_notes(frames, self.frame_steps, setting.velocities[0]))
        marks = tuple(self._marks(len(frames), setting))
        score = Score(notes, marks, setting.parts[:1], setting.title, setting.rhythm)
        return Decoded(score, dropped)

    def _marks(self, frame_count: int, setting: Setting) -> Iterator[Mark]:
        """Yield the tempos, and a bar line at the end of the last frame."""
        end = frame_count * self.frame_steps
        yield from (Mark(step, "tempo", qpm) for step, qpm in setting.tempos if step < end)
        if frame_count:
            yield Mark(end, "bar")

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> FramesGrammar:
        """Create the grammar of a new piece."""
        del setting
        return FramesGrammar(MAX_IDS if strict else None)


def _unfold_without_bars(score: Score) -> Score:
    """Unfold repeats and remove the bar lines, which a repeat may split."""
    unfolded = score.unfolded()
    marks = [mark for mark in unfolded.marks if mark.kind in ("key", "tempo")]
    marks += [mark for mark in unfolded.of("meter") if mark.onset == 0]
    if unfolded.end:
        marks.append(Mark(unfolded.end, "bar"))
    return replace(unfolded, marks=tuple(marks))


class FramesGrammar(LengthLimitedGrammar):
    """Allows pitches from high to low in a frame, and the end only between two frames."""

    def __init__(self, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.has_sounded = not self.is_strict
        self.lowest_pitch_id: int | None = None  # of the current frame

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the piece is done."""
        if self.is_done:
            return ()
        if self.lowest_pitch_id is not None:
            return (FRAME, *(() if self.is_closing else range(PITCH.start, self.lowest_pitch_id)))
        end = (END,) if self.has_sounded else ()
        return end or tuple(PITCH) if self.is_closing else (*end, FRAME, *PITCH)

    def take(self, id_: int) -> None:
        """Advance by a legal id."""
        self.id_count += 1
        self.is_done = id_ == END
        self.lowest_pitch_id = id_ if id_ in PITCH else None
        self.has_sounded = self.has_sounded or id_ in PITCH
