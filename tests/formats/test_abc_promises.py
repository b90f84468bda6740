"""Guarantees of the ABC reader: isolated refusals, encodings, limits, and linear time."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from musicgen.errors import REASONS, InvalidValue
from musicgen.formats import abc
from musicgen.formats.abc import abc_reader, body, fields
from musicgen.music.bars import find_bars
from musicgen.music.score import MAX_PLAYS, Note, Score
from musicgen.notation.engraving import LONGEST_BAR
from tests import oracles, strategies
from tests.time_growth import grows_linearly

NEEDS_ABC2MIDI = pytest.mark.skipif(oracles.ABC2MIDI is None, reason="abc2midi is not installed")
NEEDS_ABCM2PS = pytest.mark.skipif(oracles.ABCM2PS is None, reason="abcm2ps is not installed")
BAD = ("C0|", "[CE", "C[5 D", "(10C", "[K:Q]C", "^|", "C'''''''", "z8|", "[L:1/0]C", "C999" * 300)


def book(tunes: int, bad: int) -> str:
    """Return a book of tunes, `bad` of them malformed, evenly spaced."""
    every = tunes // bad
    return "\n".join(
        f"X:{n}\nT:tune {n}\nM:4/4\nL:1/8\nK:D\n|:{BAD[n % len(BAD)] if n % every == 0 else 'FAd'}"
        f" FAd fd|edcB A4:|\n"
        for n in range(tunes)
    )


def test_bad_tunes_do_not_affect_the_others() -> None:
    scores, refusals = abc.parse(book(600, 60), "book.abc")
    assert len(scores) + len(refusals) == 600
    assert {int(f.place.split("X:")[1].split(",")[0]) % 10 for f in refusals} == {0}
    assert all(fault.code in REASONS for fault in refusals)


@pytest.mark.promises
def test_20000_tunes_with_200_bad_ones_are_read_in_a_minute() -> None:
    text = "\n".join(
        f"X:{n}\nK:D\n{'[CE' if n % 100 == 0 else '|:FAd FAd fd|edcB A4:|'}\n"
        for n in range(20_000)
    )
    start = time.process_time()
    scores, refusals = abc.parse(text)
    assert time.process_time() - start < 60
    assert (len(scores), len(refusals)) == (19_800, 200)


def test_encodings_and_line_ends_are_normalized() -> None:
    text = (
        'X:1\nT:Caoin\u00e9\nM:4/4\nL:1/8\nV:1 name="Fl\u00fbte"\nK:C\nC-C|\nD|\n\nX:2\nK:G\nF|\n'
    )
    expected = abc.parse(text)
    for line_end in ("\n", "\r\n", "\r"):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
            data = text.replace("\n", line_end).encode(encoding)
            assert abc.parse(abc.decode_bytes(data)) == expected


# Linear time

REPEATED_TEXTS = (
    "&", "C&", "&&C|", "(&C", "(&C&D&)", "[V:2]C", "[V:2]C&D|", "[I:MIDI program 3]", "~G", "~n",
    '["', "C|&C|", "[M:3/4 2/4]C|", "\n+:x", "\nV:2 name=\"", "\nm:a=b",
)  # fmt: skip
HEAD = "X:1\nm:~G=GAG\nm:~n=nmn\nV:1\nV:2\nK:C\n"


@pytest.mark.parametrize("repeated", REPEATED_TEXTS)
def test_reading_time_is_linear(repeated: str) -> None:
    line = repeated * (2500 // len(repeated)) + "\n"
    assert grows_linearly(abc.parse, HEAD + line * 2, HEAD + line * 16)


# Limits

LONG_MACRO = "X:1\nm:~=" + "C" * 200 + "\nK:C\n"
TUNE = "X:1\nL:1/8\nM:4/4\nK:C\n"


def codes(text: str) -> list[str]:
    return [fault.code for fault in abc.parse(text)[1]]


def test_limits_are_the_documented_ones() -> None:
    assert (abc_reader.MAX_LINE, abc_reader.MAX_TUNE) == (16 * 1024, 64 * 1024)
    assert (body.MAX_NOTES, abc_reader.MAX_VOICES, MAX_PLAYS) == (20_000, 16, 4)
    assert fields.MAX_MACROS == 32


@pytest.mark.parametrize(
    ("fits", "too_much"),
    [
        (TUNE + "C" * 16_384, TUNE + "C" * 16_385),
        (TUNE + "C" * 10_000 + "\n" + "C" * 10_000, TUNE + "C" * 10_000 + "\n" + "C" * 10_001),
        (TUNE + ("%" * 16_000 + "\n") * 4 + "C", TUNE + ("%" * 16_000 + "\n") * 5 + "C"),
        (
            TUNE + "".join(f"[V:{n}]C" for n in range(16)),
            TUNE + "".join(f"[V:{n}]C" for n in range(17)),
        ),
        ("X:1\n" + "m:a=b\n" * 32 + "K:C\nC", "X:1\n" + "m:a=b\n" * 33 + "K:C\nC"),
        ("X:1\nm:~=" + "C" * 200 + "\nK:C\n~", "X:1\nm:~=" + "C" * 201 + "\nK:C\n~"),
        (LONG_MACRO + "~" * 80, LONG_MACRO + "~" * 90),
        (TUNE + "C|" + "Z999|" * 5, TUNE + "C|" + "Z999|" * 6),
    ],
)  # fmt: skip
def test_tunes_over_a_limit_are_refused(fits: str, too_much: str) -> None:
    assert "too-large" not in codes(fits)
    assert codes(too_much) == ["too-large"]


def test_tuplets_have_at_most_nine_notes() -> None:
    assert codes(TUNE + "(9CDEFGABcd") == []
    assert codes(TUNE + "(10CDEFGABcde") == ["tuplet"]


def test_repeat_is_played_at_most_four_times() -> None:
    score = abc.parse(TUNE + "|::::::C8::::::|")[0][0]
    assert len(score.unfolded().notes) == 4


# No other file is opened


def test_no_include_is_followed() -> None:
    script = (
        "import sys\n"
        "from musicgen.formats import abc\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, args: seen.append(args[0]) if name == 'open' else None)\n"
        "text = 'X:1\\n%%abc-include /etc/hostname\\nI:abc-include /etc/hostname\\nK:C\\n"
        "[I:abc-include /etc/hostname]C|\\n%%abc-include /etc/hostname\\n'\n"
        "assert len(abc.parse(text)[0]) == 1\n"
        "print(seen)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# Mutants of real tunes

SAMPLE = oracles.all_tunes()[::97]
ODDS = (
    "[V:2]", "&", "(&", "&)", "|:", ":|", "[1", "(3", ">", "-", "[", "]", "{", '"', "!", "\n",
    "\n\n", "m:a=b\n", "\nV:3\n", "Z9", "%%begintext\n", "\x00", "^", "C/9", "[K:", "\\", "+:",
)  # fmt: skip


def mutant(tune: str, rng: random.Random) -> str:
    """Return a tune with a few spans deleted, doubled or replaced by special tokens."""
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(tune) + 1)
        stop = min(len(tune), start + rng.randint(0, 12))
        inserted = rng.choice((rng.choice(ODDS), "", tune[start:stop] * 2, tune[stop : stop + 30]))
        tune = tune[:start] + inserted + tune[stop:]
    return tune


@given(st.sampled_from(SAMPLE), st.integers(0, 2**32))
@example(next(tune for tune in SAMPLE if "Fortuna dun gran tempo" in tune), 0)  # one long bar
def test_mutants_are_read_or_refused(tune: str, seed: int) -> None:
    scores, refusals = abc.parse(mutant(tune, random.Random(seed)), "book.abc")
    assert all(fault.code in REASONS and str(fault).isprintable() for fault in refusals)
    for score in scores:
        canonical = score.canonical()
        if max(bar.steps for bar in find_bars(canonical)) > LONGEST_BAR:
            with pytest.raises(InvalidValue, match="a bar lasts"):
                abc.render(canonical)
        else:
            assert abc.parse(abc.render(canonical))[0][0].canonical() == canonical


# Other programs read what is written


def rounded_to_eighths(score: Score) -> Score:
    """Return a score with notes rounded to eighths, which needs no tuplets."""
    notes = [
        Note(n.onset // 24 * 24, n.pitch, -(-n.duration // 24) * 24, n.velocity, n.part)
        for n in score.notes
    ]
    return Score(tuple(notes), score.marks, score.parts, "even").canonical()


@NEEDS_ABC2MIDI
@settings(max_examples=20, deadline=None)
@given(strategies.bands())
def test_abc2midi_hears_every_part(score: Score) -> None:
    score = score.canonical()
    assert oracles.agree(score, oracles.by_abc2midi([abc.render(score)])[0])


@NEEDS_ABC2MIDI
@settings(max_examples=20, deadline=None)
@given(strategies.bands())
def test_abc2midi_warns_of_nothing(score: Score) -> None:
    assert oracles.faults_by_abc2midi(abc.render(rounded_to_eighths(score))) == []


@NEEDS_ABCM2PS
@settings(max_examples=20, deadline=None)
@given(strategies.bands())
def test_abcm2ps_warns_of_nothing_but_the_width_of_lines(score: Score) -> None:
    assert oracles.faults_by_abcm2ps(abc.render(rounded_to_eighths(score))) == []


@settings(max_examples=8, deadline=None)
@given(strategies.bands(3))
def test_music21_reads_every_part(score: Score) -> None:
    assert oracles.by_music21(abc.render(score.canonical())) is not None  # warnings are errors


@pytest.mark.skipif(not oracles.all_files(), reason="music21's corpus is not installed")
def test_sample_of_all_tunes_is_read() -> None:
    outcomes = [abc.parse(tune) for tune in oracles.all_tunes()[5::25]]
    refused = [fault for _, faults in outcomes for fault in faults]
    assert all(len(kept) + len(faults) == 1 for kept, faults in outcomes)
    assert len(refused) <= 0.005 * len(outcomes)


@NEEDS_ABC2MIDI
def test_sample_of_all_tunes_is_read_as_abc2midi_reads_it() -> None:
    tunes = oracles.all_tunes()[11::60]
    oracle_notes = [
        h for at in range(0, len(tunes), 50) for h in oracles.by_abc2midi(tunes[at : at + 50])
    ]
    outcomes = [
        (abc.parse(tune)[0], theirs) for tune, theirs in zip(tunes, oracle_notes, strict=True)
    ]
    agreeing = sum(oracles.agree(scores[0].canonical(), h) for scores, h in outcomes if scores)
    assert agreeing >= 0.98 * len(outcomes)
