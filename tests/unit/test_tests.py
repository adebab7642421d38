"""The tests' own law: a test imports no other test; what several share lives in tests/kit, or in the program that it belongs to."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PROGRAMS = {"bench", "chaos", "commands", "differential", "fuzz"}       # packages that are run by hand, too: anybody may use their modules
EVERYBODYS = {"kit", *PROGRAMS}
FOLDERS = {path.name for path in TESTS.iterdir() if path.is_dir()}


def imported(source: str, folder: str) -> Iterator[str]:
    """The modules that a file's imports name, a relative one as of `folder`; of `from a import b`, `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(part for part in (folder if node.level else "", node.module) if part)
            yield from (f"{package}.{alias.name}" for alias in node.names)


def faults(folder: str, source: str) -> Iterator[str]:
    """What a file in tests/`folder` imports against the law."""
    for name in imported(source, folder):
        first, *rest = name.split(".")
        if first not in FOLDERS and first != "conftest":
            continue
        if any(part.startswith("test_") or part == "conftest" for part in (first, *rest)):
            yield f"{name} is a test's"
        elif first not in {folder, *EVERYBODYS}:
            yield f"{name} is of another folder"
        elif folder == "kit" and first in PROGRAMS and first != "bench":
            yield f"{name} stands above kit"


def test_no_test_imports_another():
    found = {str(path.relative_to(TESTS)): list(faults(path.relative_to(TESTS).parts[0], path.read_text()))
             for path in sorted(TESTS.rglob("*.py"))}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(("folder", "source"), [
    ("unit", "from unit.engine.test_review import kill"),
    ("unit", "def f():\n    from unit.conftest import watch"),
    ("lab", "import unit.rules.test_bounds"),
    ("lab", "from service import container"),
    ("kit", "from differential.compare import run"),
    ("differential", "from conftest import x"),
    ("differential", "from .test_random import FIXED_SEEDS"),
    ("differential", "from . import conftest"),
])
def test_the_control_what_the_law_forbids_is_found(folder, source):
    assert list(faults(folder, source))


def test_the_control_what_the_law_allows_is_not():
    assert list(faults("unit", "import pytest\nfrom kit.traffic import Watch\nfrom differential import captures")) == []
