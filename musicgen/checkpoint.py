"""A trained model on disk: weights, settings, vocabulary, scores; read without torch.

    RUN/
    ├── weights.safetensors    float16
    ├── manifest.json          everything else, and the SHA-256 of every file; written last
    ├── MODEL_CARD.md
    ├── ...                    other files of the run, such as metrics.jsonl and receipt.bin
    └── best/STEP/             during training: the same files, of the best update so far

A folder is renamed to its final name once it is complete. A run gets its own manifest when it is
finished; until then the newest checkpoint in `best/` is the model. Every hash, including that of
the manifest, is checked before a file is parsed, so that any changed byte is noticed.

`load` returns a `Checkpoint`: a `Manifest` and float32 weights. `save` and `publish` write one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.numpy import load as parse_weights
from safetensors.numpy import save as render_weights

from musicgen.config import CONTEXT_WIDTHS, MOST_EVENTS, MOTION_OFFSETS, ModelSettings
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
    sha256_hex,
    translate_os_errors,
    write_atomically,
    write_new,
)
from musicgen.folder_contents import (
    MANIFEST,
    MOST_MANIFEST_BYTES,
    STEP_NAME,
    has_only_listed_files,
)
from musicgen.music.theory import MODES
from musicgen.tokens.context_families import count_field_values
from musicgen.typed_data import Count, FileName, Sha256, check_schema, shorten

FORMAT: Final = 1
WEIGHTS: Final = "weights.safetensors"
BEST: Final = "best"
MAX_BYTES: Final = 4 * 2**30
REMEDY: Final = "install or train the model again"
GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1, "irnn": 1}  # gates per cell
LAYER_WEIGHTS: Final = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # torch's names

Weights = dict[str, np.ndarray]  # by name, float32 in memory; shapes as in weight_shapes
Tonics = dict[
    Annotated[str, Meta(pattern=rf"^({'|'.join(MODES)})\Z")],
    dict[Annotated[str, Meta(pattern=r"^[A-G](#|b)?\Z")], Annotated[int, Meta(ge=1, le=2**53)]],
]


SamplingDefaults = dict[  # the values of sampling options that a request leaves out
    Literal["temperature", "top_p", "min_p"], Annotated[float, Meta(ge=0, le=10)]
]


class FilesTable(msgspec.Struct):
    """The part common to all manifests: plain file names and their hashes."""

    format: int
    sha256: dict[FileName, Sha256]


class CardTable(msgspec.Struct):
    """The fields of a corpus card that a manifest quotes."""

    name: str
    title: str
    source: str
    terms: str


class OriginTable(msgspec.Struct):
    """The base model of a fine-tuned one."""

    name: str
    version: Count
    fingerprint: str = ""
    cards: tuple[CardTable, ...] = ()


class CorpusTable(msgspec.Struct):
    """The training corpus of a model; unknown entries are ignored."""

    cards: tuple[CardTable, ...] = ()
    sources: tuple[str, ...] = ()
    fingerprint: str = ""
    tunes: dict[str, Count] = {}
    tonics: Tonics = {}  # mode -> tonic -> number of tunes
    dances: dict[str, dict[str, Count]] = {}  # dance -> meter -> number of tunes
    densities: dict[str, tuple[Count, Count]] = {}  # role -> onsets per bar, thirds
    adapted_from: OriginTable | None = None


_CORPUS_NAMES: Final = tuple(field.name for field in msgspec.structs.fields(CorpusTable))


class SplitScore(msgspec.Struct):
    """How well a model predicts the tunes of one split."""

    bits_per_note: float
    nats_per_token: float
    interval_95: tuple[float, float]
    tunes: Count
    notes: Count
    middle_90: tuple[float, float] | None = None


class ScoresTable(msgspec.Struct):
    """The scores of a model, by split."""

    valid: SplitScore | None = None
    valid_5gram: SplitScore | None = None
    test: SplitScore | None = None
    test_5gram: SplitScore | None = None
    percent_below_5gram: float | None = None


class ManifestTable(FilesTable):
    """The manifest of a checkpoint; unknown entries are ignored."""

    name: str
    version: Count
    settings: dict[str, Any]  # checked by ModelSettings
    vocabulary: Annotated[tuple[str, ...], Meta(max_length=MOST_EVENTS)]
    seen: Annotated[tuple[Count, ...], Meta(max_length=MOST_EVENTS)]
    codec: str
    corpus: CorpusTable
    scores: ScoresTable
    training: dict[str, Any]  # shown, never used
    packages: dict[str, str]
    sampling: SamplingDefaults = {}


def check_name(name: str) -> None:
    """Check the name of a model. Raises InvalidValue if it is a path, too long or not printable."""
    if not is_plain_name(name):
        raise InvalidValue(f"name is {shorten(name)!r}, which is not a valid model name")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a checkpoint: everything but its weights."""

    name: str
    version: int
    settings: ModelSettings
    vocabulary: tuple[str, ...]  # every event, by id
    seen: tuple[int, ...]  # occurrences of each event in the training split
    codec: str = "measures"
    corpus: Mapping[str, Any] = field(default_factory=dict)  # card, fingerprint
    scores: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)  # settings and seed of the run
    packages: Mapping[str, str] = field(default_factory=dict)  # versions
    sampling: Mapping[str, float] = field(default_factory=dict)  # options that are not given

    def __post_init__(self) -> None:
        check_name(self.name)
        for name, count in (("vocabulary", len(self.vocabulary)), ("seen", len(self.seen))):
            if count != self.settings.vocabulary_size:
                raise InvalidValue(
                    f"model {self.name}: {name} has {count} entries, the settings say "
                    f"{self.settings.vocabulary_size}"
                )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    manifest: Manifest
    weights: Weights
    folder: Path
    hashes: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each file, in hex

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what decides sampling: weights, settings, codec, trained events and tonics."""
        manifest = self.manifest
        settings = asdict(manifest.settings)
        for name in ("context", "context_dropout", "input_dropout"):
            if not settings[name]:  # as in older versions
                del settings[name]
        body = [self.hashes.get(WEIGHTS), settings, manifest.codec,
                manifest.vocabulary, [id_ for id_, count in enumerate(manifest.seen) if count],
                manifest.corpus.get("tonics", {})]  # fmt: skip
        return sha256_hex(json.dumps(body, sort_keys=True).encode())[:16]

    @property
    def settings(self) -> ModelSettings:
        """The shape of the model."""
        return self.manifest.settings

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every event, by id."""
        return self.manifest.vocabulary

    def read_extra_file(self, name: str) -> bytes:
        """Read another file of the checkpoint; its hash was checked on loading."""
        return _read(self.folder, name)


