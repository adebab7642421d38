"""A service that ends soon after each start is started less and less often; one that served a while comes back at once.

The number of short lives in a row stands in a file of the service's runtime directory, which systemd keeps over restarts
and removes at a stop.
"""
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

NAME = "short-lives"
SERVED_S = 10.0                 # a life of so long is none of the short ones
FREE = 5                        # short lives in a row after which a start waits
FIRST_DELAY_S = 0.25            # doubled with each
MAX_DELAY_S = 30.0              # well below systemd's limit for a start, 90 s


class Restarts:
    """Counts this life as a short one until ended_well() is called."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        directory = environment.get("RUNTIME_DIRECTORY", "")
        self._path = Path(directory) / NAME if directory.startswith("/") and ":" not in directory else None
        self._lives = 0

    def begin(self) -> None:
        """Wait as long as the lives before ask for."""
        if self._path is None:
            return
        with suppress(OSError, ValueError):
            self._lives = min(max(int(self._path.read_text(encoding="ascii")), 0), 1000)
        if (delay_s := delay(self._lives)) > 0:
            print(f"pyfw: {self._lives} short lives in a row: waiting {delay_s:g} s", file=sys.stderr)
            former = signal.signal(signal.SIGTERM, self._told_to_end)
            time.sleep(delay_s)
            signal.signal(signal.SIGTERM, former)
        self._write(self._lives + 1)

    def ended_well(self) -> None:
        """It has served a while, or ends because it was told to."""
        self._write(0)

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        """An administrator who mends it need not wait."""
        self.ended_well()
        raise SystemExit(0)

    def _write(self, lives: int) -> None:
        if self._path is None:
            return
        with suppress(OSError):
            self._path.write_text(f"{lives}\n", encoding="ascii")


def delay(lives: int) -> float:
    """Seconds that a start waits after so many short lives in a row."""
    return min(FIRST_DELAY_S * 2 ** min(lives - FREE, 30), MAX_DELAY_S) if lives >= FREE else 0.0
