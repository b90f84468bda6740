"""A synthetic corpus with defects at known places.

python tests/synthetic_tunes.py FOLDER      write it; then try musicgen corpus check FOLDER
"""

from __future__ import annotations

import random
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

BARS = 12


@dataclass(frozen=True)
class Defect:
    """A defect, its place, and how `corpus check` reports it."""

    file: str
    place: str  # start of the reported place
    code: str  # of the refusal, or the kind of the remark
    words: str  # part of the message
    refused: bool = True


def music(number: int, up: int = 0, twice: bool = False) -> str:
    """Return 12 bars of eighths in 6/8, drawn from a number, `up` scale steps higher."""
    rng = random.Random(number)
    letters = "CDEFGABcdefgab"
    degrees = [rng.randrange(7) for _ in range(6 * BARS)]
    notes = [letters[up + degree] + ("2" if twice else "") for degree in degrees]
    return "|".join("".join(notes[i : i + 6]) for i in range(0, 6 * BARS, 6)) + "|]"


def sharp(body: str) -> str:
    """Sharpen every F."""
    return body.replace("F", "^F").replace("f", "^f")


def tune(number: int, body: str = "", **fields: str) -> str:
    """Return an ABC tune; an empty field is left out."""
    header = {"T": f"Tune {number}", "M": "6/8", "L": "1/8", "K": "C"} | fields
    head = "".join(f"{name}:{value}\n" for name, value in header.items() if value)
    return f"X:{number}\n{head}{body or music(number)}\n\n"


def midi(*events: bytes, division: int = 480) -> bytes:
    """Return a MIDI file of one track from its events."""
    track = b"".join(events) + b"\x00\xff\x2f\x00"
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, division)
    return header + struct.pack(">4sI", b"MTrk", len(track)) + track


def note(pitch: int, wait: int, ticks: int) -> bytes:
    """Return the events of one note of a MIDI track."""
    return _delta(wait) + bytes((0x90, pitch, 80)) + _delta(ticks) + bytes((0x80, pitch, 0))


def _delta(ticks: int) -> bytes:
    data = [ticks & 127]
    while ticks := ticks >> 7:
        data.insert(0, ticks & 127 | 128)
    return bytes(data)


def live() -> bytes:
    """Return a live performance as MIDI, without bars."""
    rng = random.Random(5)
    events = (
        note(rng.randint(50, 80), rng.randint(0, 400), rng.randint(30, 700)) for _ in range(300)
    )
    return midi(*events)


GOOD = "".join(tune(number) for number in range(1, 41))
OTHER_BOOK = music(7)[:3] + "g" + music(7)[4:]  # one note differs

