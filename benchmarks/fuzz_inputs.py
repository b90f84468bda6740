"""Fuzz recipes, manifests, run states, data sets, cards, settings and scores: read or refused?

    python benchmarks/fuzz_inputs.py --minutes 20     # prints its seed
    python benchmarks/fuzz_inputs.py --toy

Examples are mutations of valid ones, and values that Hypothesis generates from the schemas. A
failure is an exception that is not a MusicgenError or a usage error, an answer after more than 2 s,
a file opened outside the working folder (except Python's and the package's own files), or the
import of a module that only an example names. The exit code is 1 if there are failures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from msgspec import inspect as type_inspect

import musicgen
from musicgen import checkpoint, files, folder_contents, formats
from musicgen.cli.command_options import read_settings
from musicgen.cli.train import train
from musicgen.config import ModelSettings
from musicgen.corpus import sources, store
from musicgen.corpus.download import RemoteFile
from musicgen.errors import MusicgenError
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import Recipe, RecipeTable
from musicgen.tokens.codec import PLAIN_SETTING
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training import resume, run_folder
from musicgen.training.plan import TrainingOptions, make_plan
from musicgen.training.run import TrainingRun

MAX_SECONDS: Final = 2.0  # seconds
BATCH_SIZE: Final = 50  # examples per target and round
MAX_PRINTED: Final = 3  # failures of one kind
TRAP_MODULES: Final = ("this", "antigravity", "evilpkg", "evilpkg.x")  # modules that examples name
TEXTS: Final = (
    "", "²", "٣", "1e-9999999", "9" * 4_000, "nan", "-1", "0.5", "1/0", "a" * 300, "a" * 10_000,
    "../../etc/passwd", "/etc/passwd", "/tmp", "..", ".", "\x00", "a\x00b", "\x1b[2J", "\ud800",
    "this.x:foo", "evilpkg.x:foo", "music21:../..", "music21:/etc", "https://x/" + "y" * 3_000,
    "folk", "D4-B5", "6/8", "Edor", "AABB", "flute", "1/8", "a." * 5_000,
)  # fmt: skip
NUMBERS: Final = (0, -1, 1, 2, 127, 128, 256.0, 30_000, 2**15, 2**31, 2**53, 2**63, 10**9, 10**40,
                  -(10**40), 10**4_000, 1e308, -1e308, 1e-308, 0.5, -0.0)  # fmt: skip

URLS: Final = (
    "http://[/x.mid", "https://[::1/x.mid", "https://x:port/a.zip", "https://x:99999/a.zip",
    "https:///a.zip", "https://@/a.zip", "https://a\u2100b/a.zip", "https://x/\u00e9.zip",
    "https://x/%2e%2e%2f", "https://x/..\\..", "http://localhost:1/a.zip", "HTTPS://X", "ftp://x/a",
    "https://x?a", "https://x#a", "https://x/a;b", "https://" + "a." * 900,
    "https://x/" + "%00" * 9,
)  # fmt: skip
XML: Final = (
    '<?xml version="1.0" encoding="UTF-8"?><score-partwise version="3.1"><part-list>'
    '<score-part id="P1"><part-name>A</part-name></score-part></part-list><part id="P1">'
    '<measure number="1"><attributes><divisions>1</divisions><key><fifths>0</fifths></key><time>'
    "<beats>4</beats><beat-type>4</beat-type></time><staves>1</staves><transpose><chromatic>0"
    '</chromatic></transpose></attributes><barline location="left"><ending number="1"'
    ' type="start"/></barline><direction><direction-type><metronome><beat-unit>quarter'
    "</beat-unit><per-minute>100"
    '</per-minute></metronome></direction-type><sound tempo="100"/></direction><harmony><root>'
    "<root-step>C</root-step></root><kind>major</kind><degree><degree-value>9</degree-value>"
    "<degree-alter>0</degree-alter><degree-type>add</degree-type></degree></harmony><note><pitch>"
    "<step>C</step><alter>0</alter><octave>4</octave></pitch><duration>4</duration>"
    "<time-modification><actual-notes>1</actual-notes><normal-notes>1</normal-notes>"
    '</time-modification></note><barline location="right"><ending number="1" type="stop"/>'
    '<repeat direction="backward" times="2"/></barline></measure></part></score-partwise>'
)
XML_NUMBER: Final = re.compile(r"(?<=>)[0-9]+(?=<)|(?<=\")[0-9]+(?=\")|UTF-8")
XML_NUMBERS: Final = ("100000000", "1e300", "-1", "0", "nan", "inf", "1_0e300", "\uff11" * 9,
                      "1-99999999", "9" * 5_000, "1e-300", "2+" * 90 + "2", "99.5", "UTF-16",
                      "none")  # fmt: skip
XML_NUMBER_FORMS: Final = ("{}", "{}", "{}<x/>", "<x/>{}", "{}<!-- -->{}", "<![CDATA[{}]]>",
                           "{}<?x ?>", " {}\n", "&#49;{}", "{}<beats>{}</beats>", "&n;",
                           "{}<duration/>")  # fmt: skip

Target = Callable[["Drawing"], None]


def odd_values() -> st.SearchStrategy[Any]:
    """Generate JSON values, most of them unusual."""
    scalars = st.one_of(
        st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.none(), st.booleans(), st.text(),
        st.integers(), st.floats(),
    )  # fmt: skip
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Generate JSON values of a msgspec type, up to its bounds."""
    match kind:
        case type_inspect.StructType() | type_inspect.DataclassType():
            required = {f.encode_name: values_of(f.type) for f in kind.fields if f.required}
            optional = {f.encode_name: values_of(f.type) for f in kind.fields if not f.required}
            return st.fixed_dictionaries(required, optional=optional)
        case type_inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case type_inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case type_inspect.StrType():
            return st.sampled_from(TEXTS) | st.text(max_size=20)
        case type_inspect.BoolType():
            return st.booleans()
        case type_inspect.NoneType():
            return st.none()
        case type_inspect.LiteralType():
            return st.sampled_from(kind.values)
        case type_inspect.UnionType():
            return st.one_of(*map(values_of, kind.types))
        case type_inspect.TupleType():
            return st.tuples(*map(values_of, kind.item_types)).map(list)
        case type_inspect.VarTupleType() | type_inspect.ListType():
            return st.lists(values_of(kind.item_type), min_size=kind.min_length or 0, max_size=4)
        case type_inspect.DictType():
            return st.dictionaries(values_of(kind.key_type), values_of(kind.value_type), max_size=3)
    return odd_values()


