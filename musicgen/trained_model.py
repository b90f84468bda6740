"""A trained model, loaded by name or folder: it generates tunes and measures them.

Generating a tune takes two steps: `Model.generate` draws token ids for a request, and
`Model.make_tune` decodes them and attaches the recipe. `Tune.write` then writes the file.
`sample_many` generates tunes of one request, in this process or in several: tune k is the same for
any number of tunes and processes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from musicgen import formats
from musicgen.checkpoint import Checkpoint, get_package_version
from musicgen.checkpoint import load as load_checkpoint
from musicgen.corpus.part_orders import find_voice_order
from musicgen.errors import InvalidValue, NotFound, escape_unprintable
from musicgen.files import is_file
from musicgen.model_folders import find_model_folder, find_named_folder
from musicgen.music.accompaniment import AUTO, NONE, has_chord_symbols, split_accompaniment
from musicgen.music.roles import assign_voices, is_choir
from musicgen.music.score import CHOIR_ROLES, Part, Score
from musicgen.music.symbols_part import LEAD_SHEET_ROLES, add_symbols_part
from musicgen.sampling.chord_sheets import make_chord_score, read_chord_text
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.generate import Generated, continue_live, fit_primer, generate_tune
from musicgen.sampling.given_form import has_letters
from musicgen.sampling.given_parts import GivenParts
from musicgen.sampling.infill import CANDIDATES, KeptBars
from musicgen.sampling.kept_bars import KeepRequest, KeepText
from musicgen.sampling.live_primer import fit_live_primer
from musicgen.sampling.options import (
    SamplingOptions,
    choose_choir,
    choose_lead_sheet,
    complete_options,
    describe_unseen_dance,
)
from musicgen.sampling.part_requests import PartRequest, PartRequests
from musicgen.sampling.primer import Primer
from musicgen.sampling.primer_choice import PrimerChoice
from musicgen.sampling.recipe import (
    DrawnHeader,
    GenerationRequest,
    ModelName,
    Recipe,
    hash_notes,
    hash_text,
    keep_parts,
    make_variant_request,
)
from musicgen.sampling.sampler import GenericSampler, Sampler, make_sampler
from musicgen.sampling.surprisal import Surprise, measure_surprise
from musicgen.similarity.copy_filter import IndexCopyDetector
from musicgen.similarity.note_index import INDEX_FILE
from musicgen.similarity.overlap_report import OverlapIndex, Receipt, load_index
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.measures import MeasuresCodec, normalise_rhythm
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.registry import restore_codec
from musicgen.tune import Tune

if TYPE_CHECKING:
    from musicgen.sampling.batch_sampler import BatchEngine

_ENGINES: Final = ("numpy", "torch")
_MAX_CACHED_TUNES: Final = 4  # tunes that were drawn, of which parts may be kept


@dataclass(frozen=True, repr=False)
class Model:
    """A trained model: a checkpoint with the codec of its token ids."""

    checkpoint: Checkpoint
    codec: AnyCodec = field(default_factory=MeasuresCodec)
    _copy_detectors: dict[int, IndexCopyDetector] = field(
        default_factory=dict, repr=False, compare=False
    )
    _base_tunes: dict[GenerationRequest, Generated] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __repr__(self) -> str:
        """Return name, size and codec in one line."""
        shape = self.checkpoint.settings
        return escape_unprintable(
            f"<Model {self.name}: {shape.layers} x {shape.hidden} {shape.cell}, codec"
            f" {self.codec.name}>"
        )

    @cached_property
    def sampler(self) -> Sampler | GenericSampler:
        """The sampler of the codec, with an engine for the weights."""
        return make_sampler(self.checkpoint, self.codec, self._get_copy_detector)

    def _get_copy_detector(self, limit: int) -> IndexCopyDetector:
        """Return the detector of copied runs of more notes than a limit."""
        if limit not in self._copy_detectors:
            self._copy_detectors[limit] = self.index.make_copy_detector(limit)
        return self._copy_detectors[limit]

    @cached_property
    def name(self) -> ModelName:
        """Name, version and fingerprint, as recipes record them."""
        return ModelName.of(self.checkpoint)

    @property
    def has_index(self) -> bool:
        """Whether the checkpoint has an index of the training tunes."""
        return is_file(self.checkpoint.folder / INDEX_FILE)

    @cached_property
    def index(self) -> OverlapIndex:
        """The index of the training tunes.

        Raises:
            NotFound: the checkpoint has none.
        """
        index = load_index(self.checkpoint)
        if index is None:
            raise NotFound(
                f"{self.checkpoint.folder}: the model has no index of its training tunes, which"
                " similarity reports need; train it without --no-index, or choose another --model"
            )
        return index

    def make_receipt(self, score: Score) -> Receipt:
        """Compare a score with the training tunes, as its codec expresses it.

        Raises:
            NotFound: the checkpoint has no index.
            Refusal: the codec cannot express the score.
        """
        if self.codec.has_bars:
            return self.index.make_receipt(score)
        encoded = self.codec.encode(score)
        return self.index.make_receipt(self.codec.decode(encoded.ids, encoded.setting).piece)

    def measure_surprise(self, piece: Score | str) -> Surprise:
        """Measure the bits of each note of a score, or of each character of a text.

        Raises:
            Refusal: the codec cannot express the piece.
        """
        if isinstance(piece, Score) and self.writes_lead_sheets:
            piece = add_symbols_part(piece)
        return measure_surprise(NumpyEngine.of(self.checkpoint), self.codec, piece)

    @property
    def writable(self) -> tuple[str, ...]:
        """The suffixes of the files that its tunes can be written to."""
        return self.codec.writable_suffixes

    def sample(
        self,
        *,
        seed: int | None = None,
        number: int = 0,
        primer: str | Path | Score | None = None,
        primer_part: str | None = None,
        primer_bars: str | None = None,
        primer_seconds: str | None = None,
        no_primer: bool = False,
        given: str | Path | Score | None = None,
        given_parts: KeepText | None = None,
        candidates: int | None = None,
        chords: str | None = None,
        **options: Any,
    ) -> Tune:
        """Generate a tune; without a form, bars or a primer, one of the default form, AABB.

        Args:
            seed: random seed; None chooses one.
            number: index among the tunes of the seed, from 0.
            primer: a file or a score that the tune starts from.
            primer_part: name or number, from 1, of the primer's part; None for its melody.
            primer_bars: the bars of the primer to take, such as "1-8"; None for all.
            primer_seconds: for a model of performances, the seconds to take, such as "0-15".
            no_primer: leave the primer out of the tune's score.
            given: a file or a score whose parts stay as they are; the option `parts` names those
                that are drawn around them, such as parts=("bass", "drums").
            given_parts: the parts of it that are given, and their bars: "melody:1-8,drums" or
                {"melody": "1-8", "drums": "all"}; None for all.
            candidates: number of candidates for each bar that leads into given ones; None: 1.
            chords: chord symbols that a melody is drawn to, bar by bar, such as
                "D | D | G A7 | D"; or the name of a text file with them.
            options: fields of `SamplingOptions`, as values or as text: key="Dmix", meter="6/8",
                range="D4-B5".

        Raises:
            InvalidValue: an option is unknown, out of range, or not in the training data.
        """
        starts_from_notes = any(value is not None for value in (primer, given, chords))
        complete = self.complete_options(options, has_primer=starts_from_notes)
        request = GenerationRequest(
            complete,
            secrets.randbelow(2**31) if seed is None else seed,
            number,
            writes_primer=not no_primer,
        )
        if primer is not None:
            choice = PrimerChoice.parse(primer_part, primer_bars, primer_seconds)
            request = self.add_primer(request, primer, choice)
        if given is not None:
            request = self.add_given(request, given, given_parts, candidates)
        if chords is not None:
            request = self.add_chords(request, read_chord_text(chords))
        return self.sample_request(request, self.collect_messages(request))

    def collect_messages(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return what the user should know of a request: changes of its primer, an unseen dance."""
        return (
            *(request.primer.changes if request.primer else ()),
            *self.describe_unseen_dances(request),
        )

    def describe_unseen_dances(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return a warning where the training tunes have the dance in other meters only."""
        rhythm, meter = request.options.rhythm, request.options.meter
        if isinstance(request.primer, Primer):
            meter = request.primer.meter
        if rhythm is None or meter is None:
            return ()
        dance_counts = self.checkpoint.manifest.corpus.get("dances", {})
        warning = describe_unseen_dance(
            dance_counts, normalise_rhythm(rhythm.strip().lower()), str(meter)
        )
        return () if warning is None else (warning,)

    def complete_options(
        self, requested: Mapping[str, Any], *, has_primer: bool = False
    ) -> SamplingOptions:
        """Make options from those that a user gave, with the default form where none is given.

        Args:
            requested: options by name, as values or text; None is an option that is not given.
            has_primer: whether the tune starts from a primer.

        Raises:
            InvalidValue: an option is unknown or not valid.
        """
        return complete_options(requested, self.checkpoint.manifest, has_primer=has_primer)

    def add_primer(
        self,
        request: GenerationRequest,
        primer: str | Path | Score,
        choice: PrimerChoice = PrimerChoice(),  # noqa: B008 - frozen
    ) -> GenerationRequest:
        """Return a request that starts from a file or a score, fitted to the model.

        All parts are kept if the model can write such a line-up; else one line is taken. A model
        of performances starts from the live notes, with their times.

        Args:
            request: a request without a primer.
            primer: the file or the score.
            choice: which part and bars of it to take.

        Raises:
            InvalidValue: the model has no bars, or the primer does not fit the options.
            Refusal: the file cannot be read.
        """
        name = "primer" if isinstance(primer, Score) else str(primer)
        codec = self.codec if isinstance(self.codec, PerformanceCodec) else None
        if codec is None and choice.seconds is not None:
            raise InvalidValue(
                f"{name}: the model counts bars; choose some of them with --primer-bars"
            )
        score = (
            primer
            if isinstance(primer, Score)
            else read_first_tune(Path(primer), as_performance=codec is not None)
        )
        if codec is not None:
            return replace(request, primer=fit_live_primer(score, codec, name, choice))
        sampler = self._get_bar_sampler("a primer")
        options, fitted = fit_primer(score, sampler, request.options, name, choice)
        return replace(request, options=options, primer=fitted)

    def add_given(
        self,
        request: GenerationRequest,
        given: str | Path | Score,
        parts: KeepText | None = None,
        candidates: int | None = None,
    ) -> GenerationRequest:
        """Return a request whose tune keeps parts of a file or a score.

        Args:
            request: a request without a primer.
            given: the file or the score.
            parts: which of its parts and bars are given; None for all.
            candidates: number of candidates for each bar that leads into given ones; None: 1.

        Raises:
            InvalidValue: the model has no bars, or the file has no such parts.
            Refusal: the file cannot be read.
        """
        _ = self._get_bar_sampler("given")
        if request.primer is not None:
            raise InvalidValue("given: a tune has given parts or a primer; leave one of them out")
        name = "given" if isinstance(given, Score) else str(given)
        score = given if isinstance(given, Score) else read_first_tune(Path(given))
        voices = choose_choir(self.checkpoint.manifest.seen)
        score = _arrange_voices(assign_voices(score)) if voices else score
        score = add_symbols_part(score) if self.writes_lead_sheets else score
        keep = None if parts is None else KeepRequest.parse(parts, "given-parts")
        value = GivenParts.of_score(score, keep, name)
        value = value if candidates is None else replace(value, candidates=candidates)
        options = request.options
        if voices and options.requested_parts is None:
            options = replace(options, parts=_find_missing_voices(value.setting.parts))
        if self.writes_lead_sheets and options.requested_parts is None:
            options = replace(options, parts=_find_missing_sheet_part(value, name))
        return replace(request, options=options, given=value)

    @cached_property
    def writes_lead_sheets(self) -> bool:
        """Whether it writes chord symbols as a part: to a melody, or before one."""
        return choose_lead_sheet(self.checkpoint.manifest.seen) is not None

    def add_chords(self, request: GenerationRequest, chords: str) -> GenerationRequest:
        """Return a request whose tune has the chords that a user asks for.

        Args:
            request: a request without a primer and given parts.
            chords: bar by bar, such as "D | D | G A7 | D"; not the name of a file.

        Raises:
            InvalidValue: the chords cannot be read or played, or the model writes none.
        """
        if not self.writes_lead_sheets:
            raise InvalidValue(
                f"chords: the model {self.name.name} does not write melodies to chords; choose one"
                " that does, such as --model lead"
            )
        if request.given is not None:
            raise InvalidValue("chords: parts of a file are given too; leave one of them out")
        options = request.options
        if options.pickup:
            raise InvalidValue("chords: a tune to chords has no pickup; leave --pickup out")
        if options.max_copy is not None:
            raise InvalidValue("chords: runs to given chords are not limited; leave --max-copy out")
        score = make_chord_score(
            chords,
            meter=options.meter,
            key=options.key,
            bars=options.bars,
            form=options.form if has_letters(options.form) else None,
        )
        return self.add_given(request, score)

    def sample_request(self, request: GenerationRequest, messages: tuple[str, ...] = ()) -> Tune:
        """Generate the tune of a request; its messages follow those given."""
        generated = self.generate(request)
        return self.make_tune(
            request, replace(generated, messages=(*messages, *generated.messages))
        )

    def draw(self, options: SamplingOptions, seed: int, number: int = 0) -> Tune:
        """Generate tune `number` of a seed."""
        return self.sample_request(GenerationRequest(options, seed, number))

    def generate(self, request: GenerationRequest) -> Generated:
        """Draw the token ids of a request's tune."""
        sampler = self.sampler
        if isinstance(sampler, GenericSampler):
            return continue_live(sampler, request)
        if request.engine != "numpy":
            return next(generated for _, generated in self.generate_many(request, [request.number]))
        return generate_tune(sampler, request)

    def generate_many(
        self, request: GenerationRequest, numbers: Iterable[int]
    ) -> Iterator[tuple[int, Generated]]:
        """Draw tunes of a request side by side, and yield each with its number once it is done.

        The NumPy engine generates the same ids as `generate`; the torch engine may differ.

        Raises:
            InvalidValue: an option is not valid, or the engine does not support the codec.
        """
        if not isinstance(self.sampler, GenericSampler):
            from musicgen.sampling.batch_sampler import DEFAULT_LANES, generate_tunes

            width = DEFAULT_LANES if request.engine == "numpy" else 2 * DEFAULT_LANES
            make_lanes = get_batch_engine(request.engine)
            yield from generate_tunes(self.sampler, request, numbers, make_lanes, width)
            return
        if request.engine != "numpy":
            raise InvalidValue(
                f"engine {request.engine}: it generates bars, and codec {self.codec.name} has none;"
                " leave --engine out"
            )
        for number in numbers:
            yield number, self.generate(replace(request, number=number))

    def make_tune(self, request: GenerationRequest, generated: Generated) -> Tune:
        """Decode generated ids, and attach the recipe.

        Raises:
            InvalidValue: kept bars or a primer copy more than the option max_copy allows.
        """
        encoded, text = generated.encoded, None
        if self.codec.has_bars:
            request, score = replace(request, drawn=DrawnHeader.of(encoded)), generated.score
        else:
            piece = self.codec.decode(encoded.ids, encoded.setting).piece
            score, text = (Score(), piece) if isinstance(piece, str) else (piece, None)
            if generated.skipped_steps:
                score = score.unfold_from(generated.skipped_steps)
        notes_hash = hash_notes(score) if text is None else hash_text(text)
        recipe = Recipe(request, self.name, get_package_version("musicgen"), notes_hash)
        messages = (*generated.messages, *_describe_silence(request.options, score))
        tune = Tune(score, recipe, self, text, messages)
        tune.check_copies()
        self.remember(request, generated)
        return tune

    def make_variant(
        self,
        request: GenerationRequest,
        *,
        keep: KeepText | None = None,
        candidates: int | None = None,
        **changes: Any,
    ) -> Tune:
        """Generate the tune of a request with some changes; see `Tune.tweak`."""
        seed = changes.pop("seed", None)
        kept_bars = None
        if keep is not None:
            wanted = KeepRequest.parse(keep)
            base = self._generate_base(request).encoded
            if len(base.setting.parts) > 1:
                request = keep_parts(request, base, wanted, candidates)
            else:
                bars = wanted.find_bars(base.setting.parts[0])
                kept_bars = KeptBars(
                    base.ids, bars, CANDIDATES if candidates is None else candidates
                )
                request = replace(request, drawn=DrawnHeader.of(base), primer=None)
        request = make_variant_request(request, SamplingOptions.parse_changes(**changes), kept_bars)
        changes_dance = not changes.keys().isdisjoint(("meter", "rhythm"))
        messages = self.describe_unseen_dances(request) if changes_dance else ()
        return self.sample_request(
            request if seed is None else replace(request, seed=seed), messages
        )

    def _generate_base(self, request: GenerationRequest) -> Generated:
        """Return the tune of a request of which parts are kept."""
        sampler = self._get_bar_sampler("keep")
        return self.recall(request) or generate_tune(sampler, request)

    def remember(self, request: GenerationRequest, generated: Generated) -> None:
        """Cache a tune by the request in its recipe, since some of it may soon be kept."""
        self._base_tunes.pop(request, None)
        while len(self._base_tunes) >= _MAX_CACHED_TUNES:
            del self._base_tunes[next(iter(self._base_tunes))]
        self._base_tunes[request] = generated

    def recall(self, request: GenerationRequest) -> Generated | None:
        """Return the tune of the request in a recipe, if it is cached."""
        return self._base_tunes.get(request)

    def _get_bar_sampler(self, option: str) -> Sampler:
        sampler = self.sampler
        if isinstance(sampler, GenericSampler):
            raise InvalidValue(
                f"{option}: a model of codec {self.codec.name} has no bars; use a model of codec"
                " measures"
            )
        return sampler


def _describe_silence(options: SamplingOptions, score: Score) -> Iterator[str]:
    """Yield a message where an accompaniment was asked for and the tune has no chord symbols."""
    if options.accompaniment not in (AUTO, NONE) and not has_chord_symbols(score):
        yield (
            f"accompaniment {options.accompaniment}: the tune has no chord symbols; musicgen render"
            " --chords finds some"
        )


def _arrange_voices(score: Score) -> Score:
    """Return a choir in the order in which its voices can be given."""
    roles = [part.role for part in score.parts]
    if not is_choir(score.parts) or len(set(roles)) < len(roles):
        return score
    order = find_voice_order(roles)[: len(roles)]
    return score.select_parts([roles.index(role) for role in order])


def _find_missing_sheet_part(given: GivenParts, name: str) -> PartRequests | None:
    """Return the part that a lead sheet lacks: the melody, or the chord symbols.

    Raises:
        InvalidValue: it lacks none, so that there is nothing to draw.
    """
    roles = {part.role for part in given.setting.parts}
    if set(LEAD_SHEET_ROLES) <= roles and not any(kept.bars for kept in given.kept):
        raise InvalidValue(
            f"{name}: it has a melody and chord symbols, and nothing is left to draw; keep one of"
            " them, such as --given-parts melody"
        )
    missing = [role for role in LEAD_SHEET_ROLES if role not in roles]
    return tuple(map(PartRequest, missing)) if len(missing) == 1 and len(roles) == 1 else None


def _find_missing_voices(parts: Sequence[Part]) -> PartRequests | None:
    """Return the voices that a choir of four lacks, in the order in which they are drawn."""
    roles = {part.role for part in parts}
    if not roles < set(CHOIR_ROLES) or len(roles) < len(parts):
        return None
    return tuple(map(PartRequest, find_voice_order(roles)[len(roles) :]))


def load(model: str | Path = "folk") -> Model:
    """Load a model by name or folder.

    Raises:
        NotFound: there is no such model.
        DamagedCheckpoint: a file of the checkpoint is damaged.
        Mismatch: a newer musicgen wrote the checkpoint.
    """
    return _load(find_model_folder(model))


def load_named(name: str) -> Model:
    """Load the model that a recipe names; the name is never taken as a path.

    Raises:
        NotFound: there is no such model.
        DamagedCheckpoint: a file of the checkpoint is damaged.
        Mismatch: a newer musicgen wrote the checkpoint.
    """
    return _load(find_named_folder(name))


def _load(folder: Path) -> Model:
    checkpoint = load_checkpoint(folder)
    codec = restore_codec(checkpoint.manifest.codec, checkpoint.vocabulary, str(folder))
    return Model(checkpoint, codec)


def read_first_tune(path: Path, *, as_performance: bool = False) -> Score:
    """Read the first tune of a file, without its accompaniment.

    Args:
        path: the file.
        as_performance: whether to read it as it sounds, with a step of one millisecond.

    Raises:
        InvalidValue: the file has no tunes.
        Refusal: no tune of the file can be read.
    """
    scores, refusals = formats.read(path, as_performance=as_performance)
    if scores:
        return split_accompaniment(scores[0])[0]
    raise refusals[0] if refusals else InvalidValue(f"{path}: it has no tunes")


def get_batch_engine(engine: str) -> Callable[[NumpyEngine, int], BatchEngine] | None:
    """Return the class of an engine's lanes; None for the NumPy engine, which has its own.

    Raises:
        InvalidValue: there is no engine of that name.
    """
    if engine == "numpy":
        return None
    if engine != "torch":
        raise InvalidValue(f"engine {engine!r} is unknown: choose one of {', '.join(_ENGINES)}")
    from musicgen.model.torch_sampling import TorchBatchEngine  # slow to import

    return TorchBatchEngine


_SERIAL_LIMIT: Final = 8  # tunes that take less time than the start of a second process


def sample_many(
    model: Model, request: GenerationRequest, *, count: int, jobs: int | None = None
) -> Iterator[Tune]:
    """Yield tunes 0..count-1 of a request in order.

    Args:
        model: the model.
        request: the request; its own number is ignored.
        count: number of tunes.
        jobs: number of processes; None starts one per CPU core.
    """
    jobs = count_processes(count, jobs)
    for number, generated in enumerate(_generate_in_order(model, request, count, jobs)):
        yield model.make_tune(replace(request, number=number), generated)


def _generate_in_order(
    model: Model, request: GenerationRequest, count: int, jobs: int
) -> Iterator[Generated]:
    """Yield the token ids of tunes 0..count-1 in order."""
    if jobs > 1:
        from musicgen.sampling.parallel import run_in_order  # imports multiprocessing, rarely used

        arguments = to_process_arguments(model, request)
        for answer in run_in_order(_generate_in_process, arguments, count, jobs):
            yield Generated.from_json(answer.decode())
    elif request.engine == "numpy" and count <= _SERIAL_LIMIT:
        for number in range(count):
            yield model.generate(replace(request, number=number))
    else:
        early: dict[int, Generated] = {}  # by number: done before their turn
        finished = model.generate_many(request, range(count))
        for number in range(count):
            while number not in early:
                finished_number, generated = next(finished)
                early[finished_number] = generated
            yield early.pop(number)


def count_processes(count: int, jobs: int | None) -> int:
    """Return the number of processes for so many tunes; 1 is this process alone."""
    return 1 if count <= _SERIAL_LIMIT else min(jobs or os.cpu_count() or 1, count)


def to_process_arguments(model: Model, request: GenerationRequest) -> tuple[str, str]:
    """Return a model's folder and a request as text, for another process."""
    return str(model.checkpoint.folder.resolve()), json.dumps(request.to_json())


def from_process_arguments(folder: str, request: str) -> tuple[Model, GenerationRequest]:
    """Load the model and parse the request of `to_process_arguments`."""
    return load(folder), GenerationRequest.from_json(request)


def _generate_in_process(numbers: Iterable[int], *arguments: str) -> Iterator[tuple[int, bytes]]:
    """Generate tunes in another process; they go back as JSON, since nothing is unpickled."""
    model, request = from_process_arguments(*arguments)
    for number, generated in model.generate_many(request, numbers):
        yield number, generated.to_json().encode()
