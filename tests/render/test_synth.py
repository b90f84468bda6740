"""What a score sounds like: pitch, length, loudness, and a tail that dies away."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from musicgen.errors import NotFound, Refusal
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.render import soundfont, synth, synth_voice
from musicgen.render.soundfont import SoundFont, load_instrument
from musicgen.render.synth import MAX_PEAK, MAX_SECONDS, TARGET_RMS, render_wav, synthesise
from musicgen.render.synth_voice import RATE
from musicgen.render.timeline import duration, timeline
from musicgen.trained_model import load
from tests.render.pitches import cents_off

PIANO, GUITAR, VIOLIN, FLUTE = 0, 24, 40, 73
QUARTER, BAR = 48, 192


def held(pitch: int, program: int = PIANO, *, quarters: int = 3) -> Score:
    return Score((Note(0, pitch, quarters * QUARTER),), parts=(Part("", program),))


def scale(*, velocity: int = 80, count: int = 8) -> Score:
    notes = tuple(Note(k * 24, 60 + 2 * k, 24, velocity) for k in range(count))
    return Score(notes, (Mark(BAR, "repeat_end", 2), Mark(BAR, "bar")))


def level(sound: np.ndarray, start: float, end: float) -> float:
    piece = sound[:, round(start * RATE) : round(end * RATE)]
    return float(np.sqrt((piece * piece).mean()))


@pytest.mark.parametrize("program", [PIANO, GUITAR, VIOLIN, FLUTE, 21, 105, 109, 110])
@pytest.mark.parametrize("pitch", [55, 62, 69, 76])
def test_a_note_has_its_pitch(program: int, pitch: int) -> None:
    assert abs(cents_off(synthesise(held(pitch, program)), pitch)) < 5


@pytest.mark.parametrize("pitch", [74, 83, 91])
def test_an_instrument_that_its_font_has_half_a_semitone_flat_is_in_tune(pitch: int) -> None:
    assert abs(cents_off(synthesise(held(pitch, 21)), pitch)) < 5


def test_it_lasts_as_long_as_the_tune_and_a_tail_that_dies_away() -> None:
    sound = synthesise(scale())
    tail = sound.shape[1] / RATE - duration(scale())
    assert duration(scale()) == 4
    assert 0.05 < tail < 2
    assert level(sound, 4 + tail - 0.02, 4 + tail) < level(sound, 3.8, 4) / 100


def test_a_rest_at_the_end_is_kept() -> None:
    score = Score((Note(0, 60, 24),), (Mark(4 * BAR, "bar"),))
    assert synthesise(score).shape[1] == 8 * RATE


def test_notes_sound_where_the_timeline_says() -> None:
    score = Score((Note(96, 72, 48), Note(240, 60, 48)), (Mark(384, "bar"),))
    sound = np.abs(synthesise(score)).max(axis=0)
    assert not sound[: RATE - 1].any()
    for start in (1.0, 2.5):
        assert sound[round(start * RATE) : round((start + 0.05) * RATE)].max() > 0.1
    assert sound[round(2.3 * RATE) : round(2.499 * RATE)].max() < 0.02


@pytest.mark.parametrize("program", [PIANO, VIOLIN, 13, 47, 67, 109])
def test_loudness_is_equal_and_nothing_clips(program: int) -> None:
    sound = synthesise(Score(scale().notes, scale().marks, (Part("", program),)))
    assert np.abs(sound).max() <= MAX_PEAK + 1e-6
    assert TARGET_RMS / 3 < level(sound, 0, 4) < 1.2 * TARGET_RMS


def test_a_crowd_of_notes_does_not_clip() -> None:
    notes = tuple(Note(0, pitch, 24, 127, part) for pitch in range(40, 90, 6) for part in range(4))
    sound = synthesise(Score(notes, parts=tuple(Part("", p) for p in (0, 19, 48, 61))))
    assert 0.1 < np.abs(sound).max() <= MAX_PEAK + 1e-6


def test_a_faint_tune_is_as_loud_as_a_strong_one_but_not_its_faint_notes() -> None:
    faint, strong = synthesise(scale(velocity=1)), synthesise(scale(velocity=127))
    assert level(faint, 0, 4) == pytest.approx(level(strong, 0, 4), rel=0.01)
    both = Score((Note(0, 60, 96, 127), Note(192, 60, 96, 40)))
    assert level(synthesise(both), 0, 1) > 5 * level(synthesise(both), 2, 3)


def test_an_instrument_for_all_parts_leaves_the_drums() -> None:
    parts = (Part("", PIANO), Part("drums", 0, is_drums=True))
    score = Score((Note(0, 60, 96, 80, 0), Note(240, 38, 48, 80, 1)), parts=parts)
    piano, violin = synthesise(score), synthesise(score, program=VIOLIN)
    assert level(piano, 0.8, 0.95) < 0.7 * level(violin, 0.8, 0.95)
    snares = [sound[:, round(2.5 * RATE) :][:, :4410] for sound in (piano, violin)]
    same = snares[0] * (np.abs(snares[1]).max() / np.abs(snares[0]).max())
    assert np.abs(same - snares[1]).max() < 0.01


def test_a_key_that_an_instrument_lacks_is_played_by_its_nearest_sample() -> None:
    saxophone = 67
    assert max(region.keys[1] for region in load_instrument(saxophone)) < 83
    assert abs(cents_off(synthesise(held(83, saxophone)), 83)) < 5


@pytest.mark.parametrize(
    ("first", "bars"), [((), 1.0), ((Mark(24, "bar"), Mark(24 + 72, "bar")), 2 - 1 / 3)]
)
def test_a_count_in_is_a_bar_of_clicks_and_what_the_pickup_lacks(
    first: tuple[Mark, ...], bars: float
) -> None:
    meter = Mark(0, "meter", Meter(3, 8))
    score = Score((Note(0, 60, 24), Note(24, 62, 72)), (meter, *first))
    plain, counted = synthesise(score), synthesise(score, count_in=True)
    shift = round(bars * 0.75 * RATE)
    assert abs(counted.shape[1] - plain.shape[1] - shift) < 0.05 * RATE
    for click in range(round(bars * 3)):
        assert level(counted, click * 0.25, click * 0.25 + 0.05) > 0.01
    assert np.abs(counted).max() <= MAX_PEAK + 1e-6


def test_a_file_is_sixteen_bits_in_stereo() -> None:
    with wave.open(io.BytesIO(render_wav(scale()))) as file:
        assert file.getparams()[:4] == (2, 2, RATE, synthesise(scale()).shape[1])
        found = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, 2).T
    assert np.abs(found / 32_767 - synthesise(scale())).max() < 1e-4


def test_the_same_score_has_the_same_bytes() -> None:
    assert render_wav(scale()) == render_wav(scale())


def test_no_notes_no_sound() -> None:
    with pytest.raises(Refusal, match="there are no notes to hear; name a tune that has some"):
        synthesise(Score((), (Mark(BAR, "bar"),)))


def test_what_lasts_too_long_is_refused_before_any_work() -> None:
    beyond = round(MAX_SECONDS * 2 + 2) * QUARTER
    with pytest.raises(Refusal, match=r"lasts 30 minutes, and sound is written of 30 at most"):
        synthesise(Score((Note(beyond, 60, 48),)))


def test_a_font_that_is_none_is_refused() -> None:
    with pytest.raises(Refusal, match=r"x\.sf2: it is no SoundFont 2 file"):
        SoundFont(b"RIFF" + bytes(100), "x.sf2")


def test_without_the_font_it_is_said_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfont, "find_spec", lambda name: None)
    soundfont._load_general_midi.cache_clear()
    soundfont.load_instrument.cache_clear()
    with pytest.raises(NotFound, match="come with pretty_midi, which is not there"):
        synth.synthesise(scale())
    soundfont.load_instrument.cache_clear()


def test_filtering_in_blocks_is_filtering_at_once() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    amounts = {"cutoff": 7000, "sweep_cutoff": 0, "wobble_cutoff": 0, "resonance": 60}
    found = synth_voice._apply_filter(noise, amounts, np.arange(RATE) / RATE, None)
    ratio = np.arange(RATE + 1) / 2 / synth_voice._cents_to_hertz(7000)
    whole = np.fft.irfft(np.fft.rfft(noise, 2 * RATE) * synth_voice._filter_response(ratio, 60))[
        :RATE
    ]
    error = (found - whole)[synth_voice.RATE // 20 : -synth_voice.RATE // 20]
    assert np.std(error) < 0.001 * np.std(whole)


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.promises)])
def test_sampled_tunes_are_heard_whole(count: int) -> None:
    model = load("folk")
    for seed in range(count):
        score = model.sample(seed=seed).score
        sound, length = synthesise(score), duration(score)
        assert -0.05 < sound.shape[1] / RATE - length < 4
        assert np.abs(sound).max() <= MAX_PEAK + 1e-6
        assert TARGET_RMS / 2 < level(sound, 0, length) < 1.2 * TARGET_RMS
        first = float(np.argmax(np.abs(sound).max(axis=0) > 0.01)) / RATE
        assert abs(first - timeline(score)[0].start) < 0.05
