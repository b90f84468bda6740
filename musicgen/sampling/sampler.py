"""One tune from an engine, under the grammar: engine + grammar + wishes -> Score."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.grid import GRAIN
from musicgen.music.programs import program as program_number
from musicgen.music.score import Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.sampling.draw import (
    Filter,
    Noise,
    draw,
    log_softmax,
    min_p,
    temperature,
    top_k,
    top_p,
)
from musicgen.sampling.engine import Engine, State
from musicgen.tokens.codec import Encoded, Setting
from musicgen.tokens.grammar import HEADER, Context, Walk
from musicgen.tokens.measures import MeasuresCodec, rhythm_event
from musicgen.tokens.rules import DEFAULT_LIMIT, Rules
from musicgen.tokens.vocabulary import MEASURES, RHYTHMS, Event

MOST_BARS: Final = 512

# Quarters a minute at which a tune is played where none is asked for: by dance, else by meter.
RHYTHM_QPM: Final[Mapping[str, float]] = {
    "air": 80, "clog": 150, "double jig": 174, "fling": 160, "highland fling": 160, "hornpipe": 160,
    "jig": 174, "march": 110, "reel": 200, "set dance": 160, "single jig": 180, "slide": 190,
    "slip jig": 174, "strathspey": 136, "waltz": 150,
}  # fmt: skip
METER_QPM: Final[Mapping[str, float]] = {
    "2/2": 180, "2/4": 112, "3/2": 140, "3/4": 132, "4/4": 150, "6/4": 150,
    "3/8": 132, "6/8": 165, "9/8": 165, "12/8": 165,
}  # fmt: skip
# Tonics as tunebooks use them, for models that do not say what they learnt from.
_TONICS: Final[Mapping[str, Mapping[str, int]]] = {
    "major": {"D": 4, "G": 4, "A": 2, "C": 1, "F": 1, "Bb": 1},
    "minor": {"A": 3, "E": 2, "D": 2, "G": 2, "B": 1},
    "dorian": {"D": 2, "E": 2, "A": 2, "G": 1},
    "mixolydian": {"D": 2, "A": 2, "G": 1},
    "lydian": {"G": 1, "F": 1}, "phrygian": {"E": 1, "A": 1}, "locrian": {"B": 1, "E": 1},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a tune; None leaves it to the model."""

    key: Key | None = None
    meter: Meter | None = None
    rhythm: str | None = None
    bars: int | None = None  # as heard
    tempo: float | None = None  # quarters a minute
    program: int = 0  # General MIDI, 0..127
    temperature: float = 0.8  # 1 is the model as it is
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if self.bars is not None and not 1 <= self.bars <= MOST_BARS:
            raise InvalidValue(f"bars {self.bars}: ask for 1 to {MOST_BARS} bars")
        if self.tempo is not None and not 10 <= self.tempo <= 1000:
            raise InvalidValue(f"tempo {self.tempo}: choose 10 to 1000 quarters a minute")
        if not 0 <= self.program <= 127:
            raise InvalidValue(f"program {self.program}: choose 0 to 127, or a General MIDI name")

    def to_json(self) -> str:
        """Write them as text, for another process."""
        texts = {"key": str(self.key or ""), "meter": str(self.meter or "")}
        return json.dumps(asdict(self) | {name: text or None for name, text in texts.items()})

    @classmethod
    def from_json(cls, text: str) -> Wishes:
        """Read what `to_json` wrote."""
        return cls.read(**json.loads(text))

    @classmethod
    def read(cls, **wishes: Any) -> Wishes:
        """Make wishes from values as a person writes them: key="Dmix", meter="6/8"."""
        readers = {"key": Key.parse, "meter": Meter.parse, "program": program_number}
        for name, reader in readers.items():
            if isinstance(wishes.get(name), str):
                wishes[name] = reader(wishes[name])
        return cls(**wishes)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """What is done to the distribution before the noise. Raises InvalidValue."""
        found = [temperature(self.temperature)]
        if self.top_k is not None:
            found.append(top_k(self.top_k))
        if self.top_p is not None:
            found.append(top_p(self.top_p))
        if self.min_p is not None:
            found.append(min_p(self.min_p))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Sampler:
    """An engine with what its model has learnt: which events, and which tonics of a mode."""

    engine: Engine
    seen: Collection[int]  # ids of the events that occurred in training
    tonics: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: _TONICS)

    def sample(self, wishes: Wishes, noise: Noise, title: str = "") -> Score:
        """Draw one tune. Raises InvalidValue for a wish that the model has no event for."""
        encoded = self.encoded(wishes, noise, title)
        return MeasuresCodec().decode(encoded.ids, encoded.setting).score

    def encoded(self, wishes: Wishes, noise: Noise, title: str = "") -> Encoded:
        """Draw one tune as ids and their setting."""
        ids = self.draw_ids(wishes, noise)
        return Encoded(tuple(ids), self._setting(ids, wishes, noise, title))

    def draw_ids(self, wishes: Wishes, noise: Noise) -> list[int]:
        """Draw the ids of one tune, from the first header event to the end."""
        rules, filters = self._rules(wishes), wishes.filters
        walk, state = Walk(rules), self.engine.start()
        ids: list[int] = [MEASURES.id("begin")]
        while not walk.done:
            context = walk.context
            logits, state = self.engine.step(ids[-1:], context, state)
            if walk.header < len(HEADER):
                logits = self._leading(logits, state, walk)
            chosen = draw(logits, walk.legal(), filters, noise, context)
            walk.take(chosen)
            ids.append(chosen)
        return ids[1:]

    def _leading(self, logits: np.ndarray, state: State, walk: Walk) -> np.ndarray:
        """Weigh header events by how likely what is asked of the later ones is after each.

        So a reel that is asked for gets the meter of a reel, although the meter is drawn first.
        """
        if not self._narrowed(walk.rules, walk.header + 1):
            return logits
        weighed = np.array(logits, dtype=np.float64)
        for id_ in walk.legal():
            weighed[id_] += self._promise(id_, state, walk.header + 1, walk)
        return weighed

    def _promise(self, id_: int, state: State, place: int, walk: Walk) -> float:
        """Return the log-probability that the header goes on as asked after an event."""
        if not self._narrowed(walk.rules, place):
            return 0.0
        logits, state = self.engine.step([id_], walk.context, state)
        logs = log_softmax(np.asarray(logits, dtype=np.float64))
        allowed = walk.rules.ids(HEADER[place])
        ways = [logs[i] + self._promise(i, state, place + 1, walk) for i in allowed]
        return float(np.logaddexp.reduce(ways))

    def _narrowed(self, rules: Rules, place: int) -> bool:
        """Tell whether, from a place of the header on, less is allowed than the model has met."""
        return any(
            len(rules.ids(kind)) < sum(i in self.seen for i in MEASURES.ranges[kind])
            for kind in HEADER[place:]
        )

    def _rules(self, wishes: Wishes) -> Rules:
        allowed = {id_ for id_ in self.seen if _may_draw(MEASURES.events[id_])}
        asked = {
            "meter": None if wishes.meter is None else str(wishes.meter),
            "mode": None if wishes.key is None else wishes.key.mode,
            "rhythm": None if wishes.rhythm is None else _known_rhythm(wishes.rhythm),
            "parts": 1,
        }
        for kind in HEADER:
            allowed -= self._unasked(kind, asked[kind], allowed)
        fewest, most = (wishes.bars,) * 2 if wishes.bars else (1, DEFAULT_LIMIT)
        return Rules(allowed=frozenset(allowed), fewest=fewest, most=most)

    def _unasked(self, kind: str, value: str | int | None, allowed: set[int]) -> set[int]:
        """Return the events of a kind that are not the one that was asked for."""
        known = {i for i in MEASURES.ranges[kind] if i in allowed}
        chosen = MEASURES.ids.get(Event(kind, value))
        if value is None:
            return set()
        if chosen not in known:
            names = sorted(str(MEASURES.events[i].value) or "(none)" for i in known)
            raise InvalidValue(f"{kind} {value}: the model has never met it; it knows"
                               f" {', '.join(names)}")  # fmt: skip
        return known - {chosen}

    def _setting(self, ids: Iterable[int], wishes: Wishes, noise: Noise, title: str) -> Setting:
        header = {MEASURES.events[id_].kind: str(MEASURES.events[id_].value) for id_ in _head(ids)}
        mode, rhythm = header["mode"], header["rhythm"]
        tonic = wishes.key.tonic if wishes.key else self._tonic(mode, noise)
        tempo = wishes.tempo or RHYTHM_QPM.get(rhythm) or METER_QPM.get(header["meter"], 120.0)
        return Setting(
            tonic=tonic,
            title=title or _title(rhythm, Key(tonic, mode), noise),
            tempos=((0, float(tempo)),),
            parts=(Part("melody", wishes.program),),
        )

    def _tonic(self, mode: str, noise: Noise) -> str:
        """Draw a tonic as often as the training tunes of the mode have it."""
        counts = dict(self.tonics.get(mode) or _TONICS[mode])
        names = sorted(counts)
        place = Context(0, 0, 0, 0, 0, None, decision="tonic")
        luck = noise.gumbel(place, range(len(names)))
        return names[int(np.argmax(np.log([counts[name] for name in names]) + luck))]


def _head(ids: Iterable[int]) -> Iterable[int]:
    return [id_ for _, id_ in zip(HEADER, ids, strict=False)]


def _may_draw(event: Event) -> bool:
    """Leave out what no sheet of music writes, and pitches that some tonic has no place for."""
    if event.kind == "duration":
        return int(event.value or 0) >= GRAIN
    if event.kind == "pitch":
        return -57 <= int(event.value or 0) <= 59
    return event.kind not in ("begin", "irregular")


def _known_rhythm(name: str) -> str:
    known = rhythm_event(name.strip().lower())
    if known == "other":
        names = ", ".join(r for r in RHYTHMS if r not in ("", "other"))
        raise InvalidValue(f"rhythm {name!r} is unknown: choose one of {names}")
    return known


def _title(rhythm: str, key: Key, noise: Noise) -> str:
    kind = rhythm.capitalize() if rhythm not in ("", "other") else "Tune"
    return f"{kind} in {key}, no. {noise.seed}-{noise.tune + 1}"
