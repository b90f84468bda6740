"""Promise 29: what can be kept can be trained on, and what was trained can be sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import music21
import pretty_midi
import pytest
import torch
from _pytest.mark import ParameterSet
from click.testing import CliRunner

from musicgen import formats, load
from musicgen.cli import commands
from musicgen.cli.sample import _format_table
from musicgen.music.score import Score
from musicgen.sampling.ranking import choose, measure_tune
from musicgen.sampling.sampler import Sampler
from musicgen.tune import Model
from musicgen.web.serializers import compare_scores, render_tune_file, tune_to_json
from tests.multi_part import write_some

KINDS = {"pop": "measures", "drums": "measures", "band": "measures", "chorale": "measures",
         "mixed": "measures", "live": "performance"}  # fmt: skip
ALSO = (("pop", "performance"), ("pop", "frames"), ("chorale", "frames-16"), ("chorale", "text"),
        ("chorale", "text-words"))  # fmt: skip
PLAIN = ("pop", "drums", "mixed")  # several parts, no pitches, and pieces of several kinds
SMALL = ("--layers", "1", "--hidden", "16", "--epochs", "1", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a folder of its own, in which each model is trained once."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # two only wait for each other over so few units
        yield folder
        torch.set_num_threads(before)


def musicgen(*words: str) -> str:
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 0, done.output
    return done.stderr


def trained(kind: str, codec: str) -> str:
    """Train on a folder of a kind, as a user does, and return the model's name."""
    name = f"{kind}-{codec}"
    if not Path("checkpoints", name).exists():
        folder = write_some(Path("corpora", name), kind)
        told = musicgen("train", str(folder), "--name", name, "--codec", codec, *SMALL)
        assert "heard: " not in told
        assert "could be drawn" not in told
        assert any(Path("checkpoints", name, "heard").iterdir())
    return name


def check_sampled(kind: str, codec: str, count: int, *words: str) -> None:
    """Sample tunes of a model, and open each with two other programs."""
    name = trained(kind, codec)
    suffix = ".txt" if codec.startswith("text") else ".mid"
    out = Path("sampled", f"{name}-{count}")
    out.mkdir(parents=True)
    pattern = out / f"{{n}}{suffix}"
    musicgen("sample", "--model", name, "--out", str(pattern), "--count", str(count), *words)
    files = sorted(out.glob(f"*{suffix}"))
    assert len(files) == count
    for file in files if suffix == ".mid" else ():
        check_file(file)


def check_file(file: Path) -> None:
    """Read a file elsewhere: as many notes as were written, and each part plays what it should."""
    (score,), refusals = formats.read(file, as_performance=True)
    assert not refusals
    heard = pretty_midi.PrettyMIDI(str(file)).instruments
    assert sum(len(one.notes) for one in heard) == len(score.notes) > 0
    assert all(note.end > note.start for one in heard for note in one.notes)
    drums = sum(score.parts[note.part].is_drums for note in score.notes)
    assert sum(len(one.notes) for one in heard if one.is_drum) == drums
    elsewhere = music21.converter.parse(str(file), forceSource=True).flatten().notes
    onsets = {(float(one.offset), one.duration.quarterLength) for one in elsewhere}
    assert onsets


def kinds(*names: str) -> list[ParameterSet | str]:
    """Return kinds to test, of which those that the plain run knows enough of are promises."""
    return [name if name in PLAIN else pytest.param(name, marks=pytest.mark.promises)
            for name in names]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_trained_on_and_sampled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.tokens.performance.MAX_EVENTS", 200)  # a piece ends there
    bars = ("--bars", "4") if KINDS[kind] == "measures" else ()
    check_sampled(kind, KINDS[kind], 5, "--seed", "1", *bars)


@pytest.mark.promises
@pytest.mark.parametrize(("kind", "codec"), [*KINDS.items(), *ALSO])
def test_fifty_tunes_of_each_kind_are_whole(kind: str, codec: str) -> None:
    check_sampled(kind, codec, 50, "--seed", "2")


def model_of(kind: str) -> Model:
    return load(trained(kind, "measures"))


def test_a_tune_of_several_parts_has_them_all() -> None:
    tune = model_of("pop").sample(seed=1, bars=4)
    assert len(tune.score.parts) == 3
    assert len({note.part for note in tune.score.notes}) > 1
    assert tune.tweak().score == tune.score
    assert {note.part for note in tune.surprise.notes} <= {0, 1, 2}
    assert tune.receipt is not None


def test_drums_alone_are_drums() -> None:
    score = model_of("drums").sample(seed=1, bars=4).score
    assert [part.is_drums for part in score.parts] == [True]


