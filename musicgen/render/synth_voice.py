"""The sound of one key of an instrument: tuning, sample, filter, envelopes (SoundFont 2.04).

`measure_mistuning` measures how far the samples of a font are out of tune, so that the voice can
correct it: the accordion of the default font is over half a semitone flat.

The generators are named for what they do: "sweep" is the standard's modulation envelope, "wobble"
its modulation LFO, "vibrato" its vibrato LFO. Sample arrays have shape (sample,) float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musicgen.render.soundfont import Region

RATE: Final = 44_100  # samples per second
LONGEST_RELEASE: Final = 4.0  # seconds
_MIN_RELEASE_SECONDS: Final = 0.02  # shorter releases click
_SILENCE_DECIBELS: Final = 80  # attenuation at which a note is inaudible
_ENVELOPE_DECIBELS: Final = 100  # attenuation that decay and release times of a font refer to
_ATTENUATION_SCALE: Final = 0.4  # as on the EMU8000, for which fonts write their attenuation
_FILTER_BLOCK: Final = 1024  # samples per filtered block; blocks overlap by half
_FFT_SIZE: Final = 1280  # samples that a filtered block spreads over
_OPEN_CUTOFF_CENTS: Final = 13_500  # the filter is open from this cutoff on
_KEY_0_HERTZ: Final = 8.176  # frequency of MIDI key 0, from which absolute cents count

Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class SynthVoice:
    """A key of a region, held down: each of its notes is a cut of this sound."""

    raw: Float32Array  # the filtered sample, without the volume envelope
    envelope: Float32Array  # volume while the key is down, 0..1
    release: Float32Array  # volume after the key goes up, from 1 to nearly 0
    gains: tuple[float, float]  # left and right, at velocity 127

    @classmethod
    def of(cls, region: Region, key: int, seconds: float, cents: float = 0.0) -> SynthVoice:
        """Synthesise a key.

        Args:
            region: the sample to play.
            key: MIDI note number.
            seconds: length of the longest note that will be rendered.
            cents: correction of the pitch.
        """
        amounts = region.amounts
        release = _release(_timecents_to_seconds(amounts["release"]))
        count = round(seconds * RATE) + len(release) + 1
        times = np.divide(np.arange(count, dtype=np.float32), RATE, dtype=np.float32)
        sweep = _modulation_envelope(amounts, times)
        raw = _apply_filter(
            _read_sample(region, key + cents / 100, times, sweep), amounts, times, sweep
        )
        return cls(raw, _envelope(amounts, key, times), release, _gains(amounts))

    def render_note(self, seconds: float) -> Float32Array:
        """Return one note at full scale, held for some seconds and then released.

        Returns:
            (sample,) float32, one channel.
        """
        held_count = min(round(seconds * RATE), len(self.envelope) - 1)
        samples = self.raw[: held_count + len(self.release)].copy()
        samples[:held_count] *= self.envelope[:held_count]
        tail = samples[held_count:]
        tail *= self.release[: len(tail)] * self.envelope[held_count]
        return samples


def resampling_ratio(region: Region, key: float) -> float:
    """Return how many samples of a region a key reads per output sample."""
    cents = (key - region.root) * region.amounts["cents_per_key"] + region.cents
    return float(region.rate / RATE * 2 ** (cents / 1200))


def _timecents_to_seconds(timecents: float) -> float:
    return float(2 ** (timecents / 1200)) if timecents > -12_000 else 0.0


def _cents_to_hertz(cents: float) -> float:
    return float(_KEY_0_HERTZ * 2 ** (cents / 1200))


def _gains(amounts: dict[str, int]) -> tuple[float, float]:
    """Return the gains of the left and right channels, with equal-power panning."""
    level = 10 ** (-_ATTENUATION_SCALE * max(amounts["attenuation"], 0) / 200)
    angle = (min(max(amounts["pan"], -500), 500) / 1000 + 0.5) * np.pi / 2
    return float(level * np.cos(angle)), float(level * np.sin(angle))


@functools.lru_cache(maxsize=64)
def _release(seconds: float) -> Float32Array:
    full_seconds = min(
        max(seconds, _MIN_RELEASE_SECONDS), LONGEST_RELEASE * _ENVELOPE_DECIBELS / _SILENCE_DECIBELS
    )
    count = round(full_seconds * _SILENCE_DECIBELS / _ENVELOPE_DECIBELS * RATE)
    return (10 ** (-_SILENCE_DECIBELS / 20 * np.arange(count) / count)).astype(np.float32)


def _envelope(amounts: dict[str, int], key: int, times: Float32Array) -> Float32Array:
    """Return the volume while a key is held: a linear attack, then a decay linear in decibels."""
    delay = _timecents_to_seconds(amounts["delay"])
    attack = _timecents_to_seconds(amounts["attack"])
    hold = _timecents_to_seconds(amounts["hold"] + amounts["hold_by_key"] * (60 - key))
    decay = _timecents_to_seconds(amounts["decay"] + amounts["decay_by_key"] * (60 - key))
    rising = np.clip((times - delay) / max(attack, 1e-3), 0, 1)
    decay_times = times - (delay + attack + hold)
    sustain_decibels = min(max(amounts["sustain"], 0) / 10, 1.5 * _ENVELOPE_DECIBELS)
    falling = np.clip(decay_times * (_ENVELOPE_DECIBELS / max(decay, 1e-3)), 0, sustain_decibels)
    return np.asarray(rising * 10 ** (-falling / 20), dtype=np.float32)


def _modulation_envelope(amounts: dict[str, int], times: Float32Array) -> Float32Array | None:
    """Return the envelope of pitch and cutoff, 0..1; None for a font that does not use it."""
    if not amounts["sweep_pitch"] and not amounts["sweep_cutoff"]:
        return None
    delay, attack, hold, decay = (
        _timecents_to_seconds(amounts[f"sweep_{part}"])
        for part in ("delay", "attack", "hold", "decay")
    )
    rising = np.clip((times - delay) / max(attack, 1e-3), 0, 1)
    decayed = (times - (delay + attack + hold)) / max(decay, 1e-3)
    sustain = 1 - min(max(amounts["sweep_sustain"], 0), 1000) / 1000
    return np.asarray(rising * np.clip(1 - decayed, sustain, 1), dtype=np.float32)


def _triangle_lfo(amounts: dict[str, int], lfo: str, times: Float32Array) -> Float32Array:
    """Return a triangle wave between -1 and 1 that starts at 0."""
    hertz = _cents_to_hertz(amounts[f"{lfo}_rate"])
    cycles = np.maximum(times - _timecents_to_seconds(amounts[f"{lfo}_delay"]), 0) * hertz
    return np.asarray(1 - np.abs((cycles + 0.75) % 1 * 4 - 2), dtype=np.float32)


def _read_sample(
    region: Region, key: float, times: Float32Array, sweep: Float32Array | None
) -> Float32Array:
    """Resample a region to the pitch of a key, repeating its loop."""
    positions = _sample_positions(region, key, times, sweep)
    if region.loop is not None:
        first, last = region.loop
        beyond = positions >= last
        positions[beyond] = first + (positions[beyond] - first) % (last - first)
    else:
        positions = positions[: np.searchsorted(positions, len(region.sample))]
    samples = np.zeros(len(times), dtype=np.float32)
    samples[: len(positions)] = _interpolate(_pad_sample(region), positions)
    return samples


def _sample_positions(
    region: Region, key: float, times: Float32Array, sweep: Float32Array | None
) -> Float64Array:
    """Return the position in the region's sample that each output sample reads, (sample,)."""
    ratio = resampling_ratio(region, key)
    bend_cents = _pitch_bend_cents(region.amounts, times, sweep)
    if bend_cents is None:
        return np.arange(len(times), dtype=np.float64) * ratio
    ratios = ratio * 2 ** (bend_cents.astype(np.float64) / 1200)
    return np.asarray(np.cumsum(ratios) - ratio, dtype=np.float64)


