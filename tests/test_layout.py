"""The walls of the house: which room may use which, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import musicgen

PACKAGE = Path(musicgen.__file__).parent
ROOMS = ("errors", "number_parsing", "typed_data", "files", "folder_contents", "config",
         "music", "notation", "formats", "tokens", "corpus", "checkpoint", "model_folders",
         "similarity", "sampling", "render", "model", "training", "compare", "recipe_files", "tune",
         "trained_model", "variants", "tune_batch", "web", "cli")  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def room(module: str) -> str:
    return module.split(".")[1]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Return the names that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    known = {name_of(other) for other in MODULES}
    return {name for name in imported(path) if name in known and name != "musicgen"}


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != PACKAGE or p.stem in ROOMS],
                         ids=name_of)  # fmt: skip
def test_a_room_uses_rooms_to_its_left(path: Path) -> None:
    here = ROOMS.index(room(name_of(path)))
    assert {name for name in ours(path) if ROOMS.index(room(name)) > here} == set()


def test_no_import_cycle() -> None:
    graph = {name_of(path): ours(path) for path in MODULES if name_of(path) != "musicgen"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in graph[module]:
                if not f"{module}.".startswith(f"{other}."):  # a package comes before its rooms
                    visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_the_model_imports_torch() -> None:
    def uses_torch(path: Path) -> bool:
        return any(name.split(".")[0] == "torch" for name in imported(path))

    assert {room(name_of(path)) for path in MODULES if uses_torch(path)} == {
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
def test_what_starts_at_once_imports_no_torch(code: str) -> None:
    heavy = "print([m for m in ('torch', 'music21', 'pretty_midi', 'symusic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}; {heavy}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip().endswith("[]")


def test_the_public_names_are_the_list() -> None:
    assert sorted(musicgen.__all__, key=lambda n: (not n.isupper(), n)) == musicgen.__all__
    assert all(hasattr(musicgen, name) for name in musicgen.__all__)