def make_examples(valid: Any, schema: Any) -> st.SearchStrategy[Any]:
    """Generate mutations of a valid example, and values of its schema."""
    return st.one_of(mutate(valid), mutate(valid), values_of(type_inspect.type_info(schema)))


@st.composite
def mutate(draw: st.DrawFn, valid: Any) -> Any:
    """Mutate a copy: replace values, delete entries, add entries."""
    original = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_iter_places(original)) or [(None, None)]))
        if holder is None:
            return draw(odd_values())
        action = draw(st.sampled_from(("set", "set", "set", "drop", "add")))
        if action == "drop":
            del holder[key]
        elif action == "set" or isinstance(holder, list):
            holder[key] = draw(odd_values())
        else:
            holder[draw(st.sampled_from(TEXTS))] = draw(odd_values())
    return original


@st.composite
def mutate_ids(draw: st.DrawFn, ids: list[int]) -> list[int]:
    """Mutate the events of a tune: swap, reverse, delete, add, replace, truncate."""
    new_ids = list(ids)
    for _ in range(draw(st.integers(1, 4))):
        first, second = (draw(st.integers(0, len(new_ids) - 1)) for _ in range(2))
        event = draw(st.integers(-1, len(MEASURES)))
        match draw(st.sampled_from(("swap", "reverse", "drop", "add", "set", "cut"))):
            case "swap":
                new_ids[first], new_ids[second] = new_ids[second], new_ids[first]
            case "reverse":
                new_ids.reverse()
            case "drop" if len(new_ids) > 1:
                del new_ids[first]
            case "cut":
                del new_ids[first + 1 :]
            case "add":
                new_ids.insert(first, event)
            case _:
                new_ids[first] = event
    return new_ids


