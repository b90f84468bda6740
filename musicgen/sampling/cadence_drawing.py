"""Cadences of a choir: at chosen bars, "8=half,16=authentic", and at the end.

The bars up to a cadence are drawn freely, some times over, until the phrase ends as it is to. That
samples from the model's distribution on the condition that it does; the first draw is the one that
a tune without the option has. A model does not know beforehand how long a tune is to be, so its
last bars seldom close by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeGuard

from musicgen.errors import InvalidValue
from musicgen.music.bars import find_bars
from musicgen.music.roles import is_choir
from musicgen.music.score import CHOIR_ROLES, DEFAULT_VELOCITY, Part
from musicgen.music.voice_lines import name_cadence, read_voice_lines
from musicgen.sampling.cadences import CadencePoints
from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_limits import draw_id_or_cell
from musicgen.tokens.codec import PLAIN_SETTING, Setting
from musicgen.tokens.form_state import FixedFormState, FormState
from musicgen.tokens.lineup import read_lineup
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES

DRAWS: Final = 100  # of the bars up to a cadence
PHRASE_DRAWS: Final = 6  # of a bar in which a phrase ends
CLOSING_DRAWS: Final = 24  # of the last bars; then the best of these counts
CLOSING_KINDS: Final = ("authentic", "plagal")
_LAST: Final = 10**9
_DRAW_NOISE_OFFSET: Final = 2**48  # between the noise keys of two draws


class PhraseEnd(NamedTuple):
    """The last phrase end of a bar."""

    kind: str  # of the cadence
    is_tonic: bool  # whether the bass is on the tonic
    is_only: bool  # whether no other phrase ends in the bar


@dataclass(slots=True)
class CadenceRule:
    """The cadences of a tune that is drawn. It narrows no id: whole bars are drawn again.

    Attributes:
        points: the cadences that are asked for.
        closes: whether the last bars should end with a cadence to the tonic.
        setting: with the parts, in any key.
        has_given_top: whether the highest voice is given, so that it may lack fermatas.
        landing_part: the number of the lowest voice, if all of it is drawn.
        last_bar: its number, where it is known beforehand.
    """

    points: CadencePoints
    closes: bool
    setting: Setting
    has_given_top: bool
    landing_part: int | None
    last_bar: int | None

    def restrict(self, generation: GenerationState, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Return all legal ids."""
        del generation
        return legal

    def find_next(self, bar: int) -> tuple[int, str] | None:
        """Return bar and kind of the cadence whose last two bars start with a bar, if any does."""
        previous = 0
        for number, kind in self.points.by_bar:
            if bar == max(number - 1, previous + 1):
                return number, kind
            previous = number
        return None

    def starts_close(self, generation: GenerationState) -> bool:
        """Return whether the last bars, two where that can be told, start with the bar."""
        number, form = _number_bar(generation), generation.walk.form
        if not self.closes or (self.points.by_bar and number <= self.points.last_bar):
            return False
        if _ends_with_copy(form):
            return form.is_last_bar and form.form_section.source is None
        if self.last_bar is not None:
            return number >= self.last_bar - 1
        rules = generation.walk.rules
        is_counted = rules.min_bars == rules.max_bars and form.section is None
        return form.is_last_bar or (is_counted and form.bars_heard >= rules.max_bars - 1)

    def require_tonic(self, generation: GenerationState) -> None:
        """Let the lowest voice end on the tonic, if it is drawn and its range has one."""
        rules, part = generation.walk.rules, self.landing_part
        if part is None or rules.final_pitch_ids:
            return
        by_part = rules.part_pitch_ids[part] if part < len(rules.part_pitch_ids) else frozenset()
        tonics = frozenset(
            id_
            for id_ in by_part or rules.ids_of_kind("pitch")
            if int(MEASURES.events[id_].value or 0) % 12 == 0
        )
        if tonics:
            narrowed = replace(rules, final_pitch_ids=tonics, landing_part=part, _fitting_cache={},
                               _pickup_cache={})  # fmt: skip
            generation.walk.narrow(narrowed)
            generation.walk.last_note_id = None  # it was that of another voice

    def check_bars(self, last: int) -> None:
        """Check that a tune has the bars of all cadences. Raises InvalidValue if it does not."""
        if self.points.by_bar and self.points.last_bar > last:
            raise InvalidValue(
                f"cadence {self.points}: the tune ends with bar {last}, before bar"
                f" {self.points.last_bar}; ask for more bars"
            )

    def read_phrase_end(
        self,
        generation: GenerationState,
        bar: int,
        *,
        needs_fermata: bool = False,
        is_last: bool = False,
    ) -> PhraseEnd | None:
        """Return the last phrase end of a bar that is complete.

        A phrase ends at the last fermata of the bar, or at the end of the tune; where the highest
        voice is given and has no fermata there, at its last note. None: no phrase ends there.

        Args:
            generation: with the bar.
            bar: its number.
            needs_fermata: whether a phrase that is given ends at fermatas alone.
            is_last: whether the tune ends with the bar, when it is written again.
        """
        score = MeasuresCodec().decode(generation.ids[1:], self.setting).score
        spans = dict(enumerate(find_bars(score), _find_first_bar(generation)))
        voices = read_voice_lines(score)
        if bar not in spans or voices is None:
            return None
        inside = (spans[bar].start <= voices.onsets) & (voices.onsets < spans[bar].end)
        chords = inside.nonzero()[0].tolist()
        # before the end of the tune, the last chord so far ends no phrase by itself
        ends = voices.phrase_ends if generation.walk.is_done else voices.fermatas
        found = chords[-1:] if is_last else [i for i in chords if i in ends.tolist()]
        if not found and self.has_given_top and not needs_fermata:
            found = [index for index in chords if voices.starts[0, index]]
        if not found:
            return None
        is_tonic = bool(voices.pitches[-1, found[-1]] % 12 == voices.key.pitch_class)
        return PhraseEnd(name_cadence(voices, found[-1]), is_tonic, len(found) == 1)


