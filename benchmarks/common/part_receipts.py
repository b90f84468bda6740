"""What the parts of pieces share with training pieces: runs of equal intervals and durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from musicgen.corpus.store import EncodedTune
from musicgen.corpus.store import load as load_dataset
from musicgen.music.arrays import FloatArray
from musicgen.music.roles import assign_roles
from musicgen.music.score import Score
from musicgen.similarity.overlap_report import RUN_NOTES, OverlapIndex
from musicgen.tokens.codec import Setting
from musicgen.tokens.measures import MeasuresCodec

CODEC: Final = MeasuresCodec()


def decode_tune(tune: EncodedTune) -> Score:
    """Decode a tune of a data set."""
    return CODEC.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score


@dataclass(frozen=True)
class Receipts:
    """Pieces whose parts are compared with the training pieces."""

    name: str
    scores: Sequence[Score]
    groups: Sequence[int | None] = ()  # of near-duplicates that are left out of the comparison

    def list_runs(self, role: str, index: OverlapIndex) -> FloatArray:
        """Return the longest run of a voice of each piece that is in training, (piece,) notes."""
        groups = self.groups or [None] * len(self.scores)
        runs = []
        for score, group in zip(self.scores, groups, strict=True):
            parts = [n for n, part in enumerate(assign_roles(score).parts) if part.role == role]
            voice = score.select_parts(parts)
            longest = index.make_receipt(voice, group).longest if parts else None
            runs.append(longest.notes if longest else 0)
        return np.array(runs, np.float64)


def read_training_pieces(folder: Path) -> Receipts:
    """Return the training pieces as they are written, their groups numbered as in the index."""
    tunes = [tune for tune in load_dataset(folder).train if tune.order == 0]
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(tune.group, len(numbers)) for tune in tunes]
    return Receipts("training", [decode_tune(tune) for tune in tunes], groups)


def print_receipts(compared: Sequence[Receipts], index: OverlapIndex, roles: Sequence[str]) -> None:
    """Print what the part with each role shares with the training pieces."""
    print(f"pieces with a run of {RUN_NOTES} notes that is in training; median and longest run")
    for role in roles:
        cells = []
        for each in compared:
            runs = each.list_runs(role, index)
            share = (runs >= RUN_NOTES).mean()
            error = math.sqrt(share * (1 - share) / len(runs))
            cells.append(
                f"{each.name} ({len(runs)}) {share:.1%} +- {error:.1%}"
                f" {np.median(runs):.0f} {runs.max():.0f}"
            )
        print(f"  {role:8} {' | '.join(cells)}", flush=True)