def _iter_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) for the values of a tree; only the first few of a list."""
    keys = list(value) if isinstance(value, dict) else range(min(3, len(value)))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _iter_places(value[key])


def to_json(value: Any) -> bytes:
    """Encode a value as JSON."""
    return json.dumps(value).encode()


def to_toml(table: Any) -> str:
    """Encode a table as TOML."""
    items = table.items() if isinstance(table, dict) else ()
    return "".join(f"{_toml(str(key))} = {_toml(value)}\n" for key, value in items)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value.encode("utf-8", "replace").decode()).replace("\x7f", "\\u007f")
    return "''" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


@dataclass
class Workplace:
    """The folder that examples are written to, and a valid example of each kind."""

    folder: Path
    model: Path = field(init=False)
    dataset: Path = field(init=False)
    run: Path = field(init=False)
    recipe: dict[str, Any] = field(init=False)
    kept_recipe: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.dataset = self.folder / "model", self.folder / "data"
        self.run = self.folder / "run"
        _write_untrained_model(self.model)
        self.loaded = musicgen.load(self.model)
        sampled = self.loaded.sample(seed=1, bars=4, key="D", tempo=90)
        sampled.write(self.folder / "song.mid")
        with_primer = self.loaded.sample(seed=1, bars=4, primer=sampled.score)
        with_kept_bars = sampled.tweak(keep="1-2", candidates=2)
        self.kept_recipe = with_kept_bars.recipe.to_json()
        self.recipe = {
            **with_primer.recipe.to_json(),
            "keep": with_kept_bars.recipe.to_json()["keep"],
        }
        tunes = [_make_encoded_tune(number) for number in range(60)]
        data = store.Dataset(tunes[:50], tunes[50:56], tunes[56:], "measures", MEASURES.names, {})
        store.save(data, self.dataset)
        run = TrainingRun(
            data,
            make_plan(data, TrainingOptions(hidden=4, batch=2, bptt=8, epochs=1)),
            "run",
            self.run,
        )
        for _ in run.train():
            break
        (state,) = checkpoint.list_numbered_folders(self.run / run_folder.PROGRESS_FOLDER) or [
            self._save_state(run)
        ]
        self.state = state

    def warm_up(self) -> None:
        """Trigger the lazy imports."""
        self.loaded.make_variant(Recipe.from_text(json.dumps(self.recipe)).request)
        list(store.load(self.dataset))
        saved_run = resume.load_saved_run(self.run)
        assert saved_run is not None
        TrainingRun.resume(saved_run, store.load(self.dataset), self.run)
        sources.find_files("aird")
        assert formats.parse(XML.encode(), ".musicxml", "valid")[0]

    def _save_state(self, run: TrainingRun) -> Path:
        state = run.trainer.copy_state()
        values = {"trainer": state.values, "run": run.describe()}
        return run_folder.save_progress(self.run, run.trainer.step, state.arrays, values)

    def targets(self) -> Mapping[str, Target]:
        """Return the fuzz targets by name: each draws its example from Hypothesis and reads it."""
        return {
            "recipe": self.read_recipe,
            "kept ids": self.read_kept,
            "named model": self.read_named_model,
            "manifest": self.read_manifest,
            "run state": self.read_state,
            "data set": self.read_dataset,
            "corpus card": self.read_card,
            "settings": self.read_settings,
            "sampling options": self.read_options,
            "MusicXML": self.read_musicxml,
        }

    def read_recipe(self, data: Drawing) -> None:
        """Read a recipe; generate its tune if it is short."""
        body = data.draw(make_examples(self.recipe, RecipeTable))
        request = Recipe.from_text(to_json(body).decode()).request
        if request.engine == "numpy" and (request.options.heard_bars or 99) <= 8:
            self.loaded.make_variant(request)

    def read_kept(self, data: Drawing) -> None:
        """Tweak a tune whose recipe keeps mutated events."""
        body = json.loads(json.dumps(self.kept_recipe))
        body["keep"]["candidates"] = 1
        body["keep"]["ids"] = data.draw(mutate_ids(body["keep"]["ids"]))
        self.loaded.make_variant(Recipe.from_text(to_json(body).decode()).request)

    def read_named_model(self, data: Drawing) -> None:
        """Tweak a file whose recipe names another model."""
        name = data.draw(st.sampled_from((*TEXTS, str(self.model), "../model")) | st.text())
        body = {**self.recipe, "model": {**self.recipe["model"], "name": name}}
        sidecar = self.folder / "song.mid.recipe.json"
        sidecar.write_bytes(to_json(body))
        musicgen.tweak(self.folder / "song.mid")

    def read_manifest(self, data: Drawing) -> None:
        """Load a model with a mutated manifest, and sample two bars."""
        path = self.model / folder_contents.MANIFEST
        original = path.read_bytes()
        valid = json.loads(original)
        corpus = mutate(valid["corpus"]).map(lambda corpus_table: {**valid, "corpus": corpus_table})
        body = data.draw(make_examples(valid, checkpoint.ManifestTable) | corpus)
        with _replace_content(path, original, lambda: checkpoint.render_manifest(body)):
            musicgen.load(self.model).sample(seed=1, bars=2, rhythm="jig", meter="4/4")

    def read_state(self, data: Drawing) -> None:
        """Resume a run with a mutated state."""
        path, manifest = self.state / run_folder.VALUES_FILE, self.state / folder_contents.MANIFEST
        original, manifest_bytes = path.read_bytes(), manifest.read_bytes()
        values = data.draw(make_examples(json.loads(original), resume.StateTable))
        text = to_json(values)
        hashes = {
            **json.loads(manifest_bytes)["sha256"],
            run_folder.VALUES_FILE: files.sha256_hex(text),
        }
        table = {"format": run_folder.FORMAT, "sha256": hashes}
        with (
            _replace_content(path, original, lambda: text),
            _replace_content(manifest, manifest_bytes, lambda: checkpoint.render_manifest(table)),
        ):
            saved_run = resume.load_saved_run(self.run)
            if saved_run is not None:
                TrainingRun.resume(saved_run, store.load(self.dataset), self.run)

    def read_dataset(self, data: Drawing) -> None:
        """Open a data set with a mutated manifest."""
        path = self.dataset / folder_contents.MANIFEST
        original = path.read_bytes()
        body = data.draw(make_examples(json.loads(original), store.DatasetTable))

        def render() -> bytes:
            content = {"format": store.FORMAT, **body}
            return json.dumps({**content, "check": store._hash_manifest(content)}).encode()

        with _replace_content(path, original, render):
            list(store.load(self.dataset))

    def read_card(self, data: Drawing) -> None:
        """Read a user's corpus card, and find its files."""
        valid = {"title": "T", "description": "d", "where": "music21:airdsAirs", "files": "*.abc"}
        remote_cards = st.sampled_from(URLS).flatmap(
            lambda url: st.just({**valid, "where": url, "sha256": "0" * 64, "bytes": 5})
        )
        path = self.folder / f"card-{secrets.token_hex(4)}.toml"
        path.write_text(
            to_toml(data.draw(make_examples(valid, sources.CardSchema) | remote_cards)), "utf-8"
        )
        try:
            card = sources._load_card(path)
            if sources.is_url(card.where):
                _ = RemoteFile(card.where, card.sha256, card.bytes).cache_name
            else:
                sources.find_files(str(path))
        finally:
            path.unlink()

    def read_settings(self, data: Drawing) -> None:
        """Read the settings of `train`."""
        valid = {"hidden": 64, "learning-rate": 2e-3, "epochs": 3, "sources": ["a"], "name": "x",
                 "seed": 1, "device": "cpu", "no-index": True}  # fmt: skip
        path = self.folder / "settings.toml"
        text = to_toml(data.draw(mutate(valid)))
        if data.draw(st.booleans()):  # numbers in other bases, with very many digits
            key = data.draw(st.sampled_from(sorted(valid)))
            digits = data.draw(st.sampled_from(("0x1f", "0o17", "0b1", "0x" + "f" * 60_000)))
            form = data.draw(st.sampled_from(("{}", "[{}]", "[[{}]]", "{{a = {}}}")))
            text = f"{key} = {form.format(digits)}\n"
        path.write_text(text, "utf-8")
        read_settings(path, click.Context(train))

    def read_options(self, data: Drawing) -> None:
        """Read sampling options as text, as the API does."""
        names = sorted(SamplingOptions.__dataclass_fields__)
        values = st.sampled_from(TEXTS) | odd_values()
        SamplingOptions.parse(
            **data.draw(st.dictionaries(st.sampled_from(names), values, max_size=3))
        )

    def read_musicxml(self, data: Drawing) -> None:
        """Read a score with an unusual number in it. Raises its Refusal."""
        number_spans = [match.span() for match in XML_NUMBER.finditer(XML)]
        start, stop = data.draw(st.sampled_from(number_spans))
        number = data.draw(st.sampled_from(XML_NUMBERS) | st.integers().map(str))
        number_text = data.draw(st.sampled_from(XML_NUMBER_FORMS)).format(number, number)
        dtd = f'?><!DOCTYPE score-partwise [<!ENTITY n "{number}">]><score-partwise'
        text = XML[:start] + number_text + XML[stop:]
        if "&n;" in number_text:
            text = text.replace("?><score-partwise", dtd)
        _, refusals = formats.parse(text.encode(), ".musicxml", "odd")
        if refusals:
            raise refusals[0]


