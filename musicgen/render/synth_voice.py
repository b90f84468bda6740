"""One key of an instrument: sample, filter and envelopes (SoundFont 2.04, chapter 9).

`tuning` measures how far the samples of a font are out of tune, so that the voice can correct it:
the accordion of the default font is off by over half a semitone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from musicgen.render.soundfont import Region

RATE: Final = 44_100  # samples a second
LONGEST_RELEASE: Final = 4.0  # seconds
_MIN_RELEASE_SECONDS: Final = 0.02  # seconds that a release lasts at least: shorter ones click
_SILENCE_DECIBELS: Final = 80  # decibels down, where nothing is heard
_ENVELOPE_DECIBELS: Final = 100  # decibels, over which the font's decay and release times are told
_ATTENUATION_SCALE: Final = (
    0.4  # of the attenuation that fonts write is meant: as the EMU8000 took it
)
_FILTER_BLOCK: Final = 1024  # samples that are filtered at once; half of them overlap
_FFT_SIZE: Final = 1280  # over which filtering spreads a block
_OPEN_CUTOFF_CENTS: Final = 13_500  # cents from which on the filter is open
_KEY_0_HERTZ: Final = 8.176  # hertz of key 0, from which cents count

Wave = Any  # (sample,), float32


@dataclass(frozen=True)
class SynthVoice:
    """A key of a region, held: what any of its notes is cut from."""

    raw: Wave  # as it sounds without the volume's envelope
    envelope: Wave  # while the key is down, 0..1
    release: Wave  # from where it goes up, 1 to nearly 0
    gains: tuple[float, float]  # left, right, at velocity 127

    @classmethod
    def of(cls, region: Region, key: int, seconds: float, cents: float = 0.0) -> SynthVoice:
        """Sound a key, so many cents off, that is held for so long at most, and let go."""
        amounts = region.amounts
        release = _release(_timecents_to_seconds(amounts["release"]))
        count = round(seconds * RATE) + len(release) + 1
        times = np.arange(count, dtype=np.float32) / RATE
        sweep = _modulation_envelope(amounts, times)
        raw = _apply_filter(
            _read_sample(region, key + cents / 100, times, sweep), amounts, times, sweep
        )
        return cls(raw, _envelope(amounts, key, times), release, _gains(amounts))

    def render_note(self, seconds: float) -> Wave:
        """Return one note: held so long, then let go; to full scale, on one channel."""
        held = min(round(seconds * RATE), len(self.envelope) - 1)
        found = self.raw[: held + len(self.release)].copy()
        found[:held] *= self.envelope[:held]
        tail = found[held:]
        tail *= self.release[: len(tail)] * self.envelope[held]
        return found


def resampling_ratio(region: Region, key: float) -> float:
    """Return how many samples of a region a key reads in the time of one of ours."""
    cents = (key - region.root) * region.amounts["cents_a_key"] + region.cents
    return float(region.rate / RATE * 2 ** (cents / 1200))


def _timecents_to_seconds(timecents: float) -> float:
    return float(2 ** (timecents / 1200)) if timecents > -12_000 else 0.0


def _cents_to_hertz(cents: Any) -> Any:
    return _KEY_0_HERTZ * 2 ** (cents / 1200)


def _gains(amounts: dict[str, int]) -> tuple[float, float]:
    """Return left and right, at equal power wherever it stands between them."""
    level = 10 ** (-_ATTENUATION_SCALE * max(amounts["attenuation"], 0) / 200)
    angle = (min(max(amounts["pan"], -500), 500) / 1000 + 0.5) * np.pi / 2
    return float(level * np.cos(angle)), float(level * np.sin(angle))


@lru_cache(maxsize=64)
def _release(seconds: float) -> Wave:
    last = min(
        max(seconds, _MIN_RELEASE_SECONDS), LONGEST_RELEASE * _ENVELOPE_DECIBELS / _SILENCE_DECIBELS
    )
    count = round(last * _SILENCE_DECIBELS / _ENVELOPE_DECIBELS * RATE)
    return (10 ** (-_SILENCE_DECIBELS / 20 * np.arange(count) / count)).astype(np.float32)


def _envelope(amounts: dict[str, int], key: int, times: Wave) -> Wave:
    """Return the volume while a key is held: rising in a line, falling in decibels."""
    delay, attack = (
        _timecents_to_seconds(amounts["delay"]),
        _timecents_to_seconds(amounts["attack"]),
    )
    hold = _timecents_to_seconds(amounts["hold"] + amounts["hold_by_key"] * (60 - key))
    decay = _timecents_to_seconds(amounts["decay"] + amounts["decay_by_key"] * (60 - key))
    rising = np.clip((times - delay) / max(attack, 1e-3), 0, 1)
    since = times - (delay + attack + hold)
    floor = min(max(amounts["sustain"], 0) / 10, 1.5 * _ENVELOPE_DECIBELS)
    falling = np.clip(since * (_ENVELOPE_DECIBELS / max(decay, 1e-3)), 0, floor)
    return (rising * 10 ** (-falling / 20)).astype(np.float32)


def _modulation_envelope(amounts: dict[str, int], times: Wave) -> Wave | None:
    """Return the second envelope, 0..1, which moves pitch and filter; None where it moves none."""
    if not amounts["sweep_pitch"] and not amounts["sweep_cutoff"]:
        return None
    delay, attack, hold, decay = (
        _timecents_to_seconds(amounts[f"sweep_{part}"])
        for part in ("delay", "attack", "hold", "decay")
    )
    rising = np.clip((times - delay) / max(attack, 1e-3), 0, 1)
    fallen = (times - (delay + attack + hold)) / max(decay, 1e-3)
    low = 1 - min(max(amounts["sweep_sustain"], 0), 1000) / 1000
    return (rising * np.clip(1 - fallen, low, 1)).astype(np.float32)


def _triangle_lfo(amounts: dict[str, int], lfo: str, times: Wave) -> Wave:
    """Return a triangle between -1 and 1 that starts at 0."""
    rate = _cents_to_hertz(amounts[f"{lfo}_rate"])
    turns = np.maximum(times - _timecents_to_seconds(amounts[f"{lfo}_delay"]), 0) * rate
    return (1 - np.abs((turns + 0.75) % 1 * 4 - 2)).astype(np.float32)


def _read_sample(region: Region, key: float, times: Wave, sweep: Wave | None) -> Wave:
    """Read the sample as fast as the key wants, round its loop; between samples by cubics."""
    places = _sample_positions(region, key, times, sweep)
    if region.loop is not None:
        first, last = region.loop
        beyond = places >= last
        places[beyond] = first + (places[beyond] - first) % (last - first)
    else:
        places = places[: np.searchsorted(places, len(region.sample))]
    around = _pad_sample(region)
    found = np.zeros(len(times), dtype=np.float32)
    found[: len(places)] = _interpolate(around, places)
    return found


def _sample_positions(region: Region, key: float, times: Wave, sweep: Wave | None) -> Any:
    """Return where in the sample each moment reads."""
    pace, bent = resampling_ratio(region, key), _pitch_bend_cents(region.amounts, times, sweep)
    if bent is None:
        return np.arange(len(times)) * pace
    return np.cumsum(pace * 2 ** (bent.astype(np.float64) / 1200)) - pace


def _pitch_bend_cents(amounts: dict[str, int], times: Wave, sweep: Wave | None) -> Wave | None:
    """Return by how many cents vibrato and the like bend each moment; None where they do not."""
    found = None
    for which in ("wobble", "vibrato"):
        if depth := amounts[f"{which}_pitch"]:
            found = depth * _triangle_lfo(amounts, which, times) + (0 if found is None else found)
    if amounts["sweep_pitch"] and sweep is not None:
        found = amounts["sweep_pitch"] * sweep + (0 if found is None else found)
    return found


def _pad_sample(region: Region) -> Wave:
    """Return the sample, -1..1, with what is read beside its edges: silence, or its loop."""
    sample = region.sample.astype(np.float32) / 2**15
    if region.loop is None:
        return np.concatenate([np.zeros(1, np.float32), sample, np.zeros(3, np.float32)])
    first, last = region.loop
    again = np.resize(sample[first:last], 3)
    return np.concatenate([np.zeros(1, np.float32), sample[:last], again])


def _interpolate(sample: Wave, positions: Any) -> Wave:
    """Read between samples, by Catmull and Rom's cubic; the first of them is place -1."""
    whole = positions.astype(np.int64)
    part = (positions - whole).astype(np.float32)
    before, here, after, beyond = (sample[whole + shift] for shift in range(4))
    bend = 3 * (here - after) + beyond - before
    curve = 2 * before - 5 * here + 4 * after - beyond
    return here + 0.5 * part * (after - before + part * (curve + part * bend))


