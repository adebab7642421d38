"""The code is clean by the linters and the type checker, with their settings in pyproject.toml."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent         # of the environment that the tests run in
UNUSED_COUNTER = re.compile("Loop control variable '.*' not used within the loop body")


def complaints(*command: str) -> list[str]:
    """What a tool says, when it is not content."""
    path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"       # cython-lint starts pycodestyle
    done = subprocess.run([TOOLS / command[0], *command[1:]], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True,
                          text=True, timeout=100, check=False)
    return f"{done.stdout}{done.stderr}".splitlines() if done.returncode else []


def test_ruff_has_no_complaint() -> None:
    assert complaints("ruff", "check", "--quiet", "--output-format=concise", "pyfw", "scripts/lib", "tests") == []


def test_cython_lint_has_no_complaint() -> None:
    """But for loops that only count: in C there is no other way to say it."""
    assert [line for line in complaints("cython-lint", "pyfw") if not UNUSED_COUNTER.search(line)] == []


def test_mypy_has_no_complaint() -> None:
    assert complaints("mypy", "--no-error-summary") == []
