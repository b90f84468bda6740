"""Generation of a tune from a request: options, primer, kept bars, pinned header."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import chain

from musicgen.errors import InvalidValue
from musicgen.music.score import Score
from musicgen.music.symbols_part import without_symbols_part
from musicgen.sampling.forced_tokens import ForcedPrimer
from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.infill import regenerate_bars
from musicgen.sampling.live_primer import LivePrimer
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_drawing import draw_around
from musicgen.sampling.primer import Primer, PrimerTarget, fit_score
from musicgen.sampling.primer_choice import PrimerChoice
from musicgen.sampling.primer_ensemble import fit_ensemble
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import GenericSampler, Sampler, TuneStart
from musicgen.tokens.codec import PLAIN_SETTING, Encoded, Setting
from musicgen.tokens.constraints import DEFAULT_MAX_BARS
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES, Event


@dataclass(frozen=True, slots=True)
class Generated:
    """The ids of a generated tune, and the step at which its written part begins."""

    encoded: Encoded
    skipped_steps: int = 0  # steps of the primer, where it is left out
    messages: tuple[str, ...] = ()  # what a person should know of it

    @property
    def score(self) -> Score:
        """What is to be written."""
        whole = MeasuresCodec().decode(self.encoded.ids, self.encoded.setting).score
        whole = without_symbols_part(whole)
        return whole.unfold_from(self.skipped_steps) if self.skipped_steps else whole

    def to_json(self) -> str:
        """Write it as text, for another process."""
        setting = self.encoded.setting.to_json()
        return json.dumps([self.encoded.ids, setting, self.skipped_steps, self.messages])

    @classmethod
    def from_json(cls, text: str) -> Generated:
        """Read what `to_json` wrote."""
        ids, setting, skipped, messages = json.loads(text)
        return cls(Encoded(tuple(ids), Setting.from_json(setting)), skipped, tuple(messages))


def generate_tune(sampler: Sampler, request: GenerationRequest) -> Generated:
    """Generate the tune of a request.

    Raises:
        InvalidValue: the options cannot be met.
    """
    noise = Noise(request.seed, request.number)
    start = get_pinned_start(request)
    if request.given is not None:
        drawn = draw_around(sampler, request.options, noise, request.given, start.header)
        return Generated(drawn.encoded, messages=drawn.messages)
    if request.keep is not None:
        encoded, stretches = regenerate_bars(sampler, request.options, noise, start, request.keep)
        return Generated(encoded, messages=tuple(map(str, stretches)))
    primer = request.primer
    if primer is None:
        return Generated(sampler.sample_encoded(request.options, noise, start))
    if isinstance(primer, LivePrimer):
        raise InvalidValue("the model counts bars and cannot go on from live notes; use a model of"
                           " performances")  # fmt: skip
    encoded, end, messages = _continue_primer(sampler, request.options, primer, noise, start)
    if request.writes_primer:
        return Generated(encoded, messages=messages)
    generated = Generated(encoded, end, messages)
    if not generated.score.notes:
        raise InvalidValue("no-primer: nothing comes after the primer; ask for more bars")
    return generated


def continue_live(sampler: GenericSampler, request: GenerationRequest) -> Generated:
    """Generate the piece of a request by a codec without bars, from a primer if there is one."""
    primer, noise = request.primer, Noise(request.seed, request.number)
    if not isinstance(primer, LivePrimer):
        return Generated(sampler.sample_encoded(request.options, noise))
    encoded = sampler.sample_encoded(request.options, noise, opening=primer.ids)
    return Generated(encoded, 0 if request.writes_primer else primer.end)


def get_pinned_start(request: GenerationRequest) -> TuneStart:
    """Return the header, tonic and tempo that a variant keeps."""
    drawn = request.drawn
    return TuneStart(drawn.header, drawn.tonic, drawn.qpm) if drawn else TuneStart()


def _continue_primer(
    sampler: Sampler, options: SamplingOptions, primer: Primer, noise: Noise, start: TuneStart
) -> tuple[Encoded, int, tuple[str, ...]]:
    """Continue a primer; return the ids, the step at which it ends, and messages."""
    requested_bars = options.heard_bars
    if requested_bars is not None and primer.bar_count > requested_bars:
        raise InvalidValue(
            f"bars {requested_bars}: the primer has {primer.bar_count}; ask for as many or more"
        )
    opening = ForcedPrimer(primer.bars)
    rhythm = MEASURES.ids.get(Event("rhythm", primer.rhythm))
    rules = sampler.build_rules(options)
    rhythm_id = rhythm if rhythm in rules.ids_of_kind("rhythm") else None
    header = start.header or (
        MEASURES.id("meter", str(primer.meter)),
        MEASURES.id("mode", primer.key.mode),
        rhythm_id,
        None,
    )
    begin = replace(
        start,
        header=header,
        tonic=start.tonic or primer.key.tonic,
        tempo=start.tempo or primer.tempo,
        forced_sources=(opening,),
        given_ids=frozenset(chain.from_iterable(ids for _, ids in primer.bars)),
        has_melody=True,
    )
    generation = sampler.start_tune(options, noise, begin)
    if requested_bars is None:
        most = max(DEFAULT_MAX_BARS, primer.bar_count + DEFAULT_MAX_BARS // 2)
        generation.walk.narrow(
            replace(generation.walk.rules, max_bars=most, _fitting_cache={}, _pickup_cache={})
        )
    while not generation.walk.is_done:
        generation.step()
    return (
        sampler.finish_tune(generation, options, begin),
        _find_primer_end(generation, opening, primer),
        _describe_rejection(opening),
    )


def _find_primer_end(generation: GenerationState, opening: ForcedPrimer, primer: Primer) -> int:
    """Return the step at which the primer stops, or would have."""
    if opening.rejected_id is None:
        return primer.end
    ids = generation.ids[1 : opening.end_position]
    part = MeasuresCodec().decode(ids, PLAIN_SETTING).score
    return max((note.end for note in part.notes), default=0)


def _describe_rejection(opening: ForcedPrimer) -> tuple[str, ...]:
    """Return a message where a primer could not be followed to its end."""
    if opening.rejected_id is None:
        return ()
    event = MEASURES.events[opening.rejected_id]
    return (f"the primer was followed up to {event}, which is not possible there; the rest is new",)


def fit_primer(
    score: Score, sampler: Sampler, options: SamplingOptions, name: str, choice: PrimerChoice
) -> tuple[SamplingOptions, Primer]:
    """Fit a score, or what is chosen of it, to a model and the options.

    Returns:
        The options, with the line-up of the score if all its parts are kept, and the primer.

    Raises:
        InvalidValue: the score cannot be fitted.
    """
    if ensemble := fit_ensemble(score, sampler, options, name, choice):
        return ensemble
    lowest, highest = options.common_range or (0, 127)
    rules = sampler.build_rules(replace(options, key=None, range=None, rhythm=None))
    target = PrimerTarget(rules, options.meter, options.key, lowest, highest)
    return options, fit_score(score, target, name, choice)
