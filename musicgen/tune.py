"""Models by name, and the tunes that they write.

model = load("folk")
tune = model.sample(key="Dmix", bars=32, seed=7)
tune.write("song.mid")
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
from musicgen.checkpoint import Checkpoint, get_package_version, list_checkpoint_folders
from musicgen.checkpoint import load as load_checkpoint
from musicgen.errors import InvalidValue, MusicgenError, NotFound, OutputExists, escape_unprintable
from musicgen.files import (
    is_file,
    is_folder,
    is_plain_name,
    read_regular_file,
    refuse_existing,
    write_atomically,
)
from musicgen.music.bars import count_heard_bars
from musicgen.music.score import Score
from musicgen.number_parsing import shorten
from musicgen.render import export
from musicgen.sampling.batch_sampler import DEFAULT_LANES, BatchEngine, generate_tunes
from musicgen.sampling.default_form import complete_options
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.generate import Generated, fit_primer
from musicgen.sampling.generate import generate_tune as carry_out
from musicgen.sampling.infill import CANDIDATES, KeptBars, parse_bars
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions, describe_unseen_dance
from musicgen.sampling.recipe import (
    DrawnHeader,
    GenerationRequest,
    ModelName,
    Recipe,
    hash_notes,
    hash_text,
    join_recipe_remarks,
    make_variant_request,
)
from musicgen.sampling.sampler import GenericSampler, Sampler, make_sampler
from musicgen.sampling.surprisal import Surprise, measure_surprise
from musicgen.similarity.copy_filter import IndexCopyDetector
from musicgen.similarity.note_index import INDEX_FILE as INDEX
from musicgen.similarity.overlap_report import OverlapIndex, Receipt, load_index
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.measures import MeasuresCodec, normalise_rhythm
from musicgen.tokens.registry import restore_codec

if TYPE_CHECKING:
    import pretty_midi

RUNS_FOLDER: Final = Path("checkpoints")  # where `train` puts a user's own models
_PACKAGE: Final = Path(__file__).parent
_SHIPPED_FOLDERS: Final = (_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints")
MAX_RECIPE: Final = 2**21  # bytes of a recipe beside a file
MAX_TEXT: Final = 2**24  # of a text
ENGINES: Final = ("numpy", "torch")
_SHAPE_OPTIONS: Final = (
    "form",
    "pickup",
    "bars",
    "min_bars",
    "range",
    "meter",
    "key",
)  # of edited notes
_MAX_TITLE_LENGTH: Final = 80  # characters of a title in a line
_SERIAL_LIMIT: Final = 8  # tunes that are drawn sooner than a second process starts


@dataclass(frozen=True, repr=False)
class Tune:
    """A tune that a model wrote, and how it came to be."""

    score: Score
    recipe: Recipe
    model: Model = field(repr=False, compare=False)
    text: str | None = None  # what a model of text wrote; its score is empty
    messages: tuple[str, ...] = ()  # what was changed of a primer, what candidates were worth

    def __repr__(self) -> str:
        """Say in one line what it is and how to come by it."""
        made = self.recipe.model
        model = f"{made.name[:_MAX_TITLE_LENGTH]} {made.version}"
        place = f"{model}, seed {self.seed}, number {self.number + 1}"
        return escape_unprintable(f"<Tune {self.summary}; {place}>")

    def _repr_html_(self) -> str:
        """Show score and player in a notebook; of a codec without bars, a player alone."""
        from musicgen.render import html_page  # slow to import

        if self.text is not None:
            return html_page.quote_text(self.text)
        if not self.model.codec.has_bars:
            return html_page.embed_sound(self.summary, self.score)
        whole = html_page.render_page(
            self.score, recipe=self.recipe, receipt=self.receipt, surprise=self.surprise
        )
        return html_page.frame_page(self.score.title, whole)

    @property
    def summary(self) -> str:
        """Title and size: bars, or what its codec counts by."""
        if self.text is not None:
            return _format_count(len(self.text), "character")
        title = self.score.title[:_MAX_TITLE_LENGTH]
        if not self.model.codec.has_bars:
            return f"{title}; {_format_count(len(self.score.notes), 'note')}"
        return f"{title}; {self.score.meter}, {_format_count(self.bars, 'bar')}"

    @property
    def seed(self) -> int:
        """The seed that it was drawn with."""
        return self.recipe.request.seed

    @property
    def number(self) -> int:
        """Which of the tunes of its seed it is, from 0."""
        return self.recipe.request.number

    @property
    def codec(self) -> str:
        """The codec of its model."""
        return self.model.codec.name

    @property
    def bars(self) -> int:
        """Bars as heard."""
        return count_heard_bars(self.score)

    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Write it, with its recipe, in the format of the suffix.

        Where the format has no room for a recipe, it stands beside it, in `PATH.recipe.json`; a
        page shows the receipt and the surprise of each note too.
        Raises OutputExists, NotFound, InvalidValue, Refusal or WriteFailed.
        """
        path = Path(path)
        beside = () if supports_metadata(path.suffix) else (sidecar_path(path),)
        refuse_existing([path, *beside], force=force)
        for other in beside:
            refuse_non_recipe(other)
        if self.text is None:
            is_page = path.suffix.lower() in export.PAGE_SUFFIXES
            export.write(
                self.score,
                path,
                force=force,
                remarks=tuple(self.recipe.remarks()),
                recipe=self.recipe,
                receipt=self.receipt if is_page else None,
                surprise=self.surprise if is_page else None,
            )
        else:
            write_atomically(path, f"{self.text}\n".encode(), force=force)
        for other in beside:
            write_atomically(other, f"{self.recipe.to_text()}\n".encode(), force=force)

    @cached_property
    def receipt(self) -> Receipt | None:
        """What it shares with the tunes that its model learnt from; None without an index."""
        if self.text is not None or not self.model.has_index:
            return None
        return self.model.make_receipt(self.score)

    @cached_property
    def surprise(self) -> Surprise:
        """The bits of each of its notes under the model."""
        return self.model.measure_surprise(self.score if self.text is None else self.text)

    def check_copies(self) -> None:
        """Raise InvalidValue where what was given copies more than the tune may."""
        limit = self.recipe.request.options.max_copy
        longest = self.receipt.longest if limit is not None and self.receipt else None
        if longest is not None and limit is not None and longest.notes > limit:
            raise InvalidValue(
                f"max-copy {limit}: what is kept of a tune, or its primer, shares {longest.notes}"
                f" notes with {longest.label}; ask for as many, or keep less"
            )

    def tweak(
        self, *, keep: str | None = None, candidates: int = CANDIDATES, **changes: Any
    ) -> Tune:
        """Write a near variant: what is not named stays; nothing named gives the same tune.

        keep: bars that stay, such as "1-8,13-16", as they are written; the others are drawn anew,
        chosen from so many candidates. The changes are wishes, and `seed`.
        """
        return self.model.make_variant(
            self.recipe.request, keep=keep, candidates=candidates, **changes
        )

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """Return what is played as a `pretty_midi` object."""
        return formats.midi.to_pretty_midi(self.score)


