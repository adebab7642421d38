"""Reports of unexpected exceptions: each is counted, and reported with its traceback at most once a minute and place.

A client that can cause a defect can do so a thousand times a second; this must not fill the log.
"""
from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType

INTERVAL_S = 60.0
MAX_BYTES = 4096                # of one report: its end, where the exception is


def _to_standard_error(text: str) -> None:
    print(text, file=sys.stderr)


class Defects:
    """Reports exceptions to `say`, from any thread.  What was held back is counted, and told with the next report."""

    def __init__(self, say: Callable[[str], None] = _to_standard_error, interval_s: float = INTERVAL_S) -> None:
        self._say = say
        self._interval_s = interval_s
        self._told_s: dict[tuple[str, int, type], float] = {}       # by place; there are as many as there is code
        self.count = 0
        self.suppressed = 0

    def report(self, what: str, error: BaseException) -> None:
        """`what`: where it happened, in the administrator's words."""
        self.count += 1
        now_s, place = time.monotonic(), _place(error)
        if now_s - self._told_s.get(place, -self._interval_s) < self._interval_s:
            self.suppressed += 1
            return
        self._told_s[place] = now_s
        text = "".join(traceback.format_exception(error, limit=-16)).rstrip()[-MAX_BYTES:]
        rest = f"; {self.suppressed} reports suppressed so far" if self.suppressed else ""
        self._say(f"{what}: {error!r:.500}{rest}\n{text}")


def _place(error: BaseException) -> tuple[str, int, type]:
    """Where it was raised."""
    frame: TracebackType | None = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return (frame.tb_frame.f_code.co_filename, frame.tb_lineno, type(error)) if frame else ("", 0, type(error))
