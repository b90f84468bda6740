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
from musicgen.checkpoint import FORMAT, Checkpoint, places, read_manifest
from musicgen.errors import DamagedCheckpoint, InvalidValue, MusicgenError, NotFound
from musicgen.music.score import Score
from musicgen.render.timeline import duration
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.recipe import Order, Recipe, found_in, hash_of
from musicgen.sampling.sampler import PlainSampler, Sampler
from musicgen.sampling.surprisal import Surprise, surprise
from musicgen.tokens.vocabulary import MEASURES
from musicgen.tune import Model, Tune, known, load
from musicgen.web.model_list import stamp_of, tune_id
from musicgen.web.serializers import differences, file_name, file_of, shown
from musicgen.web.worker_protocol import Answer, Tell, guarded

MODELS_WARM: Final = 3
TUNES_WARM: Final = 64
MOST_WORDS: Final = 200  # characters of what a file says of itself, on the shelf
HEARD_SEED: Final = 1
PRIMERS: Final = (".abc", ".mid", ".midi")
_BAR: Final = MEASURES.id("bar")


class CountingEngine(NumpyEngine):
    """An engine that tells of each bar that it is fed."""

    tell: Tell | None = None

    def advance(self, number: int, state: Any) -> None:
        """Feed one id."""
        if number == _BAR and self.tell is not None:
            self.tell.bar()
        super().advance(number, state)


@dataclass(frozen=True, repr=False)
class WatchedModel(Model):
    """A model whose tunes can be followed while they are written."""

    tell: Tell | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sampler(self) -> Sampler | PlainSampler:
        """The sampler, with an engine that counts."""
        engine = CountingEngine.of(self.checkpoint)
        assert isinstance(engine, CountingEngine)
        engine.tell = self.tell if self.codec.name == "measures" else None
        return replace(super().sampler, engine=engine)

    @cached_property
    def _listener(self) -> NumpyEngine:
        return NumpyEngine.of(self.checkpoint)

    def surprise(self, piece: Score | str) -> Surprise:
        """Return the bits of each note, from an engine that has heard tunes before."""
        return surprise(self._listener, self.codec, piece)


@dataclass
class Craft:
    """The models and tunes that a worker has at hand, and what it does with them."""

    runs: Path
    tell: Tell
    _models: OrderedDict[Path, tuple[object, Model]] = field(default_factory=OrderedDict)
    _tunes: OrderedDict[str, Tune] = field(default_factory=OrderedDict)

    def answer(self, request: dict[str, Any], payload: bytes) -> Answer:
        """Do what a request names. Raises MusicgenError."""
        todo: dict[str, Callable[..., Answer]] = {
            "warm": self.warm, "sample": self.sample, "tweak": self.tweak,
            "recall": self.recall, "file": self.file, "differences": self.differences,
            "describe": self.describe, "heard": self.heard,
        }  # fmt: skip
        return todo[request.pop("do")](payload, **request)

    def warm(self, _: bytes, model: str) -> Answer:
        """Get ready for what is asked first."""
        self.show(self.model(model).sample(bars=2, seed=1))
        return Answer({})

    # Writing

    def sample(
        self, payload: bytes, model: str, wishes: dict[str, Any], seed: int, primer: str | None
    ) -> Answer:
        """Write a tune, from a primer's bytes if there are any."""
        loaded = self.model(model)
        order = Order(loaded.complete_wishes(wishes, has_primer=primer is not None), seed)
        if primer is not None:
            order = loaded.primed(order, parsed(payload, primer))
        return self.show(loaded.written(order, loaded.remarks_on(order)))

    def tweak(
        self, _: bytes, recipe: str, wishes: dict[str, Any], seed: int | None, keep: str | None
    ) -> Answer:
        """Write a near variant of a tune."""
        made = Recipe.from_text(recipe)
        changes = wishes | ({} if seed is None else {"seed": seed})
        return self.show(self._maker(made).variant(made.order, keep=keep, **changes))

    def recall(self, payload: bytes) -> Answer:
        """Bring a tune back from the bytes of its file."""
        with guarded():
            text = found_in(formats.midi.text_events(payload))
            score = first_of(payload, ".mid")
        if text is None:
            raise NotFound("the file holds no recipe, so musicgen did not write it")
        made = Recipe.from_text(text)
        if hash_of(score) != made.notes:
            raise InvalidValue("its notes were edited since it was written: start from them as a"
                               " primer")  # fmt: skip
        return self.show(self.tune(text))

    def heard(self, _: bytes, run: str) -> Answer:
        """Write the tune that a run's best model so far is heard by."""
        folders = {path.name: path for path in self.runs.glob("[!.]*")}
        if run not in folders or not places(folders[run]):
            raise NotFound("the run has no model yet: wait until it has judged one")
        model = self._loaded(folders[run])
        return self.show(model.sample(seed=HEARD_SEED))

    def show(self, tune: Tune) -> Answer:
        """Return all that there is to say of a tune; it stays at hand."""
        if tune.text is not None:
            raise InvalidValue(f"a model of codec {tune.codec} writes text: read it with musicgen"
                               " sample --out song.txt")  # fmt: skip
        recipe = tune.recipe.to_text()
        id_ = tune_id(recipe)
        self._hold(id_, tune)
        order = tune.recipe.order
        told = {"wishes": order.wishes.said(), "seed": order.seed}
        body = json.dumps({"id": id_} | told | shown(tune), separators=(",", ":")).encode()
        return Answer({"id": id_, "recipe": recipe}, zlib.compress(body, 1))

    # What is made of tunes

    def file(self, _: bytes, recipe: str, suffix: str) -> Answer:
        """Return the bytes of a tune's file, and a name for it."""
        tune = self.tune(recipe)
        return Answer({"name": file_name(tune.score.title)}, file_of(tune, suffix))

    def differences(self, _: bytes, recipe_a: str, recipe_b: str) -> Answer:
        """Say where two tunes differ."""
        return Answer(differences(self.tune(recipe_a).score, self.tune(recipe_b).score))

    def describe(self, payload: bytes, sizes: list[int]) -> Answer:
        """Say of some files what tunes they hold; None of those that hold none of ours."""
        return Answer({"files": [_described(data) for data in _pieces(payload, sizes)]})

    # What is at hand

    def tune(self, recipe: str) -> Tune:
        """Return the tune of a recipe, drawn again if need be."""
        id_, made = tune_id(recipe), Recipe.from_text(recipe)
        maker = self._maker(made)
        if id_ not in self._tunes:
            self._hold(id_, maker.written(made.order))
        self._tunes.move_to_end(id_)
        return self._tunes[id_]

    def _hold(self, id_: str, tune: Tune) -> None:
        self._tunes[id_] = tune
        while len(self._tunes) > TUNES_WARM:
            self._tunes.popitem(last=False)

    def _maker(self, made: Recipe) -> Model:
        """Return the model that made a tune, whatever its folder is called.

        The name comes out of a file, so it is only looked up. Raises NotFound, or Mismatch for
        another of that name.
        """
        for folder in self._folders_of(made.model.name):
            with suppress(DamagedCheckpoint):
                model = self._loaded(folder)
                if model.name.fingerprint == made.model.fingerprint:
                    return model
        model = self.model(made.model.name)
        made.check(model.name, "the tune")
        return model

    def _folders_of(self, name: str) -> Iterator[Path]:
        """Yield the listed folder of a name, then others whose model calls itself so."""
        found = known(self.runs)
        if name in found:
            yield found[name]
        for other, folder in found.items():
            if other != name and name in _names_of(folder):
                yield folder

    def model(self, name: str) -> Model:
        """Return a model by a name out of the list. Raises NotFound for any other."""
        found = known(self.runs)
        if name not in found:
            raise NotFound(f"model {name[:60]!r} is unknown: there are {', '.join(found)}")
        return self._loaded(found[name])

    def _loaded(self, folder: Path) -> Model:
        stamp = stamp_of(folder)
        if self._models.get(folder, (None,))[0] != stamp:
            self._models[folder] = stamp, _watched(load(folder), self.tell)
        self._models.move_to_end(folder)
        while len(self._models) > MODELS_WARM:
            self._models.popitem(last=False)
        return self._models[folder][1]