def _format_count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def supports_metadata(suffix: str) -> bool:
    """Tell whether files of a suffix have their recipe inside."""
    return formats.supports_remarks(suffix) or suffix.lower() in export.PAGE_SUFFIXES


def sidecar_path(path: Path) -> Path:
    """Return where the recipe of a file stands whose format has no room for one."""
    return path.with_name(f"{path.name}.recipe.json")


def is_recipe(path: Path) -> bool:
    """Tell whether a file is a recipe, as it stands beside a tune; a link is none."""
    try:
        text = read_regular_file(path, limit=MAX_RECIPE, follow=False).decode().strip()
        Recipe.from_text(text)
    except (MusicgenError, UnicodeDecodeError):
        return False
    return True


def refuse_non_recipe(path: Path) -> None:
    """Raise OutputExists for a file that has the name of a tune's recipe and is none."""
    if os.path.lexists(path) and not is_recipe(path):
        raise OutputExists(
            f"{path} exists and is not a recipe; move it away or choose another name"
        )


@dataclass(frozen=True, repr=False)
class Model:
    """A trained model, ready to write tunes."""

    checkpoint: Checkpoint
    codec: AnyCodec = field(default_factory=MeasuresCodec)
    _copy_detectors: dict[int, IndexCopyDetector] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __repr__(self) -> str:
        """Say in one line what it is."""
        shape = self.checkpoint.settings
        return escape_unprintable(
            f"<Model {self.name}: {shape.layers} x {shape.hidden} {shape.cell}, codec"
            f" {self.codec.name}>"
        )

    @cached_property
    def sampler(self) -> Sampler | GenericSampler:
        """The checkpoint's engine, and what it has learnt."""
        return make_sampler(self.checkpoint, self.codec, self._get_copy_detector)

    def _get_copy_detector(self, limit: int) -> IndexCopyDetector:
        """Return what knows the training tunes' runs of more notes than a limit."""
        if limit not in self._copy_detectors:
            self._copy_detectors[limit] = self.index.make_copy_detector(limit)
        return self._copy_detectors[limit]

    @cached_property
    def name(self) -> ModelName:
        """What recipes call it."""
        return ModelName.of(self.checkpoint)

    @property
    def has_index(self) -> bool:
        """Whether it knows the tunes that it learnt from."""
        return is_file(self.checkpoint.folder / INDEX)

    @cached_property
    def index(self) -> OverlapIndex:
        """The notes of the tunes that it learnt from. Raises NotFound where it has no index."""
        found = load_index(self.checkpoint)
        if found is None:
            raise NotFound(
                f"{self.checkpoint.folder}: the model has no index of the tunes that it learnt"
                " from, which receipts are told by; train it without --no-index, or ask another"
                " --model"
            )
        return found

    def make_receipt(self, score: Score) -> Receipt:
        """Compare a score, as the codec writes it, with the tunes that the model learnt from.

        Raises NotFound for a model without an index, Refusal for what the codec cannot write.
        """
        if self.codec.has_bars:
            return self.index.make_receipt(score)
        encoded = self.codec.encode(score)
        return self.index.make_receipt(self.codec.decode(encoded.ids, encoded.setting).piece)

    def measure_surprise(self, piece: Score | str) -> Surprise:
        """Return the bits of each note. Raises Refusal for what the codec cannot write."""
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
        no_primer: bool = False,
        **options: Any,
    ) -> Tune:
        """Write a tune: without a form, bars or a primer, one of the default form, AABB.

        The wishes are those of `Wishes`, as values or as text: key="Dmix", meter="6/8",
        range="D4-B5". A primer is what the tune starts from, a file or a score; `no_primer` leaves
        it out of what is written. Raises InvalidValue for a wish that is out of range or that the
        model has never met.
        """
        chosen = secrets.randbelow(2**31) if seed is None else seed
        asked = self.complete_options(options, has_primer=primer is not None)
        order = GenerationRequest(asked, chosen, number, writes_primer=not no_primer)
        if primer is not None:
            order = self.add_primer(order, primer)
        return self.sample_request(order, self.collect_messages(order))

    def collect_messages(self, request: GenerationRequest) -> tuple[str, ...]:
        """Say what was changed of an order's primer, and that its dance is never in its meter."""
        return (
            *(request.primer.changes if request.primer else ()),
            *self.describe_unseen_dances(request),
        )

    def describe_unseen_dances(self, request: GenerationRequest) -> tuple[str, ...]:
        """Say that no training tune is such a dance in such a meter, where that is so."""
        rhythm, meter = request.options.rhythm, request.options.meter
        if request.primer is not None:
            meter = request.primer.meter
        if rhythm is None or meter is None:
            return ()
        dances = self.checkpoint.manifest.corpus.get("dances", {})
        unmet = describe_unseen_dance(dances, normalise_rhythm(rhythm.strip().lower()), str(meter))
        return () if unmet is None else (unmet,)

    def complete_options(
        self, requested: Mapping[str, Any], *, has_primer: bool = False
    ) -> SamplingOptions:
        """Make wishes from what a user named, with the default form where none is named."""
        return complete_options(requested, self.checkpoint.manifest, has_primer=has_primer)

    def add_primer(
        self, request: GenerationRequest, primer: str | Path | Score
    ) -> GenerationRequest:
        """Return an order that starts from the notes of a file or a score, fitted to the model."""
        name = "primer" if isinstance(primer, Score) else str(primer)
        score = primer if isinstance(primer, Score) else read_first_tune(Path(primer))
        return replace(
            request,
            primer=fit_primer(score, self._get_bar_sampler("a primer"), request.options, name),
        )

    def sample_request(self, request: GenerationRequest, messages: tuple[str, ...] = ()) -> Tune:
        """Carry an order out."""
        found = self.generate(request)
        return self.make_tune(request, replace(found, messages=(*messages, *found.messages)))

    def draw(self, options: SamplingOptions, seed: int, number: int = 0) -> Tune:
        """Write tune `number` of a seed."""
        return self.sample_request(GenerationRequest(options, seed, number))

    def generate(self, request: GenerationRequest) -> Generated:
        """Draw what an order asks for."""
        sampler = self.sampler
        if isinstance(sampler, GenericSampler):
            return Generated(
                sampler.sample_encoded(request.options, Noise(request.seed, request.number))
            )
        if request.engine != "numpy":
            return next(found for _, found in self.generate_many(request, [request.number]))
        return carry_out(sampler, request)

    def generate_many(
        self, request: GenerationRequest, numbers: Iterable[int]
    ) -> Iterator[tuple[int, Generated]]:
        """Draw tunes of an order by their numbers, side by side, and yield them as they are done.

        Those of the NumPy engine are what `carried_out` draws; those of torch are its own.
        """
        if not isinstance(self.sampler, GenericSampler):
            width = DEFAULT_LANES if request.engine == "numpy" else 2 * DEFAULT_LANES
            make_lanes = get_batch_engine(request.engine)
            yield from generate_tunes(self.sampler, request, numbers, make_lanes, width)
            return
        if request.engine != "numpy":
            raise InvalidValue(
                f"engine {request.engine}: it writes bars, and codec {self.codec.name} has none;"
                " leave --engine out"
            )
        for number in numbers:
            yield number, self.generate(replace(request, number=number))

    def make_tune(self, request: GenerationRequest, generated: Generated) -> Tune:
        """Make the tune of what was drawn for an order."""
        encoded, text = generated.encoded, None
        if self.codec.has_bars:
            request, score = replace(request, drawn=DrawnHeader.of(encoded)), generated.score
        else:
            piece = self.codec.decode(encoded.ids, encoded.setting).piece
            score, text = (Score(), piece) if isinstance(piece, str) else (piece, None)
        notes = hash_notes(score) if text is None else hash_text(text)
        recipe = Recipe(request, self.name, get_package_version("musicgen"), notes)
        tune = Tune(score, recipe, self, text, generated.messages)
        tune.check_copies()
        return tune

    def make_variant(
        self,
        request: GenerationRequest,
        *,
        keep: str | None = None,
        candidates: int = CANDIDATES,
        **changes: Any,
    ) -> Tune:
        """Carry an order out with some changes, as `Tune.tweak` does."""
        seed = changes.pop("seed", None)
        kept = None
        if keep is not None:
            bars = parse_bars(keep)
            base = carry_out(self._get_bar_sampler("keep"), request).encoded
            kept = KeptBars(base.ids, bars, candidates)
            request = replace(request, drawn=DrawnHeader.of(base), primer=None)
        request = make_variant_request(request, SamplingOptions.parse_changes(**changes), kept)
        told = (
            ()
            if changes.keys().isdisjoint(("meter", "rhythm"))
            else self.describe_unseen_dances(request)
        )
        return self.sample_request(request if seed is None else replace(request, seed=seed), told)

    def _get_bar_sampler(self, option: str) -> Sampler:
        sampler = self.sampler
        if isinstance(sampler, GenericSampler):
            raise InvalidValue(
                f"{option}: a model of codec {self.codec.name} has no bars to hold on to"
            )
        return sampler


