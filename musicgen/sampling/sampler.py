"""One tune from an engine, under the grammar: engine + grammar + options -> Score.

`Sampler` serves the codec `measures`, with all options; `PlainSampler` serves every other codec, id
by id, under the grammar of that codec. The noise of an id is keyed by seed, tune and position.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from musicgen.checkpoint import Checkpoint
from musicgen.config import BEGIN
from musicgen.errors import InvalidValue
from musicgen.music.durations import GRAIN
from musicgen.music.score import DEFAULT_VELOCITY, Part, Score
from musicgen.music.theory import Key, pitch_name
from musicgen.number_parsing import shorten
from musicgen.sampling.compiled_sampler import Course
from musicgen.sampling.engine import Engine, NumpyEngine
from musicgen.sampling.forced_tokens import Copies, Header
from musicgen.sampling.generation_state import Draft, Script
from musicgen.sampling.noise import Noise, event_hashes, luckiest
from musicgen.sampling.options import TONICS, Wishes, range_text, usual_qpm
from musicgen.similarity.copy_filter import CopyVeto, Guard
from musicgen.tokens.codec import AnyCodec, Encoded, Setting
from musicgen.tokens.constraints import DEFAULT_LIMIT, Rules
from musicgen.tokens.grammar import HEADER, Context, Walk
from musicgen.tokens.measures import MeasuresCodec, drum_parts, rhythm_event
from musicgen.tokens.vocabulary import MEASURES, RHYTHMS, Event

_COURSES: Final = 4  # of the last wishes
_REPEATS: Final = ("repeat_start", "repeat_end", "ending", "ending_end")


@dataclass(frozen=True, slots=True)
class Start:
    """What a tune starts from, besides the wishes."""

    header: tuple[int | None, ...] = ()  # events to hold on to; None: drawn
    tonic: str | None = None
    tempo: float | None = None  # where none is asked for
    title: str = ""
    scripts: tuple[Script, ...] = ()  # what else is given


PLAIN_START: Final = Start()


@dataclass(frozen=True)
class Sampler:
    """An engine with what its model has learnt: which events, and which tonics of a mode."""

    engine: Engine
    seen: Collection[int]  # ids of the events that occurred in training
    tonics: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: TONICS)
    guards: Callable[[int], Guard] | None = None  # what knows its training tunes, for a limit

    def sample(self, wishes: Wishes, noise: Noise, title: str = "") -> Score:
        """Draw one tune. Raises InvalidValue for a wish that the model has no event for."""
        encoded = self.encoded(wishes, noise, Start(title=title))
        return MeasuresCodec().decode(encoded.ids, encoded.setting).score

    def draw_ids(self, wishes: Wishes, noise: Noise) -> list[int]:
        """Draw the ids of one tune, from the first header event to the end."""
        return list(self.encoded(wishes, noise).ids)

    def encoded(self, wishes: Wishes, noise: Noise, start: Start = PLAIN_START) -> Encoded:
        """Draw one tune as ids and their setting."""
        draft = self.begun(wishes, noise, start)
        if draft.is_free:
            course = self.course(wishes)
            draft.ids = course.finish(course.begun(draft))
            return self.finished(draft, wishes, start)
        while not draft.walk.done:
            draft.step()
        return self.finished(draft, wishes, start)

    def course(self, wishes: Wishes) -> Course:
        """Return what draws the tunes of some wishes; what it has learnt of them is kept a while.

        Raises InvalidValue for what the model has never met.
        """
        if wishes not in self._courses:
            course = Course(self.engine, self.rules(wishes), wishes.filters)
            while len(self._courses) >= _COURSES:
                del self._courses[next(iter(self._courses))]
            self._courses[wishes] = course
        return self._courses[wishes]

    @cached_property
    def _courses(self) -> dict[Wishes, Course]:
        return {}

    def begun(self, wishes: Wishes, noise: Noise, start: Start = PLAIN_START) -> Draft:
        """Start a tune: its header is drawn, and what follows from its key is settled."""
        course = self.course(wishes)
        rules = course.rules
        copies: list[Script] = [Copies()] if rules.layout else []
        scripts = [Header(start.header), *copies, *start.scripts]  # copies look at every id
        draft = Draft(self.engine, Walk(rules), self.engine.start(), noise, wishes.filters,
                      self._met, scripts, self._veto(wishes), known=course.known)  # fmt: skip
        while draft.walk.header < len(HEADER):
            draft.step()
        if wishes.range is not None or wishes.end != "any":
            key = Key(self._tonic(draft.ids[1:], wishes, noise, start), _header(draft.ids[1:])[1])
            if key not in course.narrowed:
                course.narrowed[key] = self._in_key(rules, wishes, key)
            draft.walk.narrow(course.narrowed[key])
        return draft

    def finished(self, draft: Draft, wishes: Wishes, start: Start = PLAIN_START) -> Encoded:
        """Return what a draft that is done says, with the setting that belongs to it."""
        ids = tuple(draft.ids[1:])
        meter, mode, rhythm, _ = _header(ids)
        tonic = self._tonic(ids, wishes, draft.noise, start)
        parts = _parts(ids, wishes.program)
        setting = Setting(
            tonic=tonic,
            title=start.title or _title(rhythm, Key(tonic, mode), draft.noise),
            tempos=((0, float(wishes.tempo or start.tempo or usual_qpm(rhythm, meter))),),
            parts=parts,
            velocities=(DEFAULT_VELOCITY,) * len(parts),
        )
        return Encoded(ids, setting)

    def rules(self, wishes: Wishes) -> Rules:
        """Return what a tune may hold. Raises InvalidValue for what the model has never met."""
        allowed = self._drawable - self._unwanted(wishes)
        allowed |= (
            {MEASURES.id("rest")} if wishes.max_copy is not None else frozenset()
        )  # breaks a copy
        asked = {
            "meter": None if wishes.meter is None else str(wishes.meter),
            "mode": None if wishes.key is None else wishes.key.mode,
            "rhythm": None if wishes.rhythm is None else _known_rhythm(wishes.rhythm),
            "parts": 1 if MEASURES.id("parts", 1) in allowed else None,
        }
        for kind in HEADER:
            allowed -= _unasked(kind, asked[kind], allowed)
        allowed -= self._out_of_reach(wishes, allowed)
        least = wishes.min_bars or 1
        fewest, most = (wishes.heard,) * 2 if wishes.heard else (least, DEFAULT_LIMIT)
        layout = wishes.layout
        self._check_repeats(wishes, allowed)
        return Rules(
            frozenset(allowed), fewest, most, drum_parts=None, layout=layout, pickup=wishes.pickup
        )

    @cached_property
    def _drawable(self) -> frozenset[int]:
        return frozenset(id_ for id_ in self.seen if _may_draw(MEASURES.events[id_]))

    @cached_property
    def _met(self) -> dict[str, int]:
        """How many events of each kind of the header the model has met."""
        return {kind: sum(i in self.seen for i in MEASURES.ranges[kind]) for kind in HEADER}

    def _veto(self, wishes: Wishes) -> CopyVeto | None:
        if wishes.max_copy is None:
            return None
        if self.guards is None:
            raise InvalidValue(
                f"max-copy {wishes.max_copy}: the model has no index of its training tunes; train"
                " it again without --no-index, or leave --max-copy out"
            )
        return CopyVeto(self.guards(wishes.max_copy))

    def _unwanted(self, wishes: Wishes) -> set[int]:
        """Return the events that a wish leaves out."""
        kinds: list[str] = []
        if wishes.form is not None:
            kinds += ["ending", "ending_end", "key"]
            kinds += _REPEATS if wishes.layout is None else ()
        if wishes.max_copy is not None:
            kinds += ["voice", "part"]
        return {id_ for kind in kinds for id_ in MEASURES.ranges[kind]}

    def _check_repeats(self, wishes: Wishes, allowed: Collection[int]) -> None:
        """Raise InvalidValue for a form with repeats that the model has never met."""
        for plays in sorted(wishes.layout.repeats if wishes.layout else ()):
            needed = MEASURES.id("repeat_start"), MEASURES.id("repeat_end", plays)
            if not all(id_ in allowed for id_ in needed):
                raise InvalidValue(
                    f"form {wishes.form}: the model has never met a part that is played {plays}"
                    " times; write letters that do not follow themselves, such as ABAC"
                )

    # What follows from the key

    def _in_key(self, rules: Rules, wishes: Wishes, key: Key) -> Rules:
        """Narrow the rules to the pitches that are asked for in a key."""
        pitches = self._pitches(wishes, key)
        allowed = rules.allowed - set(MEASURES.ranges["pitch"]) | pitches
        closing = _tonics_of(pitches) if wishes.end == "tonic" else frozenset[int]()
        return replace(rules, allowed=allowed, closing=closing, _values={}, _pickups={})

    def _pitches(self, wishes: Wishes, key: Key) -> frozenset[int]:
        """Return the pitches that the model knows in a key, as far as the range goes."""
        lowest, highest = wishes.range or (0, 127)
        zero = MEASURES.id("pitch", 0) - Setting(key.tonic).tonic_pitch
        known = self._drawable & set(MEASURES.ranges["pitch"])
        return frozenset(id_ for id_ in known if lowest <= id_ - zero <= highest)

    def _reaches(self, wishes: Wishes, key: Key) -> bool:
        """Tell whether a key has a pitch in the range, and a tonic if the tune ends on one."""
        if not self._has_pitches:
            return True
        pitches = self._pitches(wishes, key)
        return bool(_tonics_of(pitches) if wishes.end == "tonic" else pitches)

    @cached_property
    def _has_pitches(self) -> bool:
        return not self._drawable.isdisjoint(MEASURES.ranges["pitch"])

    def _check_pitches(self, wishes: Wishes) -> None:
        """Raise InvalidValue for a wish about pitches where the model knows drums only."""
        asked = {"range": wishes.range is not None, "end": wishes.end == "tonic"}
        for name in (name for name, is_asked in asked.items() if is_asked):
            if not self._has_pitches:
                raise InvalidValue(
                    f"{name}: the model knows drums and no pitches; leave --{name} out"
                )

    def _out_of_reach(self, wishes: Wishes, allowed: Collection[int]) -> set[int]:
        """Return the modes without a key in reach. Raises InvalidValue where none has one."""
        self._check_pitches(wishes)
        modes = [id_ for id_ in MEASURES.ranges["mode"] if id_ in allowed]
        far = {id_ for id_ in modes if not self._keys_in_reach(wishes, str(_value(id_)))}
        if far != set(modes):
            return far
        keys = [wishes.key] if wishes.key else [
            Key(tonic, str(_value(id_))) for id_ in modes for tonic in self._tonics(_value(id_))
        ]  # fmt: skip
        every = replace(wishes, range=None)
        zeros = [Setting(key.tonic).tonic_pitch - MEASURES.id("pitch", 0) for key in keys]
        pitches = sorted(
            id_ + zero
            for key, zero in zip(keys, zeros, strict=True)
            for id_ in self._pitches(every, key)
        )
        where = f"in {wishes.key} the model's notes" if wishes.key else "the model's notes"
        tonic = ", and a tonic to end on must be among them" if wishes.end == "tonic" else ""
        raise InvalidValue(
            f"range {range_text(wishes.range or (0, 127))}: {where} reach from"
            f" {pitch_name(pitches[0])} to {pitch_name(pitches[-1])}{tonic}"
        )

    def _keys_in_reach(self, wishes: Wishes, mode: str) -> dict[str, int]:
        """Return the tonics of a mode that will do, and how often the training tunes have them."""
        if wishes.key is not None:
            counts: Mapping[str, int] = {wishes.key.tonic: 1}
        else:
            counts = self._tonics(mode)
        return {t: n for t, n in counts.items() if self._reaches(wishes, Key(t, mode))}

    def _tonics(self, mode: str) -> Mapping[str, int]:
        return self.tonics.get(mode) or TONICS[mode]

    def _tonic(self, ids: Sequence[int], wishes: Wishes, noise: Noise, start: Start) -> str:
        """Return the tonic, or draw one as often as the training tunes of the mode have it."""
        if wishes.key is not None:
            return wishes.key.tonic
        counts = self._keys_in_reach(wishes, _header(ids)[1])
        if start.tonic in counts or not counts:
            return start.tonic or "C"
        names = sorted(counts)
        place = Context(0, 0, 0, 0, 0, None, decision="tonic")
        luck = noise.gumbel(place, range(len(names)))
        return names[int(np.argmax(np.log([counts[name] for name in names]) + luck))]


def _value(id_: int) -> str:
    return str(MEASURES.events[id_].value)


def _header(ids: Sequence[int]) -> tuple[str, str, str, str]:
    """Return meter, mode, rhythm and number of parts."""
    meter, mode, rhythm, parts = map(_value, ids[: len(HEADER)])
    return meter, mode, rhythm, parts


def _tonics_of(pitches: Collection[int]) -> frozenset[int]:
    return frozenset(id_ for id_ in pitches if (id_ - MEASURES.id("pitch", 0)) % 12 == 0)


def _parts(ids: Sequence[int], program: int) -> tuple[Part, ...]:
    """Return who plays: one melody, or as many voices as the model has drawn, or drums."""
    count, drums = int(_header(ids)[3]), drum_parts(ids)
    names = ["melody"] if count == 1 else [f"voice {number}" for number in range(1, count + 1)]
    return tuple(
        Part("drums", is_drums=True) if number in drums else Part(name, program)
        for number, name in enumerate(names)
    )


def _may_draw(event: Event) -> bool:
    """Leave out what no sheet of music writes, and pitches that some tonic has no place for."""
    if event.kind == "duration":
        return int(event.value or 0) >= GRAIN
    if event.kind == "pitch":
        return -57 <= int(event.value or 0) <= 59
    return event.kind not in ("begin", "irregular")


def _unasked(kind: str, value: str | int | None, allowed: Collection[int]) -> set[int]:
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


def _known_rhythm(name: str) -> str:
    known = rhythm_event(name.strip().lower())
    if known == "other":
        names = ", ".join(r for r in RHYTHMS if r not in ("", "other"))
        raise InvalidValue(f"rhythm {shorten(name)!r} is unknown: choose one of {names}")
    return known


def _title(rhythm: str, key: Key, noise: Noise) -> str:
    kind = rhythm.capitalize() if rhythm not in ("", "other") else "Tune"
    return f"{kind} in {key}, no. {noise.seed}-{noise.tune + 1}"


EVERY: Final = ("temperature", "top_k", "top_p", "min_p")  # what all codecs understand
ALSO: Final = {"performance": ("program",), "frames": ("program", "tempo"),
               "frames-16": ("program", "tempo")}  # fmt: skip
DEFAULT_QPM: Final = 120.0


@dataclass(frozen=True)
class PlainSampler:
    """An engine, the codec of its ids, and which of them it has met."""

    engine: Engine
    codec: AnyCodec
    seen: Collection[int]

    def sample(self, wishes: Wishes, noise: Noise) -> Score | str:
        """Draw one piece. Raises InvalidValue for a wish that the codec does not understand."""
        encoded = self.encoded(wishes, noise)
        piece: Score | str = self.codec.decode(encoded.ids, encoded.setting).piece
        return piece

    def encoded(self, wishes: Wishes, noise: Noise, most: int | None = None) -> Encoded:
        """Draw one piece, or only so many ids of it, with the setting that belongs to it."""
        refuse_others(wishes, self.codec.name)
        name = self.codec.name.split("-")[0].capitalize()
        setting = Setting(
            title=f"{name}, no. {noise.seed}-{noise.tune + 1}",
            tempos=((0, float(wishes.tempo or DEFAULT_QPM)),),
            parts=(Part("", wishes.program),),
        )
        return Encoded(tuple(self.draw_ids(wishes, noise, most)), setting)

    def draw_ids(self, wishes: Wishes, noise: Noise, most: int | None = None) -> list[int]:
        """Draw the ids of one piece, to its end, or only so many of them."""
        walk, state, filters = self.codec.walk(), self.engine.start(), wishes.filters
        ids, met = [BEGIN], list[int]()
        legal: tuple[int, ...] = ()
        while not walk.done and (most is None or len(ids) <= most):
            logits, state = self.engine.step(ids[-1:], None, state)
            before, legal = legal, walk.legal()
            if legal is not before:  # a text offers the same thousands each time
                met = [id_ for id_ in legal if id_ in self.seen] or list(legal)
            luck = partial(noise.at, 0, len(ids), self._hashes[met])
            ids.append(luckiest(logits, met, filters, luck))
            walk.take(ids[-1])
        return ids[1:]

    @cached_property
    def _hashes(self) -> npt.NDArray[np.uint64]:
        return event_hashes(self.codec.vocabulary.names)


def sampler_of(
    checkpoint: Checkpoint, codec: AnyCodec, guards: Callable[[int], Guard] | None = None
) -> Sampler | PlainSampler:
    """Return what writes the tunes of a checkpoint: its engine, and what it has learnt.

    guards: what knows its training tunes' runs, for a limit in notes.
    """
    manifest = checkpoint.manifest
    seen = frozenset(id_ for id_, count in enumerate(manifest.seen) if count)
    engine = NumpyEngine.of(checkpoint)
    if manifest.codec == MeasuresCodec.name:
        return Sampler(engine, seen, manifest.corpus.get("tonics", {}), guards)
    return PlainSampler(engine, codec, seen)


def refuse_others(wishes: Wishes, codec: str) -> None:
    """Raise InvalidValue for the first wish that a codec does not understand."""
    known = (*EVERY, *ALSO.get(codec, ()))
    plain: dict[str, Any] = {name: getattr(Wishes(), name) for name in Wishes.__slots__}
    for name, default in plain.items():
        if name not in known and getattr(wishes, name) != default:
            options = ", ".join(f"--{option.replace('_', '-')}" for option in known)
            raise InvalidValue(
                f"--{name} means nothing to a model of codec {codec}: it understands {options}"
            )
