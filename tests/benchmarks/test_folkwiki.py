"""The benchmark of folkwiki: the score context of tokens, the split, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.folkwiki import draw_toy_tunes, make_benchmark
from benchmarks.published.tune_words import TuneContexts, read_tunes
from musicgen.errors import Refusal
from musicgen.tokens.context_families import count_field_values
from musicgen.tokens.score_context import FIELDS, UNKNOWN_LEFT
from musicgen.tokens.text import ByteCodec, TextCodec


def follow(text: str) -> tuple[TextCodec, list[dict[str, int]]]:
    """Return the codec of a tune, and the fields before each of its tokens."""
    codec = ByteCodec("text-words", is_word_level=True).fit([text])
    ids = np.array(codec.encode(text).ids, np.int16)
    (fields,) = TuneContexts(codec).compute([ids])
    return codec, [dict(zip(FIELDS, row, strict=True)) for row in fields.tolist()]


def positions(text: str) -> list[int]:
    """Return the steps from the start of the bar, before each token and at the end."""
    return [row["position"] for row in follow(text)[1]]


@pytest.mark.parametrize(
    ("music", "expected"),
    [
        ("A B c", [0, 24, 48, 72]),
        ("A 2 B /2 c 3/2", [0, 24, 48, 72, 60, 84, 96]),
        ("A > B c", [0, 24, 36, 48, 72]),
        ("A 2 > B 2 c", [0, 24, 48, 72, 84, 96, 120]),
        ("A << B c", [0, 24, 6, 48, 72]),
        ("(3 A B c d", [0, 0, 16, 32, 48, 72]),
        ("[ A c ] 2 d", [0, 0, 0, 0, 24, 48, 72]),
        ("[ A 3 c 3 ] d", [0, 0, 0, 0, 0, 0, 72, 96]),
        ("^A, z 2 =b' |", [0, 24, 48, 72, 96, 0]),
        ("[L:1/16] A B", [0, 0, 12, 24]),
    ],
)
def test_positions_follow_lengths(music: str, expected: list[int]) -> None:
    assert positions(f"[L:1/8] [M:4/4] {music}")[2:] == expected


def test_steps_left_follow_the_meter() -> None:
    _, rows = follow("[L:1/8] [M:3/4] A 4 B 2 | c d e f g a b")
    assert [row["left"] for row in rows][2:7] == [144, 120, 48, 24, 0]
    assert rows[-1]["left"] == UNKNOWN_LEFT


def test_bars_are_counted_without_pickups_and_second_endings_as_the_first() -> None:
    tune = "[L:1/8] [M:2/4] A | B 4 | c 4 |1 d 4 :| |2 e 4 |: f 4 | g 4 |"
    _, rows = follow(tune)
    tokens = tune.split()
    bars = {
        token: row["bar"] for token, row in zip(tokens, rows, strict=False) if token in "ABcdefg"
    }
    sections = {token: row["section"] for token, row in zip(tokens, rows, strict=False)}
    assert bars == {"A": 0, "B": 0, "c": 1, "d": 2, "e": 2, "f": 0, "g": 1}
    assert [sections[token] for token in "ABcdefg"] == [0, 0, 0, 0, 0, 1, 1]


def test_lags_look_up_the_same_place_and_matches_count() -> None:
    tune = "[L:1/8] [M:2/4] A B c d | e f g a | A B c d | e f g a |"
    codec, rows = follow(tune)
    ids = codec.encode(tune).ids
    third_bar = range(12, 22)  # after the second bar line
    for place in third_bar:
        assert rows[place]["lag2"] == ids[place] + 1
    assert [rows[place]["match2"] for place in (12, 13, 14, 16)] == [0, 1, 2, 3]
    assert rows[17]["match2"] == 8  # one whole bar
    assert rows[13]["echo"] == ids[13] + 1
    assert rows[13]["alike"] > 0


def test_fields_depend_on_earlier_tokens_only_and_fit() -> None:
    benchmark = make_benchmark(draw_toy_tunes(), [])
    source = benchmark.context_source
    assert source is not None
    ids = benchmark.parts["train"][0]
    (expected,) = source.compute([ids])
    generator = np.random.default_rng(1)
    for place in range(0, len(ids), 5):
        changed = ids.copy()
        changed[place:] = generator.permutation(ids)[: len(ids) - place]
        (fields,) = source.compute([changed])
        assert fields[: place + 1].tolist() == expected[: place + 1].tolist()
    sizes = [count_field_values(name, len(benchmark.vocabulary)) for name in FIELDS]
    assert (expected >= 0).all()
    assert (expected < sizes).all()


def test_split_is_random_but_fixed_and_disjoint() -> None:
    tunes = [f"[K:DMaj] {'A ' * (number + 1)}|" for number in range(40)]
    parts, again = (make_benchmark(tunes, tunes[:2]).parts for _ in range(2))
    lengths = {name: sorted(map(len, part)) for name, part in parts.items()}
    assert lengths == {name: sorted(map(len, part)) for name, part in again.items()}
    assert [len(part) for part in parts.values()] == [10, 10, 20, 2]
    together = sorted(lengths["valid"] + lengths["test"] + lengths["train"])
    assert together == [number + 4 for number in range(40)]
    assert lengths["valid"] != together[:10]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe", "not valid UTF-8"),
        (b"some words\n\nand more", r"no tune has a \[K:...\] token"),
        (b"", "no tune has"),
    ],
)
def test_refuses_other_files(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(data)
    with pytest.raises(Refusal, match=words) as refusal:
        read_tunes(path)
    assert str(path) in str(refusal.value)


def test_refuses_too_few_tunes() -> None:
    with pytest.raises(Refusal, match="2 tunes are too few"):
        make_benchmark(["[K:DMaj] A |"] * 2, [])
