"""A program that fails as often as a test wants, before the real one in PATH."""
from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = """#!/bin/sh
left=$(cat {count})
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) >{count}
    echo "{program}: Resource temporarily unavailable" >&2
    exit 4
fi
exec {real} "$@"
"""


@contextmanager
def failing_program(program: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Yields what sets how often it fails from now on, for processes started inside."""
    count, bin_directory = directory / f"{program}.left", directory / "bin"
    bin_directory.mkdir(exist_ok=True)
    script = bin_directory / program
    script.write_text(SCRIPT.format(program=program, count=count, real=shutil.which(program)))
    script.chmod(0o755)

    def fail(times: int) -> None:
        count.write_text(f"{times}\n")

    fail(0)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")
        yield fail


QUEUE = 30