def read_first_tune(path: Path) -> Score:
    """Read the first tune of a file. Raises what was wrong with it where there is none."""
    scores, refusals = formats.read(path)
    if scores:
        return scores[0]
    raise refusals[0] if refusals else InvalidValue(f"{path}: it has no tunes")


def tweak(
    file: str | Path,
    model: str | Path | None = None,
    *,
    keep: str | None = None,
    candidates: int = CANDIDATES,
    **changes: Any,
) -> Tune:
    """Write a near variant of a file that musicgen wrote; without changes, the same tune.

    A file that was edited since is taken as a primer, and a file of others where bars are kept.
    Raises InvalidValue for one without a recipe, Mismatch where another model made it.
    """
    path = Path(file)
    text = read_recipe_text(path)
    if text is None and keep is None:
        raise InvalidValue(
            f"{path}: it holds no recipe, so musicgen did not write it; start from its notes with"
            " musicgen sample --primer, or keep some of its bars with --keep"
        )
    recipe = None if text is None else Recipe.from_text(text)
    loaded = load_named(recipe.model.name) if recipe and not model else load(model or "folk")
    if recipe is not None:
        recipe.check(loaded.name, str(path))
        if not _is_edited(path, recipe):
            return loaded.make_variant(recipe.request, keep=keep, candidates=candidates, **changes)
    return _tweak_from_notes(loaded, path, recipe, keep, candidates, changes)


