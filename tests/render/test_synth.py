"""Synthesised sound: pitch, length, loudness and the decaying tail."""

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


def hold_note(pitch: int, program: int = PIANO, *, quarters: int = 3) -> Score:
    return Score((Note(0, pitch, quarters * QUARTER),), parts=(Part("", program),))


def make_scale(*, velocity: int = 80, count: int = 8) -> Score:
    notes = tuple(Note(k * 24, 60 + 2 * k, 24, velocity) for k in range(count))
    return Score(notes, (Mark(BAR, "repeat_end", 2), Mark(BAR, "bar")))


def measure_rms(sound: np.ndarray, start: float, end: float) -> float:
    excerpt = sound[:, round(start * RATE) : round(end * RATE)]
    return float(np.sqrt((excerpt * excerpt).mean()))


@pytest.mark.parametrize("program", [PIANO, GUITAR, VIOLIN, FLUTE, 21, 105, 109, 110])
@pytest.mark.parametrize("pitch", [55, 62, 69, 76])
def test_note_is_in_tune(program: int, pitch: int) -> None:
    assert abs(cents_off(synthesise(hold_note(pitch, program)), pitch)) < 5


@pytest.mark.parametrize("pitch", [74, 83, 91])
def test_mistuned_instrument_is_corrected(pitch: int) -> None:
    assert abs(cents_off(synthesise(hold_note(pitch, 21)), pitch)) < 5


def test_length_is_the_tune_and_a_decaying_tail() -> None:
    sound = synthesise(make_scale())
    tail = sound.shape[1] / RATE - duration(make_scale())
    assert duration(make_scale()) == 4
    assert 0.05 < tail < 2
    assert measure_rms(sound, 4 + tail - 0.02, 4 + tail) < measure_rms(sound, 3.8, 4) / 100


def test_final_rest_is_kept() -> None:
    score = Score((Note(0, 60, 24),), (Mark(4 * BAR, "bar"),))
    assert synthesise(score).shape[1] == 8 * RATE


def test_notes_start_at_the_times_of_the_timeline() -> None:
    score = Score((Note(96, 72, 48), Note(240, 60, 48)), (Mark(384, "bar"),))
    sound = np.abs(synthesise(score)).max(axis=0)
    assert not sound[: RATE - 1].any()
    for start in (1.0, 2.5):
        assert sound[round(start * RATE) : round((start + 0.05) * RATE)].max() > 0.1
    assert sound[round(2.3 * RATE) : round(2.499 * RATE)].max() < 0.02


@pytest.mark.parametrize("program", [PIANO, VIOLIN, 13, 47, 67, 109])
def test_loudness_is_normalised_without_clipping(program: int) -> None:
    sound = synthesise(Score(make_scale().notes, make_scale().marks, (Part("", program),)))
    assert np.abs(sound).max() <= MAX_PEAK + 1e-6
    assert TARGET_RMS / 3 < measure_rms(sound, 0, 4) < 1.2 * TARGET_RMS


def test_many_notes_do_not_clip() -> None:
    notes = tuple(Note(0, pitch, 24, 127, part) for pitch in range(40, 90, 6) for part in range(4))
    sound = synthesise(Score(notes, parts=tuple(Part("", p) for p in (0, 19, 48, 61))))
    assert 0.1 < np.abs(sound).max() <= MAX_PEAK + 1e-6


def test_normalisation_keeps_dynamics_within_a_tune() -> None:
    quiet, loud = synthesise(make_scale(velocity=1)), synthesise(make_scale(velocity=127))
    assert measure_rms(quiet, 0, 4) == pytest.approx(measure_rms(loud, 0, 4), rel=0.01)
    both = Score((Note(0, 60, 96, 127), Note(192, 60, 96, 40)))
    assert measure_rms(synthesise(both), 0, 1) > 5 * measure_rms(synthesise(both), 2, 3)


def test_program_leaves_the_drums() -> None:
    parts = (Part("", PIANO), Part("drums", 0, is_drums=True))
    score = Score((Note(0, 60, 96, 80, 0), Note(240, 38, 48, 80, 1)), parts=parts)
    piano, violin = synthesise(score), synthesise(score, program=VIOLIN)
    assert measure_rms(piano, 0.8, 0.95) < 0.7 * measure_rms(violin, 0.8, 0.95)
    snares = [sound[:, round(2.5 * RATE) :][:, :4410] for sound in (piano, violin)]
    same = snares[0] * (np.abs(snares[1]).max() / np.abs(snares[0]).max())
    assert np.abs(same - snares[1]).max() < 0.01