def _pitch_bend_cents(
    amounts: dict[str, int], times: Float32Array, sweep: Float32Array | None
) -> Float32Array | None:
    """Return the pitch bend by vibrato and sweep, in cents; None for a constant pitch."""
    bends = [
        depth * _triangle_lfo(amounts, lfo, times)
        for lfo in ("wobble", "vibrato")
        if (depth := amounts[f"{lfo}_pitch"])
    ]
    if amounts["sweep_pitch"] and sweep is not None:
        bends.append(amounts["sweep_pitch"] * sweep)
    return functools.reduce(np.add, bends) if bends else None


def _pad_sample(region: Region) -> Float32Array:
    """Return the sample, -1..1, padded for interpolation: with silence, or with its loop."""
    sample = region.sample.astype(np.float32) / 2**15
    if region.loop is None:
        return np.concatenate([np.zeros(1, np.float32), sample, np.zeros(3, np.float32)])
    first, last = region.loop
    loop_start = np.resize(sample[first:last], 3)
    return np.concatenate([np.zeros(1, np.float32), sample[:last], loop_start])


def _interpolate(sample: Float32Array, positions: Float64Array) -> Float32Array:
    """Interpolate with a Catmull-Rom cubic; sample[0] has position -1.

    Source: E. Catmull and R. Rom, "A class of local interpolating splines" (1974).
    """
    indices = positions.astype(np.int64)
    x = (positions - indices).astype(np.float32)
    before, here, after, beyond = (sample[indices + shift] for shift in range(4))
    cubic = 3 * (here - after) + beyond - before
    quadratic = 2 * before - 5 * here + 4 * after - beyond
    return here + 0.5 * x * (after - before + x * (quadratic + x * cubic))


