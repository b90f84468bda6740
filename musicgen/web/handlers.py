"""The request handlers of a worker: sample, vary, restore, render, compare and describe tunes."""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musicgen import formats
from musicgen.checkpoint import FORMAT, Checkpoint, list_checkpoint_folders, read_manifest
from musicgen.errors import DamagedCheckpoint, InvalidValue, MusicgenError, NotFound
from musicgen.model_folders import list_models
from musicgen.music.accompaniment import split_accompaniment
from musicgen.music.score import Score
from musicgen.render.html_page import make_file_name
from musicgen.render.timeline import duration
from musicgen.render.tune_json import surprise_to_json
from musicgen.sampling.chord_sheets import format_chord_sheet
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.generate import Generated
from musicgen.sampling.primer_choice import PrimerChoice
from musicgen.sampling.recipe import GenerationRequest, Recipe, hash_notes, join_recipe_remarks
from musicgen.sampling.sampler import GenericSampler, Sampler
from musicgen.sampling.surprisal import Surprise, measure_surprise
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import Model, load
from musicgen.tune import Tune
from musicgen.web.limits import MAX_LABEL_LENGTH, PRIMER_SUFFIXES, resource_limits
from musicgen.web.models_and_runs import get_model_stamp, tune_id
from musicgen.web.serializers import (
    compare_scores,
    file_to_json,
    render_tune_file,
    tune_to_json,
)
from musicgen.web.worker_process import ProgressWriter, WorkerAnswer

MAX_CACHED_MODELS: Final = 3
MAX_CACHED_TUNES: Final = 64
PREVIEW_SEED: Final = 1
_BAR: Final = MEASURES.id("bar")
Float32Array: TypeAlias = NDArray[np.float32]


class CountingEngine(NumpyEngine):
    """An engine that reports each bar line it is fed."""

    progress: ProgressWriter | None = None

    def advance(self, id_: int, state: Float32Array, fields: Sequence[int] = ()) -> None:
        """Feed one token id, and report a bar line.

        Args:
            id_: the token id.
            state: (layer, part, hidden) float32, replaced by the next state.
            fields: the score context after the id, for a model that reads it.
        """
        if id_ == _BAR and self.progress is not None:
            self.progress.count_bar()
        super().advance(id_, state, fields)


@dataclass(frozen=True, repr=False)
class ModelWithProgress(Model):
    """A model that reports progress while it samples."""

    progress: ProgressWriter | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sampler(self) -> Sampler | GenericSampler:
        """The sampler, with an engine that reports bars."""
        engine = CountingEngine.of(self.checkpoint)
        assert isinstance(engine, CountingEngine)
        engine.progress = self.progress if self.codec.has_bars else None
        return replace(super().sampler, engine=engine)

    @cached_property
    def _surprisal_engine(self) -> NumpyEngine:
        return NumpyEngine.of(self.checkpoint)

    def measure_surprise(self, piece: Score | str) -> Surprise:
        """Return the bits of each note, measured with an engine that is reused between tunes."""
        return measure_surprise(self._surprisal_engine, self.codec, piece)


