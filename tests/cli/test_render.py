"""`musicgen render`: a tune of any make as sound, pictures, a page or another file."""

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


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, ["render", *words])


def done(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stderr


def refused(words: str, *given: str, code: int = 2) -> None:
    result = run(*given)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("one.abc").write_text(FIRST)
    Path("book.abc").write_text(f"{FIRST}\n{SECOND}")
    Path("scale.krn").write_text(KERN)
    return tmp_path


def test_a_tune_becomes_files_of_every_kind(here: Path) -> None:
    outs = [f"out{suffix}" for suffix in WRITABLE]
    told = done("one.abc", *(word for out in outs for word in ("--out", out)))
    assert told == f"{', '.join(outs)}: First; 6/8, 4 bars, 4 s\n"
    assert {path.name for path in here.glob("out*")} == set(outs)
    assert 4 < seconds(here / "out.wav") < 6


@pytest.mark.parametrize("name", ["again.mid", "again.abc", "again.musicxml", "scale.krn"])
def test_each_format_is_read(here: Path, name: str) -> None:
    if name.startswith("again"):
        done("one.abc", "--out", name)
    done(name, "--out", "heard.wav", "--out", "seen.svg", "-q")
    assert (here / "heard.wav").stat().st_size > 100_000
    assert (here / "seen.svg").read_text().startswith("<svg")


def test_the_notes_stay(here: Path) -> None:
    done("one.abc", "--out", "a.mid")
    done("a.mid", "--out", "b.abc")
    done("b.abc", "--out", "c.mid")
    assert (here / "a.mid").read_bytes() == (here / "c.mid").read_bytes()


def test_the_options_are_obeyed(here: Path) -> None:
    done("one.abc", "--out", "a.mid", "--program", "violin", "--tempo", "90")
    (score,), _ = formats.read("a.mid")
    assert (score.parts[0].program, score.qpm) == (40, 90)
    for name, words in (("plain", ()), ("counted", ("--count-in",)), ("slow", ("--tempo", "90"))):
        done("one.abc", "--out", f"{name}.wav", *words)
    plain, counted, slow = (seconds(Path(f"{n}.wav")) for n in ("plain", "counted", "slow"))
    assert counted == pytest.approx(plain + 1, abs=0.05)
    assert slow == pytest.approx(plain + 4, abs=0.3)
    for view in ("score", "roll"):
        done("one.abc", "--out", f"{view}.svg", "--view", view)
    assert 'class="note"' in Path("roll.svg").read_text()
    assert Path("roll.svg").read_text() != Path("score.svg").read_text()


def test_a_book_says_which_tunes_there_are(here: Path) -> None:
    refused("book.abc: it holds 2 tunes; choose one with --tune N: 1 First, 2 Second",
            "book.abc", "--out", "a.wav")  # fmt: skip
    assert "a.mid: Second; 4/4, 2 bars, 4 s" in done("book.abc", "--out", "a.mid", "--tune", "2")
    refused("--tune 3: book.abc holds 2 tunes", "book.abc", "--out", "b.mid", "--tune", "3")


def test_a_long_book_names_the_first_of_its_tunes(here: Path) -> None:
    Path("long.abc").write_text("\n".join(FIRST.replace("X:1", f"X:{n}") for n in range(1, 51)))
    refused("12 First and 38 more", "long.abc", "--out", "a.wav")


def test_quiet_says_nothing_and_verbose_what_was_left_out(here: Path) -> None:
    Path("bad.abc").write_text(f"{FIRST}\nX:2\nT:Bad\nK:C\n[CEG\n")
    assert done("bad.abc", "--out", "a.mid", "-q") == ""
    told = done("bad.abc", "--out", "b.mid", "-v").splitlines()
    assert "bad.abc: tune X:2" in told[0]
    assert told[-1].startswith("b.mid: First")


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("one.abc", "--out", "a.mp3"), "a.mp3: write one of .abc, .mid", 2),
        (("one.abc", "--out", "a"), "a: write one of", 2),
        (("one.abc", "--out", "one.abc"), "one.abc exists; choose another name or add --force", 2),
        (("one.abc", "--out", "a.wav", "--out", "a.wav"), "a.wav is named twice", 2),
        (("one.abc", "--out", "no/a.wav"), "there is no folder no", 2),
        (("one.txt", "--out", "a.wav"), "the suffix '.txt' cannot be read", 2),
        (("none.abc", "--out", "a.wav"), "none.abc does not exist", 2),
        (("empty.mid", "--out", "a.wav"), "empty.mid: byte 0: it is not a MIDI file", 1),
        (("empty.abc", "--out", "a.wav"), "empty.abc: it holds no tune", 2),
        (("corrupt.mid", "--out", "a.wav"), "corrupt.mid: byte", 1),
        (("corrupt.musicxml", "--out", "a.wav"), "corrupt.musicxml", 1),
        (("huge.mid", "--out", "a.wav"), "huge.mid: it is larger than 8,388,608 bytes", 1),
        (("folder.mid", "--out", "a.wav"), "folder.mid", 1),
        (("one.abc", "--out", "a.mid", "--count-in"), "--count-in: it is of sound", 2),
        (("one.abc", "--out", "a.mid", "--view", "roll"), "--view roll: it is of pictures", 2),
        (("one.abc", "--out", "a.wav", "--tempo", "0"), "--tempo", 2),
        (("one.abc", "--out", "a.wav", "--program", "zither"), "program 'zither' is unknown", 2),
        (("one.abc", "--out", "a.mid", "--tempo", "1"), "tempo 1 is outside of 3.6", 2),
        (("one.abc", "--out", "a.wav", "--tempo", "0.1"), "tempo 0.1 is outside of 3.6", 2),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    here: Path, words: tuple[str, ...], said: str, code: int
) -> None:
    Path("empty.mid").touch()
    Path("empty.abc").touch()
    Path("one.txt").write_text(FIRST)
    Path("corrupt.mid").write_bytes(b"MThd" + bytes(range(200)))
    Path("corrupt.musicxml").write_bytes(b"<score-partwise><part")
    Path("folder.mid").mkdir()
    with Path("huge.mid").open("wb") as file:
        file.truncate(9 * 2**20)
    before = set(here.iterdir())
    refused(said, *words, code=code)
    assert set(here.iterdir()) == before