def _apply_filter(
    raw: Float32Array, amounts: dict[str, int], times: Float32Array, sweep: Float32Array | None
) -> Float32Array:
    """Apply the low-pass filter, whose cutoff may move, in overlapping blocks."""
    depths = amounts["sweep_cutoff"], amounts["wobble_cutoff"]
    if amounts["cutoff"] >= _OPEN_CUTOFF_CENTS and min(depths) >= 0 and depths[1] == 0:
        return raw
    half = _FILTER_BLOCK // 2
    count = len(raw) // half + 2
    padded = np.zeros((count + 1) * half, dtype=np.float32)
    padded[half : half + len(raw)] = raw
    centres = np.minimum(np.arange(count) * half, len(raw) - 1)
    cents = np.full(count, amounts["cutoff"], dtype=np.float32)
    if depths[0] and sweep is not None:
        cents += depths[0] * sweep[centres]
    if depths[1]:
        cents += depths[1] * _triangle_lfo(amounts, "wobble", times[centres])
    return _filter_blocks(padded, cents, amounts["resonance"])[half : half + len(raw)]


def _filter_blocks(padded: Float32Array, cents: Float32Array, resonance: int) -> Float32Array:
    """Filter each block with its own cutoff, and add the blocks up (overlap-add)."""
    half, margin = _FILTER_BLOCK // 2, (_FFT_SIZE - _FILTER_BLOCK) // 2
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _FILTER_BLOCK)[::half]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FILTER_BLOCK) / _FILTER_BLOCK)).astype(
        np.float32
    )
    spectra = np.fft.rfft(blocks * window, _FFT_SIZE)
    hertz = np.arange(_FFT_SIZE // 2 + 1, dtype=np.float32) * (RATE / _FFT_SIZE)
    clipped = np.clip(cents, 1500, _OPEN_CUTOFF_CENTS)
    cutoff_hertz = _KEY_0_HERTZ * 2 ** (clipped / 1200)
    ratios = np.divide(hertz, cutoff_hertz[:, None], dtype=np.float32)
    spectra *= _filter_response(ratios, resonance)
    filtered = np.fft.irfft(spectra, _FFT_SIZE).astype(np.float32)
    output = np.zeros(len(padded) + _FFT_SIZE, dtype=np.float32)
    for index, block in enumerate(np.roll(filtered, margin, axis=1)):
        output[index * half : index * half + _FFT_SIZE] += block
    return output[margin:]


def _filter_response(ratio: Float32Array, resonance: int) -> Float32Array:
    """Return the gain of a resonant two-pole low-pass filter (SoundFont 2.04, 8.1.3).

    Args:
        ratio: frequencies divided by the cutoff.
        resonance: height of the peak at the cutoff, in tenths of a decibel.
    """
    peak_decibels = resonance / 10 - 3.01  # a resonance of 0 has no peak
    peak, square = 10 ** (peak_decibels / 20), ratio * ratio
    level = 10 ** (-max(peak_decibels, 0) / 40)  # synthesisers lower the level by half the peak
    return np.asarray(level / np.sqrt((1 - square) ** 2 + square / peak**2), dtype=np.float32)


MAX_MISTUNING_CENTS: Final = 75.0  # a larger deviation is intended
_ATTACK_SECONDS: Final = 0.1  # skipped at the start of a note
_ANALYSED_SECONDS: Final = 1.0
_SPECTRUM_SIZE: Final = 2**17  # samples of the Fourier transform
_MIN_FUNDAMENTAL_RATIO: Final = 0.1  # to the loudest partial; a fainter fundamental has no pitch


def measure_mistuning(regions: Sequence[Region], key: int) -> float:
    """Return how many cents sharp the loudest region of a key is.

    Correct all regions of the key by this value, so that reeds detuned against each other stay so.
    Where some regions loop, the others are attack noise and are not measured.
    """
    sustained = [region for region in regions if region.loop is not None] or regions
    return max((_measure_region(region, key) for region in sustained), default=(0.0, 0.0))[1]


@functools.lru_cache(maxsize=1024)
def _measure_region(region: Region, key: int) -> tuple[float, float]:
    """Return the level of a region's fundamental at a key, and how many cents sharp it is.

    Both are 0 where no fundamental is found.
    """
    if _has_shifted_pitch(region):
        return 0.0, 0.0
    ratio = resampling_ratio(region, key)
    sustain = _cut_sustain(region, ratio)
    window = np.hanning(len(sustain))
    spectrum = np.abs(np.fft.rfft(sustain * window, _SPECTRUM_SIZE)) / len(sustain)
    semitones = round(region.cents / 100)  # a fifth or an octave between layers is intended
    expected = 440 * 2 ** ((key + semitones - 69) / 12) / (RATE * ratio) * _SPECTRUM_SIZE  # bin
    low, high = (
        round(expected * 2 ** (cents / 1200))
        for cents in (-MAX_MISTUNING_CENTS, MAX_MISTUNING_CENTS)
    )
    if low < 8 or high + 2 > len(spectrum):
        return 0.0, 0.0
    peak = low + int(spectrum[low : high + 1].argmax())
    if not low < peak < high or spectrum[peak] < _MIN_FUNDAMENTAL_RATIO * spectrum.max():
        return 0.0, 0.0
    level = spectrum[peak] * 10 ** (-region.amounts["attenuation"] / 500)
    return float(level), float(1200 * np.log2(peak / expected))


def _has_shifted_pitch(region: Region) -> bool:
    """Tell whether the font itself bends a region's pitch, or does not tune it in semitones."""
    amounts = region.amounts
    is_bent = amounts["sweep_pitch"] != 0 and amounts["sweep_sustain"] < 1000
    return is_bent or amounts["cents_per_key"] != 100


def _cut_sustain(region: Region, ratio: float) -> Float32Array:
    """Return the part of a sample that a note reads after its attack, with the loop repeated."""
    sample = region.sample
    start, stop = (
        round(seconds * RATE * ratio)
        for seconds in (_ATTACK_SECONDS, _ATTACK_SECONDS + _ANALYSED_SECONDS)
    )
    if region.loop is not None:
        first, last = region.loop
        repeated = np.resize(sample[first:last], max(stop - last, 0))
        sample = np.concatenate([sample[:last], repeated])
    return sample[min(start, len(sample) // 2) : stop][:_SPECTRUM_SIZE].astype(np.float32)
