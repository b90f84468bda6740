"""Read SoundFont 2 files: the bytes of samples and the parameters of each instrument.

Source: SoundFont Technical Specification 2.04, chapters 7 to 9. The default font is the General
MIDI set of 6 MB that pretty_midi contains. `synth_voice` plays it, since the synthesiser of symusic
plays most of its instruments out of tune (middle C of the violin at 468 Hz).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import NotFound, Refusal
from musicgen.files import read_regular_file

FONT_FILE_NAME: Final = "TimGM6mb.sf2"
DRUM_BANK: Final = 128

# name -> (number, default value)
_GENERATORS: Final = {
    "start": (0, 0),
    "end": (1, 0),
    "loop_start": (2, 0),
    "loop_end": (3, 0),
    "wobble_pitch": (5, 0),  # "modLfo" of the standard
    "vibrato_pitch": (6, 0),  # "vibLfo"
    "sweep_pitch": (7, 0),  # "modEnv"
    "cutoff": (8, 13500),
    "resonance": (9, 0),
    "wobble_cutoff": (10, 0),
    "sweep_cutoff": (11, 0),
    "pan": (17, 0),
    "wobble_delay": (21, -12000),
    "wobble_rate": (22, 0),
    "vibrato_delay": (23, -12000),
    "vibrato_rate": (24, 0),
    "sweep_delay": (25, -12000),
    "sweep_attack": (26, -12000),
    "sweep_hold": (27, -12000),
    "sweep_decay": (28, -12000),
    "sweep_sustain": (29, 0),
    "delay": (33, -12000),
    "attack": (34, -12000),
    "hold": (35, -12000),
    "decay": (36, -12000),
    "sustain": (37, 0),
    "release": (38, -12000),
    "hold_by_key": (39, 0),
    "decay_by_key": (40, 0),
    "attenuation": (48, 0),
    "semitones": (51, 0),
    "cents": (52, 0),
    "loops": (54, 0),
    "cents_per_key": (56, 100),
    "root": (58, -1),
}
_INSTRUMENT, _KEYS, _VELOCITIES, _SAMPLE = 41, 43, 44, 53  # generators without an amount
_RECORDS: Final = {  # fields of the lists in the chunk "pdta"
    "phdr": [("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("zone", "<u2"), ("", "S12")],
    "pbag": [("generator", "<u2"), ("", "S2")],
    "pgen": [("kind", "<u2"), ("amount", "<i2")],
    "inst": [("name", "S20"), ("zone", "<u2")],
    "ibag": [("generator", "<u2"), ("", "S2")],
    "igen": [("kind", "<u2"), ("amount", "<i2")],
    "shdr": [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"),
             ("loop_end", "<u4"), ("rate", "<u4"), ("pitch", "u1"), ("correction", "i1"),
             ("", "S4")],
}  # fmt: skip
_ROOT_OVERRIDES: Final = {b"whistle": 79}  # samples whose root key in the font is wrong
Zone: TypeAlias = dict[int, int]  # generator number -> amount
Int16Array: TypeAlias = NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One sample, the keys and velocities that play it, and its generators in the font's units."""

    keys: tuple[int, int]
    velocities: tuple[int, int]
    sample: Int16Array  # (sample,)
    rate: int  # samples per second
    loop: tuple[int, int] | None  # start and end, as indices into `sample`
    root: int  # MIDI key at which the sample sounds as recorded
    cents: int  # transposition of all keys
    amounts: dict[str, int]  # generator name -> amount


