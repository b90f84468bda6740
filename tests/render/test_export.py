"""Writing a score to a file of any format, chosen by its suffix."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest

from musicgen import formats
from musicgen.errors import InvalidValue, NotFound, OutputExists, Refusal
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.render.export import RENDERERS, WRITABLE, View, check_suffix, write
from musicgen.render.timeline import at_tempo, duration, with_program

TUNE = Score((Note(0, 60, 96), Note(96, 64, 96)), (Mark(192, "bar"),), title="Tune")
STARTS = {".wav": b"RIFF", ".svg": b"<svg", ".png": b"\x89PNG", ".html": b"<!doctype html"}


def test_writable_suffixes_are_the_table() -> None:
    assert (*formats.WRITABLE_SUFFIXES, *RENDERERS) == WRITABLE
    assert set(STARTS) == set(RENDERERS)


@pytest.mark.parametrize("suffix", RENDERERS)
def test_each_format_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"tune{suffix.upper()}"
    write(TUNE, path)
    assert path.read_bytes()[:14].lower().startswith(STARTS[suffix].lower())
    with pytest.raises(OutputExists, match="choose another name or add --force"):
        write(TUNE, path)
    write(TUNE, path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".mid", ".abc"])
def test_remarks_are_stored(suffix: str, tmp_path: Path) -> None:
    write(TUNE, tmp_path / f"tune{suffix}", remarks=["hello there"])
    assert "hello there" in formats.read_remarks(tmp_path / f"tune{suffix}")


@pytest.mark.parametrize("view", ["score", "roll"])
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_pictures_have_views(view: View, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"tune{suffix}"
    write(TUNE, path, view=view)
    other_view: View = "roll" if view == "score" else "score"
    before = path.read_bytes()
    write(TUNE, path, view=other_view, force=True)
    assert path.read_bytes() != before


def test_count_in_and_program_change_the_sound(tmp_path: Path) -> None:
    def render_frames(**options: bool | int) -> bytes:
        write(TUNE, tmp_path / "tune.wav", force=True, **options)  # type: ignore[arg-type]
        with wave.open(io.BytesIO((tmp_path / "tune.wav").read_bytes())) as file:
            return bytes(file.readframes(file.getnframes()))

    assert len(render_frames(count_in=True)) > len(render_frames()) + 4 * 44_100
    assert render_frames(program=40) != render_frames()


def test_program_is_written(tmp_path: Path) -> None:
    write(TUNE, tmp_path / "tune.mid", program=40)
    assert formats.read(tmp_path / "tune.mid")[0][0].parts[0].program == 40


def test_unknown_suffix_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"song\.mp3: write one of \.abc, \.mid, .*\.html"):
        check_suffix(Path("song.mp3"))
    with pytest.raises(InvalidValue, match=r"song: write one of"):
        write(TUNE, "song")


def test_missing_folder_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        write(Score(), tmp_path / "nowhere" / "tune.wav")


@pytest.mark.parametrize("suffix", [".wav", ".svg", ".png"])
def test_refused_score_leaves_no_file(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="the tune has no notes"):
        write(Score(), tmp_path / f"tune{suffix}", view="roll")
    assert list(tmp_path.iterdir()) == []


def test_with_program_keeps_drums() -> None:
    parts = (Part("a", 3), Part("b", 0, is_drums=True))
    changed = with_program(Score((), (), parts), 40)
    assert changed.parts == (Part("a", 40), parts[1])


def test_at_tempo_scales_all_tempos() -> None:
    score = Score(TUNE.notes, (Mark(0, "tempo", 100.0), Mark(96, "tempo", 50.0)))
    assert [mark.value for mark in at_tempo(score, 200).of("tempo")] == [200, 100]
    assert duration(at_tempo(score, 200)) == pytest.approx(duration(score) / 2)


def test_at_tempo_adds_a_tempo() -> None:
    assert duration(at_tempo(TUNE, 60)) == pytest.approx(2 * duration(TUNE))