FILES: dict[str, bytes | str] = {
    "good.abc": GOOD,
    "no-key.abc": tune(101, K=""),
    "field.abc": tune(102, K="H"),
    "syntax.abc": tune(103, "[CEG DEF|" + music(103)),
    "length.abc": tune(104, L="1/0"),
    "long.abc": tune(105, "C999999999 D|" + music(105)),
    "tuplet.abc": tune(106, "(12abc def|" + music(106)),
    "pitch.abc": tune(107, "c'''''''' d|" + music(107)),
    "empty.abc": tune(108, "z6|z6|"),
    "again.abc": tune(109, music(3), T="Tune three once more"),
    "higher.abc": tune(110, music(4, up=4), T="Tune four in G", K="G mixolydian\nK:G"),
    "link.abc": "",
    "folder.mid": "",
    "large.mid": b"MThd" + bytes(9 * 2**20),
    "format.mid": b"this is no MIDI file",
    "silent.mid": midi(b"\x00\xc0\x05"),
    "damaged.mid": struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 0) + b"MTrk\0\0\0\4\0\xff\x2f\0",
    "live.mid": live(),
    "hanging.mid": midi(*(note(60 + n * n % 11, 0, 240) for n in range(64)), b"\x00\x90\x40\x50"),
    "broken.musicxml": b"<score-partwise><part></score-partwise>",
    "long-bar.abc": tune(120, music(120).replace("|", "A|", 3).replace("A|", "|", 2)),
    "short-bar.abc": tune(121, "|".join((music(121)[:6], music(121)[7:11], music(121)[14:]))),
    "range.abc": tune(122, "C,,,,,CDEFG|" + music(122)),
    "wide.abc": tune(123, "C,,CDEFc''|" + music(123)),
    "title.abc": tune(124, T=""),
    "meter.abc": tune(125, M=""),
    "short.abc": tune(126, "CDE FGA|"),
    "unmarked.abc": tune(129, sharp(music(9, up=4)), T="Tune nine a fifth higher, still in C"),
    "rescaled.abc": tune(127, music(5, twice=True), M="6/4", T="Tune five in long notes"),
    "variant.abc": tune(128, OTHER_BOOK, T="Tune seven from another book"),
}
DEFECTS = (
    Defect("no-key.abc", "tune X:101", "no-key", "no K:"),
    Defect("field.abc", "tune X:102, line 5", "field", "K: 'H'"),
    Defect("syntax.abc", "tune X:103, line 6: bar 1", "syntax", "a chord is still open"),
    Defect("length.abc", "tune X:104, line 5", "length", "'1/0' is not a length"),
    Defect("long.abc", "tune X:105, line 6: bar 1", "length", "is too long"),
    Defect("tuplet.abc", "tune X:106, line 6: bar 1", "tuplet", "(12 is not a tuplet"),
    Defect("pitch.abc", "tune X:107, line 6: bar 1", "pitch", "outside of 0..127"),
    Defect("empty.abc", "tune X:108", "empty", "no notes"),
    Defect("again.abc", "tune 1 'Tune three", "duplicate", "those of 'Tune 3' in mu/good.abc;"),
    Defect("higher.abc", "tune 1 'Tune four", "duplicate", "good.abc, 7 semitones higher"),
    Defect("link.abc", "", "not-regular", "a link"),
    Defect("folder.mid", "", "not-regular", "a folder"),
    Defect("large.mid", "", "too-large", "8,388,608 bytes"),
    Defect("format.mid", "byte 0", "format", "MThd is missing"),
    Defect("damaged.mid", "byte 12", "damaged", "0 ticks per quarter note"),
    Defect("live.mid", "", "no-bars", "--codec performance"),
    Defect("broken.musicxml", "", "damaged", "cannot read it"),
    Defect("silent.mid", "", "empty", "no notes"),
    Defect("long-bar.abc", "tune 1 ", "bar-sum", "bar 3 holds 7/8 in a meter of 6/8", False),
    Defect("short-bar.abc", "tune 1 ", "bar-sum", "bar 2 holds 1/2 in a meter of 6/8", False),
    Defect("range.abc", "tune 1 ", "range", "1 note outside the range of a piano", False),
    Defect("wide.abc", "tune 1 ", "range", "spans 60 semitones, from C2 to C7", False),
    Defect("title.abc", "tune 1 ''", "title", "there is none", False),
    Defect("meter.abc", "tune 1 ", "meter", "4/4 was taken", False),
    Defect("hanging.mid", "tune 1 ", "repaired", "1 x hanging-note", False),
    Defect("short.abc", "tune 1 ", "short", "it has 6 notes", False),
)
RELATIVES = {  # file -> its relation to a tune of good.abc
    "again.abc": ("exact", "Tune 3"),
    "higher.abc": ("transposed", "Tune 4"),
    "unmarked.abc": ("transposed", "Tune 9"),
    "rescaled.abc": ("rescaled", "Tune 5"),
    "variant.abc": ("variant", "Tune 7"),
}


def write(folder: Path) -> None:
    """Write the corpus to a new folder."""
    folder.mkdir()
    for name, content in FILES.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    (folder / "link.abc").unlink()
    (folder / "link.abc").symlink_to(folder / "good.abc")
    (folder / "folder.mid").unlink()
    (folder / "folder.mid").mkdir()
    (folder / "folder.mid" / "inside.abc").write_text(tune(199))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
