"""Archives are read in place: each member is kept or refused by name, within limits."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from musicgen.corpus import archives
from musicgen.corpus.archives import is_archive
from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
from musicgen.corpus.sources import TuneFile, find_files
from musicgen.errors import Refusal
from tests.corpus.test_sandbox import DEATHS, list_refusals, parse_lines
from tests.malformed_files import TUNE, tarred, zipped

DATA = TUNE.encode()
TUNES = {"a.abc": DATA, "deep/b.ABC": DATA, "notes.txt": b"words", "deep/.DS_Store": b""}


def write_archive(folder: Path, name: str, files: dict[str, bytes]) -> TuneFile:
    if name.endswith(".zip"):
        (folder / name).write_bytes(zipped(files))
    else:
        mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
        with tarfile.open(folder / name, mode.get(Path(name.lower()).suffix, "w")) as out:  # type: ignore[call-overload]
            for member, data in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return TuneFile(folder / name, f"tunes/{name}")


def read_codes(file: TuneFile) -> dict[str, str]:
    return {part.name: getattr(data, "code", "read") for part, data in file.iter_contents()}


@pytest.mark.parametrize("name", ["b.zip", "b.tar", "b.tar.gz", "B.TGZ", "b.tar.bz2", "b.tar.xz"])
def test_reads_members_with_tune_suffixes(tmp_path: Path, name: str) -> None:
    file = write_archive(tmp_path, name, TUNES)
    assert read_codes(file) == {f"tunes/{name}/a.abc": "read", f"tunes/{name}/deep/b.ABC": "read"}
    scores, refusals = file.read()
    assert ([score.title for score in scores], refusals) == (["Hostile"] * 2, ())
    with SandboxedReader() as reader:
        answers = parse_lines(reader.encode(file))
    assert [answer["tune"]["source"] for answer in answers] == list(read_codes(file))
    assert list(tmp_path.iterdir()) == [file.path]


def test_finds_archives_and_folders_with_archives(tmp_path: Path) -> None:
    file = write_archive(tmp_path, "b.zip", TUNES)
    (tmp_path / "c.abc").write_bytes(DATA)
    (tmp_path / "readme.txt").write_text("words")
    assert [source.name for source in find_files(file.path).files] == ["b.zip"]
    source = find_files(tmp_path)
    assert [file.path.name for file in source.files] == ["b.zip", "c.abc"]
    assert source.skipped_files == 1


def test_pattern_selects_members(tmp_path: Path) -> None:
    file = write_archive(tmp_path, "b.zip", TUNES)
    assert read_codes(TuneFile(file.path, "b", only="b.*")) == {"b/deep/b.ABC": "read"}


@pytest.mark.parametrize("name", ["b.zip", "b.tar", "b.tar.gz"])
def test_archive_bomb_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "RATIO_EXEMPT_BYTES", 2**20)
    files = {f"{n:02}.abc": DATA + bytes(2**17) for n in range(40)}
    packed = write_archive(tmp_path, name, files)
    outcomes = list(read_codes(packed).values())
    if name == "b.tar":  # not compressed, so no bomb
        assert outcomes == ["read"] * 40
    else:
        assert outcomes.count("too-large") >= 1
        assert outcomes.count("read") < 20


def test_refuses_archive_with_too_many_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    files = {f"{n}.abc": DATA for n in range(4)}
    assert read_codes(write_archive(tmp_path, "b.zip", files)) == {"tunes/b.zip": "too-large"}
    outcomes = read_codes(write_archive(tmp_path, "b.tar", files))
    assert list(outcomes.values()) == ["read"] * 3 + ["too-large"]


def test_crash_on_a_member_refuses_only_that_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(DEATHS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    bad = DATA + b"\n%die:segv\n"
    for name in ("b.zip", "b.tar"):
        file = write_archive(
            tmp_path, name, {"a.abc": DATA, "b.abc": bad, "c.txt": b"", "d.abc": DATA}
        )
        with SandboxedReader() as reader:
            answers = parse_lines(reader.encode(file))
        kept_sources = [answer["tune"]["source"] for answer in answers if "tune" in answer]
        assert kept_sources == [f"tunes/{name}/a.abc", f"tunes/{name}/d.abc"]
        assert [(r["source"], r["code"]) for r in list_refusals(answers)] == [
            (f"tunes/{name}/b.abc", "crashed")
        ]


def test_forged_member_size_ends_as_truncated(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.wav")
    info.size = 2**50
    (tmp_path / "b.tar").write_bytes(tarred({"a.abc": DATA})[:1024] + info.tobuf())
    with SandboxedReader(ReadLimits(seconds=1)) as reader:
        answers = parse_lines(reader.encode(TuneFile(tmp_path / "b.tar", "b.tar")))
    assert len(answers) == 2
    assert list_refusals(answers)[0]["code"] == "truncated"


@pytest.mark.parametrize("name", ["a.zip", "A.TAR.GZ", "x.tgz"])
def test_recognises_archives_by_suffix(name: str) -> None:
    assert is_archive(name)
    assert not is_archive(f"{name}.txt")


def test_refuses_missing_archive(tmp_path: Path) -> None:
    assert read_codes(TuneFile(tmp_path / "no.zip", "no.zip")) == {"no.zip": "unreadable"}


def test_follows_link_to_archive_only_if_named(tmp_path: Path) -> None:
    file = write_archive(tmp_path, "b.zip", TUNES)
    (tmp_path / "link.zip").symlink_to(file.path)
    assert read_codes(TuneFile(tmp_path / "link.zip", "l.zip")) == {"l.zip": "not-regular"}
    assert len(read_codes(TuneFile(tmp_path / "link.zip", "l.zip", named=True))) == 2


def test_damaged_member_is_refused_alone(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.abc": DATA * 9, "b.abc": DATA}))
    data[45:60] = bytes(15)
    (tmp_path / "b.zip").write_bytes(data)
    assert read_codes(TuneFile(tmp_path / "b.zip", "z")) == {
        "z/a.abc": "damaged",
        "z/b.abc": "read",
    }


def test_refuses_unknown_compression_method(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.abc": DATA}))
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 99
    (tmp_path / "b.zip").write_bytes(data)
    ((_, refusal),) = TuneFile(tmp_path / "b.zip", "z").iter_contents()
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.source) == ("format", "z/a.abc")
    assert "its compression method is not supported" in refusal.message


def test_reads_lzma_member_of_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as out:
        out.writestr("a.abc", DATA)
    assert read_codes(TuneFile(tmp_path / "b.zip", "z")) == {"z/a.abc": "read"}