def test_a_part_is_drums_or_pitches_throughout() -> None:
    scores = [model_of("band").sample(seed=seed, bars=4).score for seed in range(4)]
    assert any(part.is_drums for score in scores for part in score.parts)
    assert any(not part.is_drums for score in scores for part in score.parts)


@pytest.mark.parametrize("kind", kinds("pop", "band", "drums", "chorale"))
def test_bars_of_several_parts_are_kept(kind: str) -> None:
    model = model_of(kind)
    for seed in range(3):
        tune = model.sample(seed=seed, bars=6)
        other = tune.tweak(keep="2,5", candidates=2)
        for bar in (1, 4):
            assert in_bar(tune.score, bar) <= in_bar(other.score, bar)
        assert other.tweak().score == other.score
    assert model.sample(seed=1, bars=4, form="AB").bars == 4


def in_bar(score: Score, bar: int) -> set[tuple[int, ...]]:
    """Return what starts in a bar of a tune without repeats."""
    edges = [0, *(mark.onset for mark in score.of("bar"))]
    start, stop = edges[bar], edges[bar + 1]
    return {(n.onset, n.pitch, n.part) for n in score.notes if start <= n.onset < stop}


@pytest.mark.parametrize("kind", kinds("pop", "band"))
def test_many_at_once_are_those_drawn_alone(kind: str) -> None:
    model = model_of(kind)
    order = model.sample(seed=5, bars=4).recipe.request
    alone = [model.generate(model.sample(seed=5, number=n, bars=4).recipe.request).score
             for n in range(3)]  # fmt: skip
    many = dict(model.generate_many(order, range(3)))
    assert [many[number].score for number in range(3)] == alone


def test_a_primer_starts_a_tune_of_several_parts() -> None:
    model = model_of("pop")
    primer = next(iter(formats.read(next(Path("corpora/pop-measures").glob("*.mid")))[0]))
    tune = model.sample(seed=1, primer=primer, bars=16)
    assert tune.bars == 16


def test_what_drums_cannot_do_is_refused_in_a_line() -> None:
    name = trained("drums", "measures")
    primer = write_some(Path("primers"), "dance") / "dance-1.abc"
    for words in (["--range", "C4-C6"], ["--end", "tonic"], ["--primer", str(primer)]):
        done = CliRunner().invoke(
            commands, ["sample", "--model", name, "--out", f"{words[0]}.mid", *words]
        )
        assert done.exit_code == 2, done.output
        assert "the model knows drums and no pitches" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_drums_have_a_row_in_the_table_of_the_best() -> None:
    tune = model_of("drums").sample(seed=1, bars=2)
    row = measure_tune(tune.score, {"bits": 1.0, "longest": 0.0, "copied": 0.0})
    chosen = list(choose([row], 1, {"bits": (0.5, 2.0), "leap": (1.0, 3.0)}))
    head, line = _format_table([tune], [row], chosen, [[Path("a.mid")]])
    assert line.count("\t") == head.count("\t")


@pytest.mark.promises
def test_max_copy_holds_for_a_band() -> None:
    model = model_of("band")
    tune = model.sample(seed=2, bars=4, max_copy=4)
    assert tune.receipt is None or tune.receipt.longest is None or tune.receipt.longest.notes <= 4


@pytest.mark.parametrize("kind", kinds("pop", "band", "mixed"))
def test_weights_that_know_nothing_end_in_no_dead_end(kind: str) -> None:
    for seed in range(2):
        tune = model_of(kind).sample(seed=seed, bars=8, temperature=2.0)
        assert tune.bars == 8


@pytest.mark.parametrize("kind", kinds("band", "drums"))
def test_the_page_and_every_file_take_several_parts(kind: str) -> None:
    tune = model_of(kind).sample(seed=3, bars=2)
    other = model_of(kind).sample(seed=4, bars=2)
    assert json.loads(json.dumps(tune_to_json(tune)))
    assert json.loads(json.dumps(compare_scores(tune.score, other.score)))["bars"]
    for suffix in ("mid", "abc", "musicxml", "html"):
        assert render_tune_file(tune, suffix)


def test_a_model_card_without_tunes_ends_a_training_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("tuple index out of range")

    folder = write_some(Path("corpora", "failing"), "drums")
    monkeypatch.setattr(Sampler, "finish_tune", fail)
    told = musicgen("train", str(folder), "--name", "failing", *SMALL)
    lines = [line for line in told.splitlines() if "tuple index" in line]
    assert sorted(line.split(":")[0] for line in lines) == ["copies", "heard", "model card"]
    assert "## Scores" in Path("checkpoints/failing/MODEL_CARD.md").read_text()
