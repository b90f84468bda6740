"""Given parts stay note for note, and whatever is asked for besides is met or refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from musicgen.errors import InvalidValue
from musicgen.formats import midi
from musicgen.music.bars import Bar, count_heard_bars, find_bars, number_bars
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.sampling.generate import generate_tune
from musicgen.sampling.given_parts import GivenParts
from musicgen.sampling.kept_bars import KeepRequest, KeptPart
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_drawing import draw_around
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.role_values import get_role_ranges
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.codec import Encoded
from musicgen.tokens.measures import MeasuresCodec
from musicgen.trained_model import Model, load
from musicgen.variants import tweak
from tests.command_runner import run
from tests.fake_models import BAND_SEEN_IDS, RandomEngine, may_be_seen_in_bands, untrained

CODEC: Final = MeasuresCodec()
THIRDS: Final = {"melody": (2, 4), "bass": (1, 3), "drums": (3, 6)}
ROLES: Final = ("melody", "bass", "drums")
BAND: Final = "melody,bass,drums"
WALK: Final = """X:1
M:4/4
L:1/4
K:G
D | G A B d | c B A2 | B G A F | G3 D | G A B d | e d c2 | B G A F | G3 :|
"""


def make_sampler(seed: int) -> Sampler:
    return Sampler(RandomEngine(seed), BAND_SEEN_IDS, densities=THIRDS)


def draw_band(seed: int, bars: int = 4, **options: object) -> Encoded:
    requested = SamplingOptions.parse(**{"parts": BAND, "bars": bars, "form": "through", **options})
    return make_sampler(seed).sample_encoded(requested, Noise(seed))


def decode(encoded: Encoded) -> Score:
    decoded = CODEC.decode(encoded.ids, encoded.setting)
    assert decoded.dropped == 0
    return decoded.score


def iter_cells(score: Score, part: int) -> Iterator[tuple[Bar, int, np.ndarray]]:
    """Yield each bar, its number, and the notes of a part in it: onset, pitch, length, velocity.

    A note counts as far as the bar goes.
    """
    bars = find_bars(score)
    columns = score.columns
    notes = columns[:4, columns[4] == part].copy()
    for bar, number in zip(bars, number_bars(bars), strict=True):
        inside = notes[:, (notes[0] >= bar.start) & (notes[0] < bar.end)]
        inside[2] = np.minimum(inside[2], bar.end - inside[0])
        yield bar, max(number, 1), inside


def find_changed_cells(before: Score, after: Score, part: int) -> set[int]:
    """Return the numbers of the bars in which a part has other notes."""
    cells = zip(iter_cells(before, part), iter_cells(after, part), strict=True)
    return {number for (_, number, old), (_, _, new) in cells if not np.array_equal(old, new)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "band"
    return load(untrained(folder, is_seen=may_be_seen_in_bands))


# What is given


@pytest.mark.parametrize("seed", range(8))
def test_given_part_stays_and_the_others_are_drawn(seed: int) -> None:
    tune = draw_band(seed)
    number = seed % 3
    given = GivenParts.of_tune(tune, (KeptPart(number),))
    after = decode(draw_around(make_sampler(99), SamplingOptions(), Noise(seed), given).encoded)
    before = decode(tune)
    assert not find_changed_cells(before, after, number)
    assert any(find_changed_cells(before, after, part) for part in range(3) if part != number)
    assert after.parts == before.parts
    assert [bar.end for bar in find_bars(after)] == [bar.end for bar in find_bars(before)]


@pytest.mark.parametrize("seed", range(8))
def test_bars_of_parts_stay(seed: int) -> None:
    tune = draw_band(seed, 6)
    kept = KeepRequest.parse("melody:1-2,5,drums:2-4").find_parts(tune.setting.parts, "tune")
    drawn = draw_around(
        make_sampler(7), SamplingOptions(), Noise(seed), GivenParts.of_tune(tune, kept)
    )
    before, after = decode(tune), decode(drawn.encoded)
    for each in kept:
        changed = find_changed_cells(before, after, each.part)
        assert not any(each.includes(number) for number in changed)


def test_bar_before_a_tie_stays_too_and_is_named() -> None:
    notes = (Note(0, 60, 96), Note(96, 62, 192), Note(288, 64, 96), *(
        Note(96 * bar, 36, 48, part=1) for bar in range(4)))  # fmt: skip
    marks = (Mark(0, "meter", Meter(2, 4)), *(Mark(96 * bar, "bar") for bar in range(1, 5)))
    score = Score(notes, marks, (Part("lead", 65, role="melody"), Part("low", 33, role="bass")))
    tune = CODEC.encode(score)
    kept = KeepRequest.parse("lead:3").find_parts(tune.setting.parts, "tune")
    drawn = draw_around(
        make_sampler(1), SamplingOptions(), Noise(1), GivenParts.of_tune(tune, kept)
    )
    assert drawn.messages == ("bar 2 of lead stays too: a note of it goes on in the next bar",)
    assert not find_changed_cells(score, decode(drawn.encoded), 0) & {2, 3}


def test_parts_are_added_to_a_file(model: Model, tmp_path: Path) -> None:
    melody = decode(draw_band(3)).select_parts([0])
    path = tmp_path / "melody.mid"
    path.write_bytes(midi.render(melody))
    tune = model.sample(given=path, parts=("bass", "drums"), seed=1)
    assert [part.role for part in tune.parts] == ["melody", "bass", "drums"]
    written = midi.parse(path.read_bytes())[0][0]
    assert not find_changed_cells(written.canonical_with_dynamics(), tune.score, 0)
    assert {1, 2} <= {note.part for note in tune.score.notes}
    assert tune.tweak() == tune


def test_only_named_parts_of_a_file_are_given(model: Model) -> None:
    score = decode(draw_band(4))
    tune = model.sample(given=score, given_parts={"drums": "all"}, parts="melody", seed=2)
    assert [part.role for part in tune.parts] == ["drums", "melody"]
    assert not find_changed_cells(score.select_parts([2]), tune.score, 0)


def test_irregular_bars_and_changes_of_meter_stay(model: Model) -> None:
    marks = (
        Mark(0, "meter", Meter(2, 4)), Mark(96, "bar"), Mark(96, "meter", Meter(3, 4)),
        Mark(240, "bar"), Mark(290, "bar"), Mark(434, "bar"),
    )  # fmt: skip
    notes = tuple(Note(onset, 60, 24) for onset in (0, 48, 96, 144, 192, 240, 290, 338, 386))
    score = Score(notes, marks, (Part("lead", 65, role="melody"),))
    tune = model.sample(given=score, parts="bass", seed=3)
    assert [bar.end for bar in find_bars(tune.score)] == [bar.end for bar in find_bars(score)]
    assert not find_changed_cells(score.canonical(), tune.score, 0)


@pytest.mark.parametrize("seed", [1, 4])
def test_bars_before_signs_that_a_model_never_met_are_no_fuller_than_others(
    seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "walk.abc"
    path.write_text(WALK)
    tune = load("band").sample(given=path, parts=("bass", "drums"), program="bass=33", seed=seed)
    drums = next(n for n, part in enumerate(tune.score.parts) if part.role == "drums")
    *_, before_last, last = (notes.shape[1] for _, _, notes in iter_cells(tune.score, drums))
    assert 1 <= last <= 20
    assert before_last <= 20


# Tweaks


def test_same_recipe_gives_the_same_bytes_in_another_process(model: Model, tmp_path: Path) -> None:
    tune = model.sample(parts=BAND, bars=4, form="through", seed=5)
    variant = tune.tweak(keep={"bass": "1-2", "drums": "all"}, seed=6)
    variant.write(tmp_path / "band.mid")
    folder = str(model.checkpoint.folder)
    again = run(
        "tweak", str(tmp_path / "band.mid"), "--model", folder, "--out", str(tmp_path / "again.mid")
    )
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.mid").read_bytes() == (tmp_path / "band.mid").read_bytes()
    request = GenerationRequest.from_json(json.dumps(variant.recipe.request.to_json()))
    assert model.sample_request(request).score == variant.score


def test_locked_cells_never_change_along_a_chain_of_tweaks(model: Model) -> None:
    tune = first = model.sample(parts=BAND, bars=4, form="through", seed=5)
    for seed in range(6):
        tune = tune.tweak(keep="melody:2-3,drums", seed=seed)
        assert not find_changed_cells(first.score, tune.score, 0) & {2, 3}
        assert not find_changed_cells(first.score, tune.score, 2)
    assert find_changed_cells(first.score, tune.score, 1)


def test_part_that_is_drawn_again_differs_without_another_seed(model: Model) -> None:
    tune = model.sample(parts=BAND, bars=4, form="through", seed=5)
    assert find_changed_cells(tune.score, tune.tweak(keep="melody,drums").score, 1)


def test_candidates_are_weighed(model: Model) -> None:
    tune = model.sample(parts=BAND, bars=4, form="through", seed=5)
    plain = tune.tweak(keep="drums", seed=1)
    weighed = tune.tweak(keep="drums", seed=1, candidates=3)
    assert not find_changed_cells(tune.score, weighed.score, 2)
    assert weighed.score != plain.score


def test_bars_of_a_foreign_file_are_kept(model: Model, tmp_path: Path) -> None:
    score = decode(draw_band(11))
    path = tmp_path / "foreign.mid"
    path.write_bytes(midi.render(score))
    read = midi.parse(path.read_bytes())[0][0].canonical_with_dynamics()
    tune = tweak(path, model.checkpoint.folder, keep="drums,melody:1-2", seed=1)
    assert not find_changed_cells(read, tune.score, 2)
    assert not find_changed_cells(read, tune.score, 0) & {1, 2}


# Refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "Bb"}, "key Bb major: the given parts have C major, and they stay as they are"),
        ({"meter": "5/4"}, "meter 5/4: the given parts have"),
        ({"bars": 9}, "bars 9: the given parts have 4"),
        ({"form": "AABB"}, "form AABB: the repeats are those of the given parts"),
        ({"parts": "melody,bass,drums"}, "the training data has no tune of 6 parts"),
        ({"parts": "pad"}, "the role pad is not in the training data"),
        ({"program": "bass=33"}, "program bass: no part with this role is added"),
        ({"max_copy": 8}, "max-copy: the runs of a tune of one part are checked"),
        ({"density": "bass=low"}, "density bass: no part with this role is drawn"),
        ({"polyphony": "melody=1"}, "polyphony melody: no part with this role is drawn"),
        ({"range": "bass=C2-C3"}, "range bass: no part with this role is drawn"),
    ],
)
def test_options_that_contradict_what_is_given_are_refused(
    options: dict[str, object], words: str
) -> None:
    tune = draw_band(3, key="C")
    given = GivenParts.of_tune(tune, tuple(KeptPart(number) for number in range(3)))
    with pytest.raises(InvalidValue, match=words):
        draw_around(make_sampler(1), SamplingOptions.parse(**options), Noise(1), given)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("flute", r"keep 'flute': the tune has no such part, but 1 melody, 2 bass, 3 drums"),
        ("4:1-2", "keep '4': the tune has no such part"),
        ("melody:3-9", "keep 9: the tune has 4 bars as they are written"),
        ("melody:0", "write bars such as 1-8 or 1-8,13-16, or parts such as melody:1-8,drums"),
    ],
)
def test_parts_and_bars_that_are_not_there_are_refused(model: Model, keep: str, words: str) -> None:
    tune = model.sample(parts=BAND, bars=4, form="through", seed=5)
    with pytest.raises(InvalidValue, match=words):
        tune.tweak(keep=keep)


def test_errors_name_the_option_that_asks_for_parts(model: Model) -> None:
    score = decode(draw_band(4))
    with pytest.raises(InvalidValue, match="given-parts 'flute': given has no such part"):
        model.sample(given=score, given_parts="flute", parts="melody")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--given-parts", "bass"), "--given-parts: nothing is given; name a file with --given"),
        (("--candidates", "3"), "--candidates: nothing is given"),
    ],
)
def test_options_about_given_parts_need_some(
    model: Model, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    out = str(tmp_path / "x.mid")
    result = run("sample", "--model", str(model.checkpoint.folder), "--out", out, *options)
    assert result.exit_code == 2
    assert words in result.output


# Densities, ranges, polyphony


@pytest.mark.parametrize("level", ["low", "medium", "high"])
@pytest.mark.parametrize("role", ROLES)
def test_density_is_met_in_each_bar(role: str, level: str) -> None:
    encoded = draw_band(5, 6, density=f"{role}={level}", meter="4/4")
    check_density(decode(encoded), ROLES.index(role), role, level)


def test_polyphony_and_range_are_met() -> None:
    encoded = draw_band(6, 6, polyphony="melody=1,bass=2", range="bass=C2-C3")
    score = decode(encoded)
    assert count_most_at_once(score, 0) == 1
    assert count_most_at_once(score, 1) <= 2
    pitches = score.columns[1][score.columns[4] == 1]
    assert pitches.min() >= 36
    assert pitches.max() <= 48


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": "pad=low"}, "density pad: no part with this role is drawn"),
        ({"density": "drums=loud"}, "density drums=loud: choose one of low, medium, high"),
        ({"density": "low"}, "density 'low': name the role, such as drums=low"),
        ({"polyphony": "bass=99"}, "polyphony bass '99': write a whole number from 1 to 16"),
        ({"range": "bass=C9-C9"}, "range bass=C9-C9: the model's notes reach from"),
        ({"range": "drums=C2-C3"}, "range drums: drums have no pitches; leave their range out"),
        ({"range": "kazoo=C2-C3"}, "range 'kazoo=C2-C3': the role is unknown"),
    ],
)
def test_impossible_requests_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        draw_band(1, 2, **options)


def test_model_without_densities_says_how_to_get_them() -> None:
    sampler = Sampler(RandomEngine(1), BAND_SEEN_IDS)
    options = SamplingOptions.parse(parts=BAND, bars=2, density="bass=low")
    with pytest.raises(InvalidValue, match="train the model again with this version"):
        sampler.sample(options, Noise(1))


def check_density(score: Score, part: int, role: str, level: str) -> None:
    first, second = THIRDS[role]
    low, high = {"low": (1, first), "medium": (first + 1, second), "high": (second + 1, 999)}[level]
    for bar, _, notes in iter_cells(score, part):
        count = len(np.unique(notes[0]))
        if notes.shape[1] and bar.kind == "full":
            assert low <= count <= high, (bar, count)


def count_most_at_once(score: Score, part: int) -> int:
    """Return the most notes of a part that sound at once."""
    notes = [note for note in score.notes if note.part == part]
    return max(sum(n.onset <= at.onset < n.end for n in notes) for at in notes)


# All requests together


@dataclass(frozen=True)
class Ask:
    """A random request, and what is given."""

    options: SamplingOptions
    given: GivenParts | None
    number: int


def draw_ask(number: int) -> Ask:
    """Draw a request: parts, densities, ranges, bars, keys, endings, and given parts."""
    rng = random.Random(number)
    roles = rng.sample(ROLES, rng.choice([1, 2, 3, 3, 3]))
    is_given = rng.random() < 0.6
    drawn_roles = [rng.choice(ROLES)] if is_given else roles
    fields: dict[str, object] = {"parts": ",".join(roles)}
    if rng.random() < 0.5:
        fields["bars"] = rng.randint(1, 6)
    for name, values in (
        ("density", ("low", "medium", "high")), ("polyphony", ("1", "2", "4")),
        ("range", ("C2-C4", "E1-G2", "C4-C6")),
    ):  # fmt: skip
        if rng.random() < 0.4:
            known = ROLES if rng.random() < 0.1 else drawn_roles
            chosen = [role for role in known if name != "range" or role != "drums"]
            fields[name] = ",".join(f"{role}={rng.choice(values)}" for role in chosen)
    fields["key"] = rng.choice([None, None, None, "D", "Am", "Bbmix"])
    fields["meter"] = rng.choice([None, None, None, "4/4", "6/8", "3/4"])
    fields["end"] = rng.choice(["any", "any", "tonic", "cadence"])
    given = None
    if is_given:
        tune = draw_band(rng.randrange(20), rng.randint(1, 4))
        kept = []
        for part in rng.sample(range(3), rng.randint(1, 3)):
            first = rng.randint(1, 4)
            kept.append(KeptPart(part, rng.choice([(), ((first, first + rng.randint(0, 1)),)])))
        given = GivenParts.of_tune(tune, tuple(sorted(kept, key=lambda k: k.part)))
        fields["parts"] = drawn_roles[0]
    options = {name: value for name, value in fields.items() if value}
    return Ask(SamplingOptions.parse(**options), given, number)


def check_ask(ask: Ask) -> bool:
    """Check that a request is met, or refused with a reason; return whether it is met."""
    request = GenerationRequest(ask.options, ask.number, given=ask.given)
    try:
        generated = generate_tune(make_sampler(ask.number), request)
    except InvalidValue:
        return False
    encoded, options = generated.encoded, ask.options
    score = decode(encoded)
    grammar = CODEC.create_grammar(encoded.setting, strict=False)
    for id_ in encoded.ids:
        assert id_ in grammar.legal_ids()
        grammar.take(id_)
    assert grammar.is_done
    given = ask.given
    kept = {each.part: each for each in given.kept} if given else {}
    if given is not None:
        for each in given.kept:
            changed = find_changed_cells(given.score, score, each.part)
            assert not any(map(each.includes, changed))
    if options.bars is not None:
        assert count_heard_bars(score) == options.bars
    assert options.key in (None, score.key)
    assert options.meter in (None, score.meter)
    for part, described in enumerate(score.parts):
        if part not in kept:
            check_part(score, part, described.role, options)
    if options.end != "any":
        check_end(score, encoded, options.end)
    return True


def check_part(score: Score, part: int, role: str, options: SamplingOptions) -> None:
    """Check density, polyphony and range of a part that is drawn as a whole."""
    pitches = score.columns[1][score.columns[4] == part]
    low, high = get_role_ranges(options.range).get(role, (0, 127))
    if role != "drums" and len(pitches):
        assert low <= pitches.min() <= pitches.max() <= high
    if options.density and (level := dict(options.density.by_role).get(role)):
        check_density(score, part, role, str(level))
    if options.polyphony and (most := dict(options.polyphony.by_role).get(role)) and len(pitches):
        assert count_most_at_once(score, part) <= int(most)


def check_end(score: Score, encoded: Encoded, end: str) -> None:
    """Check that the last chord of a voice of the first part of pitches has the tonic.

    Voices are numbered anew when the parts go back to their order, and what two voices strike
    together becomes a chord of one of them, in which the tonic is not always on top. In a cadence
    it lasts to the end.
    """
    part = next(n for n, each in enumerate(score.parts) if not each.is_drums)
    voice = (0, 0)
    last: dict[tuple[int, int], set[int]] = {}
    for id_ in encoded.ids:
        event = CODEC.vocabulary.events[id_]
        if event.kind in ("bar", "partial"):
            voice = (0, 0)
        elif event.kind in ("part", "voice"):
            value = int(event.value or 0)
            voice = (value, 0) if event.kind == "part" else (voice[0], value)
        elif event.kind == "duration":
            chord: set[int] = set()
        elif event.kind == "pitch" and voice[0] == part:
            chord.add(int(event.value or 0) % 12)
            last[voice] = chord
    assert any(0 in chord for chord in last.values())
    if end == "cadence":
        closing = find_bars(score)[-1].end
        tonic = score.key.pitch_class
        assert any(
            n.end == closing and n.pitch % 12 == tonic for n in score.notes if n.part == part
        )


@pytest.mark.parametrize("number", [351, 687, 693])
def test_density_that_an_ending_leaves_no_room_for_is_refused(number: int) -> None:
    assert not check_ask(draw_ask(number))


def test_cadence_is_not_cut_short_by_another_voice_of_its_part() -> None:
    assert check_ask(draw_ask(5315))


@pytest.mark.parametrize(
    "numbers", [range(60), pytest.param(range(10_000), marks=pytest.mark.promises)]
)
def test_random_requests_are_met_or_refused(numbers: range) -> None:
    met = sum(check_ask(draw_ask(number)) for number in numbers)
    assert 0.2 < met / len(numbers) < 0.95


def test_recipe_holds_what_is_given() -> None:
    tune = draw_band(2)
    given = replace(GivenParts.of_tune(tune, (KeptPart(1, ((1, 2),)),)), candidates=4)
    request = GenerationRequest(SamplingOptions(), 1, given=given)
    assert GenerationRequest.from_json(json.dumps(request.to_json())) == request