def make_cadence_rule(
    options: SamplingOptions, header: Sequence[int], drawn: Sequence[int], last_bar: int | None
) -> CadenceRule | None:
    """Return the rule of a tune; None where the options ask for no cadence of voices.

    Args:
        options: of the tune.
        header: the ids of the tune's header, with its line-up.
        drawn: the numbers of the parts that are drawn, at least in some bars.
        last_bar: its number, where it is known beforehand.

    Raises:
        InvalidValue: cadences are asked for, and the parts are not a choir.
    """
    points, closes = options.cadence, options.end == "close"
    if points is None and not closes:
        return None
    parts = tuple(Part(role=description.role) for description in read_lineup(header))
    if not is_choir(parts) or len(parts) < 2:
        if points is None:
            return None
        raise InvalidValue(
            f"cadence {points}: the parts are not voices of a choir; leave it out, or ask a model"
            " of choirs such as chorale"
        )
    velocities = (DEFAULT_VELOCITY,) * len(parts)
    setting = replace(PLAIN_SETTING, parts=parts, velocities=velocities)
    ranked = sorted(range(len(parts)), key=lambda number: CHOIR_ROLES.index(parts[number].role))
    top, bottom = ranked[0], ranked[-1]
    landing_part = bottom if bottom in drawn else None
    return CadenceRule(
        points or CadencePoints(), closes, setting, top not in drawn, landing_part, last_bar
    )


def _find_first_bar(generation: GenerationState) -> int:
    """Return the number of the first bar: 0 for a pickup."""
    return 0 if generation.walk.form.first_pickup_steps else 1


def draw_next(generation: GenerationState) -> GenerationState:
    """Append the next id, a bar of a part whose onsets are limited, or the bars up to a cadence.

    Returns:
        The generation to go on with: the one given, or a copy.

    Raises:
        InvalidValue: no draw ends as it is to.
    """
    rule = next((r for r in generation.restrictions if isinstance(r, CadenceRule)), None)
    if rule is None or not _opens_bar(generation):
        return draw_id_or_cell(generation)
    if cadence := rule.find_next(_number_bar(generation)):
        generation = _draw_cadence(generation, rule, *cadence)
    elif rule.starts_close(generation):
        generation = _draw_close(generation, rule)
    elif rule.closes:
        generation = _draw_bar(generation, rule)
    else:
        generation = draw_id_or_cell(generation)
    if generation.walk.is_done:
        rule.check_bars(_number_bar(generation))
    return generation


