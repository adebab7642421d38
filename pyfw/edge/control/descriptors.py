"""File descriptors: as many as the process may have, and some kept back for its end."""
from __future__ import annotations

import os
import resource
from contextlib import suppress

KEPT_BACK = 16                  # the programs that take the diversion away need pipes, two after another


def raise_limit() -> None:
    """As many as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):     # not allowed here: fewer must do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Reserve:
    """Descriptors that are open so that nothing else can have them, until release()."""

    def __init__(self) -> None:
        first = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors = [first, *(os.dup(first) for _ in range(KEPT_BACK - 1))]

    def release(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
