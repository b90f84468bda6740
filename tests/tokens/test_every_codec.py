"""What holds for every codec: any ids decode, and real tunes come back as far as each can say."""

from __future__ import annotations

import random
from functools import cache
from itertools import groupby
from pathlib import Path

import music21
import pytest

from musicgen.formats import musicxml
from musicgen.music.performance import to_performance
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


def drawn(vocabulary: Vocabulary, luck: random.Random) -> list[int]:
    """Draw ids: evenly, or kinds evenly and the end seldom, or what is no id at all too."""
    count, way = luck.randrange(120), luck.randrange(3)
    if way == 0:
        return [luck.randrange(len(vocabulary)) for _ in range(count)]
    kinds = sorted(vocabulary.ranges.keys() - ({"end"} if luck.random() < 0.9 else set()))
    ids = [luck.choice(vocabulary.ranges[luck.choice(kinds)]) for _ in range(count)]
    return ids if way == 1 else [luck.choice((id_, id_, -1, 2**15)) for id_ in ids]


def any_ids_decode(codec: AnyCodec, count: int) -> None:
    luck = random.Random(11)
    for _ in range(count):
        ids = drawn(codec.vocabulary, luck)
        decoded = codec.decode(ids, Setting())
        assert 0 <= decoded.dropped <= len(ids)
        once = codec.encode(decoded.piece)
        again = codec.encode(codec.decode(once.ids, once.setting).piece)
        assert again.ids == once.ids
        assert (
            find_first_illegal(once.ids, codec.create_grammar(once.setting, strict=False)) is None
        )


@pytest.mark.parametrize(
    "codec", codecs(), ids=lambda codec: f"{codec.name}-{len(codec.vocabulary)}"
)
def test_any_ids_decode(codec: AnyCodec) -> None:
    any_ids_decode(codec, 200)


@pytest.mark.promises
@pytest.mark.parametrize(
    "codec", codecs(), ids=lambda codec: f"{codec.name}-{len(codec.vocabulary)}"
)
def test_ten_thousand_times_any_ids_decode(codec: AnyCodec) -> None:
    any_ids_decode(codec, 10_000)


@pytest.mark.parametrize(
    "codec", codecs(), ids=lambda codec: f"{codec.name}-{len(codec.vocabulary)}"
)
def test_every_id_alone_decodes(codec: AnyCodec) -> None:
    for id_ in range(len(codec.vocabulary)):
        assert codec.decode([id_], Setting()).dropped in (0, 1)


@cache
def chorales(count: int) -> list[Score]:
    found: list[Score] = []
    for path in sorted(CHORALES.glob("bwv*.mxl"))[: 12 * count : 12]:
        scores, refusals = musicxml.parse(path.read_bytes(), path.name)
        assert not refusals
        found += scores
    assert len(found) == count
    return found


def jittered(score: Score, luck: random.Random) -> Score:
    """Play as people do: each note up to 40 ms off and at its own velocity."""
    played = to_performance(score)
    notes = tuple(
        Note(
            max(0, note.onset + luck.randint(-40, 40)),
            note.pitch,
            max(1, note.duration + luck.randint(-40, 40)),
            luck.randint(20, 110),
            note.part,
        )
        for note in played.notes
    )
    return Score(notes, played.marks, played.parts, played.title)


def test_played_chorales_keep_onsets_and_velocities() -> None:
    """Of each note that is not lost the onset is within 5 ms, and the velocity in its bin."""
    codec, luck = PerformanceCodec(), random.Random(3)
    total = lost = 0
    for score in (jittered(chorale, luck) for chorale in chorales(4)):
        encoded = codec.encode(score)
        decoded = codec.decode(encoded.ids, encoded.setting)
        assert decoded.dropped == 0
        assert len(decoded.score.notes) + encoded.lost == len(score.notes)
        by_pitch = {
            pitch: list(notes)
            for pitch, notes in groupby(
                sorted(score.notes, key=lambda n: n.pitch), lambda n: n.pitch
            )
        }
        for note in decoded.score.notes:
            near = [n for n in by_pitch[note.pitch] if abs(n.onset - note.onset) <= 5]
            assert any(
                n.velocity // VELOCITIES_PER_BIN == note.velocity // VELOCITIES_PER_BIN
                for n in near
            )
        total, lost = total + len(score.notes), lost + encoded.lost
    assert total > 800
    assert lost / total < 0.02  # two voices in unison within 10 ms


@pytest.mark.parametrize("name", ["measures", "performance", "frames", "frames-16"])
def test_chorales_obey_the_grammar_and_come_back(name: str) -> None:
    codec = find_codec(name)
    for chorale in chorales(4):
        encoded = codec.encode(chorale)
        decoded = codec.decode(encoded.ids, encoded.setting)
        assert decoded.dropped == 0
        assert codec.encode(decoded.piece).ids == encoded.ids
        assert (
            find_first_illegal(encoded.ids, codec.create_grammar(encoded.setting, strict=False))
            is None
        )