def _draw_cadence(
    generation: GenerationState, rule: CadenceRule, bar: int, kind: str
) -> GenerationState:
    """Draw the bars up to a cadence until they end with it. Raises InvalidValue if none does."""
    for fork in _iter_draws(generation, rule, bar, DRAWS):
        end = rule.read_phrase_end(fork, bar)
        if end and end.kind == kind and (end.is_tonic or kind != "authentic"):
            return _resume(fork, generation)
    if fork.walk.is_done:
        rule.check_bars(_number_bar(fork))
    raise InvalidValue(
        f"cadence {bar}={kind}: none of {DRAWS} draws of this bar ends so; choose another bar, kind"
        " or seed" + (", or give less of it" if rule.has_given_top else "")
    )


def _draw_bar(generation: GenerationState, rule: CadenceRule) -> GenerationState:
    """Draw a bar; if a phrase ends in it, draw it some times until the cadence is authentic."""
    chosen, bar = None, _number_bar(generation)
    for fork in _iter_draws(generation, rule, bar, PHRASE_DRAWS):
        end = rule.read_phrase_end(fork, bar, needs_fermata=True)
        is_authentic = end is not None and end.kind == "authentic"
        if chosen is None or is_authentic:
            chosen = fork
        if is_authentic or (end is None and chosen is fork):
            break
    assert chosen is not None
    return _resume(chosen, generation)


def _draw_close(generation: GenerationState, rule: CadenceRule) -> GenerationState:
    """Draw the last bars until they close; if none of the draws does, take the best of them.

    Best is an authentic or plagal cadence to the tonic, as the only phrase end of the last bar;
    then any chord over the tonic. If there is neither, the bars are drawn once more, and the lowest
    voice must end on the tonic. Where the tune ends with a letter that returns, the last bar of its
    first time is drawn so.
    """
    is_copied = _ends_with_copy(generation.walk.form)
    over_tonic, bar = None, _number_bar(generation) if is_copied else _LAST
    for fork in _iter_draws(generation, rule, bar, CLOSING_DRAWS):
        last = bar if is_copied else _number_bar(fork)
        end = rule.read_phrase_end(fork, last, is_last=is_copied)
        if end and end.is_tonic and end.kind in CLOSING_KINDS and end.is_only:
            return _resume(fork, generation)
        if end and end.is_tonic and over_tonic is None:
            over_tonic = fork
    if over_tonic is None:
        over_tonic = generation.copy()
        rule.require_tonic(over_tonic)
        over_tonic.restrictions = tuple(r for r in generation.restrictions if r is not rule)
        over_tonic = _draw_to_end_of_bar(over_tonic, bar)
    return _resume(over_tonic, generation)


def _ends_with_copy(form: FormState) -> TypeGuard[FixedFormState]:
    """Return whether a tune ends with a letter that returns, so that its end is drawn before."""
    return isinstance(form, FixedFormState) and form.layout.sections[-1].source is not None


def _iter_draws(
    generation: GenerationState, rule: CadenceRule, bar: int, count: int
) -> Iterator[GenerationState]:
    """Yield draws to the end of a bar, each with noise of its own; the first has the tune's."""
    noise = generation.noise
    for number in range(count):
        fork = generation.copy()
        fork.noise = Noise(noise.seed, noise.tune_number + number * _DRAW_NOISE_OFFSET)
        fork.restrictions = tuple(each for each in generation.restrictions if each is not rule)
        yield _draw_to_end_of_bar(fork, bar)


def _resume(fork: GenerationState, generation: GenerationState) -> GenerationState:
    """Return a draw with the noise and the restrictions of the tune."""
    fork.noise, fork.restrictions = generation.noise, generation.restrictions
    return fork


def _opens_bar(generation: GenerationState) -> bool:
    """Return whether the last id opened a bar."""
    return generation.walk.in_bar and len(generation.ids) == generation.bar_start


def _number_bar(generation: GenerationState) -> int:
    return generation.walk.form.bars_written - 1 + _find_first_bar(generation)


def _draw_to_end_of_bar(generation: GenerationState, bar: int) -> GenerationState:
    """Draw up to the opening of the bar after one, or to the end of the tune."""
    while not generation.walk.is_done:
        if _opens_bar(generation) and _number_bar(generation) > bar:
            break
        generation = draw_id_or_cell(generation)
    return generation