@dataclass
class RequestHandlers:
    """The handlers of all requests, with a cache of models and tunes.

    Args:
        runs: folder of the run folders.
        progress: receives the bars written so far.
    """

    runs: Path
    progress: ProgressWriter
    _models: OrderedDict[Path, tuple[object, Model]] = field(default_factory=OrderedDict)
    _tunes: OrderedDict[str, Tune] = field(default_factory=OrderedDict)

    def answer(self, request: dict[str, Any], payload: bytes) -> WorkerAnswer:
        """Handle a request, whose "do" names the handler. Raises MusicgenError."""
        handlers: dict[str, Callable[..., WorkerAnswer]] = {
            "warm": self.warm,
            "sample": self.sample,
            "tweak": self.tweak,
            "recall": self.restore_tune,
            "file": self.render_file,
            "differences": self.compare_tunes,
            "surprise": self.measure_surprise,
            "parts": self.list_parts,
            "describe": self.describe_files,
            "heard": self.sample_preview,
        }
        return handlers[request.pop("do")](payload, **request)

    def warm(self, _: bytes, model: str) -> WorkerAnswer:
        """Load a model, and sample with it once."""
        self.answer_with_tune(self.get_model(model).sample(bars=2, seed=1))
        return WorkerAnswer({})

    # Sampling

    def sample(
        self,
        payload: bytes,
        model: str,
        wishes: dict[str, Any],
        seed: int,
        primer: str | None = None,
        primer_part: str = "",
        primer_bars: str = "",
        primer_seconds: str = "",
        given: str | None = None,
        given_parts: str | None = None,
        chords: str | None = None,
    ) -> WorkerAnswer:
        """Sample a tune.

        Args:
            payload: the bytes of the primer, or of the given parts.
            model: name of the model.
            wishes: sampling options by name.
            seed: random seed.
            primer: suffix of the primer's format, or None.
            primer_part: name or number of the primer's part to take; "" for its melody.
            primer_bars: the bars of it to take, such as "1-8"; "" for all.
            primer_seconds: the seconds of it to take, such as "0-15"; "" for all.
            given: suffix of the format of the given parts, or None.
            given_parts: which of them stay, such as "melody:1-8,drums"; None for all.
            chords: that a melody is written to, bar by bar, or None.
        """
        loaded = self.get_model(model)
        has_notes = any(value is not None for value in (primer, given, chords))
        request = GenerationRequest(loaded.complete_options(wishes, has_primer=has_notes), seed)
        if primer is not None:
            choice = PrimerChoice.parse(primer_part, primer_bars or None, primer_seconds or None)
            is_live = isinstance(loaded.codec, PerformanceCodec)
            score = parse_notes(payload, primer, as_performance=is_live)
            request = loaded.add_primer(request, score, choice)
        if given is not None:
            score = parse_notes(payload, given, "given")
            request = loaded.add_given(request, score, given_parts)
        if chords is not None:
            request = loaded.add_chords(request, chords)
        messages = loaded.collect_messages(request)
        return self.answer_with_tune(loaded.sample_request(request, messages))

    def tweak(
        self,
        _: bytes,
        recipe: str,
        wishes: dict[str, Any],
        seed: int | None,
        keep: str | None,
        drawn: str | None = None,
    ) -> WorkerAnswer:
        """Make a variant of the tune of a recipe.

        Args:
            recipe: of the tune.
            wishes: the options that change.
            seed: random seed; None for that of the tune.
            keep: bars and parts that stay.
            drawn: the ids of the tune; None: they are drawn again if needed.
        """
        parsed = Recipe.from_text(recipe)
        changes = wishes | ({} if seed is None else {"seed": seed})
        model = self._find_model(parsed)
        if drawn is not None:
            model.remember(parsed.request, Generated.from_json(drawn))
        return self.answer_with_tune(model.make_variant(parsed.request, keep=keep, **changes))

    def restore_tune(self, payload: bytes) -> WorkerAnswer:
        """Restore a tune from the bytes of its file.

        Raises:
            NotFound: the file has no recipe.
            InvalidValue: its notes are not those of the recipe.
        """
        with resource_limits():
            text = join_recipe_remarks(formats.midi.read_text_events(payload))
            score = read_first_tune(payload, ".mid")
        if text is None:
            raise NotFound("the file has no recipe; choose a file that musicgen wrote")
        if hash_notes(score) != Recipe.from_text(text).notes_hash:
            raise InvalidValue("the notes were edited after musicgen wrote the file; use it as a"
                               " primer")  # fmt: skip
        return self.answer_with_tune(self.get_tune(text))

    def sample_preview(self, _: bytes, run: str) -> WorkerAnswer:
        """Sample the preview tune of a training run with its best model so far.

        Raises:
            NotFound: the run does not exist, or has no model yet.
        """
        folders = {path.name: path for path in self.runs.glob("[!.]*")}
        if run not in folders or not list_checkpoint_folders(folders[run]):
            raise NotFound("the run has no model yet; wait for its first evaluation")
        model = self._load_model(folders[run])
        return self.answer_with_tune(model.sample(seed=PREVIEW_SEED))

    def answer_with_tune(self, tune: Tune) -> WorkerAnswer:
        """Cache a tune, and return its JSON.

        Raises:
            InvalidValue: the tune is text.
        """
        if tune.text is not None:
            raise InvalidValue(f"a model of codec {tune.codec} writes text; use musicgen sample"
                               " --out song.txt")  # fmt: skip
        recipe = tune.recipe.to_text()
        id_ = tune_id(recipe)
        self._cache_tune(id_, tune)
        request = tune.recipe.request
        head = {"id": id_, "wishes": request.options.to_dict(), "seed": request.seed,
                "chords": format_chord_sheet(tune.score)}  # fmt: skip
        body = json.dumps(head | tune_to_json(tune), separators=(",", ":")).encode()
        drawn = tune.model.recall(request) if isinstance(tune.model, Model) else None
        return WorkerAnswer(
            {"id": id_, "recipe": recipe, "drawn": drawn.to_json() if drawn else None},
            zlib.compress(body, 1),
        )

    # Files and comparisons

    def render_file(
        self, _: bytes, recipe: str, suffix: str, drawn: str | None = None
    ) -> WorkerAnswer:
        """Return the bytes of a tune's file, and a name for the download."""
        tune = self.get_tune(recipe, drawn)
        return WorkerAnswer(
            {"name": make_file_name(tune.score.title)}, render_tune_file(tune, suffix)
        )

    def compare_tunes(
        self, _: bytes, a: dict[str, str | None], b: dict[str, str | None]
    ) -> WorkerAnswer:
        """Compare two tunes bar by bar; each is `recipe` and `drawn`, as in `tweak`."""
        scores = [self.get_tune(str(tune["recipe"]), tune["drawn"]).score for tune in (a, b)]
        return WorkerAnswer(compare_scores(*scores))

    def measure_surprise(self, _: bytes, recipe: str, drawn: str | None = None) -> WorkerAnswer:
        """Measure the bits of each note of a tune.

        Raises:
            InvalidValue: the tune is text.
        """
        tune = self.get_tune(recipe, drawn)
        return WorkerAnswer(surprise_to_json(tune.score, tune.surprise))

    def list_parts(self, payload: bytes, suffix: str) -> WorkerAnswer:
        """List the parts of a file."""
        return WorkerAnswer(file_to_json(parse_notes(payload, suffix, "the file")))

    def describe_files(self, payload: bytes, sizes: list[int]) -> WorkerAnswer:
        """Describe the tune in each file; null for a file that cannot be restored.

        Args:
            payload: the bytes of all files.
            sizes: bytes per file.
        """
        return WorkerAnswer(
            {"files": [_describe_file(data) for data in _split_payload(payload, sizes)]}
        )

    # Caches

    def get_tune(self, recipe: str, drawn: str | None = None) -> Tune:
        """Return the tune of a recipe; sample it again if neither it nor its ids are known."""
        id_, parsed = tune_id(recipe), Recipe.from_text(recipe)
        model = self._find_model(parsed)
        if id_ not in self._tunes:
            known = model.recall(parsed.request) if drawn is None else Generated.from_json(drawn)
            tune = (
                model.make_tune(parsed.request, known)
                if known
                else model.sample_request(parsed.request)
            )
            self._cache_tune(id_, tune)
        self._tunes.move_to_end(id_)
        return self._tunes[id_]

    def _cache_tune(self, id_: str, tune: Tune) -> None:
        self._tunes[id_] = tune
        while len(self._tunes) > MAX_CACHED_TUNES:
            self._tunes.popitem(last=False)

    def _find_model(self, recipe: Recipe) -> Model:
        """Return the model with the recipe's fingerprint, even if its folder was renamed.

        The name comes from a file, so it never becomes a path. Raises NotFound without a model of
        the name, Mismatch for another model of the name.
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
        """Yield the folder of a name, then folders whose manifests have the name."""
        folders = list_models(self.runs)
        if name in folders:
            yield folders[name]
        for folder_name, folder in folders.items():
            if folder_name != name and name in _read_model_names(folder):
                yield folder

    def get_model(self, name: str) -> Model:
        """Return a model by its name in the list of models.

        Raises:
            NotFound: the name is not in the list.
        """
        folders = list_models(self.runs)
        if name not in folders:
            raise NotFound(f"unknown model {name[:60]!r}; choose one of {', '.join(folders)}")
        return self._load_model(folders[name])

    def _load_model(self, folder: Path) -> Model:
        stamp = get_model_stamp(folder)
        if self._models.get(folder, (None,))[0] != stamp:
            self._models[folder] = stamp, _with_progress(load(folder), self.progress)
        self._models.move_to_end(folder)
        while len(self._models) > MAX_CACHED_MODELS:
            self._models.popitem(last=False)
        return self._models[folder][1]


def _read_model_names(folder: Path) -> Iterator[str]:
    """Yield the names in the manifests of a model's folder, without damaged ones."""
    for checkpoint_folder in list_checkpoint_folders(folder):
        with suppress(MusicgenError):
            yield str(read_manifest(checkpoint_folder, FORMAT).get("name"))


