"""`musicgen corpus`: exit codes, messages, output files, no leftovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen.cli import commands
from musicgen.corpus.store import load
from musicgen.formats import midi
from musicgen.music.score import Mark, Note, Part, Score
from tests import malformed_files, synthetic_tunes
from tests.corpus.test_hostile import CONTROL_CHARACTERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tunes(tmp_path: Path) -> Path:
    folder = tmp_path / "tunes"
    folder.mkdir()
    for number in range(4):
        book = "".join(synthetic_tunes.tune(10 * number + n) for n in range(5))
        (folder / f"{number}.abc").write_text(book)
    return folder


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(commands, ["corpus", *map(str, args)])


def run_build(folder: Path, *args: str) -> Result:
    return run("build", folder, "--out", folder.parent / "data", *args)


@pytest.mark.parametrize("command", ["build", "check"])
def test_help_shows_examples(command: str) -> None:
    lines = [line.strip() for line in run(command, "--help").output.splitlines()]
    assert len([line for line in lines if line.startswith(f"musicgen corpus {command} ")]) >= 3


def test_files_of_other_types_are_counted(tunes: Path) -> None:
    (tunes / "cover.jpg").touch()
    assert "skipped 1 other file" in run_build(tunes).stderr
    assert "skipped 1 other file" in run("check", tunes).stdout
    (tunes / "words.txt").touch()
    assert "skipped 2 other files" in run_build(tunes, "--force").stderr


def test_performance_codec_requires_no_key_or_meter(tmp_path: Path) -> None:
    (tmp_path / "plain.abc").write_text(synthetic_tunes.tune(1))
    result = run("check", tmp_path, "--codec", "performance")
    assert "kept 1, refused 0" in result.stdout
    assert "none is given" not in result.stdout


def test_rebuild_reports_reused_files(tunes: Path) -> None:
    assert "kept 20 of 20 tunes" in run_build(tunes, "--jobs", "1").stderr
    refused = run_build(tunes)
    assert refused.exit_code == 2
    assert "add --force" in refused.output
    (tunes / "0.abc").write_text(synthetic_tunes.tune(99))
    rebuild = run_build(tunes, "--force")
    assert rebuild.exit_code == 0, rebuild.output
    assert "kept 16 of 16 tunes" in rebuild.stderr
    assert "read 1 file, reused 3 unchanged" in rebuild.stderr


@pytest.mark.parametrize("codec", ["performance", "frames", "text", "text-words"])
def test_data_set_records_its_codec(tunes: Path, codec: str) -> None:
    result = run_build(tunes, "--codec", codec)
    assert result.exit_code == 0, result.output
    dataset = load(tunes.parent / "data")
    assert (dataset.codec, len(dataset)) == (codec, 20)
    assert len(dataset.vocabulary) > 10


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--codec", "nothing"], "codec 'nothing' is unknown"),
        (["--dask", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
        (["--memory", "1"], "192"),
        (["--seconds", "0"], "0"),
    ],
)
def test_build_refuses_bad_options_in_one_line(
    tunes: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.setattr("musicgen.corpus.dispatch.CONNECT_SECONDS", 0.5)
    result = run_build(tunes, *args)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert [path.name for path in tunes.parent.iterdir()] == ["tunes"]


CARD = 'title = "T"\ndescription = "d"\n'
ODD_SOURCES: dict[str, tuple[int, str]] = {
    "missing": (2, "there is no file, folder or corpus 'missing'; known are"),
    "": (2, "there is no file, folder or corpus ''; known are"),
    "a" * 300 + ".abc": (2, "aaa.abc'; known are"),
    "\udcff\x1b[31m": (2, r"corpus '\udcff\x1b[31m'; known are"),
    "empty": (2, "empty holds no tunes; .abc, .mid,"),
    "words": (2, "words holds no tunes; .abc, .mid,"),
    "link.mid": (2, "link.mid is a broken link; check its target"),
    "broken.toml": (2, "broken.toml is not a corpus card: Expected '='"),
    "deep.toml": (
        2,
        "deep.toml is not a corpus card: maximum recursion depth exceeded; a card is TOML",
    ),
    "pipe.toml": (2, "pipe.toml is not a corpus card: it is a device or pipe; only regular files"),
    "of-nothing.toml": (2, "corpus of-nothing: includes: there is no file, folder or corpus 'no'"),
    "closed.toml": (1, "http://127.0.0.1:9/a.zip: the download stops at 0 of 5 bytes"),
    "no.zip": (1, "no.zip: it is damaged or not such an archive (File is not a zip file)"),
    "locked.zip": (1, "locked.zip/a.abc: it is encrypted: unpack it with its password"),
    "pipe.mid": (1, "pipe.mid: it is a device or pipe; only regular files are read"),
    "links": (1, "links/a.mid: it is a link; only regular files are read"),
}


@pytest.fixture
def odd_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder of sources that are empty, damaged or not regular files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("empty", "words", "links"):
        (tmp_path / name).mkdir()
    (tmp_path / "words" / "a.txt").write_text("no tune")
    for link in ("link.mid", "links/a.mid"):
        (tmp_path / link).symlink_to("nowhere.mid")
    for pipe in ("pipe.mid", "pipe.toml"):
        os.mkfifo(pipe)
    Path("broken.toml").write_text("this is = = no card")
    Path("deep.toml").write_text("a = " + "[" * 5_000)
    Path("of-nothing.toml").write_text(CARD + 'includes = ["no"]')
    where = f'where = "http://127.0.0.1:9/a.zip"\nsha256 = "{"0" * 64}"\nbytes = 5'
    Path("closed.toml").write_text(CARD + where)
    Path("no.zip").write_text("no zip")
    Path("locked.zip").write_bytes(
        malformed_files.flagged(malformed_files.zipped({"a.abc": b"X:1"}))
    )
    return tmp_path


@pytest.mark.parametrize("source", ODD_SOURCES)
def test_bad_source_is_refused_in_one_line_without_output(odd_sources: Path, source: str) -> None:
    exit_code, message = ODD_SOURCES[source]
    result = run("build", source, "--out", "data")
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
    assert message in result.stderr
    assert (result.stderr.count("\n"), result.stderr[-1]) == (1, "\n")
    assert CONTROL_CHARACTERS.search(result.stderr[:-1]) is None
    assert not Path("data").exists()


@pytest.mark.parametrize("source", ["missing", "broken.toml", "no.zip", "links"])
def test_json_goes_to_stdout_and_errors_to_stderr(odd_sources: Path, source: str) -> None:
    exit_code, message = ODD_SOURCES[source]
    result = run("check", source, "--json", "--jobs", "1")
    assert result.exit_code == exit_code
    if exit_code == 2:
        assert result.stdout == ""
        assert message in result.stderr
    else:
        (refused,) = json.loads(result.stdout)["refused"]
        assert f"{refused['source']}: {refused['message']}".startswith(message)
        assert result.stderr == ""


def test_names_and_titles_are_printed_without_markup_or_control_characters(tmp_path: Path) -> None:
    folder = tmp_path / "[red]tunes"
    folder.mkdir()
    named_tune_text = synthetic_tunes.tune(1).replace("T:", "T:[bold]\x1b[31m[/nothing]")
    (folder / "\x1b[31m[blue].abc").write_text(named_tune_text)
    (folder / "[link=x].abc").write_text(synthetic_tunes.tune(2, K=""))
    for args in ([], ["-v"], ["--json"]):
        result = run("check", folder, *args)
        assert result.exit_code == 0, result.output
        assert CONTROL_CHARACTERS.search(result.output.replace("\n", "")) is None
        assert "[red]tunes/[link=x].abc" in result.stdout
    assert json.loads(result.stdout)["kept"][0]["source"] == r"[red]tunes/\x1b[31m[blue].abc"


def test_report_is_written_beside_the_data(tunes: Path) -> None:
    (tunes / "bad.abc").write_text(synthetic_tunes.tune(99, K=""))
    (tunes / "readme.txt").write_text("no tune")
    run_build(tunes)
    data = tunes.parent / "data"
    report = json.loads((data / "report.json").read_text())
    assert (report["found"], report["kept"], report["refused"]) == (21, 20, 1)
    assert report["codes"] == {"no-key": 1}
    manifest = json.loads((data / "manifest.json").read_text())
    assert set(manifest["sha256"]) | {"manifest.json"} == {path.name for path in data.iterdir()}


def find_children(pid: int) -> list[int]:
    """Return the ids of the child processes of a process."""
    result = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            result.append(int(stat.parent.name))
    return result


def restore_sigint() -> None:
    """Restore SIGINT in a child; a shell ignores it for background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_exits_with_130_and_leaves_no_files(tmp_path: Path) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    for number in range(20):
        book = "".join(synthetic_tunes.tune(1000 * number + n) for n in range(50))
        (folder / f"{number}.abc").write_text(book)
    args = [sys.executable, "-m", "musicgen", "corpus", "build", str(folder), "--out",
             str(tmp_path / "data"), "--jobs", "2"]  # fmt: skip
    process = subprocess.Popen(args, cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               preexec_fn=restore_sigint)  # fmt: skip
    workers: list[int] = []
    while len(workers) < 2 and process.poll() is None:
        workers = find_children(process.pid)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate()
    assert (process.returncode, output.strip()) == (130, "Error: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["tunes"]
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert os.getpid() not in workers


def test_check_names_the_role_of_each_part(tmp_path: Path) -> None:
    notes = [Note(24 * n, 67 + n % 5, 24) for n in range(64)]
    notes += [Note(48 * n, 40, 48, part=1) for n in range(32)]
    parts = (Part("Vocal"), Part("", 33))
    (tmp_path / "song.mid").write_bytes(midi.render(Score(notes, (Mark(192, "bar"),), parts)))
    (tune,) = json.loads(run("check", tmp_path, "--json").stdout)["kept"]
    assert [(p["name"], p["program"], p["role"]) for p in tune["parts"]] == [
        ("Vocal", 0, "melody"), ("", 33, "bass")
    ]  # fmt: skip
    assert all(0.5 < part["confidence"] <= 1 for part in tune["parts"])
    assert "Vocal melody 1.00, 2 bass" in run("check", tmp_path, "-v").stdout


def test_check_remarks_on_the_timing_of_a_played_file(tmp_path: Path) -> None:
    notes = [Note(24 * n + 2 + n % 2, 60 + n % 7, 20) for n in range(200)]
    data = midi.render(Score(notes, (Mark(192, "bar"),)))
    late = data.replace(b"\x01\xe0", b"\x01\xdf", 1)  # 479 ticks per quarter note
    (tmp_path / "late.mid").write_bytes(late)
    (tune,) = json.loads(run("check", tmp_path, "--json").stdout)["kept"]
    assert any(remark.startswith("timing: ") for remark in tune["remarks"])


@pytest.mark.parametrize("codec", ["performance", "text"])
def test_check_gives_parts_of_any_codec(tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.abc").write_text(synthetic_tunes.tune(1))
    (tune,) = json.loads(run("check", tmp_path, "--codec", codec, "--json").stdout)["kept"]
    assert len(tune["parts"]) == (codec == "performance")
