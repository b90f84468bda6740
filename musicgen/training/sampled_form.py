"""The form of the model's tunes during training: figures of a few sampled tunes per evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from musicgen.checkpoint import Checkpoint, Manifest, Weights
from musicgen.errors import to_one_line
from musicgen.evaluation.form import form_figures
from musicgen.sampling.batch_sampler import generate_tunes
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import Sampler, make_sampler
from musicgen.tokens.registry import restore_codec
from musicgen.training.trainer import Progress

SAMPLED_TUNES: Final = 16  # per evaluation
MAX_TIME_SHARE: Final = 0.02  # of the run so far
FIRST_SECONDS: Final = 3.0  # assumed for the first measurement


@dataclass
class FormCheck:
    """Measures the form of sampled tunes while that takes little of the run's time."""

    make_manifest: Callable[[], Manifest]
    get_weights: Callable[[], Weights]  # the current ones
    notify: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    spent_seconds: float = 0.0
    last_seconds: float = FIRST_SECONDS
    has_failed: bool = False

    def add_figures(self, steps: Iterable[Progress]) -> Iterator[Progress]:
        """Yield the progress of a run, with the figures of sampled tunes after evaluations."""
        start = self.clock()
        for progress in steps:
            if progress.held_out_score is not None and self.is_affordable(self.clock() - start):
                progress = replace(progress, form_figures=self.try_measure())
            yield progress

    def is_affordable(self, elapsed_seconds: float) -> bool:
        """Tell whether another measurement keeps within the share of the elapsed time."""
        seconds = self.spent_seconds + self.last_seconds
        return not self.has_failed and seconds <= MAX_TIME_SHARE * elapsed_seconds

    def try_measure(self) -> dict[str, float] | None:
        """Measure the form of sampled tunes; on any error, report it and return None."""
        start = self.clock()
        try:
            return self.measure()
        except Exception as error:  # noqa: BLE001 - sampling must not abort training
            self.notify(f"form: no tune could be sampled ({to_one_line(error)})")
            self.has_failed = True
            return None
        finally:
            self.last_seconds = self.clock() - start
            self.spent_seconds += self.last_seconds

    def measure(self) -> dict[str, float]:
        """Sample tunes of a free form, always from the same noise, and measure their form."""
        manifest = self.make_manifest()
        codec = restore_codec(manifest.codec, manifest.vocabulary, manifest.name)
        checkpoint = Checkpoint(manifest, self.get_weights(), Path(manifest.name))
        sampler = make_sampler(checkpoint, codec)
        assert isinstance(sampler, Sampler)
        request = GenerationRequest(SamplingOptions(), seed=1)
        tunes = generate_tunes(sampler, request, range(SAMPLED_TUNES))
        return form_figures(tune.score for _, tune in tunes)
