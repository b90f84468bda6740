"""Pieces of several parts are stored in several orders of their parts, in one group and split."""

from __future__ import annotations

from pathlib import Path

import pytest

from musicgen.corpus.build import build
from musicgen.corpus.part_orders import (
    MOST_ORDERS,
    VOICE_ORDERS,
    WHOLE_ORDERS,
    iter_part_orders,
)
from musicgen.corpus.store import EncodedTune
from musicgen.errors import InvalidValue
from musicgen.music.roles import assign_roles
from musicgen.music.score import Mark, Note, Part, Score
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


def list_names(score: Score) -> list[str]:
    return [part.name for part in score.parts]


def test_orders_are_as_written_then_melody_last_then_bass_first() -> None:
    assert [list_names(score) for score in iter_part_orders(BAND)] == [
        ["lead", "pads", "kit", "low"],
        ["pads", "kit", "low", "lead"],
        ["low", "lead", "pads", "kit"],
    ]


CHOIR = Score(
    tuple(Note(0, 72 - 7 * part, 48, part=part) for part in range(4)),
    parts=tuple(Part(name, 52) for name in ("Soprano", "Alto", "Tenor", "Bass")),
)


def test_any_voices_of_a_choir_come_first_in_one_order() -> None:
    orders = [list_names(score) for score in iter_part_orders(assign_roles(CHOIR))]
    assert orders[0] == ["Soprano", "Alto", "Tenor", "Bass"]
    assert len(orders) == len(VOICE_ORDERS) <= MOST_ORDERS
    opening = {frozenset(order[:size]) for order in orders for size in (1, 2, 3)}
    assert len(opening) == 4 + 6 + 4


def test_each_voice_of_a_trio_comes_first_in_one_order() -> None:
    trio = CHOIR.select_parts([3, 1, 0])
    orders = [list_names(score) for score in iter_part_orders(assign_roles(trio))]
    assert [order[0] for order in orders] == ["Bass", "Alto", "Soprano"]
    assert orders[1] == ["Alto", "Bass", "Soprano"]


def test_roles_decide_which_part_is_the_melody() -> None:
    parts = (Part("lead"), Part("pads", 89, role="melody"), *BAND.parts[2:])
    orders = list(iter_part_orders(Score(BAND.notes, parts=parts)))
    assert list_names(orders[1]) == ["lead", "kit", "low", "pads"]


def test_large_band_is_stored_for_small_bands_too() -> None:
    roles = ("melody", "chords", "drums", "bass", "chords")
    parts = tuple(Part(f"{n}", is_drums=role == "drums", role=role) for n, role in enumerate(roles))
    notes = tuple(Note(0, 36 + n, 48, part=n) for n in range(5))
    *_, trio, quartet = iter_part_orders(Score(notes, parts=parts))
    assert list_names(trio) == ["0", "2", "3"]
    assert list_names(quartet) == ["0", "1", "2", "3"]
    assert [(note.pitch, note.part) for note in trio.notes] == [(36, 0), (38, 1), (39, 2)]


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
    assert list(iter_part_orders(score)) == [score]


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
    tunes = [t for t in dataset.train if t.source == source and t.order < WHOLE_ORDERS]
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
