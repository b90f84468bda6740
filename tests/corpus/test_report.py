"""Promises 2 and 10: every defect of a synthetic corpus is reported at its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen.cli import commands
from musicgen.corpus.dry_run import DryRunResult, check_sources
from musicgen.corpus.encode import REMARKS
from musicgen.corpus.sources import list_files
from musicgen.errors import REASONS
from tests import synthetic_tunes
from tests.synthetic_tunes import DEFECTS, RELATIVES, Defect

TUNES_IN_ORDER = 40  # of good.abc


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "mu"
    synthetic_tunes.write(folder)
    return folder


@pytest.fixture(scope="module")
def checkup(folder: Path) -> DryRunResult:
    return check_sources([folder])


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, ["corpus", "check", *map(str, words)])


def test_corpus_has_20_kinds_of_defect() -> None:
    kinds = {(defect.code, defect.words) for defect in DEFECTS} | set(RELATIVES.values())
    assert len(kinds) >= 20
    assert {d.code for d in DEFECTS if d.refused} <= set(REASONS)
    assert {d.code for d in DEFECTS if not d.refused} <= set(REMARKS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.file)
def test_defect_is_reported_at_its_place(checkup: DryRunResult, defect: Defect) -> None:
    source = f"mu/{defect.file}"
    if defect.refused:
        (row,) = (row for row in checkup.iter_refused() if row["source"] == source)
        assert row["place"].startswith(defect.place)
        assert row["code"] == defect.code
        assert defect.words in row["message"]
        assert not [row for row in checkup.iter_kept() if row["source"] == source]
    else:
        (kept,) = (row for row in checkup.iter_kept() if row["source"] == source)
        assert kept["place"].startswith(defect.place)
        assert [r for r in kept["remarks"] if r.startswith(defect.code) and defect.words in r]


def test_good_tunes_have_no_remarks(checkup: DryRunResult) -> None:
    good = [row for row in checkup.iter_kept() if row["source"] == "mu/good.abc"]
    assert len(good) == TUNES_IN_ORDER
    assert not any(row["remarks"] for row in good)


def test_every_file_is_kept_or_refused(checkup: DryRunResult, folder: Path) -> None:
    kept, refused = list(checkup.iter_kept()), list(checkup.iter_refused())
    assert (len(kept), len(refused)) == (checkup.report.kept, checkup.report.refused)
    assert checkup.report.found == len(kept) + len(refused)
    sources = {row["source"] for row in (*kept, *refused)}
    assert sources == {file.name for file in list_files(folder)}
    assert len(sources) == len(synthetic_tunes.FILES) + 1  # the file in folder.mid


@pytest.mark.parametrize("file", RELATIVES)
def test_related_tunes_are_reported(checkup: DryRunResult, file: str) -> None:
    relation, title = RELATIVES[file]
    (members,) = (
        members
        for members in checkup.group_relatives().values()
        if any(member.source == f"mu/{file}" for member in members)
    )
    pair = {(member.source, member.relation): member for member in members}
    if ("mu/good.abc", "") in pair:
        assert repr(title) in pair["mu/good.abc", ""].place
        assert repr(title) in pair[f"mu/{file}", relation].like
    else:  # of two kept tunes, their content decides which comes first
        assert repr(title) in pair["mu/good.abc", relation].place


def test_only_the_planted_tunes_are_related(checkup: DryRunResult) -> None:
    assert {len(members) for members in checkup.group_relatives().values()} == {2}
    assert len(checkup.group_relatives()) == len(RELATIVES)


def test_groups_do_not_cross_splits(checkup: DryRunResult) -> None:
    for members in checkup.group_relatives().values():
        assert len({member.part for member in members if member.part}) == 1


def test_tables_list_defects_and_related_tunes(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    for text in ("K: 'H'", "bar 3 holds 7/8 in a meter of 6/8: 1/8 too much", "the same notes as",
                  "in other note values: tune 5 'Tune 5' in mu/good.abc"):  # fmt: skip
        assert text in result.stdout
    total = len(synthetic_tunes.FILES) + TUNES_IN_ORDER
    assert f"found {total} tunes in {len(synthetic_tunes.FILES) + 1} files" in result.stdout
    assert "'Tune 40'" not in result.stdout


def test_json_has_the_rows_of_the_api(folder: Path, checkup: DryRunResult) -> None:
    body = json.loads(run(folder, "--json").stdout)
    assert {"kept", "refused", "groups", "counts", "found"} <= set(body)
    assert body["kept"] == list(checkup.iter_kept())
    assert body["refused"] == list(checkup.iter_refused())
    assert body["found"] == len(body["kept"]) + len(body["refused"])


def test_long_tables_are_truncated_unless_verbose(tmp_path: Path) -> None:
    book = "".join(synthetic_tunes.tune(number, K="") for number in range(30))
    (tmp_path / "a.abc").write_text(book + synthetic_tunes.tune(50))
    assert "and 10 more; --json or -v lists all" in run(tmp_path).stdout
    full = run(tmp_path, "-v").stdout
    assert "more; --json" not in full
    assert full.count("no-key") == 30 + 1
    assert "tune 1 'Tune 50'" in full


def test_exit_code_is_1_without_kept_tunes(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text(synthetic_tunes.tune(1, K=""))
    result = run(tmp_path, "--json")
    assert result.exit_code == 1
    assert [row["code"] for row in json.loads(result.stdout)["refused"]] == ["no-key"]
    assert run("no such thing").exit_code == 2


def test_titles_and_names_are_escaped(tmp_path: Path) -> None:
    evil = "\x1b[2J\x07[bold red]../../evil[/]"
    (tmp_path / "\x1b[31mred.abc").write_text(
        synthetic_tunes.tune(1, T=evil) + synthetic_tunes.tune(2, T=evil, K="")
    )
    result = run(tmp_path, "-v")
    assert "[bold red]../../evil[/]" in result.stdout
    assert not {"\x1b", "\x07"} & set(result.output)
