"""Keeps some bars of a tune and draws the others, so that they lead into what follows.

For each stretch of bars that are drawn there are several candidates, from the model as it is after
what stands before them. Each is weighed by the likelihood of the bars after it, as far as the next
stretch that is drawn, and one is chosen by its weight: sampling by importance (Rubin 1987). The
effective sample size says how many equally good candidates they are worth (Kong 1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta

from musicgen.errors import InvalidValue
from musicgen.sampling.forced_tokens import ForcedBars
from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.kept_bars import BarRanges
from musicgen.sampling.noise import Noise
from musicgen.sampling.option_table import MAX_BARS
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler, TuneStart
from musicgen.similarity.copy_filter import MelodyLine, MelodyNote
from musicgen.tokens.bar_split import BarSplit, split_by_voice
from musicgen.tokens.codec import Encoded
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import DecisionContext, MeasuresGrammar
from musicgen.tokens.measures import find_drum_parts
from musicgen.tokens.song_form import FormLayout
from musicgen.tokens.vocabulary import MEASURES

CANDIDATES: Final = 24
MOST_CANDIDATES: Final = 512
MOST_IDS: Final = 10**6
_CANDIDATE_NOISE_OFFSET: Final = 2**32  # between the noise keys of two candidates


@dataclass(frozen=True, slots=True)
class KeptBars:
    """A tune, and which of its bars stay; numbered as written, a pickup with the bar after it."""

    ids: Annotated[tuple[int, ...], Meta(max_length=MOST_IDS)]
    bars: Annotated[BarRanges, Meta(min_length=1, max_length=MOST_IDS)]
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        if any(not 0 <= id_ < len(MEASURES) for id_ in self.ids):
            raise InvalidValue("a kept tune holds an event that there is none of")
        if any(not 1 <= first <= last for first, last in self.bars):
            raise InvalidValue("bars that are kept: the first is 1, and none ends before it starts")
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            raise InvalidValue(
                f"candidates {self.candidates}: weigh 1 to {MOST_CANDIDATES} for each stretch"
            )

    def to_json(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return {"ids": list(self.ids), "bars": self.bars, "candidates": self.candidates}


@dataclass(frozen=True, slots=True)
class RegeneratedBars:
    """A stretch that was drawn: its bars, and what its candidates were worth."""

    first: int
    last: int
    candidates: int
    effective_sample_size: float  # sample size

    def __str__(self) -> str:
        bars = f"bar {self.first}" if self.first == self.last else f"bars {self.first}-{self.last}"
        if self.candidates == 1:
            return f"{bars}: drawn"
        return (
            f"{bars}: chosen from {self.candidates} candidates, which are worth"
            f" {self.effective_sample_size:.1f} of equal weight"
        )


def regenerate_bars(
    sampler: Sampler, options: SamplingOptions, noise: Noise, start: TuneStart, keep: KeptBars
) -> tuple[Encoded, tuple[RegeneratedBars, ...]]:
    """Draw the bars of a tune that are not kept. Raises InvalidValue for bars it does not have."""
    notes = _collect_notes_by_bar(keep.ids, options)
    written = BarSplit.of(keep.ids).with_stated_levels()
    kept_ranges = _find_kept_bars(written, keep, options.layout)
    source = ForcedBars(written, kept_ranges, notes)
    generation = sampler.start_tune(
        options,
        noise,
        replace(
            start,
            forced_sources=(*start.forced_sources, source),
            given_ids=start.given_ids.union(keep.ids),
        ),
    )
    _check_header(generation, written)
    _keep_drums(generation, keep.ids)
    stretches = []
    given_ids = kept_ranges | _map_repeated_bars(written, options.layout).keys()
    gaps = list(_find_gaps(len(written.bars), given_ids))
    stops: list[int | None] = [first for first, _ in gaps[1:]]
    for gap, stop in zip(gaps, [*stops, None], strict=False):  # all bars may be kept
        while not _has_reached(generation, source, gap[0]):
            generation.step()
        count = keep.candidates if gap[1] < len(written.bars) else 1  # nothing to lead into
        generation, effective = _choose_candidate(generation, source, stop, count, noise)
        numbers = [written.bars[position].number for position in range(*gap)]
        stretches.append(RegeneratedBars(numbers[0], numbers[-1], count, effective))
    while not generation.walk.is_done:
        generation.step()
    return sampler.finish_tune(generation, options, start), tuple(stretches)


def _keep_drums(generation: GenerationState, ids: Sequence[int]) -> None:
    """Let drums play the parts that they play in a tune. Raises InvalidValue where they cannot."""
    rules, drums = generation.walk.rules, find_drum_parts(ids)
    if not rules.chooses_drums or generation.walk.lineup is not None:
        return
    if rules.final_pitch_ids and 0 in drums:
        raise InvalidValue("end: drums play the first part of what is kept; leave --end out")
    generation.walk.narrow(replace(rules, drum_parts=drums, _fitting_cache={}, _pickup_cache={}))


def _choose_candidate(
    generation: GenerationState,
    forced_bars: ForcedBars,
    stop: int | None,
    candidates: int,
    noise: Noise,
) -> tuple[GenerationState, float]:
    """Return the candidate that is chosen, as far as the next stretch, and what all are worth."""
    forks = [_fork(generation, noise, number) for number in range(candidates)]
    for fork in forks:
        while not (fork.walk.is_done if stop is None else _has_reached(fork, forced_bars, stop)):
            fork.step()
    weights = np.array([fork.log_likelihood for fork in forks])
    position = DecisionContext(
        0, generation.walk.form.bars_written, 0, 0, 0, None, decision="candidate"
    )
    gumbel = noise.gumbel(position, range(candidates))
    chosen = forks[int(np.argmax(weights + gumbel))]
    chosen.noise, chosen.log_likelihood = noise, 0.0
    shares = np.exp(weights - weights.max())
    return chosen, float(shares.sum() ** 2 / (shares**2).sum())


def _fork(generation: GenerationState, noise: Noise, number: int) -> GenerationState:
    """Return a copy with noise of its own, independent of the original tune's."""
    fork = generation.copy()
    fork.noise = Noise(noise.seed, noise.tune_number + (number + 1) * _CANDIDATE_NOISE_OFFSET)
    fork.log_likelihood = 0.0
    return fork