def _apply_filter(raw: Wave, amounts: dict[str, int], times: Wave, sweep: Wave | None) -> Wave:
    """Pass it through the low-pass filter, whose cutoff may move, in blocks that overlap."""
    depths = amounts["sweep_cutoff"], amounts["wobble_cutoff"]
    if amounts["cutoff"] >= _OPEN_CUTOFF_CENTS and min(depths) >= 0 and depths[1] == 0:
        return raw
    half = _FILTER_BLOCK // 2
    count = len(raw) // half + 2
    padded = np.zeros((count + 1) * half, dtype=np.float32)
    padded[half : half + len(raw)] = raw
    middles = np.minimum(np.arange(count) * half, len(raw) - 1)
    cents = np.full(count, amounts["cutoff"], dtype=np.float32)
    if depths[0] and sweep is not None:
        cents += depths[0] * sweep[middles]
    if depths[1]:
        cents += depths[1] * _triangle_lfo(amounts, "wobble", times[middles])
    return _filter_blocks(padded, cents, amounts["resonance"])[half : half + len(raw)]


def _filter_blocks(padded: Wave, cents: Wave, resonance: int) -> Wave:
    """Filter blocks by their cutoffs; the padding of each takes up what the filter smears."""
    half, margin = _FILTER_BLOCK // 2, (_FFT_SIZE - _FILTER_BLOCK) // 2
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _FILTER_BLOCK)[::half]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FILTER_BLOCK) / _FILTER_BLOCK)).astype(
        np.float32
    )
    spectra = np.fft.rfft(blocks * window, _FFT_SIZE)
    hertz = np.arange(_FFT_SIZE // 2 + 1, dtype=np.float32) * (RATE / _FFT_SIZE)
    spectra *= _filter_response(
        hertz / _cents_to_hertz(np.clip(cents, 1500, _OPEN_CUTOFF_CENTS))[:, None], resonance
    )
    pieces = np.fft.irfft(spectra, _FFT_SIZE).astype(np.float32)
    found = np.zeros(len(padded) + _FFT_SIZE, dtype=np.float32)
    for place, piece in enumerate(np.roll(pieces, margin, axis=1)):
        found[place * half : place * half + _FFT_SIZE] += piece
    return found[margin:]


def _filter_response(ratio: Any, resonance: int) -> Any:
    """Return what a resonant low-pass of two poles leaves of frequencies over its cutoff."""
    decibels = resonance / 10 - 3.01  # of the peak; 0 in the font is no peak at all
    peak, square = 10 ** (decibels / 20), ratio * ratio
    level = 10 ** (-max(decibels, 0) / 40)  # the font's players take half of the peak off again
    return level / np.sqrt((1 - square) ** 2 + square / peak**2)


MAX_MISTUNING_CENTS: Final = 75.0  # cents; what is farther off was meant to be
_ATTACK_SECONDS: Final = 0.1  # seconds of a note's attack
_ANALYSED_SECONDS: Final = 1.0  # seconds that are looked at
_SPECTRUM_SIZE: Final = 2**17  # of the spectrum, both halves
_MIN_FUNDAMENTAL_RATIO: Final = 0.1  # of the loudest partial: a fainter fundamental tells no pitch


def measure_mistuning(regions: Sequence[Region], key: int) -> float:
    """Return by how many cents the loudest of the regions that a key plays is sharp.

    All are to be moved by it: reeds that are tuned apart stay so. Beside a tone that lasts, what
    does not is the noise of its attack.
    """
    lasting = [region for region in regions if region.loop is not None] or regions
    return max((_measure_region(region, key) for region in lasting), default=(0.0, 0.0))[1]


@lru_cache(maxsize=1024)
def _measure_region(region: Region, key: int) -> tuple[float, float]:
    """Return how loud a region's fundamental is at a key, and by how many cents it is sharp.

    It is neither where the fundamental tells no pitch.
    """
    if _has_shifted_pitch(region):
        return 0.0, 0.0
    pace = resampling_ratio(region, key)
    heard = _cut_sustain(region, pace)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), _SPECTRUM_SIZE)) / len(heard)
    semitones = round(region.cents / 100)  # a fifth or an octave between layers is meant
    place = 440 * 2 ** ((key + semitones - 69) / 12) / (RATE * pace) * _SPECTRUM_SIZE
    low, high = (
        round(place * 2 ** (cents / 1200)) for cents in (-MAX_MISTUNING_CENTS, MAX_MISTUNING_CENTS)
    )
    if low < 8 or high + 2 > len(spectrum):
        return 0.0, 0.0
    peak = low + int(spectrum[low : high + 1].argmax())
    if not low < peak < high or spectrum[peak] < _MIN_FUNDAMENTAL_RATIO * spectrum.max():
        return 0.0, 0.0
    loud = spectrum[peak] * 10 ** (-region.amounts["attenuation"] / 500)
    return float(loud), float(1200 * np.log2(peak / place))


def _has_shifted_pitch(region: Region) -> bool:
    """Tell whether the font itself moves a region's pitch away, or does not tune it by keys."""
    amounts = region.amounts
    away = amounts["sweep_pitch"] != 0 and amounts["sweep_sustain"] < 1000
    return away or amounts["cents_a_key"] != 100


def _cut_sustain(region: Region, ratio: float) -> Any:
    """Return what a note reads of a sample after its attack: to the loop's end, round and round."""
    sample = region.sample
    skipped, stop = (
        round(seconds * RATE * ratio)
        for seconds in (_ATTACK_SECONDS, _ATTACK_SECONDS + _ANALYSED_SECONDS)
    )
    if region.loop is not None:
        first, last = region.loop
        again = np.resize(sample[first:last], max(stop - last, 0))
        sample = np.concatenate([sample[:last], again])
    return sample[min(skipped, len(sample) // 2) : stop][:_SPECTRUM_SIZE].astype(np.float32)
