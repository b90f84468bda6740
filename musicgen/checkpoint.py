"""A trained model on disk: weights, settings, vocabulary, scores; read without torch.

    RUN/
    ├── weights.safetensors    float16
    ├── manifest.json          all the rest, and the SHA-256 of every file; written last
    ├── MODEL_CARD.md
    ├── ...                    whatever else the run keeps: metrics.jsonl, the receipt's index
    └── best/STEP/             while it trains: the same files, of the best so far

A folder gets its name once all of it is on disk; a run's own manifest comes when it is finished,
and until then its newest best one is the model. Reading checks every hash before it parses, the
manifest's own included, so that a changed byte anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.numpy import load as parse_weights
from safetensors.numpy import save as render_weights

from musicgen.config import MOST_EVENTS, ModelSettings
from musicgen.errors import (
    DamagedCheckpoint,
    InvalidValue,
    Mismatch,
    NotFound,
    Refusal,
)
from musicgen.files import (
    create_folder_atomically,
    is_file,
    is_folder,
    is_plain_name,
    read_regular_file,
    translate_os_errors,
    write_atomically,
    write_new,
)
from musicgen.folder_contents import MANIFEST, MOST_MANIFEST_BYTES, has_only_listed_files
from musicgen.music.theory import MODES
from musicgen.number_parsing import shorten
from musicgen.typed_data import Count, FileName, Sha256, check_schema

FORMAT: Final = 1
WEIGHTS: Final = "weights.safetensors"
BEST: Final = "best"
_NUMBER: Final = re.compile(r"[0-9]{8,12}")
MAX_BYTES: Final = 4 * 2**30
REMEDY: Final = "install or train the model again"
GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1, "irnn": 1}
LAYER_WEIGHTS: Final = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # torch's names

Weights = dict[str, np.ndarray]
Tonics = dict[
    Annotated[str, Meta(pattern=rf"^({'|'.join(MODES)})\Z")],
    dict[Annotated[str, Meta(pattern=r"^[A-G](#|b)?\Z")], Annotated[int, Meta(ge=1, le=2**53)]],
]


class FilesTable(msgspec.Struct):
    """What every manifest of ours has: names of files, none a path, and their hashes."""

    format: int
    sha256: dict[FileName, Sha256]


class CardTable(msgspec.Struct):
    """What a manifest quotes of a corpus card."""

    name: str
    title: str
    source: str
    terms: str


class OriginTable(msgspec.Struct):
    """What the manifest of an adapted model says of the one that it comes from."""

    name: str
    version: Count
    fingerprint: str = ""
    cards: tuple[CardTable, ...] = ()


class CorpusTable(msgspec.Struct):
    """What a manifest says of the tunes that a model learnt from; nothing else of it is read."""

    cards: tuple[CardTable, ...] = ()
    sources: tuple[str, ...] = ()
    fingerprint: str = ""
    tunes: dict[str, Count] = {}
    tonics: Tonics = {}  # of each mode: how many tunes have which
    dances: dict[str, dict[str, Count]] = {}  # of each dance: how many tunes have which meter
    adapted_from: OriginTable | None = None


_CORPUS_NAMES: Final = tuple(field.name for field in msgspec.structs.fields(CorpusTable))


class SplitScore(msgspec.Struct):
    """How well the tunes of a part are predicted."""

    bits_per_note: float
    nats_per_token: float
    interval_95: tuple[float, float]
    tunes: Count
    notes: Count
    middle_90: tuple[float, float] | None = None


class ScoresTable(msgspec.Struct):
    """The scores of a model."""

    valid: SplitScore | None = None
    test: SplitScore | None = None
    test_5gram: SplitScore | None = None
    percent_below_5gram: float | None = None


class ManifestTable(FilesTable):
    """What the manifest of a checkpoint has; unknown entries are passed over."""

    name: str
    version: Count
    settings: dict[str, Any]  # read by ModelSettings
    vocabulary: Annotated[tuple[str, ...], Meta(max_length=MOST_EVENTS)]
    seen: Annotated[tuple[Count, ...], Meta(max_length=MOST_EVENTS)]
    codec: str
    corpus: CorpusTable
    scores: ScoresTable
    training: dict[str, Any]  # shown, never used
    packages: dict[str, str]


def check_name(name: str) -> None:
    """Raise InvalidValue for a model's name that is a path, too long, or not printable."""
    if not is_plain_name(name):
        raise InvalidValue(f"name is {shorten(name)!r}, which is not a valid model name")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says about itself."""

    name: str
    version: int
    settings: ModelSettings
    vocabulary: tuple[str, ...]  # every event, by id
    seen: tuple[int, ...]  # how often each event occurs in the training part
    codec: str = "measures"
    corpus: Mapping[str, Any] = field(default_factory=dict)  # card, fingerprint
    scores: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)  # settings and seed of the run
    packages: Mapping[str, str] = field(default_factory=dict)  # versions

    def __post_init__(self) -> None:
        check_name(self.name)
        for what, count in (("vocabulary", len(self.vocabulary)), ("seen", len(self.seen))):
            if count != self.settings.vocabulary_size:
                raise InvalidValue(
                    f"model {self.name}: {what} has {count} entries, the settings say "
                    f"{self.settings.vocabulary_size}"
                )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    manifest: Manifest
    weights: Weights  # float32
    folder: Path
    hashes: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each of its files

    @cached_property
    def fingerprint(self) -> str:
        """What tells models apart: weights, settings, and which events and tonics it has met."""
        said = self.manifest
        body = [self.hashes.get(WEIGHTS), asdict(said.settings), said.codec, said.vocabulary,
                [id_ for id_, count in enumerate(said.seen) if count],
                said.corpus.get("tonics", {})]  # fmt: skip
        return sha256_hex(json.dumps(body, sort_keys=True).encode())[:16]

    @property
    def settings(self) -> ModelSettings:
        """The model's shape."""
        return self.manifest.settings

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every event, by id."""
        return self.manifest.vocabulary

    def read_extra_file(self, name: str) -> bytes:
        """Read one of the run's other files; its hash was checked when the checkpoint was."""
        return _read(self.folder, name)