def _has_reached(generation: GenerationState, forced_bars: ForcedBars, bar_index: int) -> bool:
    """Return whether exactly the bars before an index are complete."""
    return generation.walk.form.bars_written == bar_index and forced_bars.is_complete(generation)


def _find_gaps(count: int, forced_bars: frozenset[int] | set[int]) -> Iterator[tuple[int, int]]:
    """Yield the stretches (first, stop) of the places that are not given."""
    for is_given, places in groupby(range(count), key=forced_bars.__contains__):
        if not is_given:
            stretch = list(places)
            yield stretch[0], stretch[-1] + 1


def _find_kept_bars(
    source_tune: BarSplit, keep: KeptBars, layout: FormLayout | None
) -> frozenset[int]:
    """Return the places of the bars that stay, with those that they cannot do without."""
    beyond = [last for _, last in keep.bars if last > source_tune.bar_count]
    if beyond:
        raise InvalidValue(
            f"keep {beyond[0]}: the tune has {source_tune.bar_count} bars as they are written;"
            f" keep some"
            " of them"
        )
    requested = {
        position for position, bar in enumerate(source_tune.bars)
        if any(first <= bar.number <= last for first, last in keep.bars)
    }  # fmt: skip
    again = _map_repeated_bars(source_tune, layout)
    numbers = {again.get(position, position) for position in requested}
    for position in sorted(numbers, reverse=True):
        while position > 0 and _needs_the_bar_before(source_tune, position):
            position -= 1
            numbers.add(position)
    return frozenset(numbers)


