"""Promise 29: tunes that are kept can be trained on, and trained models can be sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import music21
import pretty_midi
import pytest
from _pytest.mark import ParameterSet
from click.testing import CliRunner

from musicgen import formats, load
from musicgen.cli import commands
from musicgen.cli.sample import Selection, _format_table
from musicgen.music.bars import find_bars
from musicgen.music.score import Score
from musicgen.sampling.ranking import choose, measure_tune
from musicgen.sampling.sampler import Sampler
from musicgen.trained_model import Model
from musicgen.web.serializers import compare_scores, render_tune_file, tune_to_json
from tests.multi_part import write_pieces

KINDS = {"pop": "measures", "drums": "measures", "band": "measures", "chorale": "measures",
         "mixed": "measures", "live": "performance"}  # fmt: skip
EXTRA_CODECS = (("pop", "performance"), ("pop", "frames"), ("chorale", "frames-16"),
                ("chorale", "text"), ("chorale", "text-words"))  # fmt: skip
DEFAULT_KINDS = ("pop", "drums", "mixed", "live")  # parts, no pitches, several kinds, no bars
SMALL_MODEL = ("--layers", "1", "--hidden", "16", "--epochs", "1", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to a folder in which each model is trained once."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def run_musicgen(*args: str) -> str:
    result = CliRunner().invoke(commands, args)
    assert result.exit_code == 0, result.output
    return result.stderr


def train_model(kind: str, codec: str) -> str:
    """Train on a folder of a kind, as a user does, and return the name of the model."""
    name = f"{kind}-{codec}"
    if not Path("checkpoints", name).exists():
        folder = write_pieces(Path("corpora", name), kind)
        output = run_musicgen("train", str(folder), "--name", name, "--codec", codec, *SMALL_MODEL)
        assert "listening example: " not in output
        assert "could be sampled" not in output
        assert any(Path("checkpoints", name, "heard").iterdir())
    return name


def check_sampled(kind: str, codec: str, count: int, *args: str) -> None:
    """Sample tunes of a model, and read each with two other programs."""
    name = train_model(kind, codec)
    suffix = ".txt" if codec.startswith("text") else ".mid"
    out = Path("sampled", f"{name}-{count}")
    out.mkdir(parents=True)
    pattern = out / f"{{n}}{suffix}"
    run_musicgen("sample", "--model", name, "--out", str(pattern), "--count", str(count), *args)
    files = sorted(out.glob(f"*{suffix}"))
    assert len(files) == count
    for file in files if suffix == ".mid" else ():
        check_file(file)


def check_file(file: Path) -> None:
    """Read a file with pretty_midi and music21: the same notes, drums and pitched parts."""
    (score,), refusals = formats.read(file, as_performance=True)
    assert not refusals
    instruments = pretty_midi.PrettyMIDI(str(file)).instruments
    assert sum(len(instrument.notes) for instrument in instruments) == len(score.notes) > 0
    assert all(note.end > note.start for instrument in instruments for note in instrument.notes)
    drum_count = sum(score.parts[note.part].is_drums for note in score.notes)
    assert (
        sum(len(instrument.notes) for instrument in instruments if instrument.is_drum) == drum_count
    )
    music21_notes = music21.converter.parse(str(file), forceSource=True).flatten().notes
    onsets = {
        (float(instrument.offset), instrument.duration.quarterLength)
        for instrument in music21_notes
    }
    assert onsets


def mark_kinds(*names: str) -> list[ParameterSet | str]:
    """Return kinds to test; those beyond the default ones are promises."""
    return [name if name in DEFAULT_KINDS else pytest.param(name, marks=pytest.mark.promises)
            for name in names]  # fmt: skip


@pytest.mark.parametrize("kind", mark_kinds(*KINDS))
def test_each_kind_can_be_trained_and_sampled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.tokens.performance.MAX_EVENTS", 200)  # a piece ends there
    bars = ("--bars", "4") if KINDS[kind] == "measures" else ()
    check_sampled(kind, KINDS[kind], 2, "--seed", "1", *bars)


@pytest.mark.promises
@pytest.mark.parametrize(("kind", "codec"), [*KINDS.items(), *EXTRA_CODECS])
def test_fifty_tunes_of_each_kind_can_be_read(
    kind: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicgen.tokens.performance.MAX_EVENTS", 300)  # music21 is slow
    check_sampled(kind, codec, 50, "--seed", "2", "--jobs", "1")


def load_model(kind: str) -> Model:
    return load(train_model(kind, "measures"))


def test_tune_has_all_parts() -> None:
    tune = load_model("pop").sample(seed=1, bars=4, parts="melody,chords,any")
    assert len(tune.score.parts) == 3
    assert len({note.part for note in tune.score.notes}) > 1
    assert tune.tweak().score == tune.score
    assert {note.part for note in tune.surprise.notes} <= {0, 1, 2}
    assert tune.receipt is not None


def test_drum_model_writes_only_drums() -> None:
    score = load_model("drums").sample(seed=1, bars=4).score
    assert [part.is_drums for part in score.parts] == [True]


@pytest.mark.promises
def test_band_has_drum_parts_and_pitched_parts() -> None:
    scores = [load_model("band").sample(seed=seed, bars=4).score for seed in range(4)]
    assert any(part.is_drums for score in scores for part in score.parts)
    assert any(not part.is_drums for score in scores for part in score.parts)


@pytest.mark.parametrize("kind", mark_kinds("pop", "band", "drums", "chorale"))
def test_kept_bars_keep_all_parts(kind: str) -> None:
    model = load_model(kind)
    for seed in range(3):
        tune = model.sample(seed=seed, bars=6)
        variant = tune.tweak(keep="2,5", candidates=2)
        for bar in (1, 4):
            assert in_bar(tune.score, bar) <= in_bar(variant.score, bar)
        assert variant.tweak().score == variant.score
    assert model.sample(seed=1, bars=4, form="AB").bars == 4


def in_bar(score: Score, bar: int) -> set[tuple[int, ...]]:
    """Return the notes that start in a bar of a tune without repeats."""
    edges = [0, *(mark.onset for mark in score.of("bar"))]
    start, stop = edges[bar], edges[bar + 1]
    return {(n.onset, n.pitch, n.part) for n in score.notes if start <= n.onset < stop}


@pytest.mark.parametrize("kind", mark_kinds("pop", "band"))
def test_batch_sampling_equals_single_sampling(kind: str) -> None:
    model = load_model(kind)
    request = replace(model.sample(seed=5, bars=4).recipe.request, drawn=None)
    single_scores = [model.generate(model.sample(seed=5, number=n, bars=4).recipe.request).score
             for n in range(3)]  # fmt: skip
    batch_scores = dict(model.generate_many(request, range(3)))
    assert [batch_scores[number].score for number in range(3)] == single_scores


def test_primer_of_several_parts_starts_a_tune() -> None:
    model = load_model("pop")
    primer = next(iter(formats.read(next(Path("corpora/pop-measures").glob("*.mid")))[0]))
    tune = model.sample(seed=1, primer=primer, bars=16)
    assert tune.bars == 16


def test_primer_keeps_all_parts_that_the_model_can_write() -> None:
    model = load_model("pop")
    (primer,), _ = formats.read(next(Path("corpora/pop-measures").glob("*.mid")))
    tune = model.sample(seed=1, primer=primer, primer_bars="1-2", bars=8)
    assert f"all {len(primer.parts)} parts are kept" in tune.messages
    assert len(tune.score.parts) == len(primer.parts)
    end = find_bars(primer)[1].end
    for part in range(len(primer.parts)):
        expected, actual = (
            {(n.onset, n.pitch) for n in score.notes if n.part == part and n.onset < end}
            for score in (primer, tune.score)
        )
        assert expected == actual
    again = model.sample(seed=1, primer=primer, primer_bars="1-2", primer_part="1", bars=8)
    assert any("left out: part 2" in message for message in again.messages)
    assert tune.tweak().score == tune.score


def test_drum_model_refuses_pitch_options() -> None:
    name = train_model("drums", "measures")
    primer = write_pieces(Path("primers"), "dance") / "dance-1.abc"
    unfit = ["--range", "C4-C6"], ["--end", "tonic"], ["--key", "D"], ["--primer", str(primer)]
    for args in unfit:
        result = CliRunner().invoke(
            commands, ["sample", "--model", name, "--out", f"{args[0]}.mid", *args]
        )
        assert result.exit_code == 2, result.output
        assert "the model knows drums and no pitches" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_table_of_best_tunes_accepts_drums() -> None:
    tune = load_model("drums").sample(seed=1, bars=2)
    row = measure_tune(tune.score, {"bits": 1.0, "longest": 0.0, "copied": 0.0})
    chosen = list(choose([row], 1, {"bits": (0.5, 2.0), "leap": (1.0, 3.0)}))
    head, line = _format_table(Selection([tune], [row], chosen), [[Path("a.mid")]])
    assert line.count("\t") == head.count("\t")


@pytest.mark.promises
def test_max_copy_holds_for_a_band() -> None:
    model = load_model("band")
    tune = model.sample(seed=2, bars=4, max_copy=4)
    assert tune.receipt is None or tune.receipt.longest is None or tune.receipt.longest.notes <= 4


@pytest.mark.parametrize("kind", mark_kinds("pop", "band", "mixed"))
def test_untrained_weights_reach_the_end_of_the_tune(kind: str) -> None:
    for seed in range(2):
        tune = load_model(kind).sample(seed=seed, bars=8, temperature=2.0)
        assert tune.bars == 8


@pytest.mark.parametrize("kind", mark_kinds("band", "drums"))
def test_all_outputs_accept_several_parts(kind: str) -> None:
    tune = load_model(kind).sample(seed=3, bars=2)
    variant = load_model(kind).sample(seed=4, bars=2)
    assert json.loads(json.dumps(tune_to_json(tune)))
    assert json.loads(json.dumps(compare_scores(tune.score, variant.score)))["bars"]
    for suffix in ("mid", "abc", "musicxml", "html"):
        assert render_tune_file(tune, suffix)


def test_training_finishes_when_example_tunes_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("tuple index out of range")

    folder = write_pieces(Path("corpora", "failing"), "drums")
    monkeypatch.setattr(Sampler, "finish_tune", fail)
    output = run_musicgen("train", str(folder), "--name", "failing", *SMALL_MODEL)
    lines = [line for line in output.splitlines() if "tuple index" in line]
    assert sorted(line.split(":")[0] for line in lines) == [
        "copies",
        "listening example",
        "model card",
    ]
    assert "## Scores" in Path("checkpoints/failing/MODEL_CARD.md").read_text()
