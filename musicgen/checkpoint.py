"""A trained model on disk: weights, settings, vocabulary, scores; read without torch.

    RUN/
    ├── weights.safetensors    float16
    ├── manifest.json          all the rest, and the SHA-256 of every file; written last
    ├── MODEL_CARD.md
    └── ...                    whatever else the run keeps: metrics.jsonl, the receipt's index

The folder gets its name once all of it is on disk. Reading checks every hash before it parses, the
manifest's own included, so that a changed byte anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_weights
from safetensors.numpy import save as render_weights

from musicgen.config import ModelSettings
from musicgen.errors import (
    DamagedCheckpoint,
    InvalidValue,
    Mismatch,
    MusicgenError,
    NotFound,
    Refusal,
)
from musicgen.files import new_folder, open_regular

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
CARD: Final = "MODEL_CARD.md"
MAX_BYTES: Final = 4 * 2**30
WAY_OUT: Final = "install or train the model again"
GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1, "irnn": 1}

Weights = dict[str, np.ndarray]


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
        for what, count in (("vocabulary", len(self.vocabulary)), ("seen", len(self.seen))):
            if count != self.settings.vocabulary_size:
                raise InvalidValue(
                    f"model {self.name}: {what} has {count} entries, the settings say "
                    f"{self.settings.vocabulary_size}"
                )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory."""

    manifest: Manifest
    weights: Weights  # float32
    folder: Path

    @property
    def settings(self) -> ModelSettings:
        """The model's shape."""
        return self.manifest.settings

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every event, by id."""
        return self.manifest.vocabulary

    def extra(self, name: str) -> bytes:
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
    halves = {name: _half(array) for name, array in weights.items()}
    check_weights(halves, manifest.settings)
    files = {WEIGHTS: render_weights(halves), CARD: model_card(manifest).encode()}
    files |= extra or {}
    body = asdict(manifest) | {
        "format": FORMAT,
        "packages": dict(manifest.packages) or versions(),
        "sha256": {name: _digest(data) for name, data in sorted(files.items())},
    }
    with new_folder(folder, force=force) as staging:
        for name, data in files.items():
            (staging / name).write_bytes(data)
        (staging / MANIFEST).write_bytes(render_manifest(body))


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises NotFound, DamagedCheckpoint where a file is missing or changed, Mismatch where a newer
    version wrote it.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder}: there is no such model; see 'musicgen train --help'")
    body = parse_manifest(_read(folder, MANIFEST), folder)
    if body["format"] != FORMAT:
        raise Mismatch(
            f"{folder}: its format is {body['format']}, this musicgen reads format {FORMAT}; "
            "update musicgen"
        )
    hashes = _hashes(body, folder)
    contents = {name: _checked(folder, name, digest) for name, digest in hashes.items()}
    try:
        manifest = _manifest(body)
        weights = {n: a.astype(np.float32) for n, a in parse_weights(contents[WEIGHTS]).items()}
        check_weights(weights, manifest.settings)
    except (
        SafetensorError,
        InvalidValue,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as fault:
        raise _damaged(folder, f"its contents do not fit ({fault})") from fault
    return Checkpoint(manifest, weights, folder)


def stored(weights: Weights) -> Weights:
    """Return the weights as a checkpoint gives them back: rounded to float16."""
    return {name: _half(array).astype(np.float32) for name, array in weights.items()}


def shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight of a model."""
    size, hidden, gates = settings.embedding, settings.hidden, GATES[settings.cell]
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (settings.vocabulary_size, size)}
    for layer in range(settings.layers):
        rows = gates * hidden
        found |= {
            f"layers.{layer}.weight_ih_l0": (rows, hidden if layer else size),
            f"layers.{layer}.weight_hh_l0": (rows, hidden),
            f"layers.{layer}.bias_ih_l0": (rows,),
            f"layers.{layer}.bias_hh_l0": (rows,),
        }
    if settings.tied and size != hidden:
        found["narrow.weight"] = (size, hidden)
    if not settings.tied:
        found["head.weight"] = (settings.vocabulary_size, hidden)
    return found | {"head.bias": (settings.vocabulary_size,)}


def check_weights(weights: Weights, settings: ModelSettings) -> None:
    """Raise InvalidValue unless all weights are there, fit the settings and are finite."""
    expected = shapes(settings)
    if odd := sorted(expected.keys() ^ weights.keys()):
        raise InvalidValue(f"weight {odd[0]!r} is missing or unknown")
    for name, array in weights.items():
        if array.shape != expected[name]:
            raise InvalidValue(f"weight {name!r} has shape {array.shape}, not {expected[name]}")
        if not np.isfinite(array).all():
            raise InvalidValue(f"weight {name!r} holds what is no finite number")


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a model's numbers."""
    found = {}
    for package in ("musicgen", "numpy", "safetensors", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def model_card(manifest: Manifest) -> str:
    """Describe a model for people."""
    shape = manifest.settings
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        (
            f"A recurrent language model of music: {shape.layers} {shape.cell} layers "
            f"of {shape.hidden} units, {shape.vocabulary_size} events, codec `{manifest.codec}`."
        ),
    ]
    for title, table in (
        ("Corpus", manifest.corpus),
        ("Scores", manifest.scores),
        ("Training", manifest.training),
    ):
        if table:
            lines += ["", f"## {title}", "", *(f"- {key}: {table[key]}" for key in sorted(table))]
    return "\n".join([*lines, ""])


def render_manifest(body: Mapping[str, Any]) -> bytes:
    """Write a manifest: sorted, readable, with a hash of itself."""
    content = {key: value for key, value in body.items() if key != "check"}
    return _json(content | {"check": _digest(_json(content))})


def parse_manifest(data: bytes, folder: Path) -> dict[str, Any]:
    """Read a manifest; raise DamagedCheckpoint unless its bytes are the ones that were written."""
    try:
        body = json.loads(data)
        intact = isinstance(body, dict) and render_manifest(body) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact or not isinstance(body.get("format"), int):
        raise _damaged(folder / MANIFEST, "its bytes changed since it was written")
    return body  # type: ignore[no-any-return]


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _manifest(body: Mapping[str, Any]) -> Manifest:
    return Manifest(
        name=body["name"],
        version=body["version"],
        settings=ModelSettings.read(body["settings"]),
        vocabulary=tuple(body["vocabulary"]),
        seen=tuple(body["seen"]),
        codec=body["codec"],
        corpus=body["corpus"],
        scores=body["scores"],
        training=body["training"],
        packages=body["packages"],
    )


def _half(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
        return array.astype(np.float16)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hashes(body: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the table of hashes, once it names plain files and the weights among them."""
    table = body.get("sha256")
    plain = isinstance(table, dict) and all(Path(name).name == name for name in table)
    if not plain or WEIGHTS not in table:  # type: ignore[operator]
        raise _damaged(folder / MANIFEST, "its table of files is not one")
    return table  # type: ignore[return-value]


def _checked(folder: Path, name: str, digest: str) -> bytes:
    data = _read(folder, name)
    if _digest(data) != digest:
        raise _damaged(folder / name, "its bytes changed since it was written")
    return data


def _read(folder: Path, name: str) -> bytes:
    try:
        return open_regular(folder / name, limit=MAX_BYTES)
    except NotFound as fault:
        raise _damaged(folder / name, "it is missing") from fault
    except Refusal as fault:
        raise _damaged(folder / name, fault.message) from fault


def _damaged(path: Path, what: str) -> MusicgenError:
    return DamagedCheckpoint(f"{path}: {what}; {WAY_OUT}")
