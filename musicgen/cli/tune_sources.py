"""Where commands get tunes: data sets to train on, and the tunes that `musicgen evaluate` compares.

A data set is built from sources, or loaded from a folder. Tunes to compare are sampled, held out,
or read from files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from musicgen.cli.output import format_count
from musicgen.errors import InvalidValue, Mismatch, NotFound, escape_unprintable
from musicgen.files import is_file
from musicgen.tokens.song_form import FREE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from musicgen.corpus.store import Dataset, EncodedTune
    from musicgen.evaluation.likelihood import (
        BaselineScore,
        LikelihoodReport,
        ScoreFunction,
        TrainFunction,
    )
    from musicgen.evaluation.live_figures import LiveCard, MinuteSet
    from musicgen.evaluation.score_card import TuneSet
    from musicgen.music.score import Score
    from musicgen.similarity.overlap_report import OverlapIndex
    from musicgen.trained_model import Model

DEFAULT_SOURCE: Final = "dance-tunes"
READERS = os.cpu_count() or 1  # child processes that read the files
_FORMATS_WITHOUT_REPEATS: Final = (".mid", ".midi")
FEW_REAL_MINUTES: Final = 30  # fewer do not show the range of live playing
DATA_HINT: Final = "name the tunes that it was trained on with --data"


def load_or_build_dataset(sources: tuple[str, ...], codec: str | None, console: Console) -> Dataset:
    """Build a data set from sources, or load the one in the folder that is the only source.

    Args:
        sources: files, folders, archives, names of corpora; or one folder of a built data set.
        codec: name of the codec; None for the default, or that of the built data set.
        console: shows the sources while they are read, then the number of tunes kept.

    Raises:
        Mismatch: if the data set was built with another codec or vocabulary.
    """
    from musicgen.tokens.registry import DEFAULT_CODEC, find_codec

    chosen_codec = find_codec(codec or DEFAULT_CODEC)
    if len(sources) == 1 and is_file(Path(sources[0]) / "manifest.json"):
        return _load_built_dataset(Path(sources[0]), codec)
    from musicgen.corpus.build import build

    with console.status(_format_status(sources)):
        dataset, report = build(sources, codec=chosen_codec, jobs=READERS)
    codes = ", ".join(f"{count} {code}" for code, count in report.codes.items())
    console.print(
        f"kept {report.kept:,} of {format_count(report.found, 'tune')}"
        + (f"; left out: {codes}" if codes else "")
    )
    return dataset


def _format_status(sources: tuple[str, ...]) -> Text:
    """Format the sources as plain text, without markup or control characters."""
    from rich.text import Text

    return Text(escape_unprintable(f"reading {', '.join(sources)}"))


def _load_built_dataset(folder: Path, codec: str | None) -> Dataset:
    """Load a built data set. Raises Mismatch for another codec or an older vocabulary."""
    from musicgen.corpus import store
    from musicgen.tokens.registry import restore_codec

    dataset = store.load(folder)
    if codec not in (None, dataset.codec):
        raise Mismatch(
            f"{folder}: built with --codec {dataset.codec}, not {codec}; leave --codec out, or"
            " build it again with musicgen corpus build"
        )
    restore_codec(dataset.codec, dataset.vocabulary, str(folder))
    return dataset


@dataclass(frozen=True, eq=False)
class RealTunes:
    """The tunes to judge by, and the index of the training tunes, if there is one."""

    tunes: TuneSet
    index: OverlapIndex | None
    dataset: Dataset | None = None  # that the tunes are a part of
    split: str = ""  # its name


def open_model(target: str) -> Model | None:
    """Load a model by name or folder; None if the target holds tunes instead.

    Raises:
        NotFound: the target is neither a model nor an existing path.
    """
    from musicgen.corpus.store import is_dataset
    from musicgen.trained_model import load

    path = Path(target)
    try:
        return None if is_dataset(path) else load(target)
    except NotFound:
        if path.exists() or _is_corpus(target):
            return None
        raise NotFound(f"{target} is neither a model nor tunes; check the name") from None


def check_has_bars(model: Model) -> None:
    """Check that a model's tunes have bars, without which there is no score card.

    Raises:
        InvalidValue: they have none.
    """
    if not model.codec.has_bars:
        raise InvalidValue(
            f"{model.checkpoint.folder}: codec {model.codec.name} has no bars, which the score card"
            " counts; use a model of codec measures"
        )


def load_held_out_tunes(model: Model, split: str, data: str | None, console: Console) -> RealTunes:
    """Load the held-out part of a model, from a built data set or from the sources it names.

    Raises:
        InvalidValue: the model has no such part, or one of too few tunes.
        Mismatch: the tunes are not those that the model was trained on.
    """
    check_has_bars(model)
    folder = model.checkpoint.folder
    _check_part(model.checkpoint.manifest.corpus, split, folder)
    dataset = _load_corpus(model, data, console)
    tunes = decode_tunes(dataset, getattr(dataset, split), f"{split} part of {model.name.name}")
    return RealTunes(tunes, model.index if model.has_index else None, dataset, split)


def _check_part(corpus: Mapping[str, Any], split: str, folder: Path) -> None:
    """Check that a part is large enough before the corpus is read. Raises InvalidValue."""
    from musicgen.evaluation.score_card import FEWEST_TUNES

    count = corpus.get("tunes", {}).get(split, 0)
    if count < FEWEST_TUNES:
        size = f"{count} of the {FEWEST_TUNES} tunes that a score card needs in its"
        raise InvalidValue(
            f"{folder}: the model has {size if count else 'no'} {split} part; name real tunes to"
            " judge by with --against"
        )


def _load_corpus(model: Model, data: str | None, console: Console) -> Dataset:
    """Load or rebuild the data set of a model. Raises Mismatch if it is another one."""
    corpus = model.checkpoint.manifest.corpus
    expected = corpus.get("fingerprint", "")
    sources = (data,) if data is not None else _check_sources(corpus, model.checkpoint.folder)
    dataset = load_or_build_dataset(sources, model.codec.name, console)
    if dataset.fingerprint != expected:
        from musicgen.training.plan import adjust_split  # imports torch

        dataset = adjust_split(dataset)  # training holds more tunes of a small corpus out
    if dataset.fingerprint != expected:
        raise Mismatch(
            f"{', '.join(sources)}: the tunes have fingerprint {dataset.fingerprint[:16]}, the"
            f" model was trained on {expected[:16]}; {DATA_HINT}"
        )
    return dataset


def _check_sources(corpus: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the corpora that a manifest names; a path in a manifest is never followed."""
    sources = tuple(map(str, corpus.get("sources", ())))
    if not sources or not all(map(_is_corpus, sources)):
        raise InvalidValue(f"{folder}: its training tunes are not a known corpus; {DATA_HINT}")
    return sources


