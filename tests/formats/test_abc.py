"""The ABC reader, construct by construct. An eighth note, L:1/8, has 24 steps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import REASONS, NotFound
from musicgen.formats import abc
from musicgen.formats.abc.fields import parse_key, parse_tempo, strip_comment
from musicgen.music.score import Ending, Mark, Score
from musicgen.music.theory import Key, Meter
from tests.time_growth import grows_linearly, mark_most

EIGHTH = 24
C, D, E, F, G, A, B = 60, 62, 64, 65, 67, 69, 71


def tune(music: str, *fields: str, key: str = "C") -> str:
    return "\n".join(["X:1", "T:test", *(fields or ("M:4/4", "L:1/8")), f"K:{key}", music, ""])


def read_one(text: str) -> Score:
    scores, refusals = abc.parse(text)
    assert refusals == ()
    assert len(scores) == 1
    return scores[0]


def notes(music: str, *fields: str, key: str = "C") -> list[tuple[int, int, int]]:
    score = read_one(tune(music, *fields, key=key))
    return [(note.onset, note.duration, note.pitch) for note in score.notes]


def pitches(music: str, key: str = "C") -> list[int]:
    return [pitch for _, _, pitch in notes(music, key=key)]


def durations(music: str, *fields: str) -> list[int]:
    return [duration for _, duration, _ in notes(music, *fields)]


def marks(music: str, kind: str, *fields: str) -> list[tuple[int, object]]:
    score = read_one(tune(music, *fields))
    return [(mark.onset, mark.value) for mark in score.marks if mark.kind == kind]


def refusal(text: str) -> tuple[str, str]:
    scores, refusals = abc.parse(text, "book.abc")
    assert scores == ()
    assert len(refusals) == 1
    return refusals[0].code, str(refusals[0])


# Pitches


def test_octaves() -> None:
    assert pitches("C,, C, C c c' c''") == [36, 48, 60, 72, 84, 96]


def test_octave_marks_cancel() -> None:
    assert pitches("c, C'") == [60, 72]


@pytest.mark.parametrize(
    ("sign", "alteration"), [("^", 1), ("^^", 2), ("_", -1), ("__", -2), ("=", 0)]
)
def test_accidentals(sign: str, alteration: int) -> None:
    assert pitches(f"{sign}G") == [G + alteration]


def test_accidental_holds_for_its_letter_to_the_end_of_the_bar() -> None:
    assert pitches("^F F f =f F | F") == [66, 66, 78, 77, 65, 65]


def test_grace_notes_accidental_holds_for_the_bar() -> None:
    assert pitches("{^c}d c | c") == [74, 73, 72]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("C", [65, 71]),
        ("G", [66, 71]),
        ("F", [65, 70]),
        ("Em", [66, 71]),
        ("EM", [66, 71]),
        ("A Mixolydian", [66, 71]),
        ("Ddor", [65, 71]),
        ("D exp ^f", [66, 71]),
        ("C ^f _b", [66, 70]),
        ("D =f", [65, 71]),
        ("Dmix=c", [66, 71]),
        ("HP", [66, 71]),
        ("Hp", [66, 71]),
        ("none", [65, 71]),
        ("", [65, 71]),
        ("G clef=bass", [66, 71]),
        ("clef=treble", [65, 71]),
        ("G bass", [66, 71]),
        ("G treble-8", [54, 59]),
        ("G octave=1", [78, 83]),
        ("C transpose=2", [67, 73]),
    ],
)
def test_keys(key: str, expected: list[int]) -> None:
    assert pitches("FB", key=key) == expected


def test_transposed_key_is_marked_at_sounding_pitch() -> None:
    assert parse_key("C transpose=2").key == Key("D")
    assert parse_key("C octave=1").key == Key("C")


# Lengths


@pytest.mark.parametrize(
    ("length", "steps"),
    [("", 24), ("2", 48), ("3", 72), ("/", 12), ("/2", 12), ("//", 6), ("/4", 6), ("3/2", 36),
     ("3/", 36), ("3/4", 18), ("/8", 3), ("/3", 8), ("2/3", 16), ("16", 384)],
)  # fmt: skip
def test_lengths(length: str, steps: int) -> None:
    assert durations(f"C{length}") == [steps]


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        (("M:4/4",), 24),
        (("M:3/4",), 24),
        (("M:2/4",), 12),
        (("M:C",), 24),
        (("M:C|",), 24),
        (("M:none",), 24),
        ((), 24),
        (("M:2/4", "L:1/4"), 48),
        (("L:1/4", "M:2/4"), 48),
        (("M:2/4 % two",), 12),
    ],
)
def test_unit(fields: tuple[str, ...], steps: int) -> None:
    assert durations("C", *(fields or ("N:no meter",))) == [steps]


@pytest.mark.parametrize(
    ("music", "expected"),
    [
        ("C>D", [36, 12]),
        ("C<D", [12, 36]),
        ("C>>D", [42, 6]),
        ("C<<D", [6, 42]),
        ("C>>>D", [45, 3]),
        ("C > D", [36, 12]),
        ("C>D>E", [36, 12 + 6, 6]),
        ("C2>D", [72, 12]),
        ("C<D2", [12, 72]),
        ("C>{e}D", [36, 12]),
        ("C>z", [36]),
        ("[CE]>D", [36, 36, 12]),
    ],
)
def test_broken_rhythm(music: str, expected: list[int]) -> None:
    if music == "C>D>E":
        expected = [36, 18, 12]  # the second mark changes a note that the first one shortened
    assert durations(music) == expected


@pytest.mark.parametrize(
    ("music", "meter", "total"),
    [
        ("(2CD", "6/8", 72),
        ("(3CDE", "4/4", 48),
        ("(4CDEF", "6/8", 72),
        ("(5CDEFG", "4/4", 48),
        ("(5CDEFG", "3/4", 48),
        ("(5CDEFG", "6/8", 72),
        ("(6CDEFGA", "4/4", 48),
        ("(7CDEFGAB", "9/8", 72),
        ("(8CDEFGABc", "6/8", 72),
        ("(9CDEFGABcd", "4/4", 48),
        ("(3:2CDE", "4/4", 48),
        ("(3:2:2C2D", "4/4", 48),
        ("(3::2C2D", "4/4", 48),
        ("(5:4:5CDEFG", "4/4", 96),
        ("((3CDE)", "4/4", 48),
    ],
)
def test_tuplets(music: str, meter: str, total: int) -> None:
    score = read_one(tune(music, f"M:{meter}", "L:1/8"))
    assert score.end == total
    assert all(note.end == next_note.onset for note, next_note in pairwise(score.notes))


def test_tuplets_boundaries_are_rounded_from_exact_fractions() -> None:
    score = read_one(tune("(7:4:7CDEFGAB"))
    assert [note.onset for note in score.notes] == [
        (2 * 96 * index + 7) // 14 for index in range(7)
    ]


def test_tuplet_ends_after_its_notes() -> None:
    assert durations("(3CDEF") == [16, 16, 16, 24]


# Rests, chords, ties


def test_rests() -> None:
    assert notes("Cz2D x/ E") == [(0, 24, C), (72, 24, D), (108, 24, E)]


def test_bars_of_rest() -> None:
    score = read_one(tune("C8|Z2|D8|"))
    assert [note.onset for note in score.notes] == [0, 3 * 192]
    assert [mark.onset for mark in score.of("bar")] == [192, 384, 576, 768]


def test_chords() -> None:
    assert notes("[CE]2 D") == [(0, 48, C), (0, 48, E), (48, 24, D)]
    assert notes("[C2E2] D") == [(0, 48, C), (0, 48, E), (48, 24, D)]
    assert notes("[CE2]/ D") == [(0, 12, C), (0, 12, E), (12, 24, D)]


def test_ties_join() -> None:
    assert notes("C-C2 D") == [(0, 72, C), (72, 24, D)]
    assert notes("C8-|C8-|C8") == [(0, 576, C)]


def test_tie_between_different_pitches_is_a_slur() -> None:
    assert notes("C-D D") == [(0, 24, C), (24, 24, D), (48, 24, D)]


def test_tie_keeps_its_accidental_across_the_bar_line_and_no_longer() -> None:
    assert notes("^C8-|C4 C4") == [(0, 288, 61), (288, 96, C)]


def test_ties_of_chords() -> None:
    assert notes("[CE]-[CG]") == [(0, 48, C), (0, 24, E), (24, 24, G)]
    assert notes("[C-E]C E") == [(0, 48, C), (0, 24, E), (48, 24, E)]


@pytest.mark.parametrize("line", [":|", "|:", "::", ":|:"])
def test_ties_end_where_playing_may_jump(line: str) -> None:
    assert [n[:2] for n in notes(f"C8-{line}C8")] == [(0, 192), (192, 192)]


def test_ties_do_not_cross_the_borders_of_endings() -> None:
    music = "|:C8-|1 C8-:|2 C8-||C8|"
    assert [n[:2] for n in notes(music)] == [(192 * bar, 192) for bar in range(4)]


def test_tie_goes_across_a_double_bar_line_that_ends_nothing() -> None:
    assert notes("C8-||C8") == [(0, 384, C)]


# Bar lines, repeats, endings


def test_bar_lines_end_bars() -> None:
    assert marks("|CD|E|]\n|F||", "bar") == [(48, None), (72, None), (96, None)]


def test_tunes_end_is_a_bar_line() -> None:
    assert marks("CD|EF", "bar") == [(48, None), (96, None)]


@pytest.mark.parametrize(
    ("music", "ends", "starts"),
    [
        ("|:C:|", [(24, 2)], [0]),
        ("C:|D", [(24, 2)], []),
        ("|:C::D:|", [(24, 2), (48, 2)], [0, 24]),
        ("|:C:|:D:|", [(24, 2), (48, 2)], [0, 24]),
        ("|:C:||:D:|", [(24, 2), (48, 2)], [0, 24]),
        ("|:C:||D", [(24, 2)], [0]),
        ("|::C::|", [(24, 3)], [0]),
        ("|:::C:::|", [(24, 4)], [0]),
        ("|:::::C:::::|", [(24, 4)], [0]),
        ("C::::D", [(24, 3)], [24]),
        ("C|:|", [(24, 2)], []),
        (":|C", [], []),
        ("C : D", [], []),
        ("C:|\n|:D:|", [(24, 2), (48, 2)], [24]),
    ],
)
def test_repeats(music: str, ends: list[tuple[int, int]], starts: list[int]) -> None:
    assert marks(music, "repeat_end") == ends
    assert [step for step, _ in marks(music, "repeat_start")] == starts


@pytest.mark.parametrize("first", ["|1 D", "|[1 D", "| [1 D", "|1D", "| 1 D"])
@pytest.mark.parametrize("second", [":|2 E", ":|[2 E", ":| [2 E", ":|2E"])
@pytest.mark.parametrize("close", ["||F", "|]F", "|:F", "[|F"])
def test_endings(first: str, second: str, close: str) -> None:
    assert marks(f"|:C{first}{second}{close}", "ending") == [
        (24, Ending((1,), 48)),
        (48, Ending((2,), 72)),
    ]


def test_ending_lasts_to_the_end_of_the_tune() -> None:
    assert marks("|:C|1D:|2E|F", "ending")[1] == (48, Ending((2,), 96))


@pytest.mark.parametrize(
    ("text", "passes"), [("1,3", (1, 3)), ("1-3", (1, 2, 3)), ("1.2", (1, 2)), ("1,3-4", (1, 3, 4))]
)
def test_passes(text: str, passes: tuple[int, ...]) -> None:
    assert marks(f"|:C[{text} D:|", "ending") == [(24, Ending(passes, 48))]


# Fields


def test_header_and_marks() -> None:
    text = "X:7\nT: The \x07Rake\nT:Other\nR: Slip JIG \nM:9/8\nL:1/8\nQ:3/8=120\nK:Edor\nEFG|\n"
    score = read_one(text)
    assert (score.title, score.rhythm) == ("The Rake", "slip jig")
    assert (score.key, score.meter, score.qpm) == (Key("E", "dorian"), Meter(9, 8), 180.0)
    assert score.marks[-1] == Mark(72, "bar")


@pytest.mark.parametrize(
    ("text", "qpm"),
    [
        ("1/4=120", 120.0),
        ("3/8=80", 120.0),
        ('"Slow" 1/2=60', 120.0),
        ('1/4=90 "Slow"', 90.0),
        ("120", 120.0),
        ("C=120", 60.0),
        ("1/4 1/8=80", 120.0),
        ("1/4=55.5", 55.5),
        ('"Allegro"', None),
        ("", None),
        ("slow", None),
        ("1/0=120", None),
        ("1/4=", None),
    ],
)
def test_tempos(text: str, qpm: float | None) -> None:
    assert parse_tempo(text, unit=945 << 21) == qpm


@pytest.mark.parametrize("form", ["[{}]", "\n{}"])
def test_fields_inside_a_tune(form: str) -> None:
    changes = "".join(form.format(field) for field in ("K:D", "M:3/4", "L:1/4", "Q:1/4=90", "V:1"))
    score = read_one(tune(f"F|{changes}\nF|"))
    assert [(n.duration, n.pitch) for n in score.notes] == [(24, 65), (48, 66)]
    values_by_kind = {mark.kind: mark.value for mark in score.marks if mark.onset == 24}
    assert values_by_kind == {"bar": None, "key": Key("D"), "meter": Meter(3, 4), "tempo": 90.0}


def test_chord_symbols_are_kept_and_annotations_are_not() -> None:
    music = '"Am"C "^Am"D "_no"E "<A"F ">B"G "@C"A "D.C."B "Fine"c "F#m7/C#"d "Segno"e "4"f'
    assert marks(music, "chord") == [(0, "Am"), (8 * 24, "F#m7/C#")]


def test_chord_symbols_of_the_nottingham_database() -> None:
    music = '"D/f+"C "Gd"D "(E7)"E "Ea"F " B7"G "D m"A " "B "Gm/bb"c "B 2"d'
    assert [value for _, value in marks(music, "chord")] == [
        "D/F#", "Gdim", "E7", "Eaug", "B7", "Dm", "Gm/Bb"
    ]  # fmt: skip


def test_chord_symbols_are_written_in_the_key() -> None:
    score = read_one(tune('"C#m"C2 "E7/g+"E2', key="A"))
    text = abc.render(score.canonical())
    assert '"C#m"' in text
    assert '"E7/G#"' in text


def test_decorations_texts_and_comments_are_ignored() -> None:
    music = (
        "{gab}C .D ~E uF vG TA !trill!B +fermata+c !D.C. al Fine!(d e) y3 f`g H-a\\\n"
        "w:ab-cd efg\n% comment ABC\n%%MIDI program 1\nN:ABC\nP:A\nb2 % ABC\n"
        "%%begintext\nABC\n%%endtext\nr:[CEG]\ns:*ABC\n[P:B][r:CDE]c' $*;\n"
    )
    assert len(notes(music)) == 15


def test_lone_exclamation_mark_does_not_hide_notes() -> None:
    assert len(notes("!CDE|FGA!|BCD")) == 9


def test_line_of_music_is_not_parsed_as_a_field() -> None:
    assert pitches("|:C2|\nG:|\nE::C|") == [C, G, E, C]


def test_quoted_printable_residue_is_removed() -> None:
    assert pitches("C=3DF =\n^F|F =20\nG=", key="G") == [C, F, 66, 66, G]


# Books


def test_book() -> None:
    text = (
        "% A book\nM:3/4\nL:1/4\nR:Waltz\n\nWords ABC|\n\nX:1\nT:One\nK:C\nC|\n"
        "X:1\nT:Two\nM:4/4\nK:G\nF|\n \nbetween ABC\n\nX:3\nT:Three\nK:C\nD\n"
    )
    scores, refusals = abc.parse(text)
    assert refusals == ()
    assert [score.title for score in scores] == ["One", "Two", "Three"]
    assert [score.meter for score in scores] == [Meter(3, 4), Meter(4, 4), Meter(3, 4)]
    assert [score.rhythm for score in scores] == ["waltz"] * 3
    assert [score.end for score in scores] == [48, 48, 48]


def test_bad_tune_does_not_affect_the_others() -> None:
    text = tune("C|") + "\n" + tune("C0|") + "\n" + tune("D|")
    scores, refusals = abc.parse(text)
    assert [score.notes[0].pitch for score in scores] == [C, D]
    assert [fault.code for fault in refusals] == ["length"]


@pytest.mark.parametrize("text", ["", "\n\n", "no tune here", "T:x\nK:C\nCDE|\n", "\ufeff"])
def test_text_without_tunes_yields_nothing(text: str) -> None:
    assert abc.parse(text) == ((), ())


ACCENTS = "X:1\nT:Caoin\u00e9\nM:4/4\nL:1/8\nK:C\nC-C|\nD|\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_are_normalized(encoding: str, line_end: str) -> None:
    data = ACCENTS.replace("\n", line_end).encode(encoding)
    assert abc.decode_bytes(data) == ACCENTS


def test_big_endian_utf_16() -> None:
    assert abc.decode_bytes(b"\xfe\xff" + ACCENTS.encode("utf-16-be")) == ACCENTS


def test_broken_bytes_are_decoded() -> None:
    assert abc.decode_bytes(b"\xff\xfeX") == "\u00ff\u00feX"


def test_comments() -> None:
    assert strip_comment("CDE % F") == "CDE "
    assert strip_comment(r"100\% pure % no") == r"100\% pure "
    assert strip_comment("\\\\% no") == "\\\\"


def test_read_opens_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text(tune("C"))
    assert len(abc.read(tmp_path / "a.abc")[0]) == 1
    scores, refusals = abc.read(tmp_path)
    assert scores == ()
    assert "regular" in str(refusals[0])
    with pytest.raises(NotFound, match=r"no\.abc"):
        abc.read(tmp_path / "no.abc")


# Refusals


@pytest.mark.parametrize(
    ("music", "code", "words"),
    [
        ("CD|E0", "length", "line 6: bar 2: the length 0 is not allowed"),
        ("C/0", "length", "the length /0 is not allowed"),
        ("C999999999", "length", "at most 3 digits"),
        ("C1/1024", "length", "at most 3 digits"),
        ("C/11", "length", "too small a fraction"),
        ("C" + "/" * 40, "length", "at most 3 digits"),
        ("[L:1/0]C", "length", "L: '1/0'"),
        ("[L:5]C8[L:x]", "length", "such as L:1/8"),
        ("C/64", "length", "shorter than 1/384"),
        ("C'''''''", "pitch", "outside of 0..127"),
        ("_C,,,,,,", "pitch", "outside of 0..127"),
        ("(1C", "tuplet", "(1 is not a tuplet"),
        ("(10C", "tuplet", "2 to 9"),
        ("(3:11C", "tuplet", "2 to 9"),
        ("(3:2:100C", "tuplet", "2 to 9"),
        ("[M:999999999/4]C", "field", "M: '999999999/4'"),
        ("[M:0/4]C", "field", "0/4"),
        ("[K:Q]C", "field", "K: 'Q'"),
        ("[K:G#]C", "field", "8 sharps"),
        ("[Q:1/4=0]C", "field", "outside of"),
        ("[Q:1/4=999999999]C", "field", "outside of"),
        ("C[5 D", "ending", "pass 5"),
        ("C[1-999 D", "ending", "passes 1 to 4"),
        ("C|0 D", "ending", "pass 0"),
        ("[CE", "syntax", "still open"),
        ("[C[E]]", "syntax", "inside a chord"),
        ("{CE D", "syntax", "grace notes are still open"),
        ("|> C", "syntax", "does not follow a note"),
        ("C>>>>D", "syntax", "one to three"),
        ("C^ D", "syntax", "does not precede a note"),
        ("|".join(f"[V:{number}]C" for number in range(17)), "too-large", "over 16 voices"),
        ("\n".join(["C" * 11_000] * 2), "too-large", "over 20000 notes"),
        ("z8|", "empty", "no notes"),
        ("Z999|" * 30, "too-large", "20000"),
        ("C999" * 300, "too-large", "20000 quarter notes"),
        ("C" * 20_000, "too-large", "the line has over"),
        ("\n".join(["C" * 10_000] * 7), "too-large", "the tune has over"),
    ],
)
def test_refusals(music: str, code: str, words: str) -> None:
    refusal_code, message = refusal(tune(music))
    assert refusal_code == code
    assert words in message
    assert message.startswith("book.abc: tune X:1, line ")
    assert message.endswith("; the tune was left out")


@pytest.mark.parametrize("field", ["L:1/0", "M:x", "K:??", "Q:1/4=1"])
def test_refused_headers(field: str) -> None:
    code, message = refusal(f"X:3\nT:x\n{field}\nK:C\nC|\n")
    assert code in REASONS
    assert "tune X:3, line 4" in message or "tune X:3, line 3" in message


def test_no_key() -> None:
    code, message = refusal("X:12\nT:x\nCDE|\n")
    assert code == "no-key"
    assert message == (
        "book.abc: tune X:12, line 3: the tune has no K: before its music; write one such as K:D;"
        " the tune was left out"
    )


def test_refusals_escape_control_characters() -> None:
    _, message = refusal("X:\x1b[2J\nT:x\nK:\x1b[31mQ\x07\nC|\n")
    assert message.isprintable()


# Arbitrary text

FRAGMENTS = [
    "X:1\n", "K:G\n", "K:D exp ^f\n", "M:6/8\n", "L:1/16\n", "Q:120\n", "T:a\n", "V:1\n", "\n",
    "C", "c'", "^F,", "=", "__B", "z", "Z3", "x", "2", "/", "//", "3/2", "0", "999", ">", "<<", "-",
    "(3", "(9", "(5:4:5", "(", ")", "[", "]", "[CE]", "[1", "|2", ":|", "|:", "::", "|", "||", "|]",
    "[|]", ":", "{", "}", "{ab}", '"', '"Am"', '"^x"', "!", "!f!", "+", "&", "\\", "%", "%%begin",
    "[K:", "[M:3/4]", "[L:1/4]", " ", "\t", "\x00", "\x1b", "\u0663", "\ufffd", "\ud800", "y", "~",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join), st.booleans())
def test_reader_never_raises_and_its_scores_round_trip(text: str, headed: bool) -> None:
    scores, refusals = abc.parse("X:1\nK:C\n" + text if headed else text)
    assert all(fault.code in REASONS and str(fault).isprintable() for fault in refusals)
    for score in scores:
        canonical = score.canonical()
        again, refused = abc.parse(abc.render(canonical))
        assert refused == ()
        assert again[0].canonical() == canonical


@given(st.binary(max_size=400))
def test_reader_never_raises_on_any_bytes(data: bytes) -> None:
    abc.parse(abc.decode_bytes(b"X:1\nK:C\n" + data))


REPEATED_TEXTS = [
    "C", "^", "^C", "(3", "(3:2:3", "[", "]", "[C", "[K:", "{", '"', "!", "!a", "+", ":", "|", ":|",
    "|1", "[1", "C>", "C-", "a'", "9", "/", "C/", " ", "\\", "%", "\n", "\\%", "C|\n", "[r:", "&",
    "Z9|", "C:|", "|1C:|2C", "X:1\nK:C\nC\n\n",
]  # fmt: skip


@pytest.mark.parametrize("repeated", mark_most(REPEATED_TEXTS))
def test_reading_time_is_linear(repeated: str) -> None:
    def text(size: int) -> str:
        return (
            "X:1\nK:C\n" + "\n".join([repeated * (3000 // len(repeated))] * (size // 3000)) + "\n"
        )

    assert grows_linearly(abc.parse, text(3_000), text(24_000))
