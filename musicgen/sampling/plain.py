"""One piece of any codec but `measures` from an engine, id by id, under the codec's grammar.

The noise of an id belongs to the seed, the piece and how many ids stand before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from musicgen.checkpoint import Checkpoint
from musicgen.config import BEGIN
from musicgen.errors import InvalidValue
from musicgen.music.score import Part, Score
from musicgen.sampling.draw import Noise, event_hashes, luckiest
from musicgen.sampling.engine import Engine, NumpyEngine
from musicgen.sampling.sampler import Sampler
from musicgen.sampling.veto import Guard
from musicgen.sampling.wishes import Wishes
from musicgen.tokens.codec import AnyCodec, Encoded, Setting
from musicgen.tokens.measures import MeasuresCodec

EVERY: Final = ("temperature", "top_k", "top_p", "min_p")  # what all codecs understand
ALSO: Final = {"performance": ("program",), "frames": ("program", "tempo"),
               "frames-16": ("program", "tempo")}  # fmt: skip
DEFAULT_QPM: Final = 120.0


@dataclass(frozen=True)
class PlainSampler:
    """An engine, the codec of its ids, and which of them it has met."""

    engine: Engine
    codec: AnyCodec
    seen: Collection[int]

    def sample(self, wishes: Wishes, noise: Noise) -> Score | str:
        """Draw one piece. Raises InvalidValue for a wish that the codec does not understand."""
        encoded = self.encoded(wishes, noise)
        piece: Score | str = self.codec.decode(encoded.ids, encoded.setting).piece
        return piece

    def encoded(self, wishes: Wishes, noise: Noise, most: int | None = None) -> Encoded:
        """Draw one piece, or only so many ids of it, with the setting that belongs to it."""
        refuse_others(wishes, self.codec.name)
        name = self.codec.name.split("-")[0].capitalize()
        setting = Setting(
            title=f"{name}, no. {noise.seed}-{noise.tune + 1}",
            tempos=((0, float(wishes.tempo or DEFAULT_QPM)),),
            parts=(Part("", wishes.program),),
        )
        return Encoded(tuple(self.draw_ids(wishes, noise, most)), setting)

    def draw_ids(self, wishes: Wishes, noise: Noise, most: int | None = None) -> list[int]:
        """Draw the ids of one piece, to its end, or only so many of them."""
        walk, state, filters = self.codec.walk(), self.engine.start(), wishes.filters
        ids, met = [BEGIN], list[int]()
        legal: tuple[int, ...] = ()
        while not walk.done and (most is None or len(ids) <= most):
            logits, state = self.engine.step(ids[-1:], None, state)
            before, legal = legal, walk.legal()
            if legal is not before:  # a text offers the same thousands each time
                met = [id_ for id_ in legal if id_ in self.seen] or list(legal)
            luck = partial(noise.at, 0, len(ids), self._hashes[met])
            ids.append(luckiest(logits, met, filters, luck))
            walk.take(ids[-1])
        return ids[1:]

    @cached_property
    def _hashes(self) -> npt.NDArray[np.uint64]:
        return event_hashes(self.codec.vocabulary.names)


def sampler_of(
    checkpoint: Checkpoint, codec: AnyCodec, guards: Callable[[int], Guard] | None = None
) -> Sampler | PlainSampler:
    """Return what writes the tunes of a checkpoint: its engine, and what it has learnt.

    guards: what knows its training tunes' runs, for a limit in notes.
    """
    manifest = checkpoint.manifest
    seen = frozenset(id_ for id_, count in enumerate(manifest.seen) if count)
    engine = NumpyEngine.of(checkpoint)
    if manifest.codec == MeasuresCodec.name:
        return Sampler(engine, seen, manifest.corpus.get("tonics", {}), guards)
    return PlainSampler(engine, codec, seen)


def refuse_others(wishes: Wishes, codec: str) -> None:
    """Raise InvalidValue for the first wish that a codec does not understand."""
    known = (*EVERY, *ALSO.get(codec, ()))
    plain: dict[str, Any] = {name: getattr(Wishes(), name) for name in Wishes.__slots__}
    for name, default in plain.items():
        if name not in known and getattr(wishes, name) != default:
            options = ", ".join(f"--{option.replace('_', '-')}" for option in known)
            raise InvalidValue(
                f"--{name} means nothing to a model of codec {codec}: it understands {options}"
            )
