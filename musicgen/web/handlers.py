"""What a worker can do: write tunes and near variants, show them, bring them back, compare them."""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from musicgen import formats
from musicgen.checkpoint import FORMAT, Checkpoint, list_checkpoint_folders, read_manifest
from musicgen.errors import DamagedCheckpoint, InvalidValue, MusicgenError, NotFound
from musicgen.model_folders import list_models
from musicgen.music.score import Score
from musicgen.render.timeline import duration
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.recipe import GenerationRequest, Recipe, hash_notes, join_recipe_remarks
from musicgen.sampling.sampler import GenericSampler, Sampler
from musicgen.sampling.surprisal import Surprise, measure_surprise
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import Model, load
from musicgen.tune import Tune
from musicgen.web.model_list import get_model_stamp, tune_id
from musicgen.web.serializers import compare_scores, make_file_name, render_tune_file, tune_to_json
from musicgen.web.worker_protocol import ProgressWriter, WorkerAnswer, resource_limits

MAX_CACHED_MODELS: Final = 3
MAX_CACHED_TUNES: Final = 64
MAX_LABEL_LENGTH: Final = 200  # characters of what a file says of itself, on the shelf
PREVIEW_SEED: Final = 1
PRIMER_SUFFIXES: Final = (".abc", ".mid", ".midi")
_BAR: Final = MEASURES.id("bar")


class CountingEngine(NumpyEngine):
    """An engine that tells of each bar that it is fed."""

    progress: ProgressWriter | None = None

    def advance(self, number: int, state: Any) -> None:
        """Feed one id."""
        if number == _BAR and self.progress is not None:
            self.progress.count_bar()
        super().advance(number, state)


@dataclass(frozen=True, repr=False)
class ModelWithProgress(Model):
    """A model whose tunes can be followed while they are written."""

    progress: ProgressWriter | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sampler(self) -> Sampler | GenericSampler:
        """The sampler, with an engine that counts."""
        engine = CountingEngine.of(self.checkpoint)
        assert isinstance(engine, CountingEngine)
        engine.progress = self.progress if self.codec.has_bars else None
        return replace(super().sampler, engine=engine)

    @cached_property
    def _surprisal_engine(self) -> NumpyEngine:
        return NumpyEngine.of(self.checkpoint)

    def surprise(self, piece: Score | str) -> Surprise:
        """Return the bits of each note, from an engine that has heard tunes before."""
        return measure_surprise(self._surprisal_engine, self.codec, piece)