def test_missing_key_uses_the_nearest_sample() -> None:
    saxophone = 67
    assert max(region.keys[1] for region in load_instrument(saxophone)) < 83
    assert abs(cents_off(synthesise(hold_note(83, saxophone)), 83)) < 5


@pytest.mark.parametrize(
    ("bar_lines", "bars"), [((), 1.0), ((Mark(24, "bar"), Mark(24 + 72, "bar")), 2 - 1 / 3)]
)
def test_count_in_completes_the_pickup(bar_lines: tuple[Mark, ...], bars: float) -> None:
    meter = Mark(0, "meter", Meter(3, 8))
    score = Score((Note(0, 60, 24), Note(24, 62, 72)), (meter, *bar_lines))
    without_count_in, with_count_in = synthesise(score), synthesise(score, count_in=True)
    shift = round(bars * 0.75 * RATE)
    assert abs(with_count_in.shape[1] - without_count_in.shape[1] - shift) < 0.05 * RATE
    for click in range(round(bars * 3)):
        assert measure_rms(with_count_in, click * 0.25, click * 0.25 + 0.05) > 0.01
    assert np.abs(with_count_in).max() <= MAX_PEAK + 1e-6


def test_wav_is_16_bit_stereo() -> None:
    with wave.open(io.BytesIO(render_wav(make_scale()))) as file:
        assert file.getparams()[:4] == (2, 2, RATE, synthesise(make_scale()).shape[1])
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, 2).T
    assert np.abs(samples / 32_767 - synthesise(make_scale())).max() < 1e-4


def test_wav_is_deterministic() -> None:
    assert render_wav(make_scale()) == render_wav(make_scale())


def test_score_without_notes_is_refused() -> None:
    with pytest.raises(Refusal, match="the tune has no notes to play; choose another"):
        synthesise(Score((), (Mark(BAR, "bar"),)))


def test_long_score_is_refused() -> None:
    beyond = round(MAX_SECONDS * 2 + 2) * QUARTER
    with pytest.raises(Refusal, match=r"lasts 30 minutes, over the limit of 30 for sound"):
        synthesise(Score((Note(beyond, 60, 48),)))


def test_invalid_font_is_refused() -> None:
    with pytest.raises(Refusal, match=r"x\.sf2: not a SoundFont 2 file"):
        SoundFont(b"RIFF" + bytes(100), "x.sf2")


def test_missing_font_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfont, "find_spec", lambda name: None)
    soundfont._load_general_midi.cache_clear()
    soundfont.load_instrument.cache_clear()
    with pytest.raises(
        NotFound, match="pretty_midi, which contains the instruments, is not installed"
    ):
        synth.synthesise(make_scale())
    soundfont.load_instrument.cache_clear()


def test_block_filter_equals_filter_of_the_whole() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    amounts = {"cutoff": 7000, "sweep_cutoff": 0, "wobble_cutoff": 0, "resonance": 60}
    times = (np.arange(RATE) / RATE).astype(np.float32)
    filtered = synth_voice._apply_filter(noise, amounts, times, None)
    ratio = (np.arange(RATE + 1) / 2 / synth_voice._cents_to_hertz(7000)).astype(np.float32)
    whole = np.fft.irfft(np.fft.rfft(noise, 2 * RATE) * synth_voice._filter_response(ratio, 60))[
        :RATE
    ]
    error = (filtered - whole)[synth_voice.RATE // 20 : -synth_voice.RATE // 20]
    assert np.std(error) < 0.001 * np.std(whole)


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.promises)])
def test_sampled_tunes_are_synthesised_completely(count: int) -> None:
    model = load("folk")
    for seed in range(count):
        score = model.sample(seed=seed).score
        sound, length = synthesise(score), duration(score)
        assert -0.05 < sound.shape[1] / RATE - length < 4
        assert np.abs(sound).max() <= MAX_PEAK + 1e-6
        assert TARGET_RMS / 2 < measure_rms(sound, 0, length) < 1.2 * TARGET_RMS
        first_sound = float(np.argmax(np.abs(sound).max(axis=0) > 0.01)) / RATE
        assert abs(first_sound - timeline(score)[0].start) < 0.05
