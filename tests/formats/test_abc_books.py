"""The ABC reader and writer on 4,248 real tunes, and against abc2midi and music21."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from musicgen.errors import REASONS, InvalidValue, Refusal
from musicgen.formats import abc
from musicgen.music.score import Ending, Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests import oracles, strategies

TUNES = 4248
NEEDS_ABC2MIDI = pytest.mark.skipif(oracles.ABC2MIDI is None, reason="abc2midi is not installed")


Outcome = tuple[tuple[Score, ...], tuple[Refusal, ...]]


def read_books(files: Sequence[Path]) -> dict[Path, Outcome]:
    """Return the scores and refusals of each file of the three collections."""
    return {file: abc.parse(abc.decode_bytes(file.read_bytes()), file.name) for file in files}


@pytest.fixture(scope="module")
def outcomes() -> dict[Path, Outcome]:
    """Read every fifth file of the three collections."""
    return read_books(oracles.corpus_files()[::5])


@pytest.fixture(scope="module")
def all_outcomes() -> dict[Path, Outcome]:
    return read_books(oracles.corpus_files())


def list_scores(outcomes: dict[Path, Outcome]) -> list[Score]:
    return [score for book_scores, _ in outcomes.values() for score in book_scores]


def check_outcomes(outcomes: dict[Path, Outcome], at_least: int) -> None:
    """Check that every tune is read or refused, and that at least a number is read."""
    for file, (book_scores, refusals) in outcomes.items():
        texts = list(oracles.tune_texts(oracles.decoded(file)))
        assert len(book_scores) + len(refusals) == len(texts)
        assert all(fault.code in REASONS and fault.source == file.name for fault in refusals)
    assert len(list_scores(outcomes)) >= at_least


def test_most_tunes_are_read_and_the_others_refused(outcomes: dict[Path, Outcome]) -> None:
    assert len(oracles.corpus_tunes()) == TUNES
    check_outcomes(outcomes, TUNES // 8)


@pytest.mark.promises
def test_at_least_98_percent_of_all_tunes_are_read(all_outcomes: dict[Path, Outcome]) -> None:
    check_outcomes(all_outcomes, round(0.98 * TUNES))


def changed_titles(tunes: Sequence[Score]) -> list[str]:
    """Return the titles of tunes that writing and reading changes."""
    return [tune.title for tune in tunes if not round_trips(tune.canonical())]


def round_trips(score: Score) -> bool:
    parsed, refusals = abc.parse(abc.render(score))
    return not refusals and len(parsed) == 1 and parsed[0].canonical() == score


def test_writing_undoes_reading(outcomes: dict[Path, Outcome]) -> None:
    assert changed_titles(list_scores(outcomes)[::2]) == []


@pytest.mark.promises
def test_writing_undoes_reading_of_every_tune(all_outcomes: dict[Path, Outcome]) -> None:
    """The tune read again is equal, and writing it again gives the same text."""
    for score in list_scores(all_outcomes):
        canonical = score.canonical()
        text = abc.render(canonical)
        (parsed,), refusals = abc.parse(text)
        assert not refusals
        assert parsed.canonical() == canonical
        assert abc.render(parsed) == text


@NEEDS_ABC2MIDI
def test_abc2midi_reads_the_same_notes() -> None:
    tunes = oracles.corpus_tunes()[::70]
    assert count_disagreements(tunes, oracles.by_abc2midi(tunes)) <= 1


def test_music21_reads_the_same_notes() -> None:
    tunes = oracles.corpus_tunes()[7::420]
    # docs/reading.md says why one tune in six differs there
    assert count_disagreements(tunes, [oracles.by_music21(tune) for tune in tunes]) <= 3


@pytest.mark.promises
@NEEDS_ABC2MIDI
def test_abc2midi_reads_the_same_notes_of_every_tune() -> None:
    tunes = oracles.corpus_tunes()
    heard = [h for at in range(0, TUNES, 50) for h in oracles.by_abc2midi(tunes[at : at + 50])]
    assert count_disagreements(tunes, heard) <= 0.01 * TUNES


def count_disagreements(
    tunes: Sequence[str], oracle_notes: Sequence[tuple[oracles.Heard, ...] | None]
) -> int:
    """Count the tunes that we read and another program reads differently."""
    outcomes = [
        (abc.parse(tune)[0], theirs) for tune, theirs in zip(tunes, oracle_notes, strict=True)
    ]
    return sum(not oracles.agree(s[0].canonical(), theirs) for s, theirs in outcomes if s)


@NEEDS_ABC2MIDI
def test_abc2midi_finds_no_fault_in_full_bars(tmp_path: Path) -> None:
    music = "d | c2 BA G>A Bc | (3efg ed c4 |1 z4 ^F3 :|2 [CEG]8 || c4 d2 e2 | c8 |]"
    score = abc.parse(f"X:1\nT:t\nM:4/4\nL:1/8\nQ:1/4=90\nK:Gm\n|: {music}\n")[0][0]
    (tmp_path / "t.abc").write_text(abc.render(score))
    command = [str(oracles.ABC2MIDI), "t.abc", "-c"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Warning" not in completed.stdout + completed.stderr
    assert "Error" not in completed.stdout + completed.stderr


# The writer


def test_tune_is_written_as_expected() -> None:
    text = (
        'X:1\nT:50% off \\ on\nR:Jig\nM:6/8\nL:1/8\nQ:3/8=120\nK:Ador\nE|"Am"A2B cBA|'
        "^F>GA ^FED|1A3-A2:|2[Ace]3- [Ace]2|]\nK:D\n|:(3FGA (4ABcd e/f//g//|z6::[M:2/4]d4||\n"
    ).replace("50% off \\ on", "50\\% off \\\\ on")
    assert abc.render(abc.parse(text)[0][0], 5, directives=["%%recipe seed=7"]) == (
        "X:5\nT:50\\% off \\\\ on\n%%recipe seed=7\nR:jig\nM:6/8\nL:1/8\nQ:3/8=120\nK:Ador\n"
        '|: E | "Am"A2B cBA | F3/2G/2A FED | [1 A4-A :|\n'
        "[2 [Ace]4-[Ace] ||\n"
        "|: [K:D](3FGAA3/4B3/4c3/4d3/4e/2f/4g/4 | z6 :|\n"
        "[M:2/4]d4 |]\n"
    )


def test_marks_inside_notes_round_trip() -> None:
    notes = (Note(0, 60, 192), Note(0, 64, 96), Note(192, 61, 96))
    marks = (
        Mark(0, "key", Key("C")),
        Mark(0, "meter", Meter(4, 4)),
        Mark(0, "tempo", 100.5),
        Mark(48, "chord", "Am7"),
        Mark(96, "key", Key("Db")),
        Mark(100, "tempo", 33.3),
        Mark(192, "bar"),
        Mark(288, "bar"),
        Mark(288, "chord", "G"),
    )
    assert round_trips(Score(notes, marks).canonical())


def test_parts_are_written_as_expected() -> None:
    notes = (
        Note(0, 72, 96, 80, 0), Note(96, 74, 96, 80, 0), Note(192, 72, 192, 80, 0),
        Note(0, 48, 192, 100, 1), Note(0, 55, 96, 100, 1), Note(192, 36, 48, 64, 2),
    )  # fmt: skip
    marks = (
        Mark(0, "key", Key("F")), Mark(0, "tempo", 90.0), Mark(192, "bar"), Mark(384, "bar"),
        Mark(0, "chord", "F"), Mark(384, "repeat_end", 2), Mark(192, "key", Key("C")),
    )  # fmt: skip
    parts = (Part('Flute "1"', 73), Part("Bass", 32), Part("Kit", 0, is_drums=True))
    score = Score(notes, marks, parts, "Trio").canonical()
    assert round_trips(score)
    assert abc.render(score) == (
        "X:1\nT:Trio\nM:4/4\nL:1/8\nQ:1/4=90\n%%continueall 1\n"
        'V:1 name="Flute &quot;1&quot;"\nV:2 clef=bass name="Bass"\nV:3 clef=bass name="Kit"\nK:F\n'
        'V:1\n%%MIDI program 73\n|: "F"c4 d4 | [K:C]c8 :|\n'
        "V:2\n%%MIDI program 32\n%%MIDI beat 100 100 100 1\n|: [C,-G,]4 C,4 | [K:C]z8 :|\n"
        "V:3\n%%MIDI channel 10\n%%MIDI beat 64 64 64 1\n|: z8 | [K:C]C,,2 z6 :|\n"
    )


def test_single_part_has_no_voice_field_and_keeps_its_name() -> None:
    score = Score((Note(0, 60, 192),), (), (Part("melody", 73),)).canonical()
    assert abc.render(score).endswith("K:C\n%%player melody\n%%MIDI program 73\nC8 |]\n")
    assert round_trips(score)


@settings(max_examples=20, deadline=None)
@given(strategies.scores(4))
def test_reading_undoes_writing_of_several_parts(score: Score) -> None:
    assume(score.notes)
    assert round_trips(score.canonical())


@settings(max_examples=20, deadline=None)
@given(strategies.bands(16))
def test_reading_undoes_writing_of_bands(score: Score) -> None:
    assert round_trips(score.canonical())


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (Score((Note(0, 60, 1),), parts=(Part(),) * 17), "has 17 parts, ABC at most 16"),
        (Score((Note(960_000, 60, 1),)), "960001 steps, ABC at most 960000"),
        (Score(tuple(Note(n, 60, 1) for n in range(20_001))), "20001 notes, ABC at most 20000"),
        (
            Score(
                tuple(Note(7 * n, 60, 7) for n in range(19_000)),
                tuple(Mark(192 * n, "bar") for n in range(700)),
            ),
            "over 65536 characters of ABC",
        ),
    ],
)
def test_tunes_over_the_limits_of_the_reader_are_refused(score: Score, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        abc.render(score)


@pytest.mark.parametrize("line", ["K:C", "%%begintext", "%%a\nK:C", "%%a\x1b[2J"])
def test_invalid_directives_are_refused(line: str) -> None:
    with pytest.raises(InvalidValue, match="write one line such as"):
        abc.render(Score((Note(0, 60, 24),)), directives=[line])


@pytest.mark.parametrize(
    "title", ["a\nK:D", "\x1b[2Jx", "%%MIDI", "|: x", ":", "\\", "100%", "T:", "\u202eabc", "\\%"]
)
def test_titles_are_escaped(title: str) -> None:
    score = Score((Note(0, 60, 192),), (Mark(0, "key", Key("C")), Mark(192, "bar")), title=title)
    parsed, refusals = abc.parse(abc.render(score))
    assert refusals == ()
    assert parsed[0].notes == score.notes
    assert parsed[0].title == "".join(char for char in title if char.isprintable())


KEYS = [Key(tonic, mode) for tonic in ("C", "F#", "Bb", "Cb") for mode in ("major", "mixolydian")][
    :-1
]


@st.composite
def tunes(draw: st.DrawFn) -> Score:
    """Draw a tune: bars of any lengths, notes, chords, rests and ties, with marks between."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=14))
    onset, edges, notes = 0, [0], []
    for length in lengths:
        pitches = draw(st.sets(st.integers(30, 100), max_size=3))
        notes += [Note(onset, pitch, length) for pitch in pitches]
        onset += length
        if draw(st.booleans()):
            edges.append(onset)
    bars = sorted({*edges[1:], onset})
    marks = [Mark(0, "key", draw(st.sampled_from(KEYS))), *(Mark(step, "bar") for step in bars)]
    if draw(st.booleans()):
        marks.append(Mark(draw(st.sampled_from(bars)), "repeat_end", draw(st.integers(2, 4))))
    if len(bars) > 2 and draw(st.booleans()):
        marks.append(Mark(bars[0], "ending", Ending((1,), bars[1])))
        marks.append(Mark(bars[1], "ending", Ending((2,), bars[2])))
    marks.append(Mark(draw(st.integers(0, onset)), "key", draw(st.sampled_from(KEYS))))
    marks.append(Mark(draw(st.integers(0, onset)), "meter", draw(st.sampled_from(METERS))))
    if not notes:
        notes.append(Note(0, 60, onset))
    return Score(tuple(notes), tuple(marks)).canonical()


METERS = [Meter(4, 4), Meter(6, 8), Meter(3, 4), Meter(2, 2)]


@given(tunes())
def test_reading_undoes_writing(score: Score) -> None:
    assert round_trips(score)