@dataclass
class RequestHandlers:
    """The models and tunes that a worker has at hand, and what it does with them."""

    runs: Path
    progress: ProgressWriter
    _models: OrderedDict[Path, tuple[object, Model]] = field(default_factory=OrderedDict)
    _tunes: OrderedDict[str, Tune] = field(default_factory=OrderedDict)

    def answer(self, request: dict[str, Any], payload: bytes) -> WorkerAnswer:
        """Do what a request names. Raises MusicgenError."""
        todo: dict[str, Callable[..., WorkerAnswer]] = {
            "warm": self.warm,
            "sample": self.sample,
            "tweak": self.tweak,
            "recall": self.restore_tune,
            "file": self.render_file,
            "differences": self.compare_tunes,
            "describe": self.describe_files,
            "heard": self.sample_preview,
        }
        return todo[request.pop("do")](payload, **request)

    def warm(self, _: bytes, model: str) -> WorkerAnswer:
        """Get ready for what is asked first."""
        self.answer_with_tune(self.get_model(model).sample(bars=2, seed=1))
        return WorkerAnswer({})

    # Writing

    def sample(
        self, payload: bytes, model: str, wishes: dict[str, Any], seed: int, primer: str | None
    ) -> WorkerAnswer:
        """Write a tune, from a primer's bytes if there are any."""
        loaded = self.get_model(model)
        order = GenerationRequest(
            loaded.complete_options(wishes, has_primer=primer is not None), seed
        )
        if primer is not None:
            order = loaded.add_primer(order, parse_primer(payload, primer))
        return self.answer_with_tune(loaded.sample_request(order, loaded.collect_messages(order)))

    def tweak(
        self, _: bytes, recipe: str, wishes: dict[str, Any], seed: int | None, keep: str | None
    ) -> WorkerAnswer:
        """Write a near variant of a tune."""
        made = Recipe.from_text(recipe)
        changes = wishes | ({} if seed is None else {"seed": seed})
        return self.answer_with_tune(
            self._find_maker(made).make_variant(made.request, keep=keep, **changes)
        )

    def restore_tune(self, payload: bytes) -> WorkerAnswer:
        """Bring a tune back from the bytes of its file."""
        with resource_limits():
            text = join_recipe_remarks(formats.midi.read_text_events(payload))
            score = read_first_tune(payload, ".mid")
        if text is None:
            raise NotFound("the file holds no recipe, so musicgen did not write it")
        made = Recipe.from_text(text)
        if hash_notes(score) != made.notes_hash:
            raise InvalidValue("its notes were edited since it was written: start from them as a"
                               " primer")  # fmt: skip
        return self.answer_with_tune(self.get_tune(text))

    def sample_preview(self, _: bytes, run: str) -> WorkerAnswer:
        """Write the tune that a run's best model so far is heard by."""
        folders = {path.name: path for path in self.runs.glob("[!.]*")}
        if run not in folders or not list_checkpoint_folders(folders[run]):
            raise NotFound("the run has no model yet: wait until it has judged one")
        model = self._load_model(folders[run])
        return self.answer_with_tune(model.sample(seed=PREVIEW_SEED))

    def answer_with_tune(self, tune: Tune) -> WorkerAnswer:
        """Return all that there is to say of a tune; it stays at hand."""
        if tune.text is not None:
            raise InvalidValue(f"a model of codec {tune.codec} writes text: read it with musicgen"
                               " sample --out song.txt")  # fmt: skip
        recipe = tune.recipe.to_text()
        id_ = tune_id(recipe)
        self._cache_tune(id_, tune)
        order = tune.recipe.request
        told = {"wishes": order.options.to_dict(), "seed": order.seed}
        body = json.dumps({"id": id_} | told | tune_to_json(tune), separators=(",", ":")).encode()
        return WorkerAnswer({"id": id_, "recipe": recipe}, zlib.compress(body, 1))

    # What is made of tunes

    def render_file(self, _: bytes, recipe: str, suffix: str) -> WorkerAnswer:
        """Return the bytes of a tune's file, and a name for it."""
        tune = self.get_tune(recipe)
        return WorkerAnswer(
            {"name": make_file_name(tune.score.title)}, render_tune_file(tune, suffix)
        )

    def compare_tunes(self, _: bytes, recipe_a: str, recipe_b: str) -> WorkerAnswer:
        """Say where two tunes differ."""
        return WorkerAnswer(
            compare_scores(self.get_tune(recipe_a).score, self.get_tune(recipe_b).score)
        )

    def describe_files(self, payload: bytes, sizes: list[int]) -> WorkerAnswer:
        """Say of some files what tunes they hold; None of those that hold none of ours."""
        return WorkerAnswer(
            {"files": [_describe_file(data) for data in _split_payload(payload, sizes)]}
        )

    # What is at hand

    def get_tune(self, recipe: str) -> Tune:
        """Return the tune of a recipe, drawn again if need be."""
        id_, made = tune_id(recipe), Recipe.from_text(recipe)
        maker = self._find_maker(made)
        if id_ not in self._tunes:
            self._cache_tune(id_, maker.sample_request(made.request))
        self._tunes.move_to_end(id_)
        return self._tunes[id_]

    def _cache_tune(self, id_: str, tune: Tune) -> None:
        self._tunes[id_] = tune
        while len(self._tunes) > MAX_CACHED_TUNES:
            self._tunes.popitem(last=False)

    def _find_maker(self, recipe: Recipe) -> Model:
        """Return the model that made a tune, whatever its folder is called.

        The name comes out of a file, so it is only looked up. Raises NotFound, or Mismatch for
        another of that name.
        """
        for folder in self._find_folders(recipe.model.name):
            with suppress(DamagedCheckpoint):
                model = self._load_model(folder)
                if model.name.fingerprint == recipe.model.fingerprint:
                    return model
        model = self.get_model(recipe.model.name)
        recipe.check(model.name, "the tune")
        return model

    def _find_folders(self, name: str) -> Iterator[Path]:
        """Yield the listed folder of a name, then others whose model calls itself so."""
        found = list_models(self.runs)
        if name in found:
            yield found[name]
        for other, folder in found.items():
            if other != name and name in _read_model_names(folder):
                yield folder

    def get_model(self, name: str) -> Model:
        """Return a model by a name out of the list. Raises NotFound for any other."""
        found = list_models(self.runs)
        if name not in found:
            raise NotFound(f"model {name[:60]!r} is unknown: there are {', '.join(found)}")
        return self._load_model(found[name])

    def _load_model(self, folder: Path) -> Model:
        stamp = get_model_stamp(folder)
        if self._models.get(folder, (None,))[0] != stamp:
            self._models[folder] = stamp, _with_progress(load(folder), self.progress)
        self._models.move_to_end(folder)
        while len(self._models) > MAX_CACHED_MODELS:
            self._models.popitem(last=False)
        return self._models[folder][1]


