"""Draws parts around given ones: the given cells stay, id by id, and all else is drawn to fit.

Where candidates are weighed, each bar is drawn several times, and one of these is chosen by the
likelihood of what is given after it, as far as the next drawn bar: sequential importance resampling
(Gordon, Salmond and Smith 1993).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.score import SYMBOLS_ROLE
from musicgen.music.symbols_part import is_symbols
from musicgen.music.theory import Key
from musicgen.sampling.cadence_drawing import draw_next
from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.given_cells import GivenCells
from musicgen.sampling.given_form import check_given_form, has_letters
from musicgen.sampling.given_parts import GivenParts, GivenTune
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_requests import PartRequests, copy_lineup, get_role_programs
from musicgen.sampling.sampler import Sampler, TuneStart, parse_rhythm
from musicgen.tokens.codec import Encoded
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import DecisionContext
from musicgen.tokens.lineup import PartDescription, read_lineup
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MAX_PARTS, MEASURES

_REDRAW_NOISE_OFFSET: Final = 2**56  # between the noise keys of a tune and of what replaces it
_CANDIDATE_NOISE_OFFSET: Final = 2**33  # between the noise keys of two candidates
_MOST_BARS: Final = 10**9
MOST_SILENT_BARS: Final = {"bass": 0, "drums": 0}  # in a row; in bands, 9 of 10 of their bars sound
DEFAULT_MOST_SILENT_BARS: Final = 2  # of other parts that are drawn as a whole
_SHORT_OPENERS: Final = frozenset(MEASURES.ranges["partial"])


@dataclass(frozen=True, slots=True)
class DrawnParts:
    """A tune whose parts were given or drawn, and messages about it."""

    encoded: Encoded
    messages: tuple[str, ...] = ()


def draw_around(
    sampler: Sampler,
    options: SamplingOptions,
    noise: Noise,
    given: GivenParts,
    known_header: Sequence[int | None] = (),
) -> DrawnParts:
    """Draw what is not given of a tune, and the parts that the options add.

    Args:
        sampler: of the model.
        options: of the tune; `parts` are drawn in addition to those that are given.
        noise: of the draws.
        given: what stays.
        known_header: the header of the result, where it is known from an earlier draw.

    Raises:
        InvalidValue: the options contradict what is given, or the model cannot write such parts.
    """
    added = options.requested_parts or ()
    if not added:  # what is drawn again differs from what it was, for the same seed
        noise = Noise(noise.seed, noise.tune_number + _REDRAW_NOISE_OFFSET)
    tune = GivenTune.of(given, len(added))
    check_given_options(options, tune, added)
    settled = _settle_options(options, tune, added)
    cells = GivenCells(
        tune, _find_header(tune, options, added, known_header), is_weighed=given.candidates > 1
    )
    start = TuneStart(forced_sources=(cells,), has_limits_of_its_own=True)
    generation = sampler.start_tune(settled, noise, start)
    _narrow(generation, cells, tune, options)
    sampler.limit_parts(generation, options, cells.drawn_parts, tune.bars[-1].number)
    generation = _draw_bars(generation, cells, given.candidates, noise)
    drawn = sampler.finish_tune(generation, settled, start)
    return DrawnParts(_restore_order(drawn, tune, options), tuple(_describe_ties(tune)))


def _find_header(
    tune: GivenTune,
    options: SamplingOptions,
    added: PartRequests,
    known_header: Sequence[int | None],
) -> tuple[int, ...]:
    """Return the header as far as it is given or known."""
    meter, mode, rhythm, parts, *lineup = tune.header
    if options.rhythm is not None:
        rhythm = MEASURES.id("rhythm", parse_rhythm(options.rhythm))
    if added:
        parts = MEASURES.id("lineup", len(tune.score.parts) + len(added))
        lineup += (id_ for id_ in known_header[len(tune.header) :] if id_ is not None)
    return (meter, mode, rhythm, parts, *lineup)


def check_given_options(options: SamplingOptions, tune: GivenTune, added: PartRequests) -> None:
    """Check that the options do not contradict what is given. Raises InvalidValue."""
    score = tune.score
    given_values = {
        "key": (options.key, score.key),
        "meter": (options.meter, score.meter),
        "bars": (options.bars, tune.heard_bars),
        "pickup": (options.pickup, tune.pickup_steps),
    }
    for name, (asked, value) in given_values.items():
        if asked is not None and asked != value:
            raise InvalidValue(
                f"{name} {asked}: the given parts have {value}, and they stay as they are; leave"
                f" --{name} out, or change the file first"
            )
    check_given_form(options.form, tune)
    if options.max_copy is not None:
        raise InvalidValue("max-copy: the runs of a tune of one part are checked; leave it out")
    if len(tune.score.parts) + len(added) > MAX_PARTS:
        raise InvalidValue(f"parts: given and drawn parts are more than {MAX_PARTS}; name fewer")
    roles = {request.role for request in added}
    for role in get_role_programs(options.program):
        if role not in roles:
            raise InvalidValue(
                f"program {role}: no part with this role is added; name it in --parts, or leave its"
                " program out"
            )


def _settle_options(
    options: SamplingOptions, tune: GivenTune, added: PartRequests
) -> SamplingOptions:
    """Return the options of the whole line-up, in the key and meter of what is given.

    Raises:
        InvalidValue: parts are added to voices without roles.
    """
    has_lineup, has_form = bool(read_lineup(tune.header)), has_letters(options.form)
    if added and not has_lineup:
        raise InvalidValue("parts: the given parts have no roles, so none can be added")
    # their instruments stay, also those that the model has not met
    given_parts = (replace(request, program=None) for request in copy_lineup(tune.score))
    return replace(
        options,
        key=Key(tune.encoded.setting.tonic, tune.score.key.mode),
        meter=tune.score.meter,
        parts=(*given_parts, *added) if has_lineup else None,
        parts_from=None,
        form=options.form if has_form else None,
        bars=tune.heard_bars if has_form else None,
        min_bars=None,
        pickup=None,
        rhythm=None,
    )


def _narrow(
    generation: GenerationState, cells: GivenCells, tune: GivenTune, options: SamplingOptions
) -> None:
    """Fit the rules to the given bars, and settle what each drawn cell may and must do."""
    walk = generation.walk
    rules = replace(
        walk.rules,
        max_bars=_MOST_BARS,
        longest_given_bar=max(bar.steps for bar in tune.bars),
        landing_part=_find_landing_part(tune),
        opens_with_all_parts=False,
        _fitting_cache={},
        _pickup_cache={},
    )
    walk.narrow(rules)
    cells.silent = frozenset(_find_unfilled(tune, rules))
    cells.most_silent = dict(_limit_silence(tune, read_lineup(generation.ids[1:])))
    cells.must_sound = frozenset(_find_outer_bars(tune)) - cells.silent
    _check_ending(tune, options, rules.landing_part or 0)
    generation.restrictions, generation.weighing = (cells, *generation.restrictions), cells


def _find_landing_part(tune: GivenTune) -> int:
    """Return the place, in the order of drawing, of the part that ends on a final pitch.

    That is the first part of pitches in the order of the tune.
    """
    has_pitches = [not part.is_drums and not is_symbols(part) for part in tune.score.parts]
    places = sorted(range(len(has_pitches)), key=lambda place: tune.order[place])
    return next((place for place in places if has_pitches[place]), len(has_pitches))


def _find_unfilled(tune: GivenTune, rules: Rules) -> Sequence[tuple[int, int]]:
    """Return the drawn cells of bars that no note values fill. Raises InvalidValue for part 1."""
    unfilled = []
    for number, bar in enumerate(tune.bars):
        if rules.fillable[bar.steps]:
            continue
        drawn = [part for part, cell in enumerate(bar.cells) if cell is None]
        if 0 in drawn:
            raise InvalidValue(
                f"bar {bar.number}: it has {bar.steps} steps, which the model's note values cannot"
                " fill; give more of this bar"
            )
        unfilled += [(number, part) for part in drawn]
    return unfilled


def _limit_silence(tune: GivenTune, lineup: Sequence[PartDescription]) -> Iterator[tuple[int, int]]:
    """Yield the parts that are drawn as a whole, and the most bars in a row that each is silent.

    Chord symbols last until they change, and are left out.
    """
    for part in _find_whole_parts(tune):
        role = lineup[part].role if lineup else ""
        if role != SYMBOLS_ROLE:
            yield part, MOST_SILENT_BARS.get(role, DEFAULT_MOST_SILENT_BARS)


def _find_whole_parts(tune: GivenTune) -> Sequence[int]:
    """Return the places of the parts that are drawn in all bars."""
    places = range(len(tune.bars[0].cells))
    return [part for part in places if all(bar.cells[part] is None for bar in tune.bars)]


def _find_outer_bars(tune: GivenTune) -> Sequence[tuple[int, int]]:
    """Return the first and the last cell of each part that is drawn as a whole.

    The first full bar counts: a part that a model leaves out there seldom comes in later. The last
    bar is often a short one, before a repeat sign or after a pickup, which a model may not know.
    """
    first = next((n for n, bar in enumerate(tune.bars) if bar.opening[-1] not in _SHORT_OPENERS), 0)
    whole_parts = _find_whole_parts(tune)
    return [(number, part) for number in {first, len(tune.bars) - 1} for part in whole_parts]


def _check_ending(tune: GivenTune, options: SamplingOptions, landing_part: int) -> None:
    """Check that the part that is to end on the tonic does, where its last bar is given.

    Raises:
        InvalidValue: it ends differently.
    """
    cell = tune.bars[-1].cells[landing_part]
    if not options.ends_on_tonic or cell is None:
        return
    bar, tonic = tune.measured_bars[-1], Key(tune.encoded.setting.tonic).pitch_class
    notes = [note for note in tune.score.notes if note.part == landing_part]
    closing = list(takewhile(lambda note: note.pitch % 12 == tonic, reversed(notes)))
    on_beat = [n for n in closing if n.onset >= bar.start
               and (n.onset - bar.start) % bar.meter.beat_steps == 0]  # fmt: skip
    is_cadence = bool(on_beat) and notes[-1].end == bar.end
    if not closing or (options.end == "cadence" and not is_cadence):
        raise InvalidValue(
            f"end {options.end}: the given part {tune.score.parts[landing_part].name!r} ends"
            " differently; leave --end out, or give less of its last bar"
        )


def _draw_bars(
    generation: GenerationState, cells: GivenCells, candidates: int, noise: Noise
) -> GenerationState:
    """Draw all bars; where something is given after a drawn bar, weigh candidates for it."""
    while not generation.walk.is_done:
        bar = generation.walk.form.bars_written
        is_choice = candidates > 1 and not generation.is_forced and cells.is_given_after(generation)
        if is_choice:
            forks = [_draw_to_next_bar(generation, noise, n, bar) for n in range(candidates)]
            generation = _choose(forks, noise, bar)
        else:
            generation = draw_next(generation)
    return generation


def _draw_to_next_bar(
    generation: GenerationState, noise: Noise, number: int, bar: int
) -> GenerationState:
    """Draw the rest of a bar with noise of its own, and what is given at the start of the next."""
    fork = generation.copy()
    fork.noise = Noise(noise.seed, noise.tune_number + (number + 1) * _CANDIDATE_NOISE_OFFSET)
    fork.log_likelihood = 0.0
    while not fork.walk.is_done:
        if fork.walk.form.bars_written > bar and not fork.is_forced:
            break
        fork = draw_next(fork)
    return fork


def _choose(forks: Sequence[GenerationState], noise: Noise, bar: int) -> GenerationState:
    """Return the fork that is chosen by its weight."""
    weights = np.array([fork.log_likelihood for fork in forks])
    position = DecisionContext(0, bar, 0, 0, 0, None, decision="candidate")
    gumbel = noise.gumbel(position, range(len(forks)))
    chosen = forks[int(np.argmax(weights + gumbel))]
    chosen.noise, chosen.log_likelihood = noise, 0.0
    return chosen


def _restore_order(drawn: Encoded, tune: GivenTune, options: SamplingOptions) -> Encoded:
    """Return the tune with its parts in the order of what was given, and then those added."""
    given, count = tune.encoded.setting, len(tune.order)
    setting = replace(
        given,
        parts=(*given.parts, *drawn.setting.parts[count:]),
        velocities=(*given.velocities, *drawn.setting.velocities[count:]),
        title=given.title or drawn.setting.title,
        tempos=drawn.setting.tempos if options.tempo or not given.tempos else given.tempos,
    )
    score = MeasuresCodec().decode(drawn.ids, setting).score
    places = sorted(range(count), key=lambda place: tune.order[place])
    order = [*places, *range(count, len(score.parts))]
    velocities = [setting.velocities[place] for place in order]
    return MeasuresCodec().encode(score.select_parts(order), velocities)


def _describe_ties(tune: GivenTune) -> Iterator[str]:
    """Yield a message about each bar that stays although it was not asked for."""
    for part, bar in tune.extended:
        name = tune.score.parts[tune.order.index(part)].name or f"part {part + 1}"
        yield f"bar {bar} of {name} stays too: a note of it goes on in the next bar"
