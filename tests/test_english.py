"""First lines of docstrings and files open with a noun or a verb: CONTRIBUTING.md asks for plain technical English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("monolith_py", "streaming", "serving", "deploy/demo")
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "pb" not in path.parts)
CPP = sorted(path for path in (ROOT / "monolith_py" / "core").rglob("*") if path.suffix in (".cpp", ".hpp"))

# A clause that opens with one of these stands where the reader looks for a noun or a verb.
CLAUSE = re.compile(r"(What|Who|Whose|How|Which|Where)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def first_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the first line of every docstring in a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield node.body[0].lineno, docstring.splitlines()[0]


def opening_comment(path: Path) -> str:
    """Return the first line of the comment that opens a C++ file, "" if the file opens with code."""
    line = path.read_text().lstrip().splitlines()[0]
    return line.lstrip("/* ") if line.startswith(("//", "/*")) else ""


@pytest.mark.parametrize(
    ("text", "is_clause"),
    [("What a publish knows", True), ("How rows meet", True), ("Which rows", True), ("Whatever", False), ("Return what is due", False)],
)
def test_a_clause_is_told_from_a_noun(text: str, is_clause: bool) -> None:
    assert bool(CLAUSE.match(text)) == is_clause


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_docstrings_open_with_a_noun_or_a_verb(path: Path) -> None:
    assert not [f"{name_of(path)}:{line}: {text}" for line, text in first_lines(path) if CLAUSE.match(text)]


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_cpp_files_open_with_a_noun_or_a_verb(path: Path) -> None:
    assert not CLAUSE.match(opening_comment(path))