def _tweak_from_notes(
    model: Model,
    path: Path,
    recipe: Recipe | None,
    keep: str | None,
    candidates: int,
    changes: dict[str, Any],
) -> Tune:
    """Take a file's notes as a primer, or as the tune of which bars are kept."""
    said = "its notes were edited since it was written" if recipe else "musicgen did not write it"
    order = recipe.request if recipe else GenerationRequest(SamplingOptions(), 0)
    unset: dict[str, Any] = dict.fromkeys(_SHAPE_OPTIONS)
    free = replace(order.options, **unset)
    primed = model.add_primer(replace(order, options=free, drawn=None, keep=None), path)
    count, changed = (primed.primer.bar_count, primed.primer.changes) if primed.primer else (0, ())
    primed = replace(primed, options=replace(free, bars=max(count, order.options.heard_bars or 0)))
    tune = model.make_variant(primed, keep=keep, candidates=candidates, **changes)
    told = f"{path}: {said}; its notes are taken as a primer"
    return replace(tune, messages=(told, *changed, *tune.messages))


def read_recipe_text(path: Path) -> str | None:
    """Return the recipe of a file as text: its own, or the one beside it; None without one."""
    beside = sidecar_path(path)
    if is_file(beside):
        return read_regular_file(beside, limit=MAX_RECIPE).decode("utf-8", "replace").strip()
    if path.suffix.lower() in export.PAGE_SUFFIXES:
        from musicgen.render.html_page import read_page_recipe  # slow to import

        return read_page_recipe(read_regular_file(path))
    return join_recipe_remarks(formats.read_remarks(path))


