from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from musicgen.config import FRAME_FIELDS, FRAME_LAGS
from musicgen.music.arrays import TokenIds
from musicgen.tokens.context_families import count_field_values
from musicgen.tokens.frame_context import MOST_TRANSPOSITION, FrameContexts
from musicgen.tokens.frames import FRAME, FRAMES, PITCH, encode_frames
from musicgen.training.batches import ContextCache, WindowStream, transpose_ids

Frames = list[set[int]]
CONTEXTS = FrameContexts()
COLUMNS = {name: column for column, name in enumerate(FRAME_FIELDS)}

frame_sets = st.sets(st.integers(40, 76), max_size=5)
pieces = st.one_of(
    st.lists(frame_sets, min_size=1, max_size=12),
    st.lists(frame_sets, min_size=1, max_size=4).map(lambda phrase: phrase * 5),
)


def encode(frames: Frames) -> TokenIds:
    return np.array(encode_frames(frames)[:-1], np.int16)


def compute(frames: Frames) -> np.ndarray:
    return CONTEXTS.compute([encode(frames)])[0]


@given(pieces, st.integers(0, 200), pieces)
def test_fields_depend_on_earlier_ids_only(frames: Frames, place: int, other: Frames) -> None:
    ids, later = encode(frames), encode(other)
    place %= len(ids)
    below_last = later[: np.flatnonzero(later == FRAME)[0]]
    if place and ids[place - 1] in PITCH:
        below_last = below_last[below_last < ids[place - 1]]
    changed = np.concatenate([ids[:place], below_last, [FRAME], later])
    expected, fields = CONTEXTS.compute([ids])[0], CONTEXTS.compute([changed])[0]
    assert fields[: place + 1].tolist() == expected[: place + 1].tolist()


def test_a_frame_does_not_see_itself() -> None:
    phrase: Frames = [{60, 64, 67}, {60, 65, 69}, {59, 62, 67}, {60, 64, 72}]
    frames = phrase * 3
    ids = encode(frames)
    for number in range(len(frames)):
        changed = encode([*frames[:number], {47, 61, 75}, *frames[number + 1 :]])
        first = np.flatnonzero(np.r_[FRAME, ids] == FRAME)[number]
        expected = CONTEXTS.compute([ids])[0][first]
        assert CONTEXTS.compute([changed])[0][first].tolist() == expected.tolist()


@given(pieces)
def test_lags_look_up_the_next_lower_pitch(frames: Frames) -> None:
    fields = compute(frames)
    row = 0
    runs = dict.fromkeys(FRAME_LAGS, 0)
    for number, frame in enumerate(frames):
        last = 128
        for pitch in (*sorted(frame, reverse=True), None):
            id_ = FRAME if pitch is None else PITCH[pitch]
            for lag in FRAME_LAGS:
                earlier = frames[number - lag] if number >= lag else None
                lower = [other for other in earlier or () if other < last]
                seen = PITCH[max(lower)] + 1 if lower else FRAME + 1
                assert fields[row, COLUMNS[f"ago{lag}"]] == (0 if earlier is None else seen)
                if runs[lag] <= 8:
                    assert fields[row, COLUMNS[f"run{lag}"]] == runs[lag]
                runs[lag] = runs[lag] + 1 if earlier is not None and seen == id_ + 1 else 0
            last, row = (last if pitch is None else pitch), row + 1


def test_fields_of_a_chorale() -> None:
    fields = compute([{60, 67, 76}, {60, 67, 76}, {59, 67, 74}, {60, 64}])
    rows = fields[8:12]  # the third frame: 74, 67, 59, its end
    values = {name: rows[:, column].tolist() for name, column in COLUMNS.items()}
    assert values["count"] == [0, 1, 2, 3]
    assert values["above"] == [0, PITCH[74] + 1, PITCH[67] + 1, PITCH[59] + 1]
    assert values["ago1"] == [PITCH[pitch] + 1 for pitch in (76, 67, 60)] + [FRAME + 1]
    assert values["age"] == [2, 2, 2, 0]
    assert values["motion"] == [0, 11, 13, 12]  # 13 is no motion: two lower, the same, one lower
    assert values["first_motion"] == [0, 11, 11, 11]
    assert values["frame_tones"] == [0, 1 << 2, 1 << 2 | 1 << 7, 1 << 2 | 1 << 7 | 1 << 11]
    assert values["before_tones"] == [1 << 0 | 1 << 4 | 1 << 7] * 4
    assert values["under"] == [1 << 8, 1 << 6, 0, 0]
    assert values["over"] == [0, 1 << 8, 1 << 6, 0]
    assert values["near_chord"] == [0, 0, 1 << 6, 1 << 7 | 1 << 14]
    assert values["key"] == [MOST_TRANSPOSITION] * 4


def test_echo_continues_the_longest_repetition() -> None:
    phrase: Frames = [{60}, {62}, {64}, {65}, {67}]
    fields = compute([*phrase, {55}, *phrase])
    echoes = fields[::2, COLUMNS["ago_echo"]].tolist()  # before the pitch of each frame
    assert echoes[7:] == [PITCH[pitch] + 1 for pitch in (62, 64, 65, 67)]
    assert fields[::2, COLUMNS["run_echo"]].tolist()[7:] == [1, 2, 3, 4]
    changed = compute([*phrase, {55}, *phrase[:2], {63}])
    assert changed[-1, COLUMNS["run_echo"]] == 0  # the frame so far is another


@given(pieces, st.integers(-MOST_TRANSPOSITION, MOST_TRANSPOSITION))
def test_transposing_the_fields_equals_transposing_the_piece(
    frames: Frames, semitones: int
) -> None:
    transposed = compute([{pitch + semitones for pitch in frame} for frame in frames])
    transposed[:, COLUMNS["key"]] += semitones
    assert CONTEXTS.transpose(compute(frames), semitones).tolist() == transposed.tolist()


def test_transposed_windows_carry_the_transposed_context() -> None:
    ids = encode([{60, 64, 67}, {62, 65}, {60, 64, 67}, {62, 65}, {59, 62}])
    stream = WindowStream(
        [ids], 4, np.random.default_rng(1), (PITCH,), ContextCache([ids], CONTEXTS)
    )
    first, second = stream.next_window(7), stream.next_window(7)
    assert first.context is not None
    assert second.context is not None
    shifts = [position.semitones for position in stream.positions]
    assert len(set(shifts)) > 1
    for lane, semitones in enumerate(shifts):
        transposed = transpose_ids(ids, (PITCH,), semitones)
        expected = CONTEXTS.compute([transposed])[0]
        expected[:, COLUMNS["key"]] += semitones
        rows = np.concatenate([first.context[lane], second.context[lane]])
        assert rows.tolist() == expected[: len(rows)].tolist()


@given(pieces)
def test_values_fit_their_fields(frames: Frames) -> None:
    fields = compute(frames)
    sizes = [count_field_values(name, len(FRAMES)) for name in FRAME_FIELDS]
    assert (fields >= 0).all()
    assert (fields < sizes).all()
