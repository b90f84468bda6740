"""The documentation names modules, functions, files and pages that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md",
                *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
PYTHON_BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")  # links to files of the repository
REPOSITORY_FILE: Final = re.compile(r"\b(?:tests|benchmarks)/[a-z0-9_/]+\.(?:py|json)")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def imported_names(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each import from musicgen in a page's Python blocks."""
    for block in PYTHON_BLOCK.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("musicgen"):
                yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_blocks_import_existing_names(page: Path) -> None:
    missing = [
        f"{module}.{name}" for module, name in imported_names(page) if not has_name(module, name)
    ]
    assert missing == []


def has_name(module: str, name: str) -> bool:
    """Tell whether a module has a name, which may be that of a module in it."""
    loaded = importlib.import_module(module)
    is_package = hasattr(loaded, "__path__")
    return hasattr(loaded, name) or (
        is_package and importlib.util.find_spec(f"{module}.{name}") is not None
    )


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = {page.parent / link for link in LINK.findall(text)}
    files = {ROOT / name for name in REPOSITORY_FILE.findall(text)}
    assert [path for path in sorted(links | files) if not path.exists()] == []