def load_real_tunes(against: str, split: str, data: str | None, console: Console) -> RealTunes:
    """Load the tunes that a folder is judged by.

    Args:
        against: a model or a data set, of which one part is taken, or sources of real tunes.
        split: the part.
        data: the training tunes of a model, as a data set or files.
        console: shows the sources while they are read.
    """
    from musicgen.corpus.store import is_dataset
    from musicgen.similarity.build_index import build_overlap_index

    model = None if _is_corpus(against) else open_model(against)
    if model is not None:
        return load_held_out_tunes(model, split, data, console)
    dataset = load_or_build_dataset((against,), None, console)
    if not is_dataset(Path(against)):
        return RealTunes(decode_tunes(dataset, _list_all(dataset), against), None)
    tunes = decode_tunes(dataset, getattr(dataset, split), f"{split} part of {against}")
    return RealTunes(tunes, build_overlap_index(dataset))


def _is_corpus(name: str) -> bool:
    from musicgen.corpus.sources import list_cards

    return name in {card.name for card in list_cards()}


def _list_all(dataset: Dataset) -> list[EncodedTune]:
    return [tune for _, tune in dataset if tune.order == 0]


def read_tunes(source: str, console: Console) -> tuple[TuneSet, dict[str, int]]:
    """Read all tunes of a source; return them and the number of those left out, by reason.

    Raises:
        InvalidValue: too few tunes could be read.
    """
    dataset = load_or_build_dataset((source,), None, console)
    return decode_tunes(dataset, _list_all(dataset), source), dict(dataset.refusals)


def decode_tunes(dataset: Dataset, tunes: Iterable[EncodedTune], name: str) -> TuneSet:
    """Decode tunes of a data set.

    Raises:
        InvalidValue: its codec has no bars, or there are too few tunes.
    """
    from musicgen.evaluation.score_card import TuneSet
    from musicgen.tokens.codec import Setting
    from musicgen.tokens.registry import restore_codec

    codec = restore_codec(dataset.codec, dataset.vocabulary, name)
    if not codec.has_bars:
        raise InvalidValue(
            f"{name}: codec {codec.name} has no bars, which the score card counts; build the data"
            " set with --codec measures"
        )
    rows = list(tunes)
    scores = tuple(
        codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece for tune in rows
    )
    can_repeat = tuple(not tune.source.endswith(_FORMATS_WITHOUT_REPEATS) for tune in rows)
    return TuneSet(escape_unprintable(name), scores, can_repeat)