def save(
    folder: Path,
    weights: Weights,
    manifest: Manifest,
    extra: Mapping[str, bytes] | None = None,
    *,
    force: bool = False,
) -> None:
    """Write a checkpoint to a new folder.

    Args:
        folder: the folder to create.
        weights: name -> floating-point array, stored as float16; shapes as in `weight_shapes`.
        manifest: everything else about the model.
        extra: further files, by name.
        force: replace an existing checkpoint that holds no foreign files.

    Raises:
        InvalidValue: weights are missing, misshapen, or not finite in float16.
        OutputExists: the folder exists and may not be replaced.
        WriteFailed: the system refused to write.
    """
    files = _serialize_files(weights, manifest, extra or {})
    size = sum(map(len, files.values()))
    may_replace = has_only_listed_files if force else None
    with (
        create_folder_atomically(folder, may_replace=may_replace) as staging,
        translate_os_errors(folder, size),
    ):
        for name, data in files.items():
            write_new(staging / name, data)


def publish(
    folder: Path, weights: Weights, manifest: Manifest, extra: Mapping[str, bytes] | None = None
) -> None:
    """Turn an existing folder, such as that of a finished run, into a checkpoint; raises as `save`.

    The old manifest is removed first and the new one written last, so that a crash in between
    leaves no manifest rather than one that does not match.
    """
    files = _serialize_files(weights, manifest, extra or {})
    with translate_os_errors(folder / MANIFEST):
        (folder / MANIFEST).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data, force=True)


