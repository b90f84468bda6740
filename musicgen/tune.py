"""Models by name, and the tunes that they write.

model = load("folk")
tune = model.sample(key="Dmix", bars=32, seed=7)
tune.write("song.mid")
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from musicgen import formats
from musicgen.checkpoint import Checkpoint, places
from musicgen.checkpoint import load as load_checkpoint
from musicgen.errors import InvalidValue, NotFound
from musicgen.files import refuse_existing, write_whole
from musicgen.music.grid import heard_bars
from musicgen.music.score import Score
from musicgen.sampling.draw import Noise
from musicgen.sampling.plain import PlainSampler, sampler_of
from musicgen.sampling.sampler import Sampler
from musicgen.sampling.wishes import Wishes
from musicgen.tokens.codec import AnyCodec, Encoded, Setting
from musicgen.tokens.codecs import restored
from musicgen.tokens.measures import MeasuresCodec

if TYPE_CHECKING:
    import pretty_midi

RUNS: Final = Path("checkpoints")  # where `train` puts a user's own models
_PACKAGE: Final = Path(__file__).parent
_SHIPPED: Final = (_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints")
# What a codec's tunes are written as, where that is not every format; text is as the corpus has it.
WRITABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "performance": (".mid", ".midi"),
    "frames": (".mid", ".midi"),
    "frames-16": (".mid", ".midi"),
    "text": (".txt", ".abc"),
    "text-words": (".txt", ".abc"),
}
_FEW: Final = 8  # tunes that are drawn sooner than a second process starts


@dataclass(frozen=True)
class Tune:
    """A tune that a model wrote."""

    score: Score
    seed: int
    number: int  # of the tunes of this seed, from 0
    codec: str = "measures"
    text: str | None = None  # what a model of text wrote; its score is empty

    @property
    def bars(self) -> int:
        """Bars as heard."""
        return heard_bars(self.score)

    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Write it in the format of the suffix. Raises OutputExists, NotFound or WriteFailed."""
        if self.text is None:
            formats.write(self.score, path, force=force)
            return
        refuse_existing([Path(path)], force=force)
        write_whole(Path(path), f"{self.text}\n".encode(), force=force)

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """Return what is played as a `pretty_midi` object."""
        return formats.midi.to_pretty_midi(self.score)


@dataclass(frozen=True)
class Model:
    """A trained model, ready to write tunes."""

    checkpoint: Checkpoint
    codec: AnyCodec = field(default_factory=MeasuresCodec)

    @cached_property
    def sampler(self) -> Sampler | PlainSampler:
        """The checkpoint's engine, and what it has learnt."""
        return sampler_of(self.checkpoint, self.codec)

    @property
    def writable(self) -> tuple[str, ...]:
        """The suffixes of the files that its tunes can be written to."""
        return WRITABLE.get(self.codec.name, formats.WRITABLE)

    def sample(self, *, seed: int | None = None, number: int = 0, **wishes: Any) -> Tune:
        """Write a tune; the wishes are those of `Wishes`, keys and meters also as text.

        Raises InvalidValue for a wish that is out of range or that the model has never met.
        """
        chosen = secrets.randbelow(2**31) if seed is None else seed
        return self.draw(Wishes.read(**wishes), chosen, number)

    def draw(self, wishes: Wishes, seed: int, number: int = 0) -> Tune:
        """Write tune `number` of a seed."""
        return self.tune(self.sampler.encoded(wishes, Noise(seed, number)), seed, number)

    def tune(self, encoded: Encoded, seed: int, number: int) -> Tune:
        """Make the tune of what was drawn."""
        piece = self.codec.decode(encoded.ids, encoded.setting).piece
        if isinstance(piece, str):
            return Tune(Score(), seed, number, self.codec.name, piece)
        return Tune(piece, seed, number, self.codec.name)


def find(model: str | Path) -> Path:
    """Return the folder of a model: a path, a run of one's own, or one that is shipped."""
    named = Path(model)
    for folder in (named, RUNS / named, *(place / named for place in _SHIPPED)):
        if places(folder):
            return folder
    if (RUNS / named / "progress").is_dir():
        raise NotFound(f"{model}: the run has no checkpoint yet; wait until it has judged one")
    if named.is_dir() or (RUNS / named).is_dir():
        raise NotFound(f"{model}: the folder has no manifest.json: it is no complete checkpoint")
    known = sorted({found.name for at in (RUNS, *_SHIPPED) for found in at.glob("[!.]*")
                    if places(found)})  # fmt: skip
    raise NotFound(f"model {str(model)!r} is unknown: there are {', '.join(known) or 'none'};"
                   " or name the folder of a run")  # fmt: skip


def load(model: str | Path = "folk") -> Model:
    """Load a model by name or folder. Raises NotFound, DamagedCheckpoint or Mismatch."""
    folder = find(model)
    checkpoint = load_checkpoint(folder)
    codec = restored(checkpoint.manifest.codec, checkpoint.vocabulary, str(folder))
    return Model(checkpoint, codec)


def check_writable(files: Iterable[Path], suffixes: Sequence[str] = formats.WRITABLE) -> None:
    """Raise InvalidValue for the first name that has none of the suffixes."""
    for file in files:
        if file.suffix.lower() not in suffixes:
            raise InvalidValue(f"{file}: write one of {', '.join(suffixes)}")


def sample_many(
    model: Model, wishes: Wishes, *, seed: int, count: int, jobs: int | None = None
) -> Iterator[Tune]:
    """Yield tunes 0..count-1 of a seed in order, drawn in processes where there are many.

    Tune k is the same, whatever the count and the number of processes.
    """
    jobs = min(jobs or os.cpu_count() or 1, count)
    if jobs == 1 or count <= _FEW:
        yield from (model.draw(wishes, seed, number) for number in range(count))
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each process has a core of its own
    start = str(model.checkpoint.folder.resolve()), wishes.to_json(), seed
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, start) as pool:
        for number, answer in enumerate(pool.map(_draw_in_worker, range(count), chunksize=4)):
            yield model.tune(_drawn(answer), seed, number)


_at_work: list[tuple[Model, Wishes, int]] = []  # what a worker process draws from


def _start_worker(folder: str, wishes: str, seed: int) -> None:
    _at_work[:] = [(load(folder), Wishes.from_json(wishes), seed)]


def _draw_in_worker(number: int) -> bytes:
    """Draw one tune in a worker; text goes back, for no objects go between processes."""
    model, wishes, seed = _at_work[0]
    encoded = model.sampler.encoded(wishes, Noise(seed, number))
    return json.dumps([encoded.ids, encoded.setting.to_json()]).encode()


def _drawn(answer: bytes) -> Encoded:
    ids, setting = json.loads(answer)
    return Encoded(tuple(ids), Setting.from_json(setting))
