"""A program on a terminal of its own: what it shows, keys pressed, and whether it leaves the terminal as it was."""
from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from typing import Self

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
HOME = "\x1b[H"                 # what every frame begins with
ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
TIMEOUT_S = 20.0


class OnTerminal:
    """`argv` in a session of its own, whose controlling terminal is a pseudo-terminal of this size."""

    def __init__(self, argv: Sequence[object], width: int = 100, height: int = 24) -> None:
        self._argv = [str(word) for word in argv]
        self._size = width, height
        self.output = ""

    def __enter__(self) -> Self:
        self._master, self._slave = pty.openpty()
        self._take_size()
        self.before = termios.tcgetattr(self._slave)
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        # A process that leads a session takes the first terminal that it opens for its own.
        own = ["import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])", os.ttyname(self._slave)]
        self.process = subprocess.Popen([sys.executable, "-c", *own, *self._argv], stdin=self._slave, stdout=self._slave,
                                        stderr=self._slave, env=environment, start_new_session=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _take_size(self) -> None:
        width, height = self._size
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        self._size = width, height
        self._take_size()
        self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def settings(self) -> list:
        return termios.tcgetattr(self._slave)

    def read(self, timeout_s: float) -> None:
        """What is written in that time, if anything is."""
        if select.select([self._master], [], [], timeout_s)[0]:
            self.output += os.read(self._master, 65536).decode()

    def frame(self) -> list[str]:
        """The lines of the last frame that came whole: it fills the screen, with blanks if need be."""
        width, height = self._size
        for frame in reversed(self.output.split(HOME)[1:]):
            lines = SEQUENCE.sub("", frame).split("\n")
            if len(lines) == height and len(lines[-1]) == width:
                return [line.rstrip() for line in lines]
        return []

    def wait_for(self, what: str, condition: Callable[[list[str]], object], timeout_s: float = TIMEOUT_S) -> list[str]:
        """The first frame that meets the condition."""
        deadline = time.monotonic() + timeout_s
        while not (frame := self.frame()) or not condition(frame):
            waits = time.monotonic() < deadline and self.process.poll() is None
            assert waits, f"waited in vain for {what}:\n" + "\n".join(frame)
            self.read(0.1)
        return frame

    def wait_for_frames(self, count: int) -> None:
        """Until so many more have come."""
        enough = self.output.count(HOME) + count
        self.wait_for(f"{count} frames", lambda frame: self.output.count(HOME) >= enough)

    def end(self) -> tuple[int, str]:
        """Its exit status, and what stands on the terminal's old screen behind it."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self.read(0.05)
        while select.select([self._master], [], [], 0)[0]:
            self.read(0)
        return self.process.returncode, SEQUENCE.sub("", self.output.rpartition(LEAVE_SCREEN)[2])

    @property
    def is_restored(self) -> bool:
        return (self.settings() == self.before and self.output.count(ENTER_SCREEN) == self.output.count(LEAVE_SCREEN)
                and self.output.rfind(SHOW_CURSOR) > self.output.rfind("\x1b[?25l"))