def test_names_in_a_file_steer_no_terminal(here: Path) -> None:
    Path("evil.abc").write_text(FIRST.replace("First", "\x1b[31mred"))
    assert "\x1b" not in done("evil.abc", "--out", "a.mid")


@pytest.fixture
def sampled(here: Path) -> Path:
    untrained(here / "model")
    outs = [f"a{suffix}" for suffix in (".mid", ".abc", ".wav", ".svg", ".html", ".musicxml")]
    words = (word for out in outs for word in ("--out", out))
    result = CliRunner().invoke(
        commands, ["sample", "--model", "model", "--seed", "5", "--bars", "4", *words]
    )
    assert result.exit_code == 0, result.output
    return here


def test_a_recipe_goes_from_file_to_file(sampled: Path) -> None:
    done("a.mid", "--out", "b.abc", "--tempo", "77", "--program", "12")
    done("b.abc", "--out", "c.mid", "--out", "c.html")
    for name in ("c.mid", "b.abc", "c.html"):
        words = ["tweak", name, "--model", "model", "--out", "same.mid", "--force"]
        result = CliRunner().invoke(commands, words)
        assert result.exit_code == 0, result.output
        assert Path("same.mid").read_bytes() == Path("a.mid").read_bytes()


@pytest.mark.parametrize("suffix", [".wav", ".svg", ".html", ".musicxml"])
def test_what_was_sampled_is_tweaked_from_any_of_its_files(sampled: Path, suffix: str) -> None:
    assert Path(f"a{suffix}.recipe.json").is_file() == (suffix in (".wav", ".svg"))
    result = CliRunner().invoke(
        commands, ["tweak", f"a{suffix}", "--model", "model", "--out", "same.mid"]
    )
    assert result.exit_code == 0, result.output
    assert Path("same.mid").read_bytes() == Path("a.mid").read_bytes()


def test_no_recipe_stays_beside_the_sound_of_another_tune(sampled: Path) -> None:
    Path("other.abc").write_text(SECOND)
    done("other.abc", "--out", "a.wav", "--force")
    result = CliRunner().invoke(
        commands, ["tweak", "a.wav", "--model", "model", "--out", "same.mid"]
    )
    assert result.exit_code == 2
    assert "a.wav: it holds no recipe" in result.stderr


def test_a_midi_file_is_written_without_what_draws_and_plays(sampled: Path) -> None:
    slow = "('torch', 'music21', 'pretty_midi', 'symusic', 'verovio', 'resvg_py', 'matplotlib')"
    code = (
        "import sys; from musicgen.cli import commands;"
        "commands(['sample', '--model', 'model', '--out', 'z.mid', '-q'], standalone_mode=False);"
        f"print([m for m in sys.modules if m.startswith('musicgen.render') or m in {slow}])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    light = ["musicgen.render", "musicgen.render.export", "musicgen.render.timeline"]
    assert sorted(ast.literal_eval(found.stdout.strip())) == light


def test_a_damaged_recipe_stops_no_one_from_listening(sampled: Path) -> None:
    text = Path("a.abc").read_text()
    at = text.index("%%musicgen") + 40
    Path("b.abc").write_text(text[:at] + "!!" + text[at + 2 :])
    done("b.abc", "--out", "b.wav")
    assert Path("b.wav").stat().st_size > 10_000


def test_a_sampled_file_is_rendered_as_its_model_wrote_it(here: Path) -> None:
    words = ["sample", "--seed", "1", "--form", "AABB", "--bars", "32", "--out"]
    result = CliRunner().invoke(commands, [*words, "a.mid", "--out", "a.abc"])
    assert result.exit_code == 0, result.output
    assert "2/4, 32 bars" in done("a.mid", "--out", "b.abc")
    assert Path("b.abc").read_bytes() == Path("a.abc").read_bytes()
    assert b":|" in Path("b.abc").read_bytes()
    assert "2/4, 32 bars" in done("a.mid", "--out", "c.mid", "--tempo", "77")
    assert formats.read("c.mid")[0][0].qpm == 77
    assert "2/4, 32 bars" in done("c.mid", "--out", "c.abc")
    assert formats.read("c.abc")[0][0].qpm == 77


def test_edited_notes_are_rendered_as_they_stand(sampled: Path) -> None:
    (score,), _ = formats.read("a.mid")
    higher = score.transpose(1)
    formats.write(higher, "b.mid", remarks=formats.read_remarks(Path("a.mid")))
    done("b.mid", "--out", "b.abc")
    (shown,), _ = formats.read("b.abc")
    assert [note.pitch for note in shown.notes] == [note.pitch for note in higher.notes]
