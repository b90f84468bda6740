"""An order carried out: wishes, a primer, bars that are kept, what a variant holds on to."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from musicgen.errors import InvalidValue
from musicgen.music.score import Score
from musicgen.sampling.forced_tokens import Opening
from musicgen.sampling.generation_state import Draft
from musicgen.sampling.infill import regenerated
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import Wishes
from musicgen.sampling.primer import Fitting, Primer, fitted
from musicgen.sampling.recipe import Order
from musicgen.sampling.sampler import Sampler, Start
from musicgen.tokens.codec import PLAIN_SETTING, Encoded, Setting
from musicgen.tokens.constraints import DEFAULT_LIMIT
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES, Event


@dataclass(frozen=True, slots=True)
class Written:
    """What came of an order: a tune as ids, and where what is to be written of it begins."""

    encoded: Encoded
    skipped: int = 0  # steps of the primer, where it is left out
    told: tuple[str, ...] = ()  # what a person should know of it

    @property
    def score(self) -> Score:
        """What is to be written."""
        whole = MeasuresCodec().decode(self.encoded.ids, self.encoded.setting).score
        return whole.heard_from(self.skipped) if self.skipped else whole

    def to_json(self) -> str:
        """Write it as text, for another process."""
        setting = self.encoded.setting.to_json()
        return json.dumps([self.encoded.ids, setting, self.skipped, self.told])

    @classmethod
    def from_json(cls, text: str) -> Written:
        """Read what `to_json` wrote."""
        ids, setting, skipped, told = json.loads(text)
        return cls(Encoded(tuple(ids), Setting.from_json(setting)), skipped, tuple(told))


def write(sampler: Sampler, order: Order) -> Written:
    """Carry an order out. Raises InvalidValue for what cannot be met."""
    noise = Noise(order.seed, order.number)
    start = held_on_to(order)
    if order.keep is not None:
        encoded, stretches = regenerated(sampler, order.wishes, noise, start, order.keep)
        return Written(encoded, told=tuple(map(str, stretches)))
    if order.primer is None:
        return Written(sampler.encoded(order.wishes, noise, start))
    encoded, end, told = _from_primer(sampler, order.wishes, order.primer, noise, start)
    if order.writes_primer:
        return Written(encoded, told=told)
    found = Written(encoded, end, told)
    if not found.score.notes:
        raise InvalidValue("no-primer: nothing comes after the primer; ask for more bars")
    return found


def held_on_to(order: Order) -> Start:
    """Return what a variant holds on to of the tune that it varies."""
    drawn = order.drawn
    return Start(drawn.header, drawn.tonic, drawn.qpm) if drawn else Start()


def _from_primer(
    sampler: Sampler, wishes: Wishes, primer: Primer, noise: Noise, start: Start
) -> tuple[Encoded, int, tuple[str, ...]]:
    """Go on from a primer; return the step at which it ends, and what was told."""
    asked = wishes.heard
    if asked is not None and primer.count > asked:
        raise InvalidValue(f"bars {asked}: the primer has {primer.count}; ask for as many or more")
    opening = Opening(primer.bars)
    rhythm = MEASURES.ids.get(Event("rhythm", primer.rhythm))
    rules = sampler.rules(wishes)
    known = rhythm if rhythm in rules.ids("rhythm") else None
    header = start.header or (
        MEASURES.id("meter", str(primer.meter)), MEASURES.id("mode", primer.key.mode), known, None,
    )  # fmt: skip
    begin = replace(
        start,
        header=header,
        tonic=start.tonic or primer.key.tonic,
        tempo=start.tempo or primer.tempo,
        scripts=(opening,),
    )
    draft = sampler.begun(wishes, noise, begin)
    if asked is None:
        most = max(DEFAULT_LIMIT, primer.count + DEFAULT_LIMIT // 2)
        draft.walk.narrow(replace(draft.walk.rules, most=most, _values={}, _pickups={}))
    while not draft.walk.done:
        draft.step()
    return sampler.finished(draft, wishes, begin), _end(draft, opening, primer), _cut(opening)


def _end(draft: Draft, opening: Opening, primer: Primer) -> int:
    """Return the step at which the primer stops, or would have."""
    if opening.stopped is None:
        return primer.end
    ids = draft.ids[1 : opening.followed]
    part = MeasuresCodec().decode(ids, PLAIN_SETTING).score
    return max((note.end for note in part.notes), default=0)


def _cut(opening: Opening) -> tuple[str, ...]:
    """Tell where a primer could not be followed."""
    if opening.stopped is None:
        return ()
    event = MEASURES.events[opening.stopped]
    return (f"the primer was followed up to {event}, which has no place there; the rest is new",)


def fit(score: Score, sampler: Sampler, wishes: Wishes, name: str) -> Primer:
    """Fit a score to what a model writes and what is asked. Raises InvalidValue."""
    lowest, highest = wishes.range or (0, 127)
    rules = sampler.rules(replace(wishes, key=None, range=None, rhythm=None))
    return fitted(score, Fitting(rules, wishes.meter, wishes.key, lowest, highest), name)
