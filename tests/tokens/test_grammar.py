from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.tokens.codec import Setting
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES, Event

LEFT_OUT = ("begin", "irregular", "parts", "part", "voice", "drum")


def drawable(event: Event) -> bool:
    return event.kind not in LEFT_OUT and (event.kind != "pitch" or abs(int(event.value or 0)) < 56)


BASE = frozenset(
    [i for i, event in enumerate(MEASURES.events) if drawable(event)] + [MEASURES.id("parts", 1)]
)
ALWAYS = frozenset([MEASURES.id("duration", 6), MEASURES.id("meter", "6/8"),
                    MEASURES.id("pitch", 0)])  # fmt: skip
THINNED = (
    "partial",
    "duration",
    "tuplet",
    "meter",
    "ending",
    "repeat_end",
    "pitch",
    "key",
    "chord",
)


def subset(luck: random.Random) -> frozenset[int]:
    """Leave out some events of each kind, as a small corpus does."""
    kept = set(BASE)
    for kind in THINNED:
        ids = list(MEASURES.ranges[kind])
        kept -= set(ids) - set(luck.sample(ids, luck.randint(1, len(ids))))
    return frozenset(kept & BASE) | ALWAYS


def wander(rules: Rules, luck: random.Random) -> list[int]:
    """Draw kinds evenly, then events, so that rare structure is met often."""
    walk = MeasuresGrammar(rules)
    ids: list[int] = []
    while not walk.is_done:
        legal = walk.legal_ids()
        assert legal, f"a dead end after {[MEASURES.names[i] for i in ids[-12:]]}"
        assert len(set(legal)) == len(legal)
        kind = luck.choice(sorted({MEASURES.events[i].kind for i in legal}))
        ids.append(luck.choice([i for i in legal if MEASURES.events[i].kind == kind]))
        walk.take(ids[-1])
    return ids


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((None, 1, 2, 3, 5, 8, 16, 31)), st.booleans())
def test_every_walk_ends_in_a_whole_tune(seed: int, asked: int | None, thinned: bool) -> None:
    luck = random.Random(seed)
    allowed = subset(luck) if thinned else BASE
    rules = Rules(allowed_ids=allowed, min_bars=asked or 1, max_bars=asked or 24)
    ids = wander(rules, luck)
    decoded = MeasuresCodec().decode(ids, Setting())
    assert decoded.dropped == 0
    assert all(bar.kind != "irregular" for bar in find_bars(decoded.score))
    count = count_heard_bars(decoded.score)
    assert count == asked if asked else 1 <= count <= 24
    assert MEASURES.names[ids[-1]] == "end"
    assert decoded.score.notes


def follow(*names: str, rules: Rules | None = None) -> MeasuresGrammar:
    walk = MeasuresGrammar(rules or Rules(allowed_ids=BASE))
    for name in ("meter=6/8", "mode=major", "rhythm=jig", "parts=1", *names):
        id_ = MEASURES.names.index(name)
        assert id_ in walk.legal_ids(), name
        walk.take(id_)
    return walk


def offered(walk: MeasuresGrammar) -> set[str]:
    return {MEASURES.names[i] for i in walk.legal_ids()}


def test_no_duration_is_longer_than_the_bar_has_room() -> None:
    walk = follow("bar", "duration=96", "pitch=0")
    durations = {int(name.split("=")[1]) for name in offered(walk) if name.startswith("duration")}
    assert max(durations) == 48
    assert "end" not in offered(walk)


def test_what_would_leave_a_gap_that_nothing_fills_is_not_offered() -> None:
    allowed = (BASE - set(MEASURES.ranges["duration"]) - set(MEASURES.ranges["tuplet"])) | {
        MEASURES.id("duration", 48), MEASURES.id("duration", 36),
    }  # fmt: skip
    walk = follow("bar", "duration=48", "pitch=0", rules=Rules(allowed_ids=allowed))
    assert "duration=36" not in offered(walk)
    assert "duration=48" in offered(walk)


def test_a_repeat_with_a_pickup_closes_with_its_partner() -> None:
    opened = ("repeat_start", "partial=24", "duration=24", "pitch=0")
    assert not {name for name in offered(follow(*opened)) if name.startswith("partial")}
    filled = (*opened, "bar", "duration=144", "pitch=0")
    assert "repeat_end=2" not in offered(follow(*filled))
    assert {n for n in offered(follow(*filled)) if n.startswith("partial")} == {"partial=120"}
    closed = follow(*filled, "partial=120", "duration=96", "pitch=0", "duration=24", "hold")
    assert "repeat_end=2" in offered(closed)
    assert "bar" not in offered(closed)


