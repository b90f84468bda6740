"""Pieces of several parts are stored in several orders of their parts, in one group and split."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from musicgen.corpus.build import build
from musicgen.corpus.part_orders import (
    MOST_ORDERS,
    WHOLE_ORDERS,
    find_voice_order,
    iter_lead_sheet_orders,
    iter_part_orders,
)
from musicgen.corpus.store import EncodedTune
from musicgen.errors import InvalidValue
from musicgen.music.roles import assign_roles
from musicgen.music.score import CHOIR_ROLES, Mark, Note, Part, Score
from musicgen.similarity.build_index import build_overlap_index
from musicgen.tokens.codec import Setting
from musicgen.tokens.lineup import read_lineup
from musicgen.tokens.measures import MeasuresCodec
from musicgen.training.plan import adjust_split
from tests.multi_part import band, chorale, write_pieces

BAND = Score(
    (Note(0, 72, 48), Note(0, 60, 48, part=1), Note(0, 36, 48, part=2), Note(0, 40, 48, part=3)),
    parts=(Part("lead"), Part("pads", 89), Part("kit", is_drums=True), Part("low", 33)),
)

ROLES = ("melody", "pad", "drums", "bass")


def list_names(score: Score) -> list[str]:
    return [part.name for part in score.parts]


def list_orders(score: Score) -> list[list[str]]:
    return [list_names(order) for order in iter_part_orders(score)]


def test_orders_are_as_written_then_each_main_part_last_then_bass_first() -> None:
    parts = tuple(replace(part, role=role) for part, role in zip(BAND.parts, ROLES, strict=True))
    orders = list_orders(replace(BAND, parts=parts))
    assert orders[:WHOLE_ORDERS] == [
        ["lead", "pads", "kit", "low"],
        ["pads", "kit", "low", "lead"],
        ["lead", "kit", "low", "pads"],
        ["lead", "pads", "low", "kit"],
        ["low", "lead", "pads", "kit"],
        ["lead"],
        ["pads"],
    ]


def test_small_lineups_have_each_of_their_parts_last() -> None:
    parts = tuple(replace(part, role=role) for part, role in zip(BAND.parts, ROLES, strict=True))
    orders = list_orders(replace(BAND, parts=parts))
    assert [order for order in orders if len(order) == 2] == [
        ["lead", "pads"], ["pads", "lead"], ["lead", "kit"], ["kit", "lead"],
        ["lead", "low"], ["low", "lead"],
    ]  # fmt: skip
    assert [order for order in orders if len(order) == 3] == [
        ["kit", "low", "lead"], ["lead", "low", "kit"], ["lead", "kit", "low"],
    ]  # fmt: skip
    assert len(orders) <= MOST_ORDERS


def test_melody_and_bass_without_roles_are_the_highest_and_the_lowest_part() -> None:
    assert list_orders(BAND) == [
        ["lead", "pads", "kit", "low"],
        ["pads", "kit", "low", "lead"],
        ["low", "lead", "pads", "kit"],
        ["lead"],
        ["low"],
        ["lead", "low"],
        ["low", "lead"],
    ]


CHOIR = Score(
    tuple(Note(0, 72 - 7 * part, 48, part=part) for part in range(4)),
    parts=tuple(Part(name, 52) for name in ("Soprano", "Alto", "Tenor", "Bass")),
)


def test_any_voices_of_a_choir_come_first_in_one_order() -> None:
    orders = [list_names(score) for score in iter_part_orders(assign_roles(CHOIR))]
    assert orders[0] == list_names(CHOIR)
    assert len(orders) == 6
    for size in range(5):
        for given in combinations(CHOIR_ROLES, size):
            order = find_voice_order(given)
            assert set(order[:size]) == set(given)
            assert [role.capitalize() for role in order] in orders


def test_each_voice_of_other_choirs_comes_first_in_one_order() -> None:
    trio = assign_roles(CHOIR.select_parts([3, 1, 0]))
    orders = [list_names(score) for score in iter_part_orders(trio)]
    assert orders[0] == ["Soprano", "Alto", "Bass"]
    assert [order[0] for order in orders] == ["Soprano", "Alto", "Bass"]
    parts = (*CHOIR.parts, Part("Bass", 52))
    assert len(list(iter_part_orders(assign_roles(Score(CHOIR.notes, parts=parts))))) == 5


def test_roles_decide_which_part_is_the_melody() -> None:
    parts = (Part("lead"), Part("pads", 89, role="melody"), *BAND.parts[2:])
    orders = list_orders(Score(BAND.notes, parts=parts))
    assert orders[1] == ["lead", "kit", "low", "pads"]


def test_large_band_is_stored_for_small_bands_too() -> None:
    roles = ("melody", "chords", "drums", "bass", "chords")
    parts = tuple(Part(f"{n}", is_drums=role == "drums", role=role) for n, role in enumerate(roles))
    notes = tuple(Note(0, 36 + n, 48, part=n) for n in range(5))
    *_, quartet = iter_part_orders(Score(notes, parts=parts))
    assert list_names(quartet) == ["0", "1", "2", "3"]
    assert [(note.pitch, note.part) for note in quartet.notes] == [
        (36, 0), (37, 1), (38, 2), (39, 3),
    ]  # fmt: skip


def test_small_band_starts_where_all_its_parts_play() -> None:
    roles = ("melody", "pad", "drums", "bass")
    parts = tuple(Part(f"{n}", is_drums=role == "drums", role=role) for n, role in enumerate(roles))
    introduction = [Note(192 * bar, 36 + n, 48, part=n) for bar in range(2) for n in (1, 2)]
    song = [Note(192 * bar + 48, 60 + n, 48, part=n) for bar in (2, 3) for n in range(4)]
    marks = tuple(Mark(192 * bar, "bar") for bar in range(1, 5))
    *_, trio = iter_part_orders(Score((*introduction, *song), marks, parts))
    assert [note.onset for note in trio.notes] == [48, 48, 48, 240, 240, 240]


def test_voices_without_names_and_instruments_have_one_order() -> None:
    notes = (Note(0, 40, 48), Note(0, 72, 48, part=1))
    score = Score(notes, parts=(Part(), Part()))
    assert list(iter_part_orders(score)) == [score]


def test_order_that_is_already_there_is_not_repeated() -> None:
    parts = (Part("low"), Part("lead"))
    score = Score((Note(0, 40, 48), Note(0, 72, 48, part=1)), parts=parts)
    assert list_orders(score) == [["low", "lead"], ["lead", "low"], ["low"], ["lead"]]


def test_notes_move_with_their_parts() -> None:
    moved = BAND.select_parts((3, 0, 1, 2))
    assert {moved.parts[n.part].name: n.pitch for n in moved.notes} == {
        "lead": 72, "pads": 60, "kit": 36, "low": 40,
    }  # fmt: skip
    assert moved.select_parts((1, 2, 3, 0)) == BAND
    for numbers in ((0, 1, 2, 2), (0, 4)):
        with pytest.raises(InvalidValue, match="name each of 0 to 3 at most once"):
            BAND.select_parts(numbers)


def write_bands(folder: Path, count: int) -> Path:
    """Write bands and chorales, and a copy of the first band."""
    write_pieces(folder, "band", count)
    (folder / "copy.mid").write_bytes(band(1))
    for number in range(1, count + 1):
        (folder / f"chorale-{number}.abc").write_text(chorale(number), encoding="utf-8")
    return folder


def by_source(tunes: list[EncodedTune]) -> dict[str, list[int]]:
    orders: dict[str, list[int]] = {}
    for tune in tunes:
        orders.setdefault(tune.source, []).append(tune.order)
    return {source: sorted(numbers) for source, numbers in orders.items()}


def test_training_part_has_all_orders_and_the_others_the_first(tmp_path: Path) -> None:
    dataset, report = build([write_bands(tmp_path / "bands", 8)], jobs=0)
    assert report.kept == 16
    assert report.codes == {"duplicate": 1}
    assert not report.relations.get("exact")
    assert dataset.valid
    assert all(tune.order == 0 for tune in (*dataset.valid, *dataset.test))
    orders = by_source(list(dataset.train))
    assert all(numbers == list(range(len(numbers))) for numbers in orders.values())
    assert WHOLE_ORDERS <= max(map(len, orders.values())) <= MOST_ORDERS
    assert len(orders) + len(dataset.valid) + len(dataset.test) == report.kept
    groups = {tune.group for tune in dataset.train}
    assert groups.isdisjoint({tune.group for tune in (*dataset.valid, *dataset.test)})


def test_orders_of_a_piece_hold_the_same_music(tmp_path: Path) -> None:
    dataset, _ = build([write_bands(tmp_path / "bands", 3)], jobs=0)
    source = next(t.source for t in dataset.train if t.order and t.source.endswith(".mid"))
    tunes = [t for t in dataset.train if t.source == source]
    parts = max(len(Setting.from_json(tune.setting).parts) for tune in tunes)
    tunes = [tune for tune in tunes if len(Setting.from_json(tune.setting).parts) == parts]
    assert len({tune.group for tune in tunes}) == 1
    decoded = [
        MeasuresCodec().decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score
        for tune in tunes
    ]
    sounds = [
        sorted((n.onset, n.pitch, n.duration, n.velocity, s.parts[n.part].name) for n in s.notes)
        for s in decoded
    ]
    assert len(tunes) > 1
    assert all(sound == sounds[0] for sound in sounds)
    lineups = {tuple(part.family for part in read_lineup(tune.ids.tolist())) for tune in tunes}
    assert len(lineups) == len(tunes)


def test_small_corpora_hold_out_one_order(tmp_path: Path) -> None:
    dataset, _ = build([write_bands(tmp_path / "bands", 8)], jobs=0)
    adjusted = adjust_split(dataset)
    held_out = (*adjusted.valid, *adjusted.test)
    assert held_out
    assert all(tune.order == 0 for tune in held_out)
    assert {tune.group for tune in adjusted.train}.isdisjoint({tune.group for tune in held_out})


def test_receipts_name_each_piece_once(tmp_path: Path) -> None:
    dataset, _ = build([write_bands(tmp_path / "bands", 4)], jobs=0)
    index = build_overlap_index(dataset, jobs=1)
    assert index is not None
    pieces = {(tune.source, tune.number) for tune in dataset.train}
    assert len(index.note_index.numbers) == len(pieces)


def test_lead_sheet_is_stored_with_symbols_last_and_first_and_without_them() -> None:
    notes = tuple(Note(48 * n, 60 + n, 48) for n in range(4))
    sheet = Score(notes, (Mark(0, "chord", "C"), Mark(96, "chord", "G7")))
    last, first, alone = iter_lead_sheet_orders(sheet)
    assert [part.role for part in last.parts] == ["melody", "symbols"]
    assert [part.role for part in first.parts] == ["symbols", "melody"]
    assert [part.role for part in alone.parts] == ["melody"]
    assert list(last.of("chord")) == list(first.of("chord")) == list(sheet.of("chord"))
    assert not any(alone.of("chord"))
    assert [len(score.notes) for score in (last, first, alone)] == [4, 4, 4]


def test_tune_without_symbols_is_stored_once_and_others_as_elsewhere() -> None:
    (alone,) = iter_lead_sheet_orders(Score((Note(0, 60, 48),)))
    assert [part.role for part in alone.parts] == ["melody"]
    assert list(iter_lead_sheet_orders(assign_roles(CHOIR))) == list(
        iter_part_orders(assign_roles(CHOIR))
    )