def _with_progress(model: Model, progress: ProgressWriter) -> Model:
    checkpoint: Checkpoint = model.checkpoint
    return ModelWithProgress(checkpoint, model.codec, progress=progress)


def parse_notes(
    data: bytes, suffix: str, field: str = "primer", *, as_performance: bool = False
) -> Score:
    """Parse a user's notes under resource limits.

    Args:
        data: the bytes of the file.
        suffix: of its format.
        field: of the request that has them, for messages.
        as_performance: whether to read it as it sounds, with a step of one millisecond.

    Raises:
        InvalidValue: the format is not supported, or the file has no tune.
    """
    if suffix not in PRIMER_SUFFIXES:
        raise InvalidValue(f"{field}: unsupported format {suffix[:20]!r}; choose one of"
                           f" {', '.join(PRIMER_SUFFIXES)}")  # fmt: skip
    with resource_limits():
        return read_first_tune(data, suffix, field, as_performance=as_performance)


def read_first_tune(
    data: bytes, suffix: str, field: str = "primer", *, as_performance: bool = False
) -> Score:
    """Return the first tune in the bytes of a file, without its accompaniment; see `parse_notes`.

    Raises:
        InvalidValue: the tune is refused, or there is none.
    """
    for tune in formats.iter_tunes(data, suffix, field, as_performance=as_performance):
        if isinstance(tune, Score):
            return split_accompaniment(tune)[0]
        raise InvalidValue(str(tune))
    raise InvalidValue(f"{field}: the file has no tunes; send one with notes")