def _is_edited(path: Path, recipe: Recipe) -> bool:
    """Tell whether a file's notes are others than those that its recipe made."""
    suffix = path.suffix.lower()
    if suffix in export.RENDERERS:
        return False  # nobody edits a sound or a picture
    if suffix not in formats.READABLE_SUFFIXES or _is_text(suffix, path):
        text = read_regular_file(path, limit=MAX_TEXT).decode("utf-8", "replace").removesuffix("\n")
        return hash_text(text) != recipe.notes_hash
    return hash_notes(read_first_tune(path)) != recipe.notes_hash


def _is_text(suffix: str, path: Path) -> bool:
    """Tell whether a model of text wrote a file: its recipe stands beside what has room for one."""
    return formats.supports_remarks(suffix) and sidecar_path(path).is_file()


def find_model_folder(model: str | Path) -> Path:
    """Return the folder of a model: a path, a run of one's own, or one that is shipped."""
    return _find_first_model(str(model), (Path(model), *_list_candidate_folders(str(model))))


def find_named_folder(name: str) -> Path:
    """Return the folder of a model that data names: a run of one's own, or a shipped one.

    Names out of files are names: none is a path. Raises NotFound.
    """
    return _find_first_model(name, _list_candidate_folders(name) if is_plain_name(name) else ())


def _list_candidate_folders(name: str) -> Iterator[Path]:
    return (place / name for place in (RUNS_FOLDER, *_SHIPPED_FOLDERS))


def _find_first_model(name: str, folders: Iterable[Path]) -> Path:
    """Return the first folder that holds a checkpoint. Raises NotFound."""
    tried = list(folders)
    for folder in tried:
        if list_checkpoint_folders(folder):
            return folder
    if any(is_folder(folder / "progress") for folder in tried):
        raise NotFound(f"{name}: the run has no checkpoint yet; wait until it has judged one")
    if any(map(is_folder, tried)):
        raise NotFound(f"{name}: the folder has no manifest.json: it is not a complete checkpoint")
    names = ", ".join(sorted(list_models())) or "none"
    raise NotFound(f"model {shorten(name)!r} is unknown: there are {names};"
                   " or name the folder of a run with --model")  # fmt: skip


