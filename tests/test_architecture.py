"""docs/architecture.md lists every module of the package, and the functions that it names exist.

python tests/test_architecture.py    writes the list of modules from their docstrings
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "musicgen"
PAGE: Final = ROOT / "docs" / "architecture.md"
START: Final = "<!-- modules: python tests/test_architecture.py -->\n```\n"
END: Final = "```\n<!-- end of modules -->"
COLUMN: Final = 32  # where the descriptions start
REFERENCE: Final = re.compile(r"`([a-z_/]+\.py): ([A-Za-z_.]+)`")


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, without the full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph)[0].removesuffix(".")


def module_lines(folder: Path, indent: str = "") -> Iterator[str]:
    """Yield one line per module of a package, and one per package inside it."""
    for path in sorted(folder.glob("*.py"), key=lambda path: path.stem):
        if path.name != "__init__.py":
            yield f"{indent}{path.name}".ljust(COLUMN) + first_sentence(path)
    for child in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield f"{indent}{child.name}/".ljust(COLUMN) + first_sentence(child / "__init__.py")
        yield from module_lines(child, f"{indent}    ")


def listed_lines() -> list[str]:
    """Return the lines between the two marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(START) + len(START) : text.index(END)].splitlines()


def names_in(path: Path) -> set[str]:
    """Return the functions, classes, methods and constants of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    names.add(f"{node.name}.{member.name}")
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    names.add(f"{node.name}.{member.target.id}")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_page_lists_every_module_once_with_its_first_sentence() -> None:
    expected = list(module_lines(PACKAGE))
    assert listed_lines() == expected, "run python tests/test_architecture.py to renew the list"


def test_functions_named_on_the_page_exist() -> None:
    references = REFERENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(references) > 50
    missing = [
        f"{module}: {name}"
        for module, name in references
        if not (PACKAGE / module).is_file() or name not in names_in(PACKAGE / module)
    ]
    assert missing == []


def renew_page() -> None:
    """Write the list of modules into the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(START) + len(START)], text[text.index(END) :]
    listing = "".join(f"{line}\n" for line in module_lines(PACKAGE))
    PAGE.write_text(head + listing + tail, encoding="utf-8")


if __name__ == "__main__":
    renew_page()