def _split_payload(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size


def _describe_file(data: bytes) -> dict[str, Any] | None:
    """Return the fields of a `SavedTune`, or None for a file that cannot be restored."""
    try:
        with resource_limits():
            text = join_recipe_remarks(formats.midi.read_text_events(data))
            score = read_first_tune(data, ".mid") if text is not None else None
            if text is None or score is None:
                return None
            recipe = Recipe.from_text(text)
            if hash_notes(score) != recipe.notes_hash:
                return None
    except MusicgenError:
        return None
    drawn = recipe.request.drawn
    tune = {"id": tune_id(text), "title": _truncate(score.title), "key": "", "meter": "",
            "bars": 0, "seconds": round(duration(score), 1)}  # fmt: skip
    if drawn is None and recipe.request.options.heard_bars is None:
        return tune  # the model writes no bars
    return tune | {
        "key": _truncate(str(score.key)),
        "meter": _truncate(str(drawn.meter if drawn and drawn.meter else score.meter)),
        "bars": recipe.request.options.heard_bars or _count_bars(score),
    }


def _truncate(text: str) -> str:
    """Truncate a text of a file, and replace what UTF-8 cannot encode."""
    return text[:MAX_LABEL_LENGTH].encode("utf-8", "replace").decode()


def _count_bars(score: Score) -> int:
    """Return the number of bars heard of a tune from MIDI, which has no partial bars."""
    return round(score.end / score.meter.steps)
