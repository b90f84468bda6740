"""Synthetic pieces with several parts, with drums, and of live playing, like real files.

python tests/multi_part.py FOLDER      write some of each kind, to try musicgen train on
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from mido import Message, MetaMessage, MidiFile, MidiTrack, bpm2tempo

from tests.synthetic_tunes import live, tune

TICKS: Final = 480  # per quarter note
DRUMS: Final = 9  # channel
BAR: Final = 4 * TICKS  # ticks

TickNote = tuple[int, int, int]  # onset in ticks, pitch, duration in ticks
Track = tuple[str, int, int, list[TickNote]]  # name, channel, program, notes


def midi_file(tracks: Iterable[Track], qpms: Iterable[float]) -> bytes:
    """Serialize tracks as a MIDI file whose tempo changes in each bar."""
    file = MidiFile(ticks_per_beat=TICKS)
    conductor = [(0, MetaMessage("time_signature", numerator=4, denominator=4))]
    conductor += [
        (BAR * bar, MetaMessage("set_tempo", tempo=bpm2tempo(qpm))) for bar, qpm in enumerate(qpms)
    ]
    file.tracks.append(timed(conductor))
    for name, channel, program, notes in tracks:
        events = [(0, MetaMessage("track_name", name=name)),
                  (0, Message("program_change", channel=channel, program=program))]  # fmt: skip
        for tick, pitch, ticks in notes:
            on = Message("note_on", channel=channel, note=pitch, velocity=60 + pitch % 40)
            off = Message("note_off", channel=channel, note=pitch)
            events += [(tick, on), (tick + ticks, off)]
        file.tracks.append(timed(events))
    data = io.BytesIO()
    file.save(file=data)
    return data.getvalue()


def timed(events: list[tuple[int, Message | MetaMessage]]) -> MidiTrack:
    """Sort events and convert their times to delta times."""
    track, now = MidiTrack(), 0
    for tick, message in sorted(events, key=lambda event: event[0]):
        track.append(message.copy(time=tick - now))
        now = tick
    return track


def pop(number: int) -> bytes:
    """Make three parts like POP909: all late by a constant, the melody starting a bar later."""
    rng, late = random.Random(number), 14
    melody = [(BAR + 240 * place + late, 60 + rng.choice((0, 2, 4, 7, 9, 12)), 220)
              for place in range(24) if rng.random() < 0.8]  # fmt: skip
    bridge = [(BAR * bar + late, 72 + rng.randrange(5), BAR) for bar in (1, 3)]
    piano = [(480 * beat + late + rng.randrange(6), pitch + rng.choice((0, 0, 5)), 600)
             for beat in range(16) for pitch in (48, 55, 64)]  # fmt: skip
    piano.append(piano[0])  # some real files have doubled notes
    return midi_file(
        [("MELODY", 0, 0, melody), ("BRIDGE", 1, 0, bridge), ("PIANO", 2, 0, piano)],
        (rng.uniform(88, 92) for _ in range(4)),
    )


def beats(rng: random.Random, bars: int = 4) -> list[TickNote]:
    """Make bars of a drum kit with imprecise timing."""
    kit = ((36, 2, 0), (38, 2, 1), (42, 1, 0))  # pitch, interval and first stroke in eighths
    return [
        (240 * at + rng.randrange(-5, 6) * (at > 0), pitch, 24)
        for pitch, step, first in kit
        for at in range(first, 8 * bars, step)
        if rng.random() < 0.9 or not at
    ]


def drums(number: int) -> bytes:
    """Make one track of drums."""
    return midi_file([("Drums", DRUMS, 0, beats(random.Random(number)))], (112.0,))


def band(number: int) -> bytes:
    """Make five quantized tracks, one of them drums."""
    rng = random.Random(number)
    lead = [(240 * at, 67 + rng.choice((0, 2, 3, 7)), 240) for at in range(8, 32)]
    bass = [(480 * beat, 36 + rng.choice((0, 5, 7)), 480) for beat in range(16)]
    pads = [(BAR * bar, pitch, BAR) for bar in range(4) for pitch in (55, 60, 63)]
    organ = [(BAR * bar + 720, 75 + bar, 2 * BAR - 720) for bar in (0, 2)]  # across the bar line
    return midi_file(
        [("Lead", 0, 81, lead), ("Bass", 1, 33, bass), ("Pads", 2, 89, pads),
         ("Drums", DRUMS, 0, beats(rng)), ("Organ", 3, 18, organ)],
        (120.0, 126.0),
    )  # fmt: skip


def chorale(number: int) -> str:
    """Make four voices in ABC, each with a tie across a bar line."""
    rng = random.Random(number)
    pitches = (("c", "d", "e", "g"), ("G", "A", "E", "F"), ("C", "E", "F", "G"),
               ("C,", "F,", "G,", "A,"))  # fmt: skip
    voices = []
    for voice, letters in enumerate(pitches, 1):
        bars = ["".join(rng.choice(letters) for _ in range(4)) for _ in range(4)]
        tied = letters[0]
        voices.append(f"V:{voice}\n{bars[0]}|{bars[1][:-1]}{tied}-|{tied}3 z|{bars[3]}|]\n")
    head = f"X:{number}\nT:Chorale {number}\nM:4/4\nL:1/4\nK:C\n"
    return head + "".join(voices) + "\n"


def live_piece(number: int) -> bytes:
    """Make a live performance without bars."""
    return live() if not number else midi_file(
        [("Piano", 0, 0, [(173 * at + random.Random(at + number).randrange(90), 50 + at % 31, 260)
                          for at in range(120)])], (97.3,)
    )  # fmt: skip


KINDS: Final[dict[str, tuple[str, Callable[[int], str | bytes]]]] = {
    "pop": (".mid", pop),
    "drums": (".mid", drums),
    "band": (".mid", band),
    "chorale": (".abc", chorale),
    "live": (".mid", live_piece),
    "dance": (".abc", tune),
}
MIXED: Final = ("pop", "drums", "band", "chorale", "dance")


def write_pieces(folder: Path, kind: str, count: int = 4) -> Path:
    """Write pieces of a kind to a new folder, or some of each kind for `mixed`."""
    folder.mkdir(parents=True)
    for name in MIXED if kind == "mixed" else (kind,):
        suffix, make = KINDS[name]
        for number in range(1, 1 + (2 if kind == "mixed" else count)):
            piece = make(number)
            data = piece.encode() if isinstance(piece, str) else piece
            (folder / f"{name}-{number}{suffix}").write_bytes(data)
    return folder


if __name__ == "__main__":
    for kind_name in (*KINDS, "mixed"):
        write_pieces(Path(sys.argv[1]) / kind_name, kind_name)