def measure_likelihood(
    model: Model, real: RealTunes, *, with_curve: bool, console: Console
) -> tuple[()] | tuple[LikelihoodReport, tuple[BaselineScore, ...]]:
    """Measure how well a model predicts its held-out tunes; () if it is judged by others.

    Returns:
        The likelihood, and that of the baselines on the same tunes as text.
    """
    from musicgen.evaluation import likelihood

    dataset = real.dataset
    if dataset is None or not dataset.valid:
        return ()
    parts = getattr(dataset, real.split), dataset.train, dataset.valid
    with console.status("predicting held-out tunes"):
        report = likelihood.score_likelihood(model.sampler.engine, model.codec, *parts)
        texts = _score_baselines_as_text(model, parts, console)
    if with_curve:
        with console.status("training on parts of the corpus"):
            train_network = make_train_function(model, dataset)
            curve = likelihood.measure_learning_curve(model.codec, *parts, train_network)
        report = replace(report, learning_curve=curve)
    return report, texts


def _score_baselines_as_text(
    model: Model, parts: tuple[Sequence[EncodedTune], ...], console: Console
) -> tuple[BaselineScore, ...]:
    """Score the baselines on the held-out tunes as text; () if ABC cannot hold one of the tunes."""
    from musicgen.evaluation import likelihood

    tunes, training_tunes, validation_tunes = parts
    try:
        return likelihood.score_baselines_as_text(
            model.codec, tunes, training_tunes, validation_tunes
        )
    except InvalidValue as fault:
        console.print(f"the tunes as text are left out: {fault}", markup=False)
        return ()


def make_train_function(model: Model, dataset: Dataset) -> TrainFunction:
    """Return a function that trains a small network with a model's cell on some tunes.

    The weights that predict validation tunes best are kept.
    """
    from musicgen.compare.baselines import ComparedNetwork, TrainingBudget  # imports torch
    from musicgen.evaluation import likelihood

    cell = model.checkpoint.manifest.settings.cell

    def train(tunes: Sequence[EncodedTune]) -> ScoreFunction:
        network = ComparedNetwork(cell, replace(dataset, train=tunes), likelihood.NETWORK_WEIGHTS)
        for _ in network.train(TrainingBudget(likelihood.NETWORK_TOKENS)):
            pass
        return network.score

    return train


def make_live_card(
    model: Model, split: str, data: str | None, count: int, seed: int, console: Console
) -> LiveCard:
    """Sample performances of a model, and compare their minutes with real ones.

    The real minutes are those of the held-out part; of all performances where it lasts less than
    FEW_REAL_MINUTES, since a few pieces do not show the range of live playing.

    Args:
        model: of codec performance.
        split: the held-out part.
        data: the performances that the model was trained on, as files or a data set.
        count: performances to sample.
        seed: random seed.
        console: shows what is done.

    Raises:
        InvalidValue: there are too few real or sampled minutes.
        Mismatch: the performances are not those that the model was trained on.
    """
    from musicgen.evaluation.likelihood import score_likelihood
    from musicgen.evaluation.live_figures import LiveCard, MinuteSet
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.trained_model import sample_many

    dataset = _load_corpus(model, data, console)
    held_out = getattr(dataset, split)
    real = _collect_real_minutes(model, dataset, split)
    request = GenerationRequest(model.complete_options({}), seed)
    with console.status(f"sampling {count:,} performances"):
        sampled = MinuteSet.of(
            f"{count:,} sampled performances",
            (tune.score for tune in sample_many(model, request, count=count)),
        )
    report = None
    if held_out:
        with console.status("predicting held-out performances"):
            parts = held_out, dataset.train, dataset.valid
            report = score_likelihood(model.sampler.engine, model.codec, *parts)
    return LiveCard.of(sampled, real, report)


def _collect_real_minutes(model: Model, dataset: Dataset, split: str) -> MinuteSet:
    from musicgen.evaluation.live_figures import MinuteSet
    from musicgen.tokens.codec import Setting

    def decode(tunes: Iterable[EncodedTune]) -> Iterator[Score]:
        for tune in tunes:
            yield model.codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece

    held_out = getattr(dataset, split)
    everything = [tune for _, tune in dataset]
    minutes = MinuteSet.of(f"all {len(everything)} performances", decode(everything))
    if not held_out:
        return minutes
    with suppress(InvalidValue):
        part = MinuteSet.of(f"{split} part of {model.name.name}", decode(held_out))
        return part if len(part.minutes) >= FEW_REAL_MINUTES else minutes
    return minutes


def sample_forms(
    model: Model, form: str | None, count: int, seed: int, console: Console
) -> Iterator[TuneSet]:
    """Sample tunes of a form; None: of a free form, then of the default form if it is another."""
    from musicgen.evaluation.score_card import TuneSet
    from musicgen.sampling.options import choose_default_form
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.trained_model import sample_many

    default = choose_default_form(model.checkpoint.manifest.seen)
    for name in dict.fromkeys((FREE, default) if form is None else (form,)):
        request = GenerationRequest(model.complete_options({"form": name}), seed)
        with console.status(f"sampling {count:,} tunes of form {name}"):
            tunes = tuple(sample_many(model, request, count=count))
        yield TuneSet(f"form {name}", tuple(tune.score for tune in tunes))