def test_a_repeat_opens_only_where_it_can_be_played() -> None:
    rules = Rules(allowed_ids=BASE, min_bars=3, max_bars=3)
    walk = follow("bar", "duration=144", "pitch=0", rules=rules)
    assert "repeat_start" in offered(walk)
    walk = follow("bar", "duration=144", "pitch=0", "bar", "duration=144", "pitch=0", rules=rules)
    assert "repeat_start" not in offered(walk)


def test_nothing_is_held_that_does_not_sound() -> None:
    assert "hold" not in offered(follow("bar", "duration=24"))
    assert "hold" in offered(follow("bar", "duration=24", "pitch=0", "duration=24"))
    rested = follow("bar", "duration=24", "pitch=0", "duration=24", "rest", "duration=24")
    assert "hold" not in offered(rested)
    repeated = follow("repeat_start", "bar", "duration=144", "pitch=0", "repeat_end=2",
                      "bar", "duration=24")  # fmt: skip
    assert "hold" not in offered(repeated)


def test_the_sampler_is_never_offered_an_irregular_bar() -> None:
    assert "irregular" not in offered(follow())
    walk = MeasuresGrammar(Rules.permissive())
    for name in ("meter=6/8", "mode=major", "rhythm=jig", "parts=1"):
        walk.take(MEASURES.names.index(name))
    assert "irregular" in offered(walk)


def test_the_context_tells_place_and_bars_left() -> None:
    rules = Rules(allowed_ids=BASE, min_bars=4, max_bars=4)
    context = follow("bar", "duration=24", "pitch=0", rules=rules).context
    assert (context.bar, context.position, context.bar_steps) == (1, 24, 144)
    assert context.bars_left == 3


@pytest.mark.parametrize(("fewest", "most"), [(0, 4), (5, 4)])
def test_numbers_of_bars_that_cannot_be_are_refused(fewest: int, most: int) -> None:
    with pytest.raises(InvalidValue, match="ask for 1 bar or more"):
        Rules(allowed_ids=BASE, min_bars=fewest, max_bars=most)


def test_a_model_without_pitches_is_refused() -> None:
    with pytest.raises(InvalidValue, match="no event 'pitch'"):
        Rules(allowed_ids=BASE - set(MEASURES.ranges["pitch"]))


def kinds_of(rules: Rules, luck: random.Random) -> dict[int, set[str]]:
    """Draw a tune and return the kinds of note of each part."""
    walk, found = MeasuresGrammar(rules), dict[int, set[str]]()
    while not walk.is_done:
        legal = walk.legal_ids()
        assert legal
        kind = luck.choice(sorted({MEASURES.events[i].kind for i in legal}))
        id_ = luck.choice([i for i in legal if MEASURES.events[i].kind == kind])
        if kind in ("pitch", "drum"):
            found.setdefault(walk.voice[0], set()).add(kind)
        walk.take(id_)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_first_note_of_a_part_decides_whether_drums_play_it(seed: int) -> None:
    more = {MEASURES.id("parts", 3), *(MEASURES.id("part", n) for n in (1, 2)),
            *(MEASURES.id("drum", n) for n in (36, 38, 42))}  # fmt: skip
    single = set(MEASURES.ranges["parts"]) - {MEASURES.id("parts", 3)}
    rules = Rules(allowed_ids=frozenset(BASE | more) - single, max_bars=8, drum_parts=None)
    found = kinds_of(rules, random.Random(seed))
    assert all(len(kinds) == 1 for kinds in found.values())
    ending = replace(
        rules,
        final_pitch_ids=frozenset([MEASURES.id("pitch", 0)]),
        _fitting_cache={},
        _pickup_cache={},
    )
    assert kinds_of(ending, random.Random(seed))[0] == {"pitch"}


def test_drums_alone_need_no_pitches() -> None:
    pitches = set(MEASURES.ranges["pitch"])
    rules = Rules(frozenset(BASE - pitches) | {MEASURES.id("drum", 36)}, drum_parts=None)
    assert kinds_of(rules, random.Random(1)) == {0: {"drum"}}
