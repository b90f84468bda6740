"""Measure how well parts of held-out pieces are predicted and drawn when the others are given.

python benchmarks/parts.py --model RUN --files FOLDER [--count N] [--drawn]
python benchmarks/parts.py --toy

FOLDER holds pieces that the model was not trained on. Each main part of each piece is left out in
turn. Its bits per note are measured in two orders: after the other parts, which are given bar by
bar, and alone. With --drawn, each part is also drawn around the others, and the consonance and
coincidence of all tunes stand beside those of the real pieces.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from musicgen import formats  # noqa: E402
from musicgen.errors import MusicgenError  # noqa: E402
from musicgen.evaluation.figures import Ratio  # noqa: E402
from musicgen.evaluation.part_figures import (  # noqa: E402
    measure_bass_with_drums,
    measure_consonance,
)
from musicgen.music.roles import assign_roles  # noqa: E402
from musicgen.music.score import Score  # noqa: E402
from musicgen.music.tune_content import TuneContent  # noqa: E402
from musicgen.sampling.engine import NumpyEngine  # noqa: E402
from musicgen.sampling.given_parts import GivenParts  # noqa: E402
from musicgen.sampling.kept_bars import KeptPart  # noqa: E402
from musicgen.sampling.noise import Noise  # noqa: E402
from musicgen.sampling.options import SamplingOptions  # noqa: E402
from musicgen.sampling.part_drawing import draw_around  # noqa: E402
from musicgen.sampling.sampler import Sampler  # noqa: E402
from musicgen.sampling.surprisal import measure_bits  # noqa: E402
from musicgen.tokens.lineup import measure_header  # noqa: E402
from musicgen.tokens.measures import MeasuresCodec  # noqa: E402
from musicgen.tokens.vocabulary import MEASURES, Event  # noqa: E402
from musicgen.trained_model import Model, load  # noqa: E402
from tests.fake_models import untrained  # noqa: E402
from tests.multi_part import write_pieces  # noqa: E402

CODEC = MeasuresCodec()


@dataclass(frozen=True)
class PartBits:
    """The bits of a part of a piece."""

    role: str
    notes: int
    given_others: float  # bits, after the other parts
    alone: float  # bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="an untrained model; seconds")
    parser.add_argument("--model", help="name or folder of a model")
    parser.add_argument("--files", type=Path, help="folder of held-out pieces")
    parser.add_argument("--count", type=int, default=1000, help="the most pieces")
    parser.add_argument("--drawn", action="store_true", help="draw each part as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.toy:
            write_pieces(folder / "pieces", "band", 2)
            options.files, options.drawn = folder / "pieces", True
            options.model = untrained(folder / "toy", is_seen=is_drawable)
        model = load(options.model)
        pieces = list(read_pieces(options.files, options.count))
        report_bits([bits for piece in pieces for bits in measure_parts(model, piece)])
        if options.drawn:
            report_drawn(model, pieces)


def is_drawable(event: Event) -> bool:
    """Tell which events the untrained model may write: all but irregular bars and endings."""
    return event.kind not in ("begin", "irregular", "given", "ending", "ending_end")


def read_pieces(folder: Path, count: int) -> Iterator[Score]:
    """Yield the pieces of two parts or more, with roles."""
    for path in sorted(folder.rglob("*.mid"))[:count]:
        scores, _ = formats.read(path)
        for score in scores[:1]:
            if len(score.parts) > 1:
                yield assign_roles(score)


def find_main_parts(score: Score) -> list[int]:
    """Return the first part of each role."""
    roles = [part.role for part in score.parts]
    return sorted(roles.index(role) for role in set(roles))


def measure_parts(model: Model, score: Score) -> Iterator[PartBits]:
    """Yield the bits of each main part, after the others and alone."""
    for part in find_main_parts(score):
        others = [number for number in range(len(score.parts)) if number != part]
        try:
            last = measure_last_part(model, score.select_parts([*others, part]))
            alone = measure_last_part(model, score.select_parts([part]))
        except MusicgenError as refusal:
            print(f"{score.title}: {refusal}", file=sys.stderr)
            continue
        notes = int((score.columns[4] == part).sum())
        if notes:
            yield PartBits(score.parts[part].role, notes, last, alone)


def measure_last_part(model: Model, score: Score) -> float:
    """Return the bits of the last part of a score, with those of the bar lines after it."""
    ids = CODEC.encode(score).ids
    bits = measure_bits(NumpyEngine.of(model.checkpoint), ids)
    return float(bits[find_last_part(ids, len(score.parts) - 1)].sum())


def find_last_part(ids: Sequence[int], part: int) -> np.ndarray:
    """Return which ids write a part, or what stands after the bar when it is silent."""
    is_part = np.zeros(len(ids), dtype=bool)
    current = 0
    for index in range(measure_header(ids), len(ids)):
        event = MEASURES.events[ids[index]]
        is_border = event.kind in ("bar", "partial")
        current = int(event.value or 0) if event.kind == "part" else current
        is_part[index] = current == part or is_border or event.kind == "end"
        current = 0 if is_border else current
    return is_part


def report_bits(parts: Sequence[PartBits]) -> None:
    """Print bits per note by role, and of all."""
    print(f"{'role':8} {'parts':>5} {'notes':>7} {'given':>7} {'alone':>7} {'change':>8}")
    for role in (*sorted({part.role for part in parts}), "all"):
        chosen = [part for part in parts if role in (part.role, "all")]
        notes = sum(part.notes for part in chosen)
        given = sum(part.given_others for part in chosen) / notes
        alone = sum(part.alone for part in chosen) / notes
        change = given / alone - 1
        print(f"{role:8} {len(chosen):5} {notes:7} {given:7.3f} {alone:7.3f} {change:8.1%}")


def report_drawn(model: Model, pieces: Sequence[Score]) -> None:
    """Print consonance and coincidence of pieces with one part drawn, and of the real ones."""
    sampler = model.sampler
    assert isinstance(sampler, Sampler)
    options = SamplingOptions.parse(**model.checkpoint.manifest.sampling)
    drawn: dict[str, list[Score]] = {}
    for number, piece in enumerate(pieces):
        for part in find_main_parts(piece):
            kept = tuple(KeptPart(n) for n in range(len(piece.parts)) if n != part)
            given = GivenParts.of_tune(CODEC.encode(piece), kept)
            try:
                encoded = draw_around(sampler, options, Noise(1, number), given).encoded
            except MusicgenError as refusal:
                print(f"{piece.title}: {refusal}", file=sys.stderr)
                continue
            score = CODEC.decode(encoded.ids, encoded.setting).score
            drawn.setdefault(piece.parts[part].role, []).append(score)
    print(f"{'tunes':14} {'consonance':>18} {'bass with drums':>18}")
    for name, scores in (("real", list(pieces)), *sorted(drawn.items())):
        consonance = [measure_consonance(TuneContent.of(score)) for score in scores]
        together = [measure_bass_with_drums(TuneContent.of(s), kick_only=False) for s in scores]
        print(f"{name:14} {summarise(consonance):>18} {summarise(together):>18}")


def summarise(ratios: Sequence[Ratio | None]) -> str:
    """Return mean and standard deviation in percent."""
    shares = [100 * ratio.part / ratio.whole for ratio in ratios if ratio is not None]
    if not shares:
        return "-"
    return f"{mean(shares):.1f} +- {stdev(shares) if len(shares) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()
