"""`musicgen render`: audio, images, web pages and other formats."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen import formats
from musicgen.cli import commands
from musicgen.render.export import WRITABLE
from tests.fake_models import untrained

ROOT = Path(__file__).parents[2]
FIRST = "X:1\nT:First\nM:6/8\nL:1/8\nQ:3/8=120\nK:D\n|:DEF AGF|EFG A3:|\n"
SECOND = "X:2\nT:Second\nM:4/4\nL:1/4\nK:G\nGABc|d4|\n"
KERN = "**kern\n*M4/4\n4c\n4d\n4e\n4f\n=\n1g\n==\n*-\n"


def run_render(*args: str) -> Result:
    return CliRunner().invoke(commands, ["render", *args])


def render_ok(*args: str) -> str:
    result = run_render(*args)
    assert result.exit_code == 0, result.output
    return result.stderr


def assert_render_refused(message: str, *args: str, code: int = 2) -> None:
    result = run_render(*args)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def measure_seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("one.abc").write_text(FIRST)
    Path("book.abc").write_text(f"{FIRST}\n{SECOND}")
    Path("scale.krn").write_text(KERN)
    return tmp_path


def test_render_writes_every_format(cwd: Path) -> None:
    outs = [f"out{suffix}" for suffix in WRITABLE]
    output = render_ok("one.abc", *(word for out in outs for word in ("--out", out)))
    assert output == f"{', '.join(outs)}: First; 6/8, 4 bars, 4 s\n"
    assert {path.name for path in cwd.glob("out*")} == set(outs)
    assert 4 < measure_seconds(cwd / "out.wav") < 6


@pytest.mark.parametrize("name", ["again.mid", "again.abc", "again.musicxml", "scale.krn"])
def test_render_reads_each_format(cwd: Path, name: str) -> None:
    if name.startswith("again"):
        render_ok("one.abc", "--out", name)
    render_ok(name, "--out", "heard.wav", "--out", "seen.svg", "-q")
    assert (cwd / "heard.wav").stat().st_size > 100_000
    assert (cwd / "seen.svg").read_text().startswith("<svg")


def test_notes_survive_conversion(cwd: Path) -> None:
    render_ok("one.abc", "--out", "a.mid")
    render_ok("a.mid", "--out", "b.abc")
    render_ok("b.abc", "--out", "c.mid")
    assert (cwd / "a.mid").read_bytes() == (cwd / "c.mid").read_bytes()


def test_render_applies_its_options(cwd: Path) -> None:
    render_ok("one.abc", "--out", "a.mid", "--program", "violin", "--tempo", "90")
    (score,), _ = formats.read("a.mid")
    assert (score.parts[0].program, score.qpm) == (40, 90)
    for name, args in (("plain", ()), ("counted", ("--count-in",)), ("slow", ("--tempo", "90"))):
        render_ok("one.abc", "--out", f"{name}.wav", *args)
    plain_seconds, counted_seconds, slow_seconds = (
        measure_seconds(Path(f"{n}.wav")) for n in ("plain", "counted", "slow")
    )
    assert counted_seconds == pytest.approx(plain_seconds + 2, abs=0.05)  # two bars of 2/4
    assert slow_seconds == pytest.approx(plain_seconds + 4, abs=0.3)
    for view in ("score", "roll"):
        render_ok("one.abc", "--out", f"{view}.svg", "--view", view)
    assert 'class="note"' in Path("roll.svg").read_text()
    assert Path("roll.svg").read_text() != Path("score.svg").read_text()


def test_book_requires_a_tune_number(cwd: Path) -> None:
    message = "book.abc: the file has 2 tunes; choose one with --tune N: 1 First, 2 Second"
    assert_render_refused(message, "book.abc", "--out", "a.wav")
    assert "a.mid: Second; 4/4, 2 bars, 4 s" in render_ok(
        "book.abc", "--out", "a.mid", "--tune", "2"
    )
    assert_render_refused(
        "--tune 3: book.abc has 2 tunes", "book.abc", "--out", "b.mid", "--tune", "3"
    )


def test_long_book_lists_only_its_first_tunes(cwd: Path) -> None:
    Path("long.abc").write_text("\n".join(FIRST.replace("X:1", f"X:{n}") for n in range(1, 51)))
    assert_render_refused("12 First and 38 more", "long.abc", "--out", "a.wav")


def test_quiet_prints_nothing_and_verbose_prints_refusals(cwd: Path) -> None:
    Path("bad.abc").write_text(f"{FIRST}\nX:2\nT:Bad\nK:C\n[CEG\n")
    assert render_ok("bad.abc", "--out", "a.mid", "-q") == ""
    output = render_ok("bad.abc", "--out", "b.mid", "-v").splitlines()
    assert "bad.abc: tune X:2" in output[0]
    assert output[-1].startswith("b.mid: First")


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (("one.abc", "--out", "a.mp3"), "a.mp3: write one of .abc, .mid", 2),
        (("one.abc", "--out", "a"), "a: write one of", 2),
        (("one.abc", "--out", "one.abc"), "one.abc exists; choose another name or add --force", 2),
        (("one.abc", "--out", "a.wav", "--out", "a.wav"), "a.wav is named twice", 2),
        (("one.abc", "--out", "no/a.wav"), "there is no folder no", 2),
        (("one.txt", "--out", "a.wav"), "the suffix '.txt' cannot be read", 2),
        (("none.abc", "--out", "a.wav"), "none.abc does not exist", 2),
        (("empty.mid", "--out", "a.wav"), "empty.mid: byte 0: it is not a MIDI file", 1),
        (("empty.abc", "--out", "a.wav"), "empty.abc: the file has no tune", 2),
        (("corrupt.mid", "--out", "a.wav"), "corrupt.mid: byte", 1),
        (("corrupt.musicxml", "--out", "a.wav"), "corrupt.musicxml", 1),
        (("huge.mid", "--out", "a.wav"), "huge.mid: it is larger than 8,388,608 bytes", 1),
        (("folder.mid", "--out", "a.wav"), "folder.mid", 1),
        (("one.abc", "--out", "a.mid", "--count-in"), "--count-in: applies only to audio", 2),
        (("one.abc", "--out", "a.mid", "--view", "roll"), "--view roll: applies only to images", 2),
        (("one.abc", "--out", "a.wav", "--tempo", "0"), "--tempo", 2),
        (("one.abc", "--out", "a.wav", "--program", "zither"), "program 'zither' is unknown", 2),
        (("one.abc", "--out", "a.mid", "--tempo", "1"), "tempo 1 is outside of 3.6", 2),
        (("one.abc", "--out", "a.wav", "--tempo", "0.1"), "tempo 0.1 is outside of 3.6", 2),
    ],
)
def test_render_refuses_bad_input_in_one_line(
    cwd: Path, args: tuple[str, ...], message: str, code: int
) -> None:
    Path("empty.mid").touch()
    Path("empty.abc").touch()
    Path("one.txt").write_text(FIRST)
    Path("corrupt.mid").write_bytes(b"MThd" + bytes(range(200)))
    Path("corrupt.musicxml").write_bytes(b"<score-partwise><part")
    Path("folder.mid").mkdir()
    with Path("huge.mid").open("wb") as file:
        file.truncate(9 * 2**20)
    files_before = set(cwd.iterdir())
    assert_render_refused(message, *args, code=code)
    assert set(cwd.iterdir()) == files_before


def test_control_characters_of_titles_are_escaped(cwd: Path) -> None:
    Path("evil.abc").write_text(FIRST.replace("First", "\x1b[31mred"))
    assert "\x1b" not in render_ok("evil.abc", "--out", "a.mid")


@pytest.fixture
def sample_folder(cwd: Path) -> Path:
    untrained(cwd / "model")
    outs = [f"a{suffix}" for suffix in (".mid", ".abc", ".wav", ".svg", ".html", ".musicxml")]
    args = (word for out in outs for word in ("--out", out))
    result = CliRunner().invoke(
        commands, ["sample", "--model", "model", "--seed", "5", "--bars", "4", *args]
    )
    assert result.exit_code == 0, result.output
    return cwd


def test_recipe_survives_conversion(sample_folder: Path) -> None:
    render_ok("a.mid", "--out", "b.abc", "--tempo", "77", "--program", "12")
    render_ok("b.abc", "--out", "c.mid", "--out", "c.html")
    for name in ("c.mid", "b.abc", "c.html"):
        args = ["tweak", name, "--model", "model", "--out", "same.mid", "--force"]
        result = CliRunner().invoke(commands, args)
        assert result.exit_code == 0, result.output
        assert Path("same.mid").read_bytes() == Path("a.mid").read_bytes()


@pytest.mark.parametrize("suffix", [".wav", ".svg", ".html", ".musicxml"])
def test_tweak_reads_the_recipe_of_every_format(sample_folder: Path, suffix: str) -> None:
    assert Path(f"a{suffix}.recipe.json").is_file() == (suffix in (".wav", ".svg"))
    result = CliRunner().invoke(
        commands, ["tweak", f"a{suffix}", "--model", "model", "--out", "same.mid"]
    )
    assert result.exit_code == 0, result.output
    assert Path("same.mid").read_bytes() == Path("a.mid").read_bytes()


def test_recipe_file_of_a_replaced_tune_is_removed(sample_folder: Path) -> None:
    Path("other.abc").write_text(SECOND)
    render_ok("other.abc", "--out", "a.wav", "--force")
    result = CliRunner().invoke(
        commands, ["tweak", "a.wav", "--model", "model", "--out", "same.mid"]
    )
    assert result.exit_code == 2
    assert "a.wav: it has no recipe" in result.stderr


def test_writing_midi_imports_no_renderer(sample_folder: Path) -> None:
    slow_seconds = (
        "('torch', 'music21', 'pretty_midi', 'symusic', 'verovio', 'resvg_py', 'matplotlib')"
    )
    code = (
        "import sys; from musicgen.cli import commands;"
        "commands(['sample', '--model', 'model', '--out', 'z.mid', '-q'], standalone_mode=False);"
        f"print([m for m in sys.modules if m.startswith('musicgen.render') or m in {slow_seconds}])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    expected_modules = ["musicgen.render", "musicgen.render.export", "musicgen.render.timeline"]
    assert sorted(ast.literal_eval(process.stdout.strip())) == expected_modules


def test_file_with_a_damaged_recipe_is_rendered(sample_folder: Path) -> None:
    text = Path("a.abc").read_text()
    position = text.index("%%musicgen") + 40
    Path("b.abc").write_text(text[:position] + "!!" + text[position + 2 :])
    render_ok("b.abc", "--out", "b.wav")
    assert Path("b.wav").stat().st_size > 10_000


def test_sampled_midi_is_rendered_with_its_repeats(cwd: Path) -> None:
    args = ["sample", "--seed", "1", "--form", "AABB", "--bars", "32", "--out"]
    result = CliRunner().invoke(commands, [*args, "a.mid", "--out", "a.abc"])
    assert result.exit_code == 0, result.output
    assert "2/4, 32 bars" in render_ok("a.mid", "--out", "b.abc")
    assert Path("b.abc").read_bytes() == Path("a.abc").read_bytes()
    assert b":|" in Path("b.abc").read_bytes()
    assert "2/4, 32 bars" in render_ok("a.mid", "--out", "c.mid", "--tempo", "77")
    assert formats.read("c.mid")[0][0].qpm == 77
    assert "2/4, 32 bars" in render_ok("c.mid", "--out", "c.abc")
    assert formats.read("c.abc")[0][0].qpm == 77


def test_edited_notes_are_rendered_unchanged(sample_folder: Path) -> None:
    (score,), _ = formats.read("a.mid")
    higher = score.transpose(1)
    formats.write(higher, "b.mid", remarks=formats.read_remarks(Path("a.mid")))
    render_ok("b.mid", "--out", "b.abc")
    (shown,), _ = formats.read("b.abc")
    assert [note.pitch for note in shown.notes] == [note.pitch for note in higher.notes]


CHORDS = 'X:1\nT:Chords\nM:3/4\nL:1/4\nK:G\n"G"GAB|"D7"cBA|"Em"EFG|"G"B3|\n'


def count_parts(path: str) -> int:
    (score,), _ = formats.read(path)
    return len(score.parts)


def test_chord_symbols_are_played_unless_asked_otherwise(cwd: Path) -> None:
    Path("c.abc").write_text(CHORDS)
    render_ok("c.abc", "--out", "auto.mid")
    render_ok("c.abc", "--out", "none.mid", "--accompaniment", "none")
    render_ok("auto.mid", "--out", "off.mid", "--accompaniment", "none")
    render_ok("auto.mid", "--out", "same.mid")
    render_ok("auto.mid", "--out", "broken.mid", "--accompaniment", "arpeggio")
    assert [count_parts(f"{name}.mid") for name in ("auto", "none", "same", "broken")] == [
        3,
        1,
        3,
        3,
    ]
    assert Path("none.mid").read_bytes() == Path("off.mid").read_bytes()
    assert Path("auto.mid").read_bytes() == Path("same.mid").read_bytes()
    render_ok("auto.mid", "--out", "back.abc")
    assert '"D7"' in Path("back.abc").read_text()
    assert "V:2" not in Path("back.abc").read_text()


def test_chords_are_recognised_from_notes(cwd: Path) -> None:
    Path("c.abc").write_text(CHORDS)
    render_ok("c.abc", "--out", "c.mid")
    output = render_ok("c.mid", "--out", "found.abc", "--chords")
    assert "c.mid: 4 chord symbols recognised, mean confidence" in output
    assert Path("found.abc").read_text().count('"') == 8
    render_ok("one.abc", "--out", "alone.mid", "--chords", "--accompaniment", "jig")
    assert count_parts("alone.mid") == 3


def test_accompaniment_without_chord_symbols_is_refused(cwd: Path) -> None:
    assert_render_refused(
        "--accompaniment waltz: one.abc has no chord symbols; add --chords to recognise some",
        "one.abc", "--out", "a.mid", "--accompaniment", "waltz",
    )  # fmt: skip
    assert not Path("a.mid").exists()
