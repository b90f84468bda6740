"""Public docstrings say what a signature cannot: shapes and dtypes of arrays, errors raised."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

import musicgen
from musicgen import errors

PACKAGE = Path(musicgen.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")
OUR_ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.MusicgenError)
}
ARRAY = re.compile(r"\b(NDArray|ndarray|Tensor|\w*Array)\b")
# "(lane, window) int64", or "() float32" of a scalar; a list of arrays names the shape of each.
SHAPE = re.compile(r"\([^()]*\)")
DTYPE = re.compile(r"\b(u?int(8|16|32|64)|float(16|32|64)|bfloat16|bool|structured|any dtype)\b")

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def iter_public_functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Yield the public functions of a module and the public methods of its public classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


def iter_annotations(function: Function) -> Iterator[ast.expr]:
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    yield from (
        parameter.annotation for parameter in parameters if parameter.annotation is not None
    )
    if function.returns is not None:
        yield function.returns


def find_raised_errors(function: Function) -> set[str]:
    """Return our errors that a function raises in its own body, not in those it calls."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(called, ast.Name) and called.id in OUR_ERRORS:
                names.add(called.id)
    return names


def find_faults(function: Function) -> Iterator[str]:
    """Yield what a docstring leaves out."""
    text = ast.get_docstring(function) or ""
    if any(ARRAY.search(ast.unparse(annotation)) for annotation in iter_annotations(function)):
        if not SHAPE.search(text):
            yield "no shape of an array, such as (lane, window)"
        if not DTYPE.search(text):
            yield "no dtype of an array, such as int64"
    _, raises, listed = text.partition("Raises")
    for name in sorted(find_raised_errors(function)):
        if not raises or not re.search(rf"\b{name}\b", listed):
            yield f"no {name} under Raises"
    for annotation in iter_annotations(function):
        if isinstance(annotation, ast.Name) and annotation.id == "Any":
            yield "a bare Any: name the array or the JSON value"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_docstrings_specify(path: Path) -> None:
    faults = [
        f"{name} (line {function.lineno}): {fault}"
        for name, function in iter_public_functions(path)
        for fault in find_faults(function)
    ]
    assert faults == []