def _serialize_files(
    weights: Weights, manifest: Manifest, extra: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the bytes of each file of a checkpoint, the manifest last."""
    float16_weights = {name: _to_float16(array) for name, array in weights.items()}
    check_weights(float16_weights, manifest.settings)
    files = {WEIGHTS: render_weights(float16_weights), **extra}
    body = asdict(manifest) | {
        "format": FORMAT,
        "packages": dict(manifest.packages) or get_package_versions(),
        "sha256": {name: sha256_hex(data) for name, data in sorted(files.items())},
    }
    return files | {MANIFEST: render_manifest(body)}


def list_numbered_folders(folder: Path) -> list[Path]:
    """Return the folders named by an update number, in ascending order."""
    paths = folder.iterdir() if is_folder(folder) else ()
    numbered = (path for path in paths if STEP_NAME.fullmatch(path.name))
    return sorted(numbered, key=lambda path: int(path.name))


def previous_run_path(folder: Path) -> Path:
    """Return where a replaced run waits until its successor has saved a checkpoint."""
    return folder.parent / f".{folder.name}.old"


def list_checkpoint_folders(folder: Path) -> list[Path]:
    """Return the folders that may hold the checkpoint of a model or run, in order of preference."""
    folders: list[Path] = []
    for run in (folder, previous_run_path(folder)):
        if is_file(run / MANIFEST):
            folders.append(run)
        else:
            folders += reversed(list_numbered_folders(run / BEST))
    return folders


def load(folder: Path) -> Checkpoint:
    """Read the checkpoint of a model, or the newest intact one of a run that is still training.

    Training may replace checkpoints while they are read: if none can be loaded, the candidates are
    listed again until they no longer change.

    Raises:
        NotFound: there is no model in the folder.
        DamagedCheckpoint: a file is missing or changed, and no other checkpoint is intact.
        Mismatch: a newer version of musicgen wrote it.
    """
    tried: dict[Path, object] = {}
    faults: list[DamagedCheckpoint] = []
    while (candidates := _list_candidates(folder)) != tried:
        tried, faults = candidates, []
        for candidate in candidates:
            try:
                return load_one(candidate)
            except NotFound:
                pass  # it was removed meanwhile
            except DamagedCheckpoint as fault:
                faults.append(fault)
            if candidate == folder:  # a finished run is never replaced by an older one
                break
    if faults:
        raise faults[0]
    return load_one(folder)


def _list_candidates(folder: Path) -> dict[Path, object]:
    """Return the checkpoint folders in order of preference, with the state of their manifests."""
    return {path: _manifest_state(path) for path in list_checkpoint_folders(folder)}


def _manifest_state(folder: Path) -> object:
    """Return a value that changes when the manifest of a folder is written again."""
    try:
        status = (folder / MANIFEST).stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns


def load_one(folder: Path) -> Checkpoint:
    """Read the checkpoint in exactly this folder.

    Raises:
        NotFound: the folder does not exist.
        DamagedCheckpoint: a file is missing, changed, or does not fit the others.
        Mismatch: a newer version of musicgen wrote it.
    """
    if not is_folder(folder):
        raise NotFound(f"{folder}: there is no such model; see 'musicgen train --help'")
    body = read_manifest(folder, FORMAT)
    contents = read_files(folder, body, WEIGHTS)
    try:
        manifest = _build_manifest(body)
        float16_weights = parse_weights(contents[WEIGHTS])
        check_weights(float16_weights, manifest.settings)
    except (SafetensorError, ValueError, KeyError, TypeError) as fault:
        raise damage_error(folder, f"its contents do not fit ({fault})") from fault
    weights = {name: array.astype(np.float32) for name, array in float16_weights.items()}
    return Checkpoint(manifest, weights, folder, dict(body["sha256"]))


def read_manifest(
    folder: Path, supported_format: int, older_format_advice: str = "update musicgen"
) -> dict[str, Any]:
    """Read the manifest of a folder.

    Args:
        folder: with the file `manifest.json`.
        supported_format: the number of the format that the caller reads.
        older_format_advice: the way out in the error about an older format.

    Raises:
        DamagedCheckpoint: it is missing or changed.
        Mismatch: its format is not the supported one.
    """
    body = parse_manifest(_read(folder, MANIFEST, MOST_MANIFEST_BYTES), folder)
    number = body["format"]
    if number != supported_format:
        is_older = isinstance(number, int) and number < supported_format
        raise Mismatch(
            f"{folder}: its format is {shorten(str(number))}, this musicgen reads format"
            f" {supported_format}; {older_format_advice if is_older else 'update musicgen'}"
        )
    return body


def read_files(folder: Path, body: Mapping[str, Any], *needed: str) -> dict[str, bytes]:
    """Read the files that a manifest lists.

    Args:
        folder: where the manifest was read.
        body: the manifest.
        needed: the names of files that must be listed.

    Raises:
        DamagedCheckpoint: a file is missing or changed, or the list is malformed or incomplete.
    """
    try:
        hashes = check_schema(body, FilesTable, "the file table").sha256
    except InvalidValue as fault:
        raise damage_error(folder / MANIFEST, str(fault)) from fault
    if missing := set(needed) - hashes.keys():
        raise damage_error(folder / MANIFEST, f"the file table lacks {min(missing)}")
    return {name: _read_verified(folder, name, digest) for name, digest in hashes.items()}


def round_to_float16(weights: Weights) -> Weights:
    """Round weights to float16, as a checkpoint stores them; return them as float32."""
    return {name: _to_float16(array).astype(np.float32) for name, array in weights.items()}


def weight_shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a model, by name."""
    size, hidden = settings.embedding, settings.hidden
    rows = GATES[settings.cell] * hidden
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (settings.vocabulary_size, size)}
    for name in settings.embedded_fields:
        rows_of_field = count_field_values(name, settings.vocabulary_size)
        shapes[f"context.{name}.weight"] = rows_of_field, CONTEXT_WIDTHS[name]
    if settings.lags:
        shapes |= {
            "gates.weight": (len(settings.lags), hidden),
            "gates.bias": (len(settings.lags),),
        }
    if motions := sum(len(MOTION_OFFSETS[name]) for name in settings.motions):
        shapes |= {"motions.weight": (motions, hidden), "motions.bias": (motions,)}
    for layer in range(settings.layers):
        inputs = hidden if layer else settings.input_size
        layer_shapes = ((rows, inputs), (rows, hidden), (rows,), (rows,))
        for name, shape in zip(LAYER_WEIGHTS, layer_shapes, strict=True):
            shapes[f"layers.{layer}.{name}"] = shape
    if settings.tied and size != hidden:
        shapes["narrow.weight"] = (size, hidden)
    if not settings.tied:
        shapes["head.weight"] = (settings.vocabulary_size, hidden)
    return shapes | {"head.bias": (settings.vocabulary_size,)}