class SoundFont:
    """The instruments of a SoundFont 2 file.

    Args:
        data: the bytes of the file.
        source: the name of the file, for errors.

    Raises:
        Refusal: the data is not a SoundFont 2 file.
    """

    def __init__(self, data: bytes, source: str = "") -> None:
        try:
            chunks = dict(_iter_chunks(data, 12, len(data)))
            self._samples = np.frombuffer(chunks["smpl"], dtype="<i2")
            self._lists = {
                name: np.frombuffer(chunks[name], dtype=[(f or "_", kind) for f, kind in fields])
                for name, fields in _RECORDS.items()
            }
        except (KeyError, ValueError, struct.error) as fault:
            raise Refusal("not a SoundFont 2 file", source=source, code="format") from fault

    def get_regions(self, program: int, *, bank: int = 0) -> tuple[Region, ...]:
        """Return the regions of a program; an empty tuple for a program the font lacks."""
        headers = self._lists["phdr"]
        presets = np.flatnonzero((headers["bank"] == bank) & (headers["program"] == program))[:1]
        return tuple(region for index in presets.tolist() for region in self._read_preset(index))

    def _read_preset(self, index: int) -> Iterator[Region]:
        for preset_zone in self._read_zones("phdr", "pbag", "pgen", index, _INSTRUMENT):
            instrument = preset_zone[_INSTRUMENT]
            for zone in self._read_zones("inst", "ibag", "igen", instrument, _SAMPLE):
                region = self._build_region(zone, preset_zone)
                if region.keys[0] <= region.keys[1] and len(region.sample):
                    yield region

    def _read_zones(
        self, header_list: str, bag_list: str, generator_list: str, index: int, required: int
    ) -> list[Zone]:
        """Return the zones of a preset or an instrument, with the values of its global zone."""
        first, stop = self._lists[header_list]["zone"][index : index + 2].tolist()
        edges = self._lists[bag_list]["generator"][first : stop + 1].tolist()
        generators = self._lists[generator_list]
        zones: list[Zone] = [dict(generators[start:end].tolist()) for start, end in pairwise(edges)]
        global_zone = zones[0] if zones and required not in zones[0] else {}
        return [global_zone | zone for zone in zones if required in zone]

    def _build_region(self, zone: Zone, preset_zone: Zone) -> Region:
        """Combine an instrument's zone with the offsets that a preset adds to it."""
        amounts = {
            name: zone.get(number, default) + (preset_zone.get(number, 0) if name != "root" else 0)
            for name, (number, default) in _GENERATORS.items()
        }
        header = self._lists["shdr"][zone[_SAMPLE]]
        start, end = int(header["start"]) + amounts["start"], int(header["end"]) + amounts["end"]
        root = amounts["root"] if amounts["root"] >= 0 else int(header["pitch"])
        first, last = (int(header[f]) + amounts[f] - start for f in ("loop_start", "loop_end"))
        is_looped = amounts["loops"] in (1, 3) and 0 <= first < last <= end - start
        return Region(
            keys=_intersect_ranges(zone, preset_zone, _KEYS),
            velocities=_intersect_ranges(zone, preset_zone, _VELOCITIES),
            sample=self._samples[start:end],
            rate=int(header["rate"]),
            loop=(first, last) if is_looped else None,
            root=_ROOT_OVERRIDES.get(bytes(header["name"]), root),
            cents=int(header["correction"]) + 100 * amounts["semitones"] + amounts["cents"],
            amounts=amounts,
        )


@lru_cache(maxsize=32)
def load_instrument(program: int, *, is_drums: bool = False) -> tuple[Region, ...]:
    """Return the regions of a General MIDI program, or of the drum kit."""
    return _load_general_midi().get_regions(
        0 if is_drums else program, bank=DRUM_BANK if is_drums else 0
    )


@cache
def _load_general_midi() -> SoundFont:
    path = general_midi_path()
    return SoundFont(read_regular_file(path), str(path))


def general_midi_path() -> Path:
    """Return the path of the font inside the package pretty_midi.

    Raises:
        NotFound: pretty_midi is not installed.
    """
    spec = find_spec("pretty_midi")  # without the import, which takes a second
    if spec is None or spec.origin is None:
        raise NotFound("pretty_midi, which contains the instruments, is not installed; install it")
    return Path(spec.origin).with_name(FONT_FILE_NAME)


def _iter_chunks(data: bytes, start: int, end: int) -> Iterator[tuple[str, memoryview]]:
    """Yield the chunks of a RIFF file by name, including those inside lists."""
    view = memoryview(data)
    while start + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, start)
        if name == b"LIST":
            yield from _iter_chunks(data, start + 12, min(end, start + 8 + size))
        yield name.decode("latin-1"), view[start + 8 : start + 8 + size]
        start += 8 + size + size % 2


def _get_range(zone: Zone, generator: int) -> tuple[int, int]:
    """Return the lowest and highest key (or velocity) of a zone: its low and high byte."""
    low_high = zone.get(generator, 127 << 8) & 0xFFFF
    return low_high & 0xFF, low_high >> 8


def _intersect_ranges(zone: Zone, preset_zone: Zone, generator: int) -> tuple[int, int]:
    lows, highs = zip(*(_get_range(z, generator) for z in (zone, preset_zone)), strict=True)
    return max(lows), min(highs)
