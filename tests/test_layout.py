"""Package layering: which package may import which, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import musicgen

PACKAGE = Path(musicgen.__file__).parent
LAYERS = ("errors", "process_limits", "typed_data", "files", "folder_contents",
          "config", "music", "notation", "formats", "tokens", "corpus", "checkpoint",
          "model_folders", "similarity", "sampling", "render", "evaluation", "model", "training",
          "compare", "tune", "trained_model", "variants", "web", "cli")  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def layer_of(module: str) -> str:
    return module.split(".")[1]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def list_imports(path: Path) -> set[str]:
    """Return the names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def list_own_imports(path: Path) -> set[str]:
    modules = {module_name(module) for module in MODULES} - {"musicgen"}
    return list_imports(path) & modules


LAYERED = [path for path in MODULES if path.parent != PACKAGE or path.stem in LAYERS]


@pytest.mark.parametrize("path", LAYERED, ids=module_name)
def test_package_imports_only_lower_layers(path: Path) -> None:
    layer = LAYERS.index(layer_of(module_name(path)))
    imported = list_own_imports(path)
    assert {name for name in imported if LAYERS.index(layer_of(name)) > layer} == set()


def test_no_import_cycle() -> None:
    graph = {
        module_name(path): list_own_imports(path)
        for path in MODULES
        if module_name(path) != "musicgen"
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for imported in graph[module]:
                if not f"{module}.".startswith(f"{imported}."):  # a module may use its package
                    visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_the_training_packages_import_torch() -> None:
    def uses_torch(path: Path) -> bool:
        return any(name.split(".")[0] == "torch" for name in list_imports(path))

    assert {layer_of(module_name(path)) for path in MODULES if uses_torch(path)} == {
        "model", "training", "compare",
    }  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import musicgen",
        "from musicgen.cli import commands; commands(['--help'], standalone_mode=False)",
        "from musicgen.cli import commands; commands(['sample', '--help'], standalone_mode=False)",
        "from musicgen.cli import commands; commands(['train', '--help'], standalone_mode=False)",
    ],
)
def test_quick_commands_import_no_heavy_library(code: str) -> None:
    heavy = "print([m for m in ('torch', 'music21', 'pretty_midi', 'symusic') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", f"import sys; {code}; {heavy}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert process.stdout.strip().endswith("[]")


def test_public_names_exist_and_are_sorted() -> None:
    assert sorted(musicgen.__all__, key=lambda n: (not n.isupper(), n)) == musicgen.__all__
    assert all(hasattr(musicgen, name) for name in musicgen.__all__)
