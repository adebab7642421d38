"""What the daemon says: LOG's lines, the dropped packets' and its own messages, to standard error, by a thread of its own.

Whoever reads standard error may be slow or gone; then this thread waits or writes in vain, and nobody else does.
"""
from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress

from pyfw.droplog import DropLog
from pyfw.rules.log import LogRecord, format_log
from pyfw.rules.program import Program

STANDARD_ERROR = 2
INTERVAL_S = 0.1
BATCH = 256                     # records taken from a program at once
MESSAGES_KEPT = 1000            # that wait for a slow reader; the oldest make room
STOP_S = 1.0                    # how long a stop waits for the last lines to be written
SHADOW = "SHADOW: "             # before what rules log that are not in force
SUPPRESSED_NOTE_S = 5.0         # one note about suppressed lines in so many seconds, at most


class Journal:
    """Follows the program that serves, and its shadow, and writes what they log."""

    def __init__(self) -> None:
        self._messages: deque[str] = deque(maxlen=MESSAGES_KEPT)
        # By what stands before their lines.  The last of each serves; those before it are to be drained yet.
        self._followed: dict[str, deque[Program]] = {"": deque(), SHADOW: deque()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pyfw-journal", daemon=True)
        self._suppressed_before = 0                 # by programs that are gone
        self._counting = threading.Lock()           # a program goes, and what it suppressed is added
        self._suppressed_lines = _Suppressed("{} log lines suppressed")
        self._drops: DropLog | None = None
        self._suppressed_drops = _Suppressed("{} drops not logged")
        self.lines = 0
        self.drops = 0                              # lines about dropped packets

    def say(self, message: str) -> None:
        """One line for the administrator.  Any thread; never waits."""
        self._messages.append(message)

    def follow(self, program: Program | None, prefix: str = "") -> None:
        """The program that serves from now on; `prefix` SHADOW: as a shadow.  Any thread."""
        if program is not None:
            self._followed[prefix].append(program)

    def follow_drops(self, drops: DropLog) -> None:
        """Write what is dropped, too."""
        self._drops = drops

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, unless nobody reads it."""
        self._stopping.set()
        self._thread.join(STOP_S)

    @property
    def suppressed(self) -> int:
        """Lines that LOG's rate limit kept back since the start."""
        with self._counting:
            followed = [program for programs in self._followed.values() for program in tuple(programs)]
            return self._suppressed_before + sum(program.logs_suppressed for program in followed)

    @property
    def suppressed_drops(self) -> int:
        """Drops that the rate limit kept back since the start."""
        return self._drops.suppressed if self._drops is not None else 0

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._messages:
            _write(f"pyfw: {self._messages.popleft()}\n")
        for prefix, programs in self._followed.items():
            self._write_logs(prefix, programs)
        while self._drops is not None and (records := self._drops.read(BATCH)):
            _write("".join(f"{_line(record)}\n" for record in records))
            self.drops += len(records)
        self._suppressed_lines.note(self.suppressed)
        self._suppressed_drops.note(self.suppressed_drops)

    def _write_logs(self, prefix: str, programs: deque[Program]) -> None:
        while programs:
            program = programs[0]
            while records := program.logs(BATCH):
                _write("".join(f"{prefix}{_line(record)}\n" for record in records))
                self.lines += len(records)
            if len(programs) == 1:
                break
            with self._counting:
                self._suppressed_before += program.logs_suppressed
                programs.popleft()


class _Suppressed:
    """Says how many lines were kept back since it last said so, once in SUPPRESSED_NOTE_S."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._noted = 0
        self._noted_s = 0.0

    def note(self, suppressed: int) -> None:
        now_s = time.monotonic()
        if suppressed > self._noted and now_s - self._noted_s >= SUPPRESSED_NOTE_S:
            _write(f"pyfw: {self._words.format(suppressed - self._noted)}\n")
            self._noted, self._noted_s = suppressed, now_s


def _line(record: LogRecord) -> str:
    try:
        return format_log(record).rstrip()
    except Exception as error:      # a defect in the format must not silence all that follows
        return f"pyfw: rule {record.rule} logged a packet that cannot be printed: {error!r}"


def _write(text: str) -> None:
    """All of it, past Python's buffers: their locks would be held while nobody reads."""
    data = text.encode("utf-8", "replace")
    with suppress(OSError):         # standard error is gone
        while data:
            data = data[os.write(STANDARD_ERROR, data):]