def _read_model_names(folder: Path) -> Iterator[str]:
    """Yield what the manifests in a model's folder call it; a damaged one calls it nothing."""
    for place in list_checkpoint_folders(folder):
        with suppress(MusicgenError):
            yield str(read_manifest(place, FORMAT).get("name"))


def _with_progress(model: Model, progress: ProgressWriter) -> Model:
    checkpoint: Checkpoint = model.checkpoint
    return ModelWithProgress(checkpoint, model.codec, progress=progress)


def parse_primer(data: bytes, suffix: str) -> Score:
    """Read a primer, within limits. Raises MusicgenError for one that cannot be read."""
    if suffix not in PRIMER_SUFFIXES:
        raise InvalidValue(f"primer: a file of the suffix {suffix[:20]!r} cannot be read here;"
                           f" known are {', '.join(PRIMER_SUFFIXES)}")  # fmt: skip
    with resource_limits():
        return read_first_tune(data, suffix)


def read_first_tune(data: bytes, suffix: str) -> Score:
    """Return the first tune of some bytes. Raises MusicgenError."""
    for found in formats.iter_tunes(data, suffix, "primer"):
        if isinstance(found, Score):
            return found
        raise InvalidValue(str(found))
    raise InvalidValue("the primer has no tunes")


def _split_payload(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size


def _describe_file(data: bytes) -> dict[str, Any] | None:
    """Say what tune a file holds, None where it holds none that can be brought back."""
    try:
        with resource_limits():
            text = join_recipe_remarks(formats.midi.read_text_events(data))
            score = read_first_tune(data, ".mid") if text is not None else None
            if text is None or score is None:
                return None
            made = Recipe.from_text(text)
            if hash_notes(score) != made.notes_hash:
                return None
    except MusicgenError:
        return None
    drawn = made.request.drawn
    found = {"id": tune_id(text), "title": _truncate(score.title), "key": "", "meter": "",
             "bars": 0, "seconds": round(duration(score), 1)}  # fmt: skip
    if drawn is None and made.request.options.heard_bars is None:
        return found  # its model writes no bars
    return found | {
        "key": _truncate(str(score.key)),
        "meter": _truncate(str(drawn.meter if drawn and drawn.meter else score.meter)),
        "bars": made.request.options.heard_bars or _count_bars(score),
    }


def _truncate(text: str) -> str:
    """Return the beginning of what a file says, as text that can be sent."""
    return text[:MAX_LABEL_LENGTH].encode("utf-8", "replace").decode()


def _count_bars(score: Score) -> int:
    """Return the bars heard of a tune as MIDI has it, where pickups and partners are no more."""
    return round(score.end / score.meter.steps)
