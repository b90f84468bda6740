"""A recurrent network whose frames have exact probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published.rolls import PITCHES
from musicgen.checkpoint import Weights
from musicgen.config import BEGIN_ID, ModelSettings
from musicgen.model.network import DropoutMasks, LanguageModel, RecurrentState, SerializableModule
from musicgen.tokens.frame_context import FrameContexts
from musicgen.tokens.frames import FRAME, FRAMES, PITCH

_EXCLUDED: Final = -1e4  # the logit of an id that may not come next


def list_legal_ids(id_: int, pitches: range = PITCHES) -> list[int]:
    """Return the ids that may follow one: those of lower pitches, or the end of the frame.

    After the end of a frame, and at the beginning, all pitches may follow; a piece does not end.
    """
    stop = min(id_, pitches.stop) if id_ in PITCH else pitches.stop
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
        for id_ in (BEGIN_ID, FRAME, *PITCH):
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


class TransposedMixture(SerializableModule):
    """The mean of what one model says of a piece in several transpositions.

    Each id has the mean of its probabilities in the transpositions, so those of all frames sum to 1
    as before. One set of weights is averaged over what transposing the training part taught it.

    Args:
        settings: the shape of the model.
        weights: of the model.
        transpositions: in semitones.
        pitches: the ids of all pitches.
    """

    def __init__(
        self,
        settings: ModelSettings,
        weights: Weights,
        transpositions: Sequence[int],
        pitches: range = PITCHES,
    ) -> None:
        super().__init__()
        self.settings, self.transpositions = settings, tuple(transpositions)
        self.views: list[FrameModel] = []
        for semitones in self.transpositions:
            low, high = min(0, semitones), max(0, semitones)  # to pitches that are in `pitches`
            within = range(pitches.start + high, pitches.stop + low)
            view = FrameModel(settings, pitches=within)
            view.load_weights(weights)
            self.views.append(view)
        self.modules_of_views = nn.ModuleList(self.views)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.views[0].device

    def start(self, lanes: int) -> RecurrentState:
        """Return the states of all transpositions before a piece, one after the other."""
        return tuple(layer for view in self.views for layer in view.start(lanes))

    def draw_masks(self, lanes: int, generator: torch.Generator | None = None) -> None:
        """Return None: a mixture is not trained."""
        del lanes, generator

    def forward(
        self,
        ids: Tensor,
        state: RecurrentState | None = None,
        masks: DropoutMasks | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Run all transpositions over a window.

        Args:
            ids: (lane, window) int64, of the piece as it is stored.
            state: returned for the previous window; None is zero.
            masks: ignored.
            context: (lane, window, field) int64, of the piece as it is stored.

        Returns:
            The logarithms of the probabilities (lane, window, vocabulary) float32, and the state.
        """
        del masks
        state = state or self.start(len(ids))
        layers = self.settings.layers
        log_probabilities, states = [], []
        for number, semitones in enumerate(self.transpositions):
            logits, after = self.views[number](
                ids + semitones * (ids >= PITCH.start),
                state[number * layers : (number + 1) * layers],
                context=None if context is None else transpose_context(context, semitones),
            )
            places = torch.arange(len(FRAMES))
            places[PITCH.start :] = (places[PITCH.start :] + semitones).clamp(PITCH.start)
            places = places.clamp(max=len(FRAMES) - 1)
            log_probabilities.append(logits.log_softmax(-1)[..., places])
            states.extend(after)
        total = torch.stack(log_probabilities).logsumexp(0)
        return total - math.log(len(self.transpositions)), tuple(states)


def transpose_context(context: Tensor, semitones: int) -> Tensor:
    """Return the context of frames (..., field) int64 of a piece that is transposed."""
    fields = FrameContexts().transpose(context.numpy().astype(np.int16), semitones)
    return torch.from_numpy(np.maximum(fields, 0).astype(np.int64))  # padding has no key