def list_models(runs_folder: Path = RUNS_FOLDER) -> dict[str, Path]:
    """Return the folders of the models that have a name: one's own runs, then those shipped."""
    found: dict[str, Path] = {}
    for place in (runs_folder, *_SHIPPED_FOLDERS):
        for folder in sorted(place.glob("[!.]*")):
            if folder.name.isprintable() and list_checkpoint_folders(folder):
                found.setdefault(folder.name, folder)
    return found


def load(model: str | Path = "folk") -> Model:
    """Load a model by name or folder. Raises NotFound, DamagedCheckpoint or Mismatch."""
    return _load(find_model_folder(model))


def load_named(name: str) -> Model:
    """Load the model that a recipe names. Raises NotFound, DamagedCheckpoint or Mismatch."""
    return _load(find_named_folder(name))


def _load(folder: Path) -> Model:
    checkpoint = load_checkpoint(folder)
    codec = restore_codec(checkpoint.manifest.codec, checkpoint.vocabulary, str(folder))
    return Model(checkpoint, codec)


def check_writable(files: Iterable[Path], suffixes: Sequence[str] = export.WRITABLE) -> None:
    """Raise InvalidValue for the first name that has none of the suffixes."""
    for file in files:
        export.check_suffix(file, suffixes)


def get_batch_engine(engine: str) -> Callable[[NumpyEngine, int], BatchEngine] | None:
    """Return what makes the lanes of an engine by its name; None for those of the one-tune one."""
    if engine == "numpy":
        return None
    if engine != "torch":
        raise InvalidValue(f"engine {engine!r} is unknown: choose one of {', '.join(ENGINES)}")
    from musicgen.model.torch_sampling import TorchBatchEngine  # slow to import

    return TorchBatchEngine


def sample_many(
    model: Model, request: GenerationRequest, *, count: int, jobs: int | None = None
) -> Iterator[Tune]:
    """Yield tunes 0..count-1 of an order in turn, drawn in processes where there are many.

    Tune k is the same, whatever the count and the number of processes.
    """
    jobs = count_processes(count, jobs)
    if jobs == 1:
        few = request.engine == "numpy" and count <= _SERIAL_LIMIT
        orders = (replace(request, number=number) for number in range(count))
        yield from (
            map(model.sample_request, orders) if few else _sample_in_order(model, request, count)
        )
        return
    from musicgen.sampling.parallel import run_in_order  # multiprocessing, wanted by few

    for number, answer in enumerate(
        run_in_order(_generate_in_process, to_process_arguments(model, request), count, jobs)
    ):
        yield model.make_tune(replace(request, number=number), Generated.from_json(answer.decode()))


def count_processes(count: int, jobs: int | None) -> int:
    """Return in how many processes so many tunes are drawn: in this one, or in others."""
    return 1 if count <= _SERIAL_LIMIT else min(jobs or os.cpu_count() or 1, count)


def to_process_arguments(model: Model, request: GenerationRequest) -> tuple[str, ...]:
    """Return what a process of its own needs to draw an order's tunes, as text."""
    return str(model.checkpoint.folder.resolve()), json.dumps(request.to_json())


def from_process_arguments(folder: str, request: str) -> tuple[Model, GenerationRequest]:
    """Read what `start_of` wrote."""
    return load(folder), GenerationRequest.from_json(request)


def _sample_in_order(model: Model, request: GenerationRequest, count: int) -> Iterator[Tune]:
    """Yield tunes in turn, drawn in this process."""
    early: dict[int, Generated] = {}
    many = model.generate_many(request, range(count))
    for number in range(count):
        while number not in early:
            done, found = next(many)
            early[done] = found
        yield model.make_tune(replace(request, number=number), early.pop(number))


def _generate_in_process(numbers: Iterable[int], *start: str) -> Iterator[tuple[int, bytes]]:
    """Draw tunes in a process of its own; text goes back, for no objects go between processes."""
    model, order = from_process_arguments(*start)
    for number, found in model.generate_many(order, numbers):
        yield number, found.to_json().encode()
