"""One tune from an engine, under the grammar: engine + grammar + options -> Score.

`Sampler` serves the codec `measures`, with all options; `GenericSampler` every other codec, id by
id, under the grammar of that codec. The noise of an id is keyed by seed, tune and position.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Final

import numpy as np
import numpy.typing as npt

from musicgen.checkpoint import Checkpoint
from musicgen.config import BEGIN_ID, CONTEXTS
from musicgen.errors import InvalidValue, Mismatch
from musicgen.music.durations import SHORTEST_WRITABLE
from musicgen.music.dynamics import LEVEL_VELOCITIES
from musicgen.music.instrument_ranges import find_range, find_voice_range
from musicgen.music.roles import is_choir
from musicgen.music.score import DEFAULT_VELOCITY, Part, Score
from musicgen.music.theory import Key, Meter, pitch_name
from musicgen.sampling.cadence_drawing import draw_next, make_cadence_rule
from musicgen.sampling.engine import Engine, NumpyEngine
from musicgen.sampling.forced_tokens import ForcedHeader, ForcedRepeats
from musicgen.sampling.generation_state import CompiledSampler, ForcedTokenSource, GenerationState
from musicgen.sampling.lineup_rules import make_lineup_rules, make_parts
from musicgen.sampling.noise import Noise, argmax_with_noise, hash_event_names
from musicgen.sampling.option_table import OPTIONS, list_codec_options
from musicgen.sampling.options import TONICS, SamplingOptions, usual_qpm
from musicgen.sampling.part_limits import check_room, make_part_limits
from musicgen.sampling.part_requests import RolePrograms, get_default_program
from musicgen.sampling.part_writing import PartWriting
from musicgen.sampling.role_values import Thirds, format_range, get_role_ranges
from musicgen.similarity.copy_filter import CopyDetector, CopyFilter
from musicgen.tokens.codec import AnyCodec, Encoded, LengthLimitedGrammar, Setting
from musicgen.tokens.constraints import DEFAULT_MAX_BARS, Rules
from musicgen.tokens.grammar import HEADER_KINDS, DecisionContext, MeasuresGrammar
from musicgen.tokens.lineup import read_lineup
from musicgen.tokens.measures import MeasuresCodec, find_drum_parts, normalise_rhythm
from musicgen.tokens.vocabulary import MEASURES, RHYTHMS, Event
from musicgen.typed_data import shorten

_MAX_CACHED_SAMPLERS: Final = 4  # by options, the most recent
_MAX_COMPILED_STATES: Final = 30_000  # about 4 KiB each
_PART_COUNTS: Final = ("parts", "lineup")
_REPEAT_KINDS: Final = ("repeat_start", "repeat_end", "ending", "ending_end")


@dataclass(frozen=True, slots=True)
class TuneStart:
    """What a tune starts from, in addition to the options."""

    header: tuple[int | None, ...] = ()  # events to hold on to; None: drawn
    tonic: str | None = None
    tempo: float | None = None  # quarter notes per minute, where the options have none
    title: str = ""
    forced_sources: tuple[ForcedTokenSource, ...] = ()  # what else is given
    has_melody: bool = False  # whether the notes of the first part are given, which are pitches
    given_ids: frozenset[int] = frozenset()  # whose pitches any part may have
    has_limits_of_its_own: bool = False  # whether only some of the parts are drawn


DEFAULT_START: Final = TuneStart()


@dataclass(frozen=True)
class Sampler:
    """An engine with what its model has learnt: which events, and which tonics of a mode."""

    engine: Engine
    seen_ids: Collection[int]  # ids of the events that occurred in training
    tonics: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: TONICS)
    make_copy_detector: Callable[[int], CopyDetector] | None = (
        None  # what knows its training tunes, for a limit
    )
    densities: Thirds = field(default_factory=dict)  # onsets per bar, by role

    def sample(self, options: SamplingOptions, noise: Noise, title: str = "") -> Score:
        """Sample one tune.

        Raises:
            InvalidValue: an option needs an event that is not in the training data.
        """
        encoded = self.sample_encoded(options, noise, TuneStart(title=title))
        return MeasuresCodec().decode(encoded.ids, encoded.setting).score

    def draw_ids(self, options: SamplingOptions, noise: Noise) -> list[int]:
        """Draw the ids of one tune, from the first header event to the end."""
        return list(self.sample_encoded(options, noise).ids)

    def sample_encoded(
        self, options: SamplingOptions, noise: Noise, start: TuneStart = DEFAULT_START
    ) -> Encoded:
        """Draw one tune as ids and their setting."""
        compiled = self._compiled_samplers.get(options)
        if compiled is not None and compiled.grammar.inner.count > _MAX_COMPILED_STATES:
            del self._compiled_samplers[options]  # each line-up of a band adds its own states
        generation = self.start_tune(options, noise, start)
        if generation.is_unconstrained:
            compiled = self.get_compiled_sampler(options)
            generation.ids = compiled.finish(compiled.capture_header(generation))
            return self.finish_tune(generation, options, start)
        while not generation.walk.is_done:
            generation = draw_next(generation)
        return self.finish_tune(generation, options, start)

    def get_compiled_sampler(self, options: SamplingOptions) -> CompiledSampler:
        """Return the compiled sampler of some options; the most recent ones are cached.

        Raises:
            InvalidValue: an option needs an event that is not in the training data.
        """
        if options not in self._compiled_samplers:
            compiled = CompiledSampler(self.engine, self.build_rules(options), options.filters)
            while len(self._compiled_samplers) >= _MAX_CACHED_SAMPLERS:
                del self._compiled_samplers[next(iter(self._compiled_samplers))]
            self._compiled_samplers[options] = compiled
        return self._compiled_samplers[options]

    @cached_property
    def _compiled_samplers(self) -> dict[SamplingOptions, CompiledSampler]:
        return {}

    def start_tune(
        self, options: SamplingOptions, noise: Noise, start: TuneStart = DEFAULT_START
    ) -> GenerationState:
        """Start a tune: its header is drawn, and what follows from its key is settled."""
        compiled = self.get_compiled_sampler(options)
        rules = compiled.rules
        if start.has_melody:
            rules = replace(rules, first_part_is_pitched=True, _fitting_cache={}, _pickup_cache={})
        forced_sources: list[ForcedTokenSource] = [ForcedHeader(start.header)]
        if rules.layout:  # before the others, since it looks at every id
            forced_sources.append(ForcedRepeats(is_checked=start.has_limits_of_its_own))
        forced_sources += start.forced_sources
        generation = GenerationState(
            self.engine,
            MeasuresGrammar(rules),
            self.engine.start(),
            noise,
            options.filters,
            self._kind_counts,
            forced_sources,
            self._make_copy_filter(options),
            header_cache=compiled.header_cache,
        )
        while generation.walk.in_header:
            generation.step()
        ids = generation.ids[1:]
        lineup = _make_parts(ids, options) if read_lineup(ids) else ()
        if options.range is not None or options.ends_on_tonic or lineup:
            tonic = self._choose_tonic(ids, options, noise, start)
            given_ids = start.given_ids if lineup else frozenset[int]()
            case = Key(tonic, _read_header(ids)[1]), lineup, given_ids
            if case not in compiled.rules_by_case:
                in_key = self._restrict_to_key(rules, options, case[0])
                compiled.rules_by_case[case] = _restrict_to_instruments(in_key, options, *case)
            generation.walk.narrow(compiled.rules_by_case[case])
        if not start.has_limits_of_its_own:
            self.limit_parts(generation, options, range(len(lineup)))
        if is_choir(lineup):
            generation.restrictions += (PartWriting.of(lineup),)
        return generation

    def limit_parts(
        self,
        generation: GenerationState,
        options: SamplingOptions,
        drawn: Sequence[int],
        last_bar: int | None = None,
    ) -> None:
        """Add the density, polyphony and cadences that the options request of the parts of a tune.

        Args:
            generation: with its header.
            options: of the tune.
            drawn: the numbers of the parts that are drawn, at least in some bars.
            last_bar: its number, where bars are given.

        Raises:
            InvalidValue: the model cannot write such parts.
        """
        header = generation.ids[1:]
        limits = make_part_limits(options, header, drawn, self.densities)
        if limits is not None:
            check_room(limits, generation.walk.rules, Meter.parse(_read_header(header)[0]).steps)
            generation.restrictions += (limits,)
        rule = make_cadence_rule(options, header, drawn, last_bar)
        generation.restrictions += () if rule is None else (rule,)

    def finish_tune(
        self,
        generation: GenerationState,
        options: SamplingOptions,
        start: TuneStart = DEFAULT_START,
    ) -> Encoded:
        """Return the ids of a finished generation, with their setting."""
        ids = tuple(generation.ids[1:])
        meter, mode, rhythm, _ = _read_header(ids)
        tonic = self._choose_tonic(ids, options, generation.noise, start)
        parts = _make_parts(ids, options)
        levels = [description.level for description in read_lineup(ids)]
        setting = Setting(
            tonic=tonic,
            title=start.title or _make_title(rhythm, Key(tonic, mode), parts, generation.noise),
            tempos=((0, float(options.tempo or start.tempo or usual_qpm(rhythm, meter))),),
            parts=parts,
            velocities=tuple(int(LEVEL_VELOCITIES[level]) for level in levels)
            or (DEFAULT_VELOCITY,) * len(parts),
        )
        return Encoded(ids, setting)

    def build_rules(self, options: SamplingOptions) -> Rules:
        """Return the grammar's rules under some options.

        Raises:
            InvalidValue: an option needs an event that is not in the training data.
        """
        allowed = self._drawable_ids - self._find_excluded_ids(options)
        allowed |= (
            {MEASURES.id("rest")} if options.max_copy is not None else frozenset()
        )  # breaks a copy
        requested = {
            "meter": None if options.meter is None else str(options.meter),
            "mode": None if options.key is None else options.key.mode,
            "rhythm": None if options.rhythm is None else parse_rhythm(options.rhythm),
        }
        for kind, value in requested.items():
            allowed -= _find_unrequested_ids(kind, value, allowed)
        lineup = make_lineup_rules(options, allowed)
        allowed -= lineup.unwanted_ids
        allowed -= self._find_unreachable_modes(options, allowed)
        least = options.min_bars or 1
        fewest, most = (
            (options.heard_bars,) * 2 if options.heard_bars else (least, DEFAULT_MAX_BARS)
        )
        layout = options.layout
        self._check_repeats(options, allowed)
        return Rules(
            frozenset(allowed), fewest, most, drum_parts=None, layout=layout, pickup=options.pickup,
            needs_pitches=options.ends_on_tonic,
            first_part_is_pitched=options.max_copy is not None,
            lineup=lineup.parts, families_by_role=lineup.families_by_role,
        )  # fmt: skip

    @cached_property
    def _drawable_ids(self) -> frozenset[int]:
        return frozenset(id_ for id_ in self.seen_ids if _is_drawable(MEASURES.events[id_]))

    @cached_property
    def _kind_counts(self) -> dict[str, int]:
        """Number of events in the training data, by header kind."""
        return {
            kind: sum(i in self.seen_ids for name in names for i in MEASURES.ranges[name])
            for kind, names in {**{k: (k,) for k in HEADER_KINDS}, "parts": _PART_COUNTS}.items()
        }

    def _make_copy_filter(self, options: SamplingOptions) -> CopyFilter | None:
        if options.max_copy is None:
            return None
        if self.make_copy_detector is None:
            raise InvalidValue(
                f"max-copy {options.max_copy}: the model has no index of its training tunes; train"
                " it again without --no-index, or leave --max-copy out"
            )
        return CopyFilter(self.make_copy_detector(options.max_copy))

    def _find_excluded_ids(self, options: SamplingOptions) -> set[int]:
        """Return the ids that the options exclude."""
        kinds: list[str] = []
        if options.form is not None:
            kinds += ["ending", "ending_end", "key"]
            kinds += _REPEAT_KINDS if options.layout is None else ()
        if options.max_copy is not None:
            kinds += ["voice", "part", "level"]
        return {id_ for kind in kinds for id_ in MEASURES.ranges[kind]}

    def _check_repeats(self, options: SamplingOptions, allowed: Collection[int]) -> None:
        """Check that the training data has the repeats of the form."""
        for plays in sorted(options.layout.repeat_counts if options.layout else ()):
            needed = MEASURES.id("repeat_start"), MEASURES.id("repeat_end", plays)
            if not all(id_ in allowed for id_ in needed):
                raise InvalidValue(
                    f"form {options.form}: the training data has no part that is played {plays}"
                    " times; write letters that do not follow themselves, such as ABAC"
                )

    # What follows from the key

    def _restrict_to_key(self, rules: Rules, options: SamplingOptions, key: Key) -> Rules:
        """Restrict the rules to the pitches of the options in a key."""
        pitches = self._find_pitch_ids(options, key)
        allowed = rules.allowed_ids - set(MEASURES.ranges["pitch"]) | pitches
        closing = _filter_tonics(pitches) if options.ends_on_tonic else frozenset[int]()
        return replace(
            rules, allowed_ids=allowed, final_pitch_ids=closing,
            requires_cadence=options.end == "cadence", _fitting_cache={}, _pickup_cache={},
        )  # fmt: skip

    def _find_pitch_ids(self, options: SamplingOptions, key: Key) -> frozenset[int]:
        """Return the pitches that the model knows in a key, as far as the range goes."""
        lowest, highest = options.common_range or (0, 127)
        zero = MEASURES.id("pitch", 0) - Setting(key.tonic).tonic_pitch
        pitch_ids = self._drawable_ids & set(MEASURES.ranges["pitch"])
        return frozenset(id_ for id_ in pitch_ids if lowest <= id_ - zero <= highest)

    def _has_reachable_pitches(self, options: SamplingOptions, key: Key) -> bool:
        """Return whether a key has a pitch in the range, and a tonic if the tune must end on it."""
        if not self._has_pitches:
            return True
        pitches = self._find_pitch_ids(options, key)
        return bool(_filter_tonics(pitches) if options.ends_on_tonic else pitches)

    @cached_property
    def _has_pitches(self) -> bool:
        return not self._drawable_ids.isdisjoint(MEASURES.ranges["pitch"])

    def _check_pitches(self, options: SamplingOptions) -> None:
        """Check that a model of drums gets no option about pitches."""
        requested = {
            "range": options.range is not None, "end": options.ends_on_tonic,
            "key": options.key is not None,
        }  # fmt: skip
        for name in (name for name, is_asked in requested.items() if is_asked):
            if not self._has_pitches:
                raise InvalidValue(
                    f"{name}: the model knows drums and no pitches; leave --{name} out"
                )

    def _find_unreachable_modes(
        self, options: SamplingOptions, allowed: Collection[int]
    ) -> set[int]:
        """Return the modes without a key in reach. Raises InvalidValue where none has one."""
        self._check_pitches(options)
        modes = [id_ for id_ in MEASURES.ranges["mode"] if id_ in allowed]
        far = {
            id_
            for id_ in modes
            if not self._count_reachable_tonics(options, str(_get_event_value(id_)))
        }
        if far != set(modes):
            return far
        keys = (
            [options.key]
            if options.key
            else [
                Key(tonic, str(_get_event_value(id_)))
                for id_ in modes
                for tonic in self._get_tonic_counts(_get_event_value(id_))
            ]
        )
        every = replace(options, range=None)
        zeros = [Setting(key.tonic).tonic_pitch - MEASURES.id("pitch", 0) for key in keys]
        pitches = sorted(
            id_ + zero
            for key, zero in zip(keys, zeros, strict=True)
            for id_ in self._find_pitch_ids(every, key)
        )
        where = f"in {options.key} the model's notes" if options.key else "the model's notes"
        tonic = ", and a tonic to end on must be among them" if options.ends_on_tonic else ""
        raise InvalidValue(
            f"range {format_range(options.common_range or (0, 127))}: {where} reach from"
            f" {pitch_name(pitches[0])} to {pitch_name(pitches[-1])}{tonic}"
        )

    def _count_reachable_tonics(self, options: SamplingOptions, mode: str) -> dict[str, int]:
        """Return the tonics of a mode that will do, and how often the training tunes have them."""
        if options.key is not None:
            counts: Mapping[str, int] = {options.key.tonic: 1}
        else:
            counts = self._get_tonic_counts(mode)
        return {
            t: n for t, n in counts.items() if self._has_reachable_pitches(options, Key(t, mode))
        }

    def _get_tonic_counts(self, mode: str) -> Mapping[str, int]:
        return self.tonics.get(mode) or TONICS[mode]

    def _choose_tonic(
        self, ids: Sequence[int], options: SamplingOptions, noise: Noise, start: TuneStart
    ) -> str:
        """Return the tonic, or draw one as often as the training tunes of the mode have it."""
        if options.key is not None:
            return options.key.tonic
        counts = self._count_reachable_tonics(options, _read_header(ids)[1])
        if start.tonic in counts or not counts:
            return start.tonic or "C"
        names = sorted(counts)
        context = DecisionContext(0, 0, 0, 0, 0, None, decision="tonic")
        gumbel = noise.gumbel(context, range(len(names)))
        return names[int(np.argmax(np.log([counts[name] for name in names]) + gumbel))]


def _get_event_value(id_: int) -> str:
    return str(MEASURES.events[id_].value)


def _read_header(ids: Sequence[int]) -> tuple[str, str, str, str]:
    """Return meter, mode, rhythm and number of parts."""
    meter, mode, rhythm, parts = map(_get_event_value, ids[: len(HEADER_KINDS)])
    return meter, mode, rhythm, parts


def _filter_tonics(pitches: Collection[int]) -> frozenset[int]:
    return frozenset(id_ for id_ in pitches if (id_ - MEASURES.id("pitch", 0)) % 12 == 0)


def _restrict_to_instruments(
    rules: Rules,
    options: SamplingOptions,
    key: Key,
    lineup: Sequence[Part],
    given_ids: frozenset[int],
) -> Rules:
    """Restrict each part to the range of its voice or instrument, where that leaves pitches.

    A requested range of a role counts instead of that of the instrument.

    Each part is heard in the first bar, if nothing is given: a part that a model leaves out there
    seldom comes in later, since the model goes on as the bars before.

    Args:
        rules: in the key.
        options: of the tune.
        key: of the tune.
        lineup: its parts.
        given_ids: pitches that any part may have.
    """
    zero = MEASURES.id("pitch", 0) - Setting(key.tonic).tonic_pitch
    pitch_ids, by_part = rules.ids_of_kind("pitch"), []
    has_voices = is_choir(lineup)
    requested = get_role_ranges(options.range)
    for part in lineup:
        usual = find_voice_range(part.role) if has_voices else find_range(part.program)
        bounds = None if part.is_drums else requested.get(part.role, usual)
        low, high = bounds or (0, 127)
        in_range = frozenset(id_ for id_ in pitch_ids if low <= id_ - zero <= high)
        can_end = not rules.final_pitch_ids or bool(in_range & rules.final_pitch_ids)
        is_restricted = bounds is not None and in_range and can_end
        if part.role in requested and not is_restricted:
            raise _make_range_error(part, (low, high), pitch_ids, zero)
        by_part.append(in_range | given_ids if is_restricted else frozenset[int]())
    return replace(
        rules, part_pitch_ids=tuple(by_part), opens_with_all_parts=bool(lineup) and not given_ids,
        _fitting_cache={}, _pickup_cache={},
    )  # fmt: skip


def _make_range_error(
    part: Part, bounds: tuple[int, int], pitch_ids: Sequence[int], zero: int
) -> InvalidValue:
    """Return the error for a range of a role in which the model has no notes to draw."""
    lowest, highest = (pitch_name(id_ - zero) for id_ in (pitch_ids[0], pitch_ids[-1]))
    return InvalidValue(
        f"range {part.role}={format_range(bounds)}: the model's notes reach from {lowest} to"
        f" {highest} in this key, and a note to end on must be among them; choose a wider range"
    )


def _make_parts(ids: Sequence[int], options: SamplingOptions) -> tuple[Part, ...]:
    """Return who plays: one melody, or as many voices as the model has drawn, or drums."""
    if lineup := read_lineup(ids):
        return make_parts(lineup, options)
    count, drums = int(_read_header(ids)[3]), find_drum_parts(ids)
    names = ["melody"] if count == 1 else [f"voice {number}" for number in range(1, count + 1)]
    return tuple(
        Part("drums", is_drums=True)
        if number in drums
        else Part(name, get_default_program(options.program))
        for number, name in enumerate(names)
    )


def _is_drawable(event: Event) -> bool:
    """Return whether an event can be sampled: notation has it, and each tonic its pitch."""
    if event.kind == "duration":
        return int(event.value or 0) >= SHORTEST_WRITABLE
    if event.kind == "pitch":
        return -57 <= int(event.value or 0) <= 59
    return event.kind not in ("begin", "irregular")


def _find_unrequested_ids(kind: str, value: str | int | None, allowed: Collection[int]) -> set[int]:
    """Return the ids of a kind other than the requested one."""
    candidates = {i for i in MEASURES.ranges[kind] if i in allowed}
    chosen = MEASURES.ids.get(Event(kind, value))
    if value is None:
        return set()
    if chosen not in candidates:
        names = sorted(str(MEASURES.events[i].value) or "(none)" for i in candidates)
        raise InvalidValue(f"{kind} {value}: not in the training data, which has"
                           f" {', '.join(names)}")  # fmt: skip
    return candidates - {chosen}


def parse_rhythm(name: str) -> str:
    """Return the name of a rhythm in RHYTHMS. Raises InvalidValue if there is none."""
    normalised = normalise_rhythm(name.strip().lower())
    if normalised == "other":
        names = ", ".join(r for r in RHYTHMS if r not in ("", "other"))
        raise InvalidValue(f"rhythm {shorten(name)!r} is unknown: choose one of {names}")
    return normalised


def _make_title(rhythm: str, key: Key, parts: Sequence[Part], noise: Noise) -> str:
    number = f"no. {noise.seed}-{noise.tune_number + 1}"
    if parts and all(part.is_drums for part in parts):
        return f"Drums, {number}"
    kind = rhythm.capitalize() if rhythm not in ("", "other") else "Tune"
    return f"{kind} in {key}, {number}"


DEFAULT_QPM: Final = 120.0


@dataclass(frozen=True)
class GenericSampler:
    """An engine, its codec, and the ids in its training data."""

    engine: Engine
    codec: AnyCodec
    seen_ids: Collection[int]

    def sample(self, options: SamplingOptions, noise: Noise) -> Score | str:
        """Sample one piece.

        Raises:
            InvalidValue: the codec does not offer an option.
        """
        encoded = self.sample_encoded(options, noise)
        piece: Score | str = self.codec.decode(encoded.ids, encoded.setting).piece
        return piece

    def sample_encoded(
        self,
        options: SamplingOptions,
        noise: Noise,
        max_ids: int | None = None,
        opening: Sequence[int] = (),
    ) -> Encoded:
        """Draw one piece, or only so many ids of it, with the setting that belongs to it.

        Args:
            options: what is asked for.
            noise: of the piece.
            max_ids: the most ids; None: to the end of the piece.
            opening: the ids that it starts with.
        """
        check_codec_options(options, self.codec)
        name = self.codec.name.split("-")[0].capitalize()
        setting = Setting(
            title=f"{name}, no. {noise.seed}-{noise.tune_number + 1}",
            tempos=((0, float(options.tempo or DEFAULT_QPM)),),
            parts=(Part("", _get_only_program(options)),),
        )
        return Encoded(tuple(self.draw_ids(options, noise, max_ids, opening)), setting)

    def draw_ids(
        self,
        options: SamplingOptions,
        noise: Noise,
        max_ids: int | None = None,
        opening: Sequence[int] = (),
    ) -> list[int]:
        """Draw the ids of one piece, to its end, or only so many of them; see `sample_encoded`."""
        walk, state, filters = self.codec.create_grammar(), self.engine.start(), options.filters
        for id_ in opening:
            walk.take(id_)
        if opening and isinstance(walk, LengthLimitedGrammar):
            walk.id_count = 0  # as much may follow as a piece has
        ids, candidates = [BEGIN_ID, *opening], list[int]()
        unread = ids[:]
        legal: tuple[int, ...] = ()
        while not walk.is_done and (max_ids is None or len(ids) <= max_ids):
            logits, state = self.engine.step(unread, state)
            before, legal = legal, walk.legal_ids()
            if legal is not before:  # a text offers the same thousands each time
                candidates = [id_ for id_ in legal if id_ in self.seen_ids] or list(legal)
            make_noise = partial(noise.gumbel_at, 0, len(ids), self._hashes[candidates])
            ids.append(argmax_with_noise(logits, candidates, filters, make_noise))
            unread = ids[-1:]
            walk.take(ids[-1])
        return ids[1:]

    @cached_property
    def _hashes(self) -> npt.NDArray[np.uint64]:
        return hash_event_names(self.codec.vocabulary.names)


def _get_only_program(options: SamplingOptions) -> int:
    """Return the program of a piece of one part. Raises InvalidValue where roles are named."""
    if isinstance(options.program, RolePrograms):
        raise InvalidValue(
            f"program {options.program}: the model writes one part, without roles; name one program"
        )
    return options.program


def make_sampler(
    checkpoint: Checkpoint,
    codec: AnyCodec,
    make_copy_detector: Callable[[int], CopyDetector] | None = None,
) -> Sampler | GenericSampler:
    """Return what writes the tunes of a checkpoint: its engine, and what it has learnt.

    make_copy_detector: what knows its training tunes' runs, for a limit in notes.

    Raises:
        Mismatch: the model reads a score context that sampling does not compute.
    """
    manifest = checkpoint.manifest
    fields_read = set(manifest.settings.context_fields)
    known_contexts = [set(CONTEXTS[name].split()) for name in codec.contexts]
    if fields_read and not any(fields_read <= known for known in known_contexts):
        raise Mismatch(
            f"model {manifest.name}: it reads a score context that the codec {codec.name} does not"
            " compute in sampling; score tunes with it (docs/benchmarks.md)"
        )
    seen = frozenset(id_ for id_, count in enumerate(manifest.seen) if count)
    engine = NumpyEngine.of(checkpoint)
    if codec.has_bars:
        corpus = manifest.corpus
        return Sampler(engine, seen, corpus.get("tonics", {}), make_copy_detector,
                       corpus.get("densities", {}))  # fmt: skip
    return GenericSampler(engine, codec, seen)


def check_codec_options(requested: SamplingOptions, codec: AnyCodec) -> None:
    """Check that a codec offers all options that differ from their defaults.

    Raises:
        InvalidValue: it does not offer one of them.
    """
    offered = list_codec_options(codec)
    for option in OPTIONS:
        if option not in offered and getattr(requested, option.name) != option.default:
            flags = ", ".join(f"--{each.flag}" for each in offered)
            raise InvalidValue(
                f"--{option.flag} means nothing to a model of codec {codec.name}: it understands"
                f" {flags}"
            )