def _write_untrained_model(folder: Path) -> None:
    settings = ModelSettings(vocabulary_size=len(MEASURES), hidden=8, embedding=8)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in checkpoint.weight_shapes(settings).items()
    }
    excluded_kinds = (
        "begin",
        "irregular",
        "part",
        "voice",
        "drum",
        "chord",
        "bass",
        "no_chord",
        "key",
    )
    event_counts = tuple(int(event.kind not in excluded_kinds) for event in MEASURES.events)
    corpus = {"dances": {"jig": {"6/8": 5}}, "tonics": {"major": {"C": 2, "D": 1}}}
    manifest = checkpoint.Manifest(
        "model", 1, settings, MEASURES.names, event_counts, corpus=corpus
    )
    checkpoint.save(folder, weights, manifest)


def _make_encoded_tune(number: int) -> store.EncodedTune:
    ids = np.random.default_rng(number).integers(1, len(MEASURES), 40).astype(np.int16)
    return store.EncodedTune(ids, 20, f"Tune {number}", "a.abc", f"{number:016x}", "C major", "4/4",
                             "", PLAIN_SETTING.to_json(), number)  # fmt: skip


@contextlib.contextmanager
def _replace_content(path: Path, original: bytes, render: Callable[[], bytes]) -> Iterator[None]:
    """Replace the content of a file for a block; keep it if the new content cannot be encoded."""
    try:
        data = render()
    except (ValueError, TypeError, AttributeError, UnicodeError):
        data = original
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(original)