def save(
    folder: Path,
    weights: Weights,
    manifest: Manifest,
    extra: Mapping[str, bytes] | None = None,
    *,
    force: bool = False,
) -> None:
    """Write a checkpoint under a new name; with force, in place of an old one.

    Raises InvalidValue for weights that are not finite in float16 or do not fit the settings.
    """
    files = _serialize_files(weights, manifest, extra or {})
    needed = sum(map(len, files.values()))
    replaces = has_only_listed_files if force else None
    with (
        create_folder_atomically(folder, may_replace=replaces) as staging,
        translate_os_errors(folder, needed),
    ):
        for name, data in files.items():
            write_new(staging / name, data)


def publish(
    folder: Path, weights: Weights, manifest: Manifest, extra: Mapping[str, bytes] | None = None
) -> None:
    """Make an existing folder, such as a finished run's, a checkpoint; raises as `save` does.

    Its manifest is the last to be there, and where there was one the first to go.
    """
    files = _serialize_files(weights, manifest, extra or {})
    with translate_os_errors(folder / MANIFEST):
        (folder / MANIFEST).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data, force=True)


def _serialize_files(
    weights: Weights, manifest: Manifest, extra: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return a checkpoint's files and their bytes, the manifest last."""
    halves = {name: _to_float16(array) for name, array in weights.items()}
    check_weights(halves, manifest.settings)
    files = {WEIGHTS: render_weights(halves), **extra}
    body = asdict(manifest) | {
        "format": FORMAT,
        "packages": dict(manifest.packages) or get_package_versions(),
        "sha256": {name: sha256_hex(data) for name, data in sorted(files.items())},
    }
    return files | {MANIFEST: render_manifest(body)}


def list_numbered_folders(folder: Path) -> list[Path]:
    """Return the folders that are named by a number of updates, the oldest first."""
    found = folder.iterdir() if is_folder(folder) else ()
    return sorted((p for p in found if _NUMBER.fullmatch(p.name)), key=lambda p: int(p.name))


def previous_run_path(folder: Path) -> Path:
    """Return where a run is kept while its successor of the same name has saved nothing yet."""
    return folder.parent / f".{folder.name}.old"


def list_checkpoint_folders(folder: Path) -> list[Path]:
    """Return where the checkpoints of a model or run may stand, the one to take first."""
    found: list[Path] = []
    for run in (folder, previous_run_path(folder)):
        if is_file(run / MANIFEST):
            found.append(run)
        else:
            found += reversed(list_numbered_folders(run / BEST))
    return found


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint; of a run under way, the newest of its best ones that is whole.

    Raises NotFound, DamagedCheckpoint where a file is missing or changed, Mismatch where a newer
    version wrote it.
    """
    tried: list[tuple[Path, object]] = []
    fault: DamagedCheckpoint | None = None
    while (
        found := [(place, _stat_manifest(place)) for place in list_checkpoint_folders(folder)]
    ) != tried:
        fault, checkpoint = _load_first_intact([place for place, _ in found], folder)
        if checkpoint:
            return checkpoint
        tried = found  # a run under way may have moved on meanwhile: look again
    if fault:
        raise fault
    return load_one(folder)


def _stat_manifest(folder: Path) -> object:
    """Return what changes when a folder's manifest is written again."""
    try:
        status = (folder / MANIFEST).stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns


def _load_first_intact(
    candidates: Sequence[Path], folder: Path
) -> tuple[DamagedCheckpoint | None, Checkpoint | None]:
    """Return the first checkpoint that is whole, else the first fault; the folder's own decides."""
    first: DamagedCheckpoint | None = None
    for place in candidates:
        try:
            return None, load_one(place)
        except (DamagedCheckpoint, NotFound) as fault:
            first = first or (fault if isinstance(fault, DamagedCheckpoint) else None)
            if place == folder:
                break
    return first, None


def load_one(folder: Path) -> Checkpoint:
    """Read the checkpoint that stands in this very folder; raises as `load` does."""
    if not is_folder(folder):
        raise NotFound(f"{folder}: there is no such model; see 'musicgen train --help'")
    body = read_manifest(folder, FORMAT)
    contents = read_files(folder, body, WEIGHTS)
    try:
        manifest = _build_manifest(body)
        halves = parse_weights(contents[WEIGHTS])
        check_weights(halves, manifest.settings)
    except (SafetensorError, ValueError, KeyError, TypeError) as fault:
        raise damage_error(folder, f"its contents do not fit ({fault})") from fault
    weights = {name: array.astype(np.float32) for name, array in halves.items()}
    return Checkpoint(manifest, weights, folder, dict(body["sha256"]))


def read_manifest(folder: Path, supported_format: int) -> dict[str, Any]:
    """Read a folder's manifest; raise DamagedCheckpoint, or Mismatch for another format."""
    body = parse_manifest(_read(folder, MANIFEST, MOST_MANIFEST_BYTES), folder)
    if body["format"] != supported_format:
        raise Mismatch(
            f"{folder}: its format is {shorten(str(body['format']))}, this musicgen reads format"
            f" {supported_format}; update musicgen"
        )
    return body


def read_files(folder: Path, body: Mapping[str, Any], *needed: str) -> dict[str, bytes]:
    """Read what a manifest vouches for. Raises DamagedCheckpoint unless all of it is unchanged."""
    try:
        table = check_schema(body, FilesTable, "its table of files").sha256
    except InvalidValue as fault:
        raise damage_error(folder / MANIFEST, str(fault)) from fault
    if missing := set(needed) - table.keys():
        raise damage_error(folder / MANIFEST, f"its table of files lacks {min(missing)}")
    return {name: _read_verified(folder, name, kept) for name, kept in table.items()}


def round_to_float16(weights: Weights) -> Weights:
    """Return the weights as a checkpoint gives them back: rounded to float16."""
    return {name: _to_float16(array).astype(np.float32) for name, array in weights.items()}


def weight_shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight of a model."""
    size, hidden, gates = settings.embedding, settings.hidden, GATES[settings.cell]
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (settings.vocabulary_size, size)}
    for layer in range(settings.layers):
        rows, inputs = gates * hidden, hidden if layer else size
        shapes = ((rows, inputs), (rows, hidden), (rows,), (rows,))
        for name, shape in zip(LAYER_WEIGHTS, shapes, strict=True):
            found[f"layers.{layer}.{name}"] = shape
    if settings.tied and size != hidden:
        found["narrow.weight"] = (size, hidden)
    if not settings.tied:
        found["head.weight"] = (settings.vocabulary_size, hidden)
    return found | {"head.bias": (settings.vocabulary_size,)}


def check_weights(weights: Weights, settings: ModelSettings) -> None:
    """Raise InvalidValue unless all weights are there, fit the settings and are finite."""
    expected = weight_shapes(settings)
    if odd := sorted(expected.keys() ^ weights.keys()):
        raise InvalidValue(f"weight {odd[0]!r} is missing or unknown")
    for name, array in weights.items():
        if array.shape != expected[name]:
            raise InvalidValue(f"weight {name!r} has shape {array.shape}, not {expected[name]}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InvalidValue(f"weight {name!r} holds what is no finite number")


def get_package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a model's numbers."""
    return {
        name: get_package_version(name) for name in ("musicgen", "numpy", "safetensors", "torch")
    }


def get_package_version(package: str) -> str:
    """Return the version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def render_manifest(body: Mapping[str, Any]) -> bytes:
    """Write a manifest: sorted, readable, with a hash of itself."""
    content = {key: value for key, value in body.items() if key != "check"}
    return _to_json_bytes(content | {"check": sha256_hex(_to_json_bytes(content))})


def parse_manifest(data: bytes, folder: Path) -> dict[str, Any]:
    """Read a manifest; raise DamagedCheckpoint unless its bytes are the ones that were written."""
    try:
        body = json.loads(data)
        intact = isinstance(body, dict) and render_manifest(body) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact or type(body.get("format")) is not int:
        raise damage_error(folder / MANIFEST, "its bytes changed since it was written")
    return body  # type: ignore[no-any-return]


def _to_json_bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _build_manifest(body: Mapping[str, Any]) -> Manifest:
    check_schema(body, ManifestTable, MANIFEST)
    return Manifest(
        name=body["name"],
        version=body["version"],
        settings=ModelSettings.from_dict(body["settings"]),
        vocabulary=tuple(body["vocabulary"]),
        seen=tuple(body["seen"]),
        codec=body["codec"],
        corpus={name: body["corpus"][name] for name in _CORPUS_NAMES if name in body["corpus"]},
        scores=body["scores"],
        training=body["training"],
        packages=body["packages"],
    )


def _to_float16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
        return array.astype(np.float16)


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def _read_verified(folder: Path, name: str, expected_hash: str) -> bytes:
    data = _read(folder, name)
    if sha256_hex(data) != expected_hash:
        raise damage_error(folder / name, "its bytes changed since it was written")
    return data


def _read(folder: Path, name: str, limit: int = MAX_BYTES) -> bytes:
    try:
        return read_regular_file(folder / name, limit=limit)
    except NotFound as fault:
        raise damage_error(folder / name, "it is missing") from fault
    except Refusal as fault:
        raise damage_error(folder / name, fault.message) from fault


def damage_error(path: Path, what: str) -> DamagedCheckpoint:
    """Say what is wrong with a file or folder of a checkpoint."""
    return DamagedCheckpoint(f"{path}: {what}; {REMEDY}")
