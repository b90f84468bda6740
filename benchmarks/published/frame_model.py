"""A recurrent network whose frames have exact probabilities."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from benchmarks.published.rolls import PITCHES
from musicgen.config import BEGIN_ID, ModelSettings
from musicgen.model.network import DropoutMasks, LanguageModel, RecurrentState
from musicgen.tokens.frames import FRAME, FRAMES

_EXCLUDED: Final = -1e4  # the logit of an id that may not come next


def list_legal_ids(id_: int, pitches: range = PITCHES) -> list[int]:
    """Return the ids that may follow one: those of lower pitches, or the end of the frame.

    After the end of a frame, and at the beginning, all pitches may follow; a piece does not end.
    """
    stop = id_ if id_ in pitches else pitches.stop
    return [FRAME, *range(pitches.start, stop)]


class FrameModel(LanguageModel):
    """A language model of `frames` that gives all its probability to the legal ids.

    A frame is a set of pitches, written in one order, so its probability is the product of those
    of its ids, and the probabilities of all frames sum to 1.

    Args:
        settings: the shape of the model.
        generator: initialises the weights.
        pitches: the ids of all pitches.
    """

    excluded: Tensor

    def __init__(
        self,
        settings: ModelSettings,
        generator: torch.Generator | None = None,
        pitches: range = PITCHES,
    ) -> None:
        super().__init__(settings, generator)
        excluded = torch.full((len(FRAMES), len(FRAMES)), _EXCLUDED)
        for id_ in (BEGIN_ID, FRAME, *pitches):
            excluded[id_, list_legal_ids(id_, pitches)] = 0
        self.register_buffer("excluded", excluded)

    def forward(
        self,
        ids: Tensor,
        state: RecurrentState | None = None,
        masks: DropoutMasks | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Run the model over a window; see `LanguageModel.forward`."""
        logits, state = super().forward(ids, state, masks, context)
        return logits.float() + self.excluded[ids.to(self.device)], state