def check_weights(weights: Weights, settings: ModelSettings) -> None:
    """Check names, shapes and values. Raises InvalidValue for missing, misshapen or NaN weights."""
    expected = weight_shapes(settings)
    if unmatched := sorted(expected.keys() ^ weights.keys()):
        raise InvalidValue(f"weight {unmatched[0]!r} is missing or unknown")
    for name, array in weights.items():
        if array.shape != expected[name]:
            raise InvalidValue(f"weight {name!r} has shape {array.shape}, not {expected[name]}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InvalidValue(f"weight {name!r} contains NaN or infinity")


def get_package_versions() -> dict[str, str]:
    """Return the versions of the packages that a model's numbers depend on."""
    return {
        name: get_package_version(name) for name in ("musicgen", "numpy", "safetensors", "torch")
    }


def get_package_version(package: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def render_manifest(body: Mapping[str, Any]) -> bytes:
    """Serialize a manifest as sorted, indented JSON with a hash of itself."""
    content = {key: value for key, value in body.items() if key != "check"}
    return _to_json_bytes(content | {"check": sha256_hex(_to_json_bytes(content))})


def parse_manifest(data: bytes, folder: Path) -> dict[str, Any]:
    """Parse a manifest. Raises DamagedCheckpoint if any byte changed since it was written."""
    try:
        body = json.loads(data)
        is_intact = isinstance(body, dict) and render_manifest(body) == data
    except (ValueError, RecursionError):
        is_intact = False
    if not is_intact or type(body.get("format")) is not int:
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
        sampling=body.get("sampling", {}),
    )


def _to_float16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # overflow gives infinity, which check_weights refuses
        return array.astype(np.float16)


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


def damage_error(path: Path, fault: str) -> DamagedCheckpoint:
    """Make the error for a damaged file or folder of a checkpoint."""
    return DamagedCheckpoint(f"{path}: {fault}; {REMEDY}")
