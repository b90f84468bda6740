"""Properties of every codec: any ids decode, and real tunes round-trip as far as possible."""

from __future__ import annotations

import random
from functools import cache
from itertools import groupby
from pathlib import Path

import music21
import pytest

from musicgen.formats import musicxml
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Note, Score
from musicgen.tokens.codec import AnyCodec, Setting, find_first_illegal
from musicgen.tokens.performance import VELOCITIES_PER_BIN, PerformanceCodec
from musicgen.tokens.registry import CODECS, find_codec
from musicgen.tokens.vocabulary import Vocabulary

TEXTS = ("X:1\nK:D\nDEF|GAB|\n", "X:2\nK:G\n|:BAG AGE:|")
CHORALES = Path(music21.__file__).parent / "corpus" / "bach"


def codecs() -> list[AnyCodec]:
    fitted = [find_codec(name).fit(TEXTS) for name in ("text", "text-words")]  # type: ignore[attr-defined]
    return [*CODECS.values(), *fitted]


def draw_ids(vocabulary: Vocabulary, rng: random.Random) -> list[int]:
    """Draw ids evenly, or kinds evenly with a rare end, or some numbers that are not ids too."""
    count, method = rng.randrange(120), rng.randrange(3)
    if method == 0:
        return [rng.randrange(len(vocabulary)) for _ in range(count)]
    kinds = sorted(vocabulary.ranges.keys() - ({"end"} if rng.random() < 0.9 else set()))
    ids = [rng.choice(vocabulary.ranges[rng.choice(kinds)]) for _ in range(count)]
    return ids if method == 1 else [rng.choice((id_, id_, -1, 2**15)) for id_ in ids]


def check_decoding(codec: AnyCodec, count: int) -> None:
    rng = random.Random(11)
    for _ in range(count):
        ids = draw_ids(codec.vocabulary, rng)
        decoded = codec.decode(ids, Setting())
        assert 0 <= decoded.dropped <= len(ids)
        first = codec.encode(decoded.piece)
        second = codec.encode(codec.decode(first.ids, first.setting).piece)
        assert second.ids == first.ids
        grammar = codec.create_grammar(first.setting, strict=False)
        assert find_first_illegal(first.ids, grammar) is None


@pytest.mark.parametrize(
    "codec", codecs(), ids=lambda codec: f"{codec.name}-{len(codec.vocabulary)}"
)
def test_decoding_accepts_any_ids(codec: AnyCodec) -> None:
    check_decoding(codec, 200)


@pytest.mark.promises
@pytest.mark.parametrize(
    "codec", codecs(), ids=lambda codec: f"{codec.name}-{len(codec.vocabulary)}"
)
def test_decoding_accepts_any_ids_ten_thousand_times(codec: AnyCodec) -> None:
    check_decoding(codec, 10_000)


@pytest.mark.parametrize(
    "codec", codecs(), ids=lambda codec: f"{codec.name}-{len(codec.vocabulary)}"
)
def test_every_id_alone_decodes(codec: AnyCodec) -> None:
    for id_ in range(len(codec.vocabulary)):
        assert codec.decode([id_], Setting()).dropped in (0, 1)


@cache
def read_chorales(count: int) -> list[Score]:
    chorales: list[Score] = []
    for path in sorted(CHORALES.glob("bwv*.mxl"))[: 12 * count : 12]:
        scores, refusals = musicxml.parse(path.read_bytes(), path.name)
        assert not refusals
        chorales += scores
    assert len(chorales) == count
    return chorales


def humanise(score: Score, rng: random.Random) -> Score:
    """Shift and stretch each note by up to 40 ms, and vary its velocity."""
    played = to_performance(score)
    notes = tuple(
        Note(
            max(0, note.onset + rng.randint(-40, 40)),
            note.pitch,
            max(1, note.duration + rng.randint(-40, 40)),
            rng.randint(20, 110),
            note.part,
        )
        for note in played.notes
    )
    return Score(notes, played.marks, played.parts, played.title)


def test_played_chorales_keep_onsets_and_velocities() -> None:
    """Each note that is not lost keeps its onset within 5 ms, and its velocity bin."""
    codec, rng = PerformanceCodec(), random.Random(3)
    total = lost = 0
    for score in (humanise(chorale, rng) for chorale in read_chorales(4)):
        encoded = codec.encode(score)
        decoded = codec.decode(encoded.ids, encoded.setting)
        assert decoded.dropped == 0
        assert len(decoded.score.notes) + encoded.lost == len(score.notes)
        by_pitch = {
            pitch: list(notes)
            for pitch, notes in groupby(
                sorted(score.notes, key=lambda note: note.pitch), lambda note: note.pitch
            )
        }
        for note in decoded.score.notes:
            assert note.velocity // VELOCITIES_PER_BIN in {
                original.velocity // VELOCITIES_PER_BIN
                for original in by_pitch[note.pitch]
                if abs(original.onset - note.onset) <= 5
            }
        total, lost = total + len(score.notes), lost + encoded.lost
    assert total > 800
    assert lost / total < 0.02  # two voices in unison within 10 ms


@pytest.mark.parametrize("name", ["measures", "performance", "frames", "frames-16"])
def test_chorales_obey_the_grammar_and_round_trip(name: str) -> None:
    codec = find_codec(name)
    for chorale in read_chorales(4):
        encoded = codec.encode(chorale)
        decoded = codec.decode(encoded.ids, encoded.setting)
        assert decoded.dropped == 0
        assert codec.encode(decoded.piece).ids == encoded.ids
        assert (
            find_first_illegal(encoded.ids, codec.create_grammar(encoded.setting, strict=False))
            is None
        )
