"""Malformed files, generated: truncated, inconsistent, endless, explosive.

`python -m tests.malformed_files FOLDER` writes them all; `make(big=False)` returns the small ones
by name. The expected outcomes are in corpus/hostile_outcomes.json;
`python -m tests.malformed_files --renew` updates them: review the diff before you commit it.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

OUTCOMES: Final = Path(__file__).parent / "corpus" / "hostile_outcomes.json"
HEAD: Final = "X:1\nT:Hostile\nM:4/4\nL:1/8\nK:D\n"
TUNE: Final = HEAD + "|:DEFG ABcd|dcBA GFED:|\n"
END: Final = bytes([0, 0xFF, 0x2F, 0])
NOTE: Final = bytes([0, 0x90, 60, 64, 96, 0x80, 60, 0])


def make(*, big: bool = True) -> dict[str, bytes]:
    """Return the malformed files by name; the same bytes each time."""
    return {name: data for name, data in _files().items() if big or len(data) <= 200_000}


@cache
def _files() -> dict[str, bytes]:
    return dict(generate_files())


def write(folder: Path, *, big: bool = True) -> list[str]:
    """Write the files to a folder, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = make(big=big)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return sorted(files)


def generate_files() -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of all files."""
    yield from _midi()
    yield from _cut_and_flipped()
    for name, text in _abc():
        yield f"abc-{name}.abc", text.encode("utf-8", "surrogatepass")
    yield from _encodings()
    yield from _xml()
    yield from _archives()


# MIDI


def varlen(value: int) -> bytes:
    """Encode a number as a MIDI variable-length quantity."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """Return a chunk, whose declared length may be wrong."""
    return kind + struct.pack(">I", len(data) if length is None else length) + data


def midi(*tracks: bytes, form: int = 1, count: int | None = None, division: int = 96) -> bytes:
    """Return a MIDI file of tracks, whose header may be wrong."""
    head = struct.pack(">HHH", form, len(tracks) if count is None else count, division)
    return chunk(b"MThd", head) + b"".join(chunk(b"MTrk", track) for track in tracks)


def valid_midi() -> bytes:
    """Return a well-formed MIDI file."""
    notes = b"".join(
        bytes([0, 0x90, 60 + step % 12, 80, 96, 0x80, 60 + step % 12, 0]) for step in range(32)
    )
    meta = bytes([0, 0xFF, 0x51, 3, 7, 0xA1, 0x20, 0, 0xFF, 0x58, 4, 4, 2, 24, 8])
    return midi(meta + END, notes + END)


def _on_every_channel() -> bytes:
    return b"".join(bytes([0, 144 + c, 60, 9, 9, 128 + c, 60, 0]) for c in range(16))


def _bar_of_tuplets() -> bytes:
    """Return a MIDI file with one bar of 30,096 steps, which is expensive to split into notes."""
    words = b"musicgen:bars 30096"
    notes = b"".join(
        bytes([0, 0x90, 60 + place, 80, steps, 0x80, 60 + place, 0])
        for place, steps in enumerate((16, 16, 16, 36, 12, 36, 12))
    )
    meta = bytes([0, 0xFF, 1, len(words)]) + words
    return midi(meta + END, notes * 209 + END, division=48)


def _midi() -> Iterator[tuple[str, bytes]]:
    track = NOTE * 16 + END
    header = chunk(b"MThd", struct.pack(">HHH", 1, 1, 96))
    deltas = varlen(2**28 - 1)
    cases = {
        "empty": b"",
        "one-byte": b"M",
        "only-magic": b"MThd",
        "only-header": header,
        "no-tracks": midi(count=0),
        "no-notes": midi(END),
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "not-midi": b"RIFF" + bytes(100),
        "rmid": b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"RMIDdata" + midi(track),
        "header-length-0": chunk(b"MThd", b"", 0) + chunk(b"MTrk", track),
        "header-length-max": chunk(b"MThd", struct.pack(">HHH", 1, 1, 96), 2**32 - 1),
        "header-longer": chunk(b"MThd", struct.pack(">HHHI", 1, 1, 96, 7)) + chunk(b"MTrk", track),
        "track-length-0": header + chunk(b"MTrk", track, 0),
        "track-length-short": header + chunk(b"MTrk", track, len(track) // 2),
        "track-length-long": header + chunk(b"MTrk", track, len(track) + 1),
        "track-length-max": header + chunk(b"MTrk", track, 2**32 - 1),
        "track-length-2-31": header + chunk(b"MTrk", track, 2**31),
        "nested-past-end": header + chunk(b"MTrk", chunk(b"MTrk", track, 9999), 64),
        "unknown-chunks": header + chunk(b"XFIH", b"x" * 99) * 50 + chunk(b"MTrk", track),
        "endless-unknown": header + chunk(b"JUNK", b"", 0) * 10_000 + chunk(b"MTrk", track),
        "format-3": midi(track, form=3),
        "format-65535": midi(track, form=65535),
        "format-0-many": midi(track, track, form=0),
        "format-2": midi(track, track, form=2),
        "tracks-65535": midi(track, count=65535),
        "tracks-really-65535": midi(*[END] * 65535),
        "tracks-2000": midi(*[track] * 2000),
        "division-0": midi(track, division=0),
        "division-1": midi(track, division=1),
        "division-32767": midi(track, division=32767),
        "division-smpte-0": midi(track, division=0xE700),
        "division-smpte-25": midi(track, division=0xE728),
        "division-smpte-odd": midi(track, division=0x8001),
        "delta-2-28": midi(deltas + NOTE[1:] + END),
        "deltas-overflow": midi((deltas + NOTE[1:]) * 20 + END),
        "deltas-wrap-32": midi((deltas + bytes([0x90, 60, 64])) * 64 + END),
        "varlen-endless": midi(b"\x80" * 1000),
        "varlen-five": midi(b"\xff\xff\xff\xff\x7f\x90\x3c\x40" + END),
        "varlen-ff": midi(b"\xff" * 1000),
        "sysex-endless": midi(b"\x00\xf0" + varlen(2**28 - 1) + b"\x7e" * 100),
        "sysex-unclosed": midi(b"\x00\xf0\x7e\x7f\x09\x01"),
        "meta-past-end": midi(b"\x00\xff\x01" + varlen(2**28 - 1) + b"text" + END),
        "meta-tempo-0": midi(b"\x00\xff\x51\x03\x00\x00\x00" + track),
        "meta-tempo-short": midi(b"\x00\xff\x51\x01\x00" + track),
        "meta-meter-0": midi(b"\x00\xff\x58\x04\x00\x02\x18\x08" + track),
        "meta-meter-2-255": midi(b"\x00\xff\x58\x04\x04\xff\x18\x08" + track),
        "meta-key-absurd": midi(b"\x00\xff\x59\x02\x7f\x09" + track),
        "meta-text-evil": midi(b"\x00\xff\x03\x0c\x1b[2J../../\x00\x07" + track),
        "meta-text-script": midi(b"\x00\xff\x03\x19<script>alert(1)</script>" + track),
        "meta-own-words": midi(b"\x00\xff\x01\x2bmusicgen:bars " + b"9" * 29 + track),
        "running-status-first": midi(b"\x00\x3c\x40" * 10 + END),
        "running-after-meta": midi(b"\x00\x90\x3c\x40\x00\xff\x01\x00\x00\x3c\x00" + END),
        "data-over-127": midi(b"\x00\x90\xbc\xff\x00\x90\x3c\x40" + END),
        "status-undefined": midi(b"\x00\xf4\x00\xf5\x00\xfd" + track),
        "note-on-only": midi(b"\x00\x90\x3c\x40" * 50 + END),
        "note-off-only": midi(b"\x00\x80\x3c\x40" * 50 + END),
        "note-zero-length": midi(b"\x00\x90\x3c\x40\x00\x80\x3c\x00" * 50 + END),
        "note-stacked": midi(b"\x00\x90\x3c\x40" * 3000 + b"\x60\x80\x3c\x00" * 3000 + END),
        "chord-128": midi(b"".join(bytes([0, 0x90, p, 9]) for p in range(128)) * 2 + END),
        "bar-of-tuplets": _bar_of_tuplets(),
        "channels-16": midi(_on_every_channel() + END),
        "no-end-of-track": midi(NOTE * 16),
        "end-in-the-middle": midi(NOTE * 4 + END + NOTE * 4 + END),
        "end-with-length": midi(NOTE * 4 + b"\x00\xff\x2f\x7f" + b"x" * 127),
        "trailing-garbage": valid_midi() + b"\x00\xff" * 500,
        "leading-garbage": b"\n\n" + valid_midi(),
        "twice": valid_midi() * 2,
        "tempos-100000": midi(b"\x01\xff\x51\x03\x07\xa1\x20" * 28_000 + track),
        "meters-20000": midi(b"\x01\xff\x58\x04\x07\x03\x18\x08" * 20_000 + track),
        "programs-30000": midi(b"\x00\xc0\x05" * 30_000 + track),
        "pedal-flutter": midi(b"\x00\xb0\x40\x7f\x00\x90\x3c\x40\x01\xb0\x40\x00" * 10_000 + END),
        "bends-40000": midi(b"\x00\xe0\x00\x40" * 40_000 + track),
        "running-million": midi(b"\x00\x90\x3c\x40" + b"\x01\x3c\x00\x01\x3c\x40" * 500_000 + END),
        "running-600000": midi(b"\x00\x90" + b"\x3c\x40\x00\x3c\x00\x00" * 300_000 + END),
        "over-8-mib": midi(NOTE * (2**20 + 9) + END),
        "notes-400000-at-once": midi(b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 400_000 + END),
    }  # fmt: skip
    yield from ((f"midi-{name}.mid", data) for name, data in cases.items())


def _cut_and_flipped() -> Iterator[tuple[str, bytes]]:
    """Yield well-formed files cut at many places, and with single bits flipped."""
    song = valid_midi()
    for offset in range(1, len(song), len(song) // 24):
        yield f"midi-cut-{offset:03}.mid", song[:offset]
    rng = random.Random(3)
    for number in range(24):
        yield f"midi-flip-{number:02}.mid", _flip_random_bit(song, rng)
    book = (TUNE + "\n").encode() * 3
    for offset in range(1, len(TUNE), len(TUNE) // 10):
        yield f"abc-cut-{offset:03}.abc", book[:offset]
    for number in range(12):
        yield f"abc-flip-{number:02}.abc", _flip_random_bit(book, rng)


def _flip_random_bit(data: bytes, rng: random.Random) -> bytes:
    offset = rng.randrange(len(data))
    flipped = bytes([data[offset] ^ 1 << rng.randrange(8)])
    return data[:offset] + flipped + data[offset + 1 :]


# ABC


def with_field(text: str) -> str:
    """Return a tune header with an additional field."""
    return HEAD.replace("K:", f"{text}\nK:")


def _doubling_macros() -> str:
    """Return macros that each expand to two of the next."""
    names = [chr(65 + number) for number in range(25)]
    return "".join(f"m: ~{a} = ~{b}~{b}\n" for a, b in itertools.pairwise(names))


def _abc() -> Iterator[tuple[str, str]]:
    cases = {
        "empty": "",
        "only-x": "X:1\n",
        "no-key": "X:1\nT:a\nDEF|\n",
        "no-notes": HEAD,
        "rests-only": HEAD + "z8|z8|\n",
        "words": "Dear Sir,\n\nplease find no music here.\n",
        "unit-1-0": HEAD.replace("1/8", "1/0") + "DEFG|\n",
        "unit-huge": HEAD.replace("1/8", "999999999/1") + "DEFG|\n",
        "unit-tiny": HEAD.replace("1/8", "1/999999999") + "DEFG|\n",
        "meter-huge": HEAD.replace("4/4", "999999999/4") + "DEFG|\n",
        "meter-zero": HEAD.replace("4/4", "0/4") + "DEFG|\n",
        "meter-over-zero": HEAD.replace("4/4", "4/0") + "DEFG|\n",
        "meter-sum": HEAD.replace("4/4", "(" + "1+" * 5000 + "1)/4") + "DEFG|\n",
        "meter-changes": HEAD + "[M:3/4]C[M:4/4]D" * 1500 + "|\n",
        "length-huge": HEAD + "C999999999|\n",
        "length-longer": HEAD + "C" + "9" * 10_000 + "|\n",
        "length-zero": HEAD + "C0|C/0|C0/0|\n",
        "length-slashes": HEAD + "C" + "/" * 5000 + "|\n",
        "broken-endless": HEAD + "C" + ">" * 5000 + "D|\n",
        "octaves": HEAD + "c" + "'" * 5000 + "|C" + "," * 5000 + "|\n",
        "accidentals": HEAD + "^" * 5000 + "C|\n",
        "tempo-zero": HEAD.replace("K:", "Q:1/4=0\nK:") + "DEFG|\n",
        "tempo-huge": HEAD.replace("K:", "Q:1/4=99999999999999999999\nK:") + "DEFG|\n",
        "key-garbage": HEAD.replace("K:D", "K:Hb\x00mixo^^^") + "DEFG|\n",
        "key-exp-many": HEAD.replace("K:D", "K:D exp" + " ^f" * 3000) + "DEFG|\n",
        "repeats-40": HEAD + "CDEF:|" * 40 + "\n",
        "repeats-nested": HEAD + "|:C" * 500 + ":|" * 500 + "\n",
        "repeats-thousand-colons": HEAD + "|" + ":" * 5000 + "CDEF" + ":" * 5000 + "|\n",
        "repeats-4-times": HEAD + "|::::::::CDEF::::::::|\n",
        "endings-1-1000": HEAD + "|:CDEF|" + "".join(f"[{n} GABc:|" for n in range(1, 400)) + "\n",
        "endings-range": HEAD + "|:CDEF|[1-999999999 GABc:|[2 C4|]\n",
        "ending-never-played": HEAD + "|:CDEF|[7 GABc:|\n",
        "parts-explode": with_field("P:" + "(" * 60 + "A" + "2)" * 60) + "P:A\nCDEF|\n",
        "parts-deep": HEAD.replace("K:", "P:" + "(" * 5000 + "\nK:") + "P:A\nCDEF|\n",
        "parts-number": HEAD.replace("K:", "P:A999999999\nK:") + "P:A\nCDEF|\n",
        "macro-explode": _doubling_macros() + HEAD + "~A|\n",
        "macro-itself": HEAD.replace("K:", "m: ~g = ~g~g\nK:") + "~g|\n",
        "macro-long": HEAD.replace("K:", "m: ~g = " + "g" * 9000 + "\nK:") + "~g" * 2000 + "|\n",
        "macro-transposing": with_field("m: ~n = n/4o/4n/4m/4") + "~c~C,,,,~c''''''''|\n",
        "user-symbols": with_field("U: T = !T!\nU: H = T\nU: T = H") + "TCHC" * 500 + "|\n",
        "tuplet-9999": HEAD + "(9999CDE|\n",
        "tuplet-1": HEAD + "(1CDE|\n",
        "tuplet-open": HEAD + "(3:2:1000CDE|\n",
        "tuplet-nested": HEAD + "(3" * 2000 + "C|\n",
        "chord-open": HEAD + "[CEG" * 200 + "\n",
        "chord-huge": HEAD + "[" + "CDEFGAB" * 1000 + "]|\n",
        "chord-nested": HEAD + "[" * 5000 + "C" + "]" * 5000 + "\n",
        "grace-open": HEAD + "{gfe" * 500 + "\n",
        "slurs": HEAD + "(" * 5000 + "C" + ")" * 4000 + "|\n",
        "quote-open": HEAD + '"C' * 999 + "\n",
        "decoration-open": HEAD + "!trill" * 999 + "\n",
        "ties-to-nothing": HEAD + "C-" * 3000 + "|\n",
        "overlay-many": HEAD + "C8&" * 500 + "C8|\n",
        "voices-1000": HEAD + "".join(f"V:{n}\nCDEF GABc|\n" for n in range(1000)),
        "voices-inline": HEAD + "".join(f"[V:{n}]C8|" for n in range(100)) + "\n",
        "rests-multi": HEAD + "Z999999999|C8|\n",
        "spacer-many": HEAD + "y" * 9000 + "C|\n",
        "notes-30000": HEAD + ("CDEFGABc|" * 400 + "\n") * 9,
        "bar-of-tuplets": HEAD + "(3EFG A2 B>c d>e " * 208 + "|\n",
        "bar-of-septuplets": HEAD + "(3EFG A2 (7CDEFGAB " * 208 + "|\n",
        "bars-30000": HEAD + ("|" * 9000 + "\n") * 3 + "C|\n",
        "directive-include": "%%abc-include /etc/passwd\n" + TUNE,
        "directive-in-tune": HEAD + "%%abc-include /etc/passwd\nI:abc-include /etc/hosts\nDEFG|\n",
        "directive-ps": "%%beginps\n(/etc/passwd) (r) file run\n%%endps\n" + TUNE,
        "directive-unclosed": HEAD + "%%begintext\nDEFG|\n",
        "directive-midi": HEAD + "%%MIDI program 99999999\n%%MIDI channel -1\nDEFG|\n",
        "title-path": TUNE.replace("Hostile", "../../../../etc/cron.d/evil"),
        "title-escape": TUNE.replace("Hostile", "\x1b]0;evil\x07\x1b[2J\x9b31m"),
        "title-script": TUNE.replace("Hostile", "<script>alert(1)</script>"),
        "title-long": TUNE.replace("Hostile", "a" * 15_000),
        "title-bidi": TUNE.replace("Hostile", "\u202eevil\u200b\u2066"),
        "title-100": HEAD.replace("T:Hostile\n", "T:a\n" * 3000) + "DEFG|\n",
        "words-many": HEAD + "DEFG|\n" + "w: la\n" * 5000,
        "continuations": HEAD + "C\\\n" * 5000 + "|\n",
        "fields-plus": HEAD.replace("K:D", "K:D\n" + "+:x\n" * 3000) + "DEFG|\n",
        "tunes-5000-bad": "X:1\nDEF\n\n" * 5000,
        "tunes-empty-20000": "X:1\n" * 20_000,
        "x-huge": "X:" + "9" * 5000 + "\nT:a\nK:D\nDEFG ABcd|\n",
        "nul": TUNE.replace("DEFG", "D\x00E\x00F\x00G"),
        "controls": HEAD + "".join(map(chr, range(1, 32))) + "DEFG|\n",
        "vertical-tabs": TUNE.replace("\n", "\x0b"),
        "line-separators": TUNE.replace("\n", "\u2028"),
        "line-1-mb": HEAD + "C" * 2**20 + "|\n",
        "line-1-mb-title": HEAD.replace("Hostile", "a" * 2**20) + "DEFG|\n",
        "line-1-mb-bars": HEAD + "|" * 2**20 + "\n",
        "text-1-mb": "a line of words\n" * 65_536 + TUNE,
        "spaces-1-mb": HEAD + "C" + " " * 2**20 + "|\n",
        "percent-1-mb": HEAD + "%" * 2**20 + "\nDEFG|\n",
    }  # fmt: skip
    yield from cases.items()


def _encodings() -> Iterator[tuple[str, bytes]]:
    """Yield the same tune in several text encodings, and in broken ones."""
    title = TUNE.replace("Hostile", "Cafè")
    yield "abc-utf-8-bom.abc", b"\xef\xbb\xbf" + title.encode()
    yield "abc-utf-16.abc", title.encode("utf-16")
    yield "abc-utf-16-be-no-bom.abc", title.encode("utf-16-be")
    yield "abc-utf-16-odd.abc", title.encode("utf-16")[:-1]
    yield "abc-utf-16-surrogates.abc", b"\xff\xfe" + b"\x00\xd8" * 100
    yield "abc-utf-32.abc", title.encode("utf-32")
    yield "abc-latin-1.abc", title.encode("latin-1")
    yield "abc-bad-utf-8.abc", title.encode().replace(b"\xc3\xa8", b"\xc3\x28\xed\xa0\x80\xf8")
    yield "abc-cr.abc", title.replace("\n", "\r").encode()
    yield "abc-crlf-mixed.abc", title.replace("\n", "\r\r\n").encode()
    yield "abc-random.abc", random.Random(1).randbytes(50_000)
    yield "abc-is-midi.abc", valid_midi()
    yield "midi-is-abc.mid", TUNE.encode()
    yield "midi-random.mid", b"MThd" + random.Random(2).randbytes(50_000)
    yield "midi-random-track.mid", midi(random.Random(4).randbytes(50_000))


# MusicXML and Humdrum


def _xml() -> Iterator[tuple[str, bytes]]:
    laughs = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE score-partwise [<!ENTITY a0 "ha">{laughs}]>'
    outside = '<!DOCTYPE score-partwise [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    remote = '<!DOCTYPE score-partwise SYSTEM "http://127.0.0.1:9/evil.dtd">'
    body = "<score-partwise><work><work-title>{}</work-title></work></score-partwise>"
    yield "xml-billion-laughs.musicxml", (bomb + body.format("&a11;")).encode()
    yield (
        "xml-quadratic.musicxml",
        (
            f'<!DOCTYPE score-partwise [<!ENTITY a "{"a" * 50_000}">]>'
            + body.format("&a;" * 20_000)
        ).encode(),
    )
    yield "xml-external.musicxml", (outside + body.format("&x;")).encode()
    yield "xml-remote.musicxml", (remote + body.format("x")).encode()
    yield "xml-deep.musicxml", b"<score-partwise>" + b"<a>" * 60_000
    yield "xml-empty.musicxml", b""
    yield "xml-words.xml", b"<html><body>no music</body></html>"
    yield "xml-unclosed.xml", b"<score-partwise><part-list>"
    yield "xml-is-zip.xml", zipped({"a.xml": b"<score-partwise/>"})
    yield "mxl-not-zip.mxl", b"PK\x03\x04" + bytes(99)
    yield "mxl-empty.mxl", zipped({})
    yield "mxl-bomb.mxl", zipped({"a.xml": bytes(70 * 2**20)})
    yield "krn-empty.krn", b""
    yield "krn-words.krn", b"no humdrum\n" * 100
    yield "krn-no-end.krn", b"**kern\n" + b"4c\n" * 30
    yield "krn-spines.krn", b"**kern\n" + b"*^\n" * 40 + b"4c\n*-\n"
    yield "krn-random.krn", b"**kern\n" + random.Random(5).randbytes(2_000)


# Archives


def zipped(members: dict[str, bytes]) -> bytes:
    """Return a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tarred(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar archive of members of one type."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _archives() -> Iterator[tuple[str, bytes]]:
    tune = TUNE.encode()
    good = zipped({"a.abc": tune, "b.abc": tune.replace(b"DEFG", b"GFED")})
    yield "zip-good.zip", zipped({"a.abc": tune.replace(b"DEFG", b"DDGG")})
    yield "zip-empty.zip", b""
    yield "zip-words.zip", b"no zip at all" * 99
    yield "zip-no-members.zip", zipped({})
    yield "zip-cut.zip", good[:-30]
    yield "zip-paths.zip", zipped({
        "../../up.abc": tune, "/etc/abs.abc": tune, "C:\\a.abc": tune, "a\x1b[2J.abc": tune,
    })  # fmt: skip
    yield "zip-nested.zip", zipped({"in.zip": good, "in.tar.gz": b""})
    yield "zip-bomb.zip", zipped({"a.abc": bytes(65 * 2**20)})
    yield "zip-lying-size.zip", _with_wrong_size(good)
    yield (
        "zip-bad-crc.zip",
        good.replace(tune[:3], b"Y:1", 1)
        if tune[:3] in good
        else good[:60] + b"\x00\x00" + good[62:],
    )
    yield "zip-encrypted.zip", flagged(good)
    yield "zip-overlapping.zip", _overlapping()
    yield "zip-quine.zip", flagged(zipped({"zip-quine.zip": good}), 0)
    yield "zip-members-30000.zip", zipped({f"{n}.txt": b"" for n in range(3_000)})
    yield "tar-good.tar", tarred({"a.abc": tune.replace(b"DEFG", b"DDAA")})
    yield "tar-empty.tar", b""
    yield "tar-words.tar", b"no tar at all" * 99
    yield "tar-paths.tar", tarred({"../../up.abc": tune, "/etc/abs.abc": tune, "b\x07.abc": tune})
    yield "tar-symlinks.tar", tarred({"a.abc": b"", "b.mid": b""}, tarfile.SYMTYPE)
    yield "tar-hardlink.tar", tarred({"a.abc": b""}, tarfile.LNKTYPE)
    yield "tar-fifo.tar", tarred({"a.abc": b""}, tarfile.FIFOTYPE)
    yield "tar-device.tar", tarred({"a.abc": b""}, tarfile.CHRTYPE)
    yield "tar-cut.tar", tarred({"a.abc": tune * 50})[:3_000]
    yield (
        "tar-damaged-later.tar",
        tarred({"a.abc": tune, "b.abc": tune}).replace(b"b.abc", b"c.abc"),
    )
    yield "tar-not-gz.tar.gz", tarred({"a.abc": tune})
    yield "tar-cut-gz.tar.gz", gzip.compress(tarred({"a.abc": tune * 50}), mtime=0)[:120]
    yield "tar-bomb.tar.gz", gzip.compress(tarred({"a.wav": bytes(80 * 2**20)}), mtime=0)
    yield "tar-huge-member.tar", _header("a.abc", 2**40)
    yield "tar-negative.tar", _header("a.abc", -5)
    yield "tar-long-name.tar", _header("x", 2**34, b"L")
    yield "tar-pax-chain.tar", _header("x", 8, b"x").ljust(1024, b"9") * 200
    yield "tar-bz2-words.tar.bz2", b"BZh9" + bytes(99)
    yield "tar-xz-words.tar.xz", b"\xfd7zXZ\x00" + bytes(99)


def _with_wrong_size(data: bytes) -> bytes:
    """Change the size of a member in the directory of a zip archive."""
    offset = data.index(b"PK\x01\x02") + 24
    return data[:offset] + struct.pack("<I", 5) + data[offset + 4 :]


def flagged(data: bytes, flag: int = 1) -> bytes:
    """Set the flags of the first member, in its header and in the directory."""
    offset = data.index(b"PK\x01\x02") + 8
    return data[:6] + bytes([flag]) + data[7:offset] + bytes([flag]) + data[offset + 1 :]


def _overlapping() -> bytes:
    """Return a zip archive whose directory lists the same bytes as two members."""
    data = zipped({"a.abc": TUNE.encode(), "b.abc": TUNE.encode()})
    offset = data.rindex(b"PK\x01\x02") + 42
    return data[:offset] + struct.pack("<I", 0) + data[offset + 4 :]


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def outcomes(folder: Path, *, big: bool = True) -> dict[str, list[str]]:
    """Read each file as a build does; return the outcome of each of its tunes."""
    from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
    from musicgen.corpus.sources import list_files

    write(folder, big=big)
    table = {}
    with SandboxedReader(ReadLimits()) as reader:
        for file in list_files(folder):
            answers = [json.loads(line) for line in reader.encode(file)]
            codes = [
                answer.get("refusal", {"code": "kept"})["code"]
                for answer in answers
                if not answer.get("tune", {}).get("order")  # other orders of its parts
            ]
            table[file.path.name] = _summarise(codes)
    return table


def _summarise(codes: list[str]) -> list[str]:
    """Replace many outcomes by the count of each code."""
    if len(codes) <= 4:
        return codes
    return [f"{codes.count(code)} {code}" for code in sorted(set(codes))]


def main() -> None:
    """Write the files to a folder, or update the table of outcomes."""
    import tempfile

    if sys.argv[1:] == ["--renew"]:
        with tempfile.TemporaryDirectory() as folder:
            table = outcomes(Path(folder) / "hostile")
        lines = (f"  {json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
        OUTCOMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    else:
        print(f"{len(write(Path(sys.argv[1])))} files")


if __name__ == "__main__":
    main()
