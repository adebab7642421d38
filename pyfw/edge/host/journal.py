"""What the daemon says: LOG's lines, the dropped packets' and its own messages, written by a thread of its own.

The reader of standard error or systemd's journal may be slow or gone.  Then only this thread waits, or writes in vain.
"""
from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from pyfw.engine.drop_log import DropLog
from pyfw.escape import printable
from pyfw.rules.log.format import LogRecord, format_log
from pyfw.rules.program.program import Program

STANDARD_ERROR = 2
INTERVAL_S = 0.1
BATCH = 256                     # records taken from a program at once
MESSAGES_KEPT = 1000            # that wait for a slow reader; the oldest make room
STOP_S = 1.0                    # how long a stop waits for the last lines to be written
SHADOW = "SHADOW: "             # before what rules log that are not in force
NOTE_INTERVAL_S = 5.0           # one line in so many seconds, at most, about what packets can cause again and again

Line = tuple[str, Mapping[str, str]]
"""What is said, and what it is about by name, for an outlet that keeps such fields apart."""


class Outlet(Protocol):
    """Where lines go."""

    def write(self, lines: Iterable[Line]) -> None: ...


class StandardError:
    """Knows no fields; a line of the daemon's own begins with its name."""

    def write(self, lines: Iterable[Line]) -> None:
        """All of it, past Python's buffers: their locks would be held while the reader is slow."""
        data = "".join(f"{text}\n" if fields else f"pyfw: {text}\n" for text, fields in lines).encode("utf-8", "replace")
        with suppress(OSError):         # standard error is gone
            while data:
                data = data[os.write(STANDARD_ERROR, data):]


class Journal:
    """Follows the program that serves, and its shadow, and writes what they log."""

    def __init__(self, outlet: Outlet | None = None) -> None:
        self._outlet = outlet or StandardError()
        self._messages: deque[str] = deque(maxlen=MESSAGES_KEPT)
        # By what stands before their lines.  The last of each serves; those before it are to be drained yet.
        self._followed: dict[str, deque[Program]] = {"": deque(), SHADOW: deque()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pyfw-journal", daemon=True)
        self._suppressed_before = 0                 # by programs that are gone
        self._counting = threading.Lock()           # a program goes, and what it suppressed is added
        self._drops: DropLog | None = None
        self._notes = [_Growth("{} log lines suppressed", lambda: self.suppressed),
                       _Growth("{} drops not logged", lambda: self.suppressed_drops)]
        self.lines = 0
        self.drops = 0                              # lines about dropped packets

    def say(self, message: str) -> None:
        """One line for the administrator.  Any thread; never waits."""
        self._messages.append(message)

    def follow_growth(self, words: str, count: Callable[[], int]) -> None:
        """Say by how much a counter has grown; `words` has {} for the number."""
        self._notes.append(_Growth(words, count))

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
        """Write what is left, unless the reader takes none of it."""
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
            self._write([(self._messages.popleft(), {})])
        for prefix, programs in self._followed.items():
            self._write_logs(prefix, programs)
        while self._drops is not None and (records := self._drops.read(BATCH)):
            self._write(_line(record) for record in records)
            self.drops += len(records)
        for growth in self._notes:
            if note := growth.note():
                self._write([(note, {})])

    def _write(self, lines: Iterable[Line]) -> None:
        self._outlet.write((printable(text), {name: printable(value) for name, value in fields.items()}) for text, fields in lines)

    def _write_logs(self, prefix: str, programs: deque[Program]) -> None:
        while programs:
            program = programs[0]
            while records := program.logs(BATCH):
                self._write(_line(record, prefix) for record in records)
                self.lines += len(records)
            if len(programs) == 1:
                break
            with self._counting:
                self._suppressed_before += program.logs_suppressed
                programs.popleft()


class _Growth:
    """Says by how much a counter has grown since it last said so, once in NOTE_INTERVAL_S."""

    def __init__(self, words: str, count: Callable[[], int]) -> None:
        self._words = words
        self._count = count
        self._noted = 0
        self._noted_s = 0.0

    def note(self) -> str | None:
        """What is to be said now."""
        now_s, former, counted = time.monotonic(), self._noted, self._count()
        if counted <= former or now_s - self._noted_s < NOTE_INTERVAL_S:
            return None
        self._noted, self._noted_s = counted, now_s
        return self._words.format(counted - former)


def _line(record: LogRecord, prefix: str = "") -> Line:
    try:
        text = format_log(record).rstrip()
    except Exception as error:      # a defect in the format must not silence all that follows
        text = f"pyfw: rule {record.rule} logged a packet that cannot be printed: {error!r}"
    return f"{prefix}{text}", {"level": str(record.settings.level), "rule": record.rule or "", "hook": record.hook.name,
                              "in": record.indev, "out": record.outdev}