def _names_of(folder: Path) -> Iterator[str]:
    """Yield what the manifests in a model's folder call it; a damaged one calls it nothing."""
    for place in places(folder):
        with suppress(MusicgenError):
            yield str(read_manifest(place, FORMAT).get("name"))


def _watched(model: Model, tell: Tell) -> Model:
    checkpoint: Checkpoint = model.checkpoint
    return WatchedModel(checkpoint, model.codec, tell=tell)


def parsed(data: bytes, suffix: str) -> Score:
    """Read a primer, within limits. Raises MusicgenError for one that cannot be read."""
    if suffix not in PRIMERS:
        raise InvalidValue(f"primer: a file of the suffix {suffix[:20]!r} cannot be read here;"
                           f" known are {', '.join(PRIMERS)}")  # fmt: skip
    with guarded():
        return first_of(data, suffix)


def first_of(data: bytes, suffix: str) -> Score:
    """Return the first tune of some bytes. Raises MusicgenError."""
    for found in formats.each(data, suffix, "primer"):
        if isinstance(found, Score):
            return found
        raise InvalidValue(str(found))
    raise InvalidValue("the primer has no tunes")


def _pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size


def _described(data: bytes) -> dict[str, Any] | None:
    """Say what tune a file holds, None where it holds none that can be brought back."""
    try:
        with guarded():
            text = found_in(formats.midi.text_events(data))
            score = first_of(data, ".mid") if text is not None else None
            if text is None or score is None:
                return None
            made = Recipe.from_text(text)
            if hash_of(score) != made.notes:
                return None
    except MusicgenError:
        return None
    drawn = made.order.drawn
    found = {"id": tune_id(text), "title": _cut(score.title), "key": "", "meter": "",
             "bars": 0, "seconds": round(duration(score), 1)}  # fmt: skip
    if drawn is None and made.order.wishes.heard is None:
        return found  # its model writes no bars
    return found | {
        "key": _cut(str(score.key)),
        "meter": _cut(str(drawn.meter if drawn and drawn.meter else score.meter)),
        "bars": made.order.wishes.heard or _bars_of(score),
    }


def _cut(text: str) -> str:
    """Return the beginning of what a file says, as text that can be sent."""
    return text[:MOST_WORDS].encode("utf-8", "replace").decode()


def _bars_of(score: Score) -> int:
    """Return the bars heard of a tune as MIDI has it, where pickups and partners are no more."""
    return round(score.end / score.meter.steps)
