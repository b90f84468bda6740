"""The accompaniment of a sampled tune is in its recipe; models without chord symbols have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from musicgen import formats, load, tweak
from musicgen.corpus.encode import encode_file
from musicgen.corpus.sources import TuneFile
from musicgen.music.accompaniment import split_accompaniment
from musicgen.sampling.options import SamplingOptions, find_accompaniment_default
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import Event
from musicgen.trained_model import Model, read_first_tune
from musicgen.tune import Tune
from tests.fake_models import may_be_seen, untrained


def may_be_seen_with_chords(event: Event) -> bool:
    return event.kind in ("chord", "bass") or may_be_seen(event)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "lead-sheets"
    return load(untrained(folder, is_seen=may_be_seen_with_chords))


@pytest.fixture(scope="module")
def tune(model: Model) -> Tune:
    return next(tune for tune in (model.sample(seed=seed, bars=8) for seed in range(20))
                if len(tune.played_score.parts) == 3)  # fmt: skip


def test_model_with_chord_symbols_plays_them_by_default(tune: Tune) -> None:
    assert tune.recipe.request.options.accompaniment == "auto"
    assert len(tune.score.parts) == 1


@pytest.mark.parametrize("name", ["folk", "drums"])
def test_models_without_chord_symbols_keep_their_recipes(name: str) -> None:
    manifest = load(name).checkpoint.manifest
    assert find_accompaniment_default(manifest.seen, manifest.codec) == {}
    assert SamplingOptions().to_dict() == {}


def test_tweak_without_options_writes_the_same_bytes(
    tune: Tune, model: Model, tmp_path: Path
) -> None:
    for suffix in (".mid", ".abc", ".musicxml"):
        first, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        tune.write(first)
        tweak(first, model.checkpoint.folder).write(again)
        assert first.read_bytes() == again.read_bytes()


def test_tweak_changes_only_the_accompaniment(tune: Tune, model: Model, tmp_path: Path) -> None:
    tune.write(tmp_path / "a.mid")
    for name, parts in (("none", 1), ("arpeggio", 3)):
        variant = tweak(tmp_path / "a.mid", model.checkpoint.folder, accompaniment=name)
        assert variant.score == tune.score
        variant.write(tmp_path / f"{name}.mid")
        (read,), _ = formats.read(tmp_path / f"{name}.mid")
        assert len(read.parts) == parts
        assert split_accompaniment(read)[0].notes == tune.score.unfolded().notes


def test_file_gives_back_melody_and_chord_symbols(tune: Tune, tmp_path: Path) -> None:
    tune.write(tmp_path / "a.mid")
    read = read_first_tune(tmp_path / "a.mid")
    played = tune.score.unfolded()
    assert (read.notes, list(read.of("chord"))) == (played.notes, list(played.of("chord")))


def test_pattern_for_a_tune_without_chord_symbols_is_a_message() -> None:
    tune = load("folk").sample(seed=1, bars=4, accompaniment="waltz")
    assert any("the tune has no chord symbols; musicgen render" in line for line in tune.messages)
    assert tune.played_score == tune.score


@pytest.mark.parametrize("codec", ["measures", "performance", "frames"])
def test_data_sets_do_not_contain_the_accompaniment(tune: Tune, codec: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain.mid"
    formats.write(tune.score, plain)
    tune.write(tmp_path / "played.mid")
    pieces = [
        list(find_codec(codec).iter_pieces(path.read_bytes(), ".mid"))
        for path in (plain, tmp_path / "played.mid")
    ]
    assert pieces[0] == pieces[1]
    files = [TuneFile(tmp_path / name, "t.mid") for name in ("plain.mid", "played.mid")]
    rows = [list(encode_file(file, find_codec(codec))) for file in files]
    assert rows[0] == rows[1]
