"""Archives are read in place: each member kept or refused by name, none past a bound."""

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
from tests.corpus.test_sandbox import DEATHS, answers, refusals
from tests.malformed_files import TUNE, tarred, zipped

DATA = TUNE.encode()
TUNES = {"a.abc": DATA, "deep/b.ABC": DATA, "notes.txt": b"words", "deep/.DS_Store": b""}


def archive(folder: Path, name: str, files: dict[str, bytes]) -> TuneFile:
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


def codes(file: TuneFile) -> dict[str, str]:
    return {part.name: getattr(data, "code", "read") for part, data in file.iter_contents()}


@pytest.mark.parametrize("name", ["b.zip", "b.tar", "b.tar.gz", "B.TGZ", "b.tar.bz2", "b.tar.xz"])
def test_members_are_read_by_name(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path, name, TUNES)
    assert codes(file) == {f"tunes/{name}/a.abc": "read", f"tunes/{name}/deep/b.ABC": "read"}
    scores, refused = file.read()
    assert ([score.title for score in scores], refused) == (["Hostile"] * 2, ())
    with SandboxedReader() as reader:
        told = answers(reader.encode(file))
    assert [line["tune"]["source"] for line in told] == list(codes(file))
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_source_may_be_an_archive_or_a_folder_with_some(tmp_path: Path) -> None:
    file = archive(tmp_path, "b.zip", TUNES)
    (tmp_path / "c.abc").write_bytes(DATA)
    (tmp_path / "readme.txt").write_text("words")
    assert [found.name for found in find_files(file.path).files] == ["b.zip"]
    found = find_files(tmp_path)
    assert [file.path.name for file in found.files] == ["b.zip", "c.abc"]
    assert found.skipped_files == 1


def test_a_pattern_chooses_members(tmp_path: Path) -> None:
    file = archive(tmp_path, "b.zip", TUNES)
    assert codes(TuneFile(file.path, "b", only="b.*")) == {"b/deep/b.ABC": "read"}


@pytest.mark.parametrize("name", ["b.zip", "b.tar", "b.tar.gz"])
def test_an_archive_without_end_costs_itself(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "RATIO_EXEMPT_BYTES", 2**20)
    long = {f"{n:02}.abc": DATA + bytes(2**17) for n in range(40)}
    packed = archive(tmp_path, name, long)
    found = list(codes(packed).values())
    if name == "b.tar":  # as large as it says
        assert found == ["read"] * 40
    else:
        assert found.count("too-large") >= 1
        assert found.count("read") < 20


def test_members_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    many = {f"{n}.abc": DATA for n in range(4)}
    assert codes(archive(tmp_path, "b.zip", many)) == {"tunes/b.zip": "too-large"}
    found = codes(archive(tmp_path, "b.tar", many))
    assert list(found.values()) == ["read"] * 3 + ["too-large"]


def test_a_member_that_kills_its_reader_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(DEATHS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    bad = DATA + b"\n%die:segv\n"
    for name in ("b.zip", "b.tar"):
        file = archive(tmp_path, name, {"a.abc": DATA, "b.abc": bad, "c.txt": b"", "d.abc": DATA})
        with SandboxedReader() as reader:
            told = answers(reader.encode(file))
        kept = [line["tune"]["source"] for line in told if "tune" in line]
        assert kept == [f"tunes/{name}/a.abc", f"tunes/{name}/d.abc"]
        assert [(r["source"], r["code"]) for r in refusals(told)] == [
            (f"tunes/{name}/b.abc", "crashed")
        ]


def test_one_that_is_endless_to_walk_through_ends(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.wav")
    info.size = 2**50
    (tmp_path / "b.tar").write_bytes(tarred({"a.abc": DATA})[:1024] + info.tobuf())
    with SandboxedReader(ReadLimits(seconds=1)) as reader:
        told = answers(reader.encode(TuneFile(tmp_path / "b.tar", "b.tar")))
    assert len(told) == 2
    assert refusals(told)[0]["code"] == "truncated"


@pytest.mark.parametrize("name", ["a.zip", "A.TAR.GZ", "x.tgz"])
def test_archives_are_known_by_suffix(name: str) -> None:
    assert is_archive(name)
    assert not is_archive(f"{name}.txt")


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    assert codes(TuneFile(tmp_path / "no.zip", "no.zip")) == {"no.zip": "unreadable"}


def test_members_of_a_link_are_not_read_unless_it_was_named(tmp_path: Path) -> None:
    file = archive(tmp_path, "b.zip", TUNES)
    (tmp_path / "link.zip").symlink_to(file.path)
    assert codes(TuneFile(tmp_path / "link.zip", "l.zip")) == {"l.zip": "not-regular"}
    assert len(codes(TuneFile(tmp_path / "link.zip", "l.zip", named=True))) == 2


def test_a_deflated_member_that_is_damaged_costs_itself(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.abc": DATA * 9, "b.abc": DATA}))
    data[45:60] = bytes(15)
    (tmp_path / "b.zip").write_bytes(data)
    assert codes(TuneFile(tmp_path / "b.zip", "z")) == {"z/a.abc": "damaged", "z/b.abc": "read"}


def test_a_way_of_packing_that_is_not_known(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.abc": DATA}))
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 99
    (tmp_path / "b.zip").write_bytes(data)
    ((_, refusal),) = TuneFile(tmp_path / "b.zip", "z").iter_contents()
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.source) == ("format", "z/a.abc")
    assert "packed in a way that is not read" in refusal.message


def test_both_libraries_agree_with_what_wrote_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as out:
        out.writestr("a.abc", DATA)
    assert codes(TuneFile(tmp_path / "b.zip", "z")) == {"z/a.abc": "read"}
