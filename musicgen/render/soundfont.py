"""A SoundFont 2 file: which samples an instrument plays, and how (SoundFont 2.04, chapters 7 to 9).

The font is General MIDI's instruments in 6 MB, which come with pretty_midi. symusic's synthesiser
plays most of them out of tune, middle C of its violin at 468 Hz, so they are played here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from musicgen.errors import NotFound, Refusal
from musicgen.files import read_regular_file

FONT_FILE_NAME: Final = "TimGM6mb.sf2"
DRUM_BANK: Final = 128

# name -> (number, what it is where the font says nothing)
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
    "cents_a_key": (56, 100),
    "root": (58, -1),
}
_INSTRUMENT, _KEYS, _VELOCITIES, _SAMPLE = 41, 43, 44, 53  # generators that are no amounts
_RECORDS: Final = {  # of the lists in the chunk "pdta"
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
_ROOT_OVERRIDES: Final = {b"whistle": 79}  # where the font names another key than its sample has
Zone = dict[int, int]  # generator -> amount


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One sample, the keys and velocities that play it, and how; amounts are the font's own."""

    keys: tuple[int, int]
    velocities: tuple[int, int]
    sample: Any  # from its start to its end, 16 bits each
    rate: int  # samples a second
    loop: tuple[int, int] | None  # where it goes round, from the sample's start
    root: int  # the key at which it sounds as it was recorded
    cents: int  # by which it is moved for all keys
    amounts: dict[str, int]


class SoundFont:
    """The instruments of a font. Raises Refusal for a file that is none."""

    def __init__(self, data: bytes, source: str = "") -> None:
        try:
            chunks = dict(_iter_chunks(data, 12, len(data)))
            self._samples = np.frombuffer(chunks["smpl"], dtype="<i2")
            self._lists = {
                name: np.frombuffer(chunks[name], dtype=[(f or "_", kind) for f, kind in fields])
                for name, fields in _RECORDS.items()
            }
        except (KeyError, ValueError, struct.error) as fault:
            raise Refusal("it is no SoundFont 2 file", source=source, code="format") from fault

    def get_regions(self, program: int, *, bank: int = 0) -> tuple[Region, ...]:
        """Return the regions of a program; none where the font does not have it."""
        headers = self._lists["phdr"]
        found = np.flatnonzero((headers["bank"] == bank) & (headers["program"] == program))[:1]
        return tuple(region for place in found.tolist() for region in self._read_preset(place))

    def _read_preset(self, index: int) -> Iterator[Region]:
        for outer in self._read_zones("phdr", "pbag", "pgen", index, _INSTRUMENT):
            for inner in self._read_zones("inst", "ibag", "igen", outer[_INSTRUMENT], _SAMPLE):
                region = self._build_region(inner, outer)
                if region.keys[0] <= region.keys[1] and len(region.sample):
                    yield region

    def _read_zones(
        self, header_list: str, bag_list: str, generator_list: str, index: int, required: int
    ) -> list[Zone]:
        """Return the zones of a preset or an instrument; the first may hold for all of them."""
        first, stop = self._lists[header_list]["zone"][index : index + 2].tolist()
        edges = self._lists[bag_list]["generator"][first : stop + 1].tolist()
        found: list[Zone] = []
        for start, end in pairwise(edges):
            found.append(dict(self._lists[generator_list][start:end].tolist()))
        common = found[0] if found and required not in found[0] else {}
        return [common | zone for zone in found if required in zone]

    def _build_region(self, inner: Zone, outer: Zone) -> Region:
        amounts = {
            name: inner.get(number, plain) + (outer.get(number, 0) if name != "root" else 0)
            for name, (number, plain) in _GENERATORS.items()
        }
        header = self._lists["shdr"][inner[_SAMPLE]]
        start, end = int(header["start"]) + amounts["start"], int(header["end"]) + amounts["end"]
        root = amounts["root"] if amounts["root"] >= 0 else int(header["pitch"])
        first, last = (int(header[at]) + amounts[at] - start for at in ("loop_start", "loop_end"))
        goes_round = amounts["loops"] in (1, 3) and 0 <= first < last <= end - start
        return Region(
            keys=_intersect(_get_range(inner, _KEYS), _get_range(outer, _KEYS)),
            velocities=_intersect(_get_range(inner, _VELOCITIES), _get_range(outer, _VELOCITIES)),
            sample=self._samples[start:end],
            rate=int(header["rate"]),
            loop=(first, last) if goes_round else None,
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
    """Return the font that comes with pretty_midi. Raises NotFound where it did not."""
    found = find_spec("pretty_midi")  # which does not import it: that takes a second
    if found is None or found.origin is None:
        raise NotFound("the instruments come with pretty_midi, which is not there; install it")
    return Path(found.origin).with_name(FONT_FILE_NAME)


def _iter_chunks(data: bytes, start: int, end: int) -> Iterator[tuple[str, memoryview]]:
    """Yield the chunks of a RIFF file by name; lists are opened."""
    view = memoryview(data)
    while start + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, start)
        if name == b"LIST":
            yield from _iter_chunks(data, start + 12, min(end, start + 8 + size))
        yield name.decode("latin-1"), view[start + 8 : start + 8 + size]
        start += 8 + size + size % 2


def _get_range(zone: Zone, generator: int) -> tuple[int, int]:
    """Return the keys or velocities of a zone: the low byte and the high one."""
    low_high = zone.get(generator, 127 << 8) & 0xFFFF
    return low_high & 0xFF, low_high >> 8


def _intersect(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), min(one[1], other[1])