def is_installed(path: str) -> bool:
    """Return whether an entry of sys.path holds installed packages."""
    return path.rstrip(os.sep).endswith(("site-packages", "dist-packages"))


class Watch:
    """Records files opened outside the folder, and imports of trap modules."""

    def __init__(self, folder: Path) -> None:
        package = Path(musicgen.__file__).parents[1]
        own = [package / name for name in ("musicgen", "corpora", "checkpoints")]
        installed = [sys.prefix, sys.base_prefix, *filter(is_installed, sys.path)]
        self.roots = tuple(os.path.realpath(root) + os.sep for root in (*installed, folder, *own))
        self.events: list[str] = []
        self.is_active = False
        sys.addaudithook(self.on_audit_event)

    def on_audit_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Handle a Python audit event."""
        if not self.is_active:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            name = os.path.realpath(os.fsdecode(arguments[0]))
            if not f"{name}{os.sep}".startswith(self.roots) and name != os.devnull:
                self.events.append(f"opened {name}")
        elif event == "import" and arguments[0] in TRAP_MODULES:
            self.events.append(f"imported {arguments[0]}")


class Drawing:
    """Draws examples; the time and the file accesses of Hypothesis are not counted."""

    def __init__(self, data: st.DataObject, watch: Watch) -> None:
        self.data, self.watch = data, watch
        self.seconds = 0.0

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        """Draw a value."""
        self.watch.is_active, start_time = False, time.perf_counter()
        value = self.data.draw(strategy)
        self.seconds += time.perf_counter() - start_time
        self.watch.is_active = True
        return value


class Fuzzer:
    """Runs targets in turn, and counts their outcomes."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[str] = Counter()
        self.slowest = 0.0

    def try_one(self, name: str, target: Target, data: st.DataObject) -> None:
        """Read one example."""
        self.watch.events.clear()
        drawing = Drawing(data, self.watch)
        self.watch.is_active, start_time = True, time.perf_counter()
        try:
            target(drawing)
            outcome = "read"
        except (MusicgenError, click.UsageError):
            outcome = "refused"
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            outcome = "failed"
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self.record_failure(
                name, f"{type(error).__name__} in {frame.filename}:{frame.lineno}", error
            )
        finally:
            self.watch.is_active = False
        seconds = time.perf_counter() - start_time - drawing.seconds
        self.slowest = max(self.slowest, seconds)
        if seconds > MAX_SECONDS:
            self.record_failure(name, "slow", seconds)
        for event in self.watch.events:
            self.record_failure(name, event, "")
        self.counts[name, outcome] += 1

    def record_failure(self, name: str, kind: str, detail: object) -> None:
        """Count a failure; print the first few of each kind."""
        self.failures[f"{name}: {kind}"] += 1
        if self.failures[f"{name}: {kind}"] <= MAX_PRINTED:
            print(f"FAILED {name}: {kind}: {str(detail)[:300]}", flush=True)

    def run(self, name: str, target: Target, number: int, examples_in_turn: int) -> None:
        """Read some examples of a target."""

        @seed(number)
        @settings(
            max_examples=examples_in_turn, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.data())
        def read_example(data: st.DataObject) -> None:
            self.try_one(name, target, data)

        read_example()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--toy", action="store_true", help="a few examples of each target")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-inputs-"))
    old_folder, deadline = Path.cwd(), time.monotonic() + 60 * options.minutes
    os.chdir(folder)
    (folder / "temporary").mkdir()
    tempfile.tempdir = str(folder / "temporary")
    try:
        workplace = Workplace(folder)
        targets = workplace.targets()
        fuzzer, round_number = Fuzzer(Watch(folder)), 0
        workplace.warm_up()
        while round_number == 0 or (time.monotonic() < deadline and not options.toy):
            for name, target in targets.items():
                fuzzer.run(
                    name, target, options.seed + round_number, 5 if options.toy else BATCH_SIZE
                )
            round_number += 1
    finally:
        os.chdir(old_folder)
        shutil.rmtree(folder)
    for name in targets:
        outcomes = ", ".join(
            f"{fuzzer.counts[name, o]:,} {o}" for o in ("read", "refused", "failed")
        )
        print(f"{name}: {outcomes}")
    print(f"{fuzzer.counts.total():,} examples, the slowest {fuzzer.slowest:.2f} s;"
          f" {fuzzer.failures.total():,} failures")  # fmt: skip
    raise SystemExit(bool(fuzzer.failures))


if __name__ == "__main__":
    main()
