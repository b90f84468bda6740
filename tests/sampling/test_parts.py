"""Tunes of several parts: the line-up that is asked for, in the file that is written."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import mido
import pytest

from musicgen.errors import InvalidValue
from musicgen.formats import midi
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.general_midi import find_family
from musicgen.music.instrument_ranges import find_range
from musicgen.music.score import Score
from musicgen.sampling.batch_sampler import generate_tunes
from musicgen.sampling.generate import generate_tune
from musicgen.sampling.infill import KeptBars
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_requests import parse_parts, parse_programs
from musicgen.sampling.recipe import DrawnHeader, GenerationRequest, make_variant_request
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.measures import MeasuresCodec
from tests.command_runner import run
from tests.fake_models import (
    BAND_SEEN_IDS,
    SEEN_IDS,
    RandomEngine,
    may_be_seen_in_bands,
    untrained,
)
from tests.sampling.test_batch_sampler import random_engine

BAND = "melody,bass,drums"


def draw(seed: int, **options: object) -> Score:
    sampler = Sampler(RandomEngine(seed), BAND_SEEN_IDS)
    return sampler.sample(SamplingOptions.parse(**options), Noise(1, seed))


def list_roles(score: Score) -> list[str]:
    return [part.role for part in score.parts]


@pytest.mark.parametrize("seed", range(6))
def test_tune_has_the_parts_that_are_asked_for(seed: int) -> None:
    score = draw(seed, parts=BAND, program="bass=33,melody=65", bars=4)
    assert list_roles(score) == ["melody", "bass", "drums"]
    assert [part.is_drums for part in score.parts] == [False, False, True]
    assert [part.program for part in score.parts] == [65, 33, 0]


@pytest.mark.parametrize("seed", range(6))
def test_bars_are_exact_in_all_parts(seed: int) -> None:
    form = random.Random(seed).choice(("AABB", "ABAC", "through"))
    score = draw(seed, parts=BAND, bars=8, form=form, end=("any", "tonic", "cadence")[seed % 3])
    assert all(bar.kind != "irregular" for bar in find_bars(score))
    assert count_heard_bars(score) == 8
    assert score.notes


@pytest.mark.parametrize("seed", range(4))
def test_letter_that_returns_has_the_same_notes_in_all_parts(seed: int) -> None:
    score = draw(seed, parts=BAND, bars=16, form="ABAC", pickup="none", meter="4/4")
    section = 4 * score.meter.steps
    parts = [
        [
            (n.onset - start, n.pitch, n.velocity, n.part)
            for n in score.notes
            if start <= n.onset < start + section
        ]
        for start in (0, 2 * section)
    ]
    assert parts[0] == parts[1]


def test_drums_are_written_on_channel_10_and_programs_on_the_others() -> None:
    score = draw(1, parts=BAND, program="bass=33", bars=4)
    tracks = mido.MidiFile(file=io.BytesIO(midi.render(score))).tracks[1:]
    programs = [
        [(m.channel, m.program) for m in track if m.type == "program_change"] for track in tracks
    ]
    assert programs[1:] == [[(1, 33)], [(9, 0)]]
    channels = {m.channel for m in tracks[2] if m.type == "note_on"}
    assert channels <= {9}
    assert find_family(programs[0][0][1]) == "reed"


@pytest.mark.parametrize("seed", range(12))
def test_every_part_stays_in_the_range_of_its_instrument(seed: int) -> None:
    end = ("any", "tonic", "cadence")[seed % 3]
    score = draw(seed, parts=BAND, program=f"bass={32 + seed % 8},melody=68", bars=6, end=end)
    pitches = {n: {note.pitch for note in score.notes if note.part == n} for n in (0, 1)}
    assert max(pitches[0], default=68) <= 93  # an oboe, from B flat 3 to A6
    assert min(pitches[0], default=68) >= 58
    low, high = find_range(32 + seed % 8) or (0, 127)
    assert all(low <= pitch <= high for pitch in pitches[1])


@pytest.mark.parametrize("seed", range(8))
def test_every_part_is_heard_in_the_first_bar(seed: int) -> None:
    score = draw(seed, parts=("drums,melody,bass", BAND)[seed % 2], bars=3, pickup="none")
    first = {note.part for note in score.notes if note.onset < score.meter.steps}
    assert first == set(range(len(score.parts)))


def test_range_that_is_asked_for_comes_before_that_of_the_instrument() -> None:
    score = draw(3, parts="melody,bass", program="melody=68", bars=4, range="C2-C3")
    assert {note.pitch for note in score.notes} <= set(range(36, 49))
    assert any(note.part == 0 for note in score.notes)


def test_line_up_that_is_not_asked_for_is_left_to_the_model() -> None:
    lineups = {tuple(list_roles(draw(seed, bars=2))) for seed in range(12)}
    assert len(lineups) > 3
    assert {len(roles) for roles in lineups} <= {2, 3, 4}


def test_tunes_side_by_side_are_those_drawn_alone() -> None:
    sampler = Sampler(random_engine("lstm", context="all"), BAND_SEEN_IDS)
    request = GenerationRequest(SamplingOptions.parse(parts=BAND, bars=2), 3)
    together = dict(generate_tunes(sampler, request, range(4), width=3))
    for number, generated in together.items():
        alone = generate_tune(sampler, GenerationRequest(request.options, 3, number))
        assert generated.encoded == alone.encoded


def test_variant_keeps_the_line_up() -> None:
    sampler = Sampler(RandomEngine(5), BAND_SEEN_IDS)
    first = generate_tune(sampler, GenerationRequest(SamplingOptions(bars=2), 3)).encoded
    request = GenerationRequest(SamplingOptions(bars=2), 3, drawn=DrawnHeader.of(first))
    read = GenerationRequest.from_json(json.dumps(request.to_json()))
    assert read == request
    variant = generate_tune(Sampler(RandomEngine(6), BAND_SEEN_IDS), read).encoded
    assert [(p.role, p.is_drums) for p in variant.setting.parts] == [
        (p.role, p.is_drums) for p in first.setting.parts
    ]
    other = make_variant_request(read, {"parts": parse_parts("bass,drums")})
    assert other.drawn is not None
    assert other.drawn.header[3] is None


def test_kept_bars_keep_all_their_parts() -> None:
    sampler = Sampler(RandomEngine(2), BAND_SEEN_IDS)
    options = SamplingOptions.parse(parts=BAND, bars=4, form="through", pickup="none")
    first = generate_tune(sampler, GenerationRequest(options, 3)).encoded
    keep = KeptBars(first.ids, ((1, 2),), candidates=2)
    request = GenerationRequest(options, 4, drawn=DrawnHeader.of(first), keep=keep)
    second = generate_tune(sampler, request).encoded
    scores = [MeasuresCodec().decode(e.ids, e.setting).score for e in (first, second)]
    end = 2 * scores[0].meter.steps
    kept = [
        [(n.onset, n.pitch, n.velocity, n.part) for n in score.notes if n.onset < end]
        for score in scores
    ]
    assert kept[0] == kept[1]


REFUSED = [
    ({"parts": "melody,pad"}, "parts: the role pad is not in the training data, which has melody,"),
    ({"parts": "melody"}, "the training data has no tune of 1 parts, but of 2, 3, 4"),
    ({"parts": BAND, "program": "melody=40"}, "program 40 (violin): the family strings is not in"),
    ({"parts": "melody,drums", "program": "bass=33"}, "program bass: the parts melody,drums have"),
    ({"program": "pad=89"}, "program pad=89: the role is not in the training data, which has"),
    ({"parts": BAND, "max_copy": 8}, "max-copy: the runs of a tune of one part are checked"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_the_model_never_met_is_refused_with_what_it_knows(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidValue) as refused:
        draw(1, bars=2, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_model_of_single_lines_has_no_roles() -> None:
    sampler = Sampler(RandomEngine(1), SEEN_IDS)
    with pytest.raises(InvalidValue, match="parts: the training data has no parts with roles"):
        sampler.sample(SamplingOptions.parse(parts=BAND), Noise(1))


BAD_TEXTS = [
    (parse_parts, "melody,leader", "parts 'leader' is unknown: write roles such as melody,bass"),
    (parse_programs, "bass=33,bass=34", "the role is given twice"),
    (parse_programs, "leader=33", "the role is unknown; write each once, such as bass=33"),
    (parse_parts, ",".join(["any"] * 17), "17 are too many; name up to 16"),
]


@pytest.mark.parametrize(("parse", "text", "message"), BAD_TEXTS)
def test_malformed_parts_are_refused(parse: object, text: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        parse(text)  # type: ignore[operator]


def test_options_about_parts_come_back_from_a_recipe() -> None:
    options = SamplingOptions.parse(parts="melody:65,any,drums", program="20,bass=33")
    assert SamplingOptions.from_json(options.to_json()) == options
    assert SamplingOptions.from_json('{"program":40}').program == 40
    with pytest.raises(InvalidValue, match="parts and parts-from both name the parts"):
        SamplingOptions.parse(parts=BAND, parts_from=BAND)


def test_command_takes_the_line_up_of_a_file(tmp_path: Path) -> None:
    model = untrained(tmp_path / "bands", is_seen=may_be_seen_in_bands)
    (tmp_path / "band.mid").write_bytes(midi.render(draw(1, parts=BAND, bars=2)))
    outs = [tmp_path / "first.mid", tmp_path / "second.mid"]
    words = ["sample", "--model", str(model), "--seed", "1", "--bars", "2"]
    lineups = ["--parts", BAND, "--program", "bass=33", "--program", "melody=65"]
    assert run(*words, *lineups, "--out", str(outs[0])).exit_code == 0
    assert run(*words, "--parts-from", str(outs[0]), "--out", str(outs[1])).exit_code == 0
    for out in outs:
        (score,), _ = midi.parse(out.read_bytes())
        assert [(p.program, p.is_drums) for p in score.parts] == [
            (65, False), (33, False), (0, True),
        ]  # fmt: skip
    assert (
        run(
            "tweak", str(outs[0]), "--model", str(model), "--out", str(tmp_path / "again.mid")
        ).exit_code
        == 0
    )
    assert (tmp_path / "again.mid").read_bytes() == outs[0].read_bytes()


def test_states_of_many_line_ups_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SamplingOptions.parse(bars=2)
    sampler = Sampler(random_engine("lstm", context="all"), BAND_SEEN_IDS)
    expected = [sampler.sample(options, Noise(1, seed)) for seed in range(3)]
    before = sampler.get_compiled_sampler(options)
    monkeypatch.setattr("musicgen.sampling.sampler._MAX_COMPILED_STATES", 10)
    assert [sampler.sample(options, Noise(1, seed)) for seed in range(3)] == expected
    assert sampler.get_compiled_sampler(options) is not before