def _map_repeated_bars(source_tune: BarSplit, layout: FormLayout | None) -> dict[int, int]:
    """Return which bars are those of an earlier letter again, and which of its bars they are."""
    if layout is None:
        return {}
    by_stretch: list[list[int]] = []
    at = 0
    for stretch in layout.sections:
        pickup = stretch.has_pickup and _is_pickup(source_tune, at)
        by_stretch.append(list(range(at + pickup, at + pickup + stretch.bars)))
        at += pickup + stretch.bars
    return {
        position: source
        for number, stretch in enumerate(layout.sections)
        if stretch.source is not None
        for position, source in zip(by_stretch[number], by_stretch[stretch.source], strict=True)
    }


def _is_pickup(source_tune: BarSplit, bar_index: int) -> bool:
    return source_tune.bars[bar_index].number == source_tune.bars[bar_index + 1].number


def _needs_the_bar_before(source_tune: BarSplit, bar_index: int) -> bool:
    """Tell whether a bar holds on to what no bar that is drawn before it could be made to sound.

    That is a chord of the bar before, or a note of another voice than the first.
    """
    for voice, ids in split_by_voice(source_tune.bars[bar_index].content).items():
        head = next((id_ for id_ in ids if MEASURES.events[id_].kind in _HEADS), None)
        if head == MEASURES.id("hold") and (
            voice != (0, 0) or _ends_on_a_chord(source_tune, bar_index)
        ):
            return True
    return False


def _ends_on_a_chord(source_tune: BarSplit, bar_index: int) -> bool:
    """Tell whether several notes end the first voice of the bar before a place."""
    before = split_by_voice(source_tune.bars[bar_index - 1].content)[0, 0]
    return all(MEASURES.events[id_].kind in _NOTES for id_ in before[-2:]) and len(before) > 1


_NOTES: Final = ("pitch", "drum")
_HEADS: Final = (*_NOTES, "rest", "hold")


def _collect_notes_by_bar(
    ids: Sequence[int], options: SamplingOptions
) -> tuple[tuple[MelodyNote, ...], ...]:
    """Return the notes of each bar. Raises InvalidValue for ids that are no tune of such a form."""
    walk, line = MeasuresGrammar(_build_rules(options)), MelodyLine()
    starts = []
    for number, id_ in enumerate(ids):
        if id_ not in walk.legal_ids():
            raise InvalidValue(
                f"the kept tune: {MEASURES.events[id_]} has no place in bar"
                f" {walk.form.bars_written}; the recipe was changed or damaged"
            )
        line.follow(walk, id_)
        walk.take(id_)
        if MEASURES.events[id_].kind in ("bar", "partial"):
            starts.append(number)
    if not walk.is_done:
        raise InvalidValue("the kept tune has no end; the recipe was changed or damaged")
    stops = [*starts[1:], len(ids)]
    return tuple(tuple(line.get_notes_between(*pair)) for pair in zip(starts, stops, strict=True))


def _build_rules(options: SamplingOptions) -> Rules:
    """Return what a tune may hold of the bars and the form that a variant cannot change."""
    fewest, most = (options.heard_bars,) * 2 if options.heard_bars else (1, MAX_BARS)
    return Rules(
        min_bars=fewest,
        max_bars=most,
        drum_parts=None,
        layout=options.layout,
        pickup=options.pickup,
    )


def _check_header(generation: GenerationState, source_tune: BarSplit) -> None:
    """Raise InvalidValue where a tune begins with another meter, or parts, than what is kept."""
    drawn_header = generation.ids[1 : 1 + len(source_tune.header)]
    for drawn, kept_header in zip(drawn_header, source_tune.header, strict=True):
        is_fixed = MEASURES.events[kept_header].kind not in ("mode", "rhythm")
        if is_fixed and drawn != kept_header:
            raise InvalidValue(
                f"{MEASURES.events[drawn]}: the tune that is kept has"
                f" {MEASURES.events[kept_header]}; the recipe was changed or damaged"
            )
