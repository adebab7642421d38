"""A live screen: what the daemon sends again and again, drawn on the user's terminal, and keys.

Knows terminals, signals and the control socket; what is shown is the Show's.  One thread waits for all of them at once.
Law: whichever way it ends, the terminal is as it was before.
"""
from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from pyfw.cli.pyfwctl.client import Stream
from pyfw.escape import EscapingStream, printable, printable_values

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)
UP, DOWN, ESCAPE, ENTER, BACKSPACE = ("\x1b[A", "\x1bOA"), ("\x1b[B", "\x1bOB"), "\x1b", ("\r", "\n"), ("\x7f", "\b")
INTERVALS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SIGNALLED = 128                 # a shell's exit status for a process that a signal ended, less the signal's number


class Show(Protocol):
    """What is on the screen."""

    over: bool                                                  # the user ends it

    def request(self, height: int) -> dict[str, Any]: ...       # what it wants of the daemon, on a screen of so many lines
    def take(self, record: Mapping[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...                      # what the daemon has to say
    def press(self, key: str) -> None: ...
    def draw(self, width: int, height: int) -> RenderableType: ...


def has_terminal() -> bool:
    """Whether there is a screen to draw on and a keyboard to read from."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def run(path: str, show: Show) -> int:
    """Returns the exit status.  Raises NoDaemon, also when the daemon ends meanwhile, and Refused."""
    with Stream(path) as stream, Signals() as signals:
        sent = show.request(os.get_terminal_size(sys.stdout.fileno()).lines)
        stream.send(sent)
        with Terminal() as terminal:
            sources: list[Stream | Terminal | Signals] = [stream, terminal, signals]
            while not show.over:
                terminal.draw(show)
                ready, _, _ = select.select(sources, [], [])
                if stream in ready:
                    for answer in stream.receive():
                        for record in answer.get("records", ()):
                            show.take(printable_values(record))
                        if "note" in answer:
                            show.note(printable(answer["note"]))
                if terminal in ready:
                    for key in terminal.keys():
                        show.press(key)
                if signals in ready:
                    numbers = signals.read()
                    if ended := [number for number in numbers if number in ENDING]:
                        return SIGNALLED + ended[0]
                    if signal.SIGTSTP in numbers:
                        terminal.step_aside()
                if (request := show.request(terminal.height)) != sent:
                    stream.send(request)
                    sent = request
    return 0


class Terminal:
    """The user's terminal: single keys, unechoed, and a screen of its own, which gives the old one back."""

    def __init__(self) -> None:
        self._keyboard = sys.stdin.fileno()
        from rich.console import Console
        self._console = Console(file=cast(EscapingStream, sys.stdout).unescaped)      # drawing is done with what is escaped elsewhere
        self._before: list[Any] = []
        self._live: Live

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._keyboard)
        tty.setcbreak(self._keyboard, termios.TCSANOW)
        attributes = termios.tcgetattr(self._keyboard)
        attributes[0] &= ~termios.IXON          # or ^S would stop the screen, and with it the way out
        termios.tcsetattr(self._keyboard, termios.TCSANOW, attributes)
        from rich.live import Live
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        try:
            self._live.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            with suppress(OSError):             # the terminal is gone
                self._live.stop()
        finally:
            with suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._before)

    @property
    def height(self) -> int:
        return self._console.height

    def fileno(self) -> int:
        return self._keyboard

    def keys(self) -> Iterator[str]:
        """What was typed; a terminal that is gone types q."""
        try:
            data = os.read(self._keyboard, 1024)
        except OSError:
            data = b""
        yield from KEY.findall(data.decode(errors="ignore")) if data else "q"

    def draw(self, show: Show) -> None:
        with suppress(OSError):
            self._live.update(show.draw(self._console.width, self._console.height), refresh=True)

    def step_aside(self) -> None:
        """Stop, as ^Z asks, with the terminal as it was; returns when the shell lets us go on."""
        self.__exit__(None, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.__enter__()


class Signals:
    """Signals as something to wait for: none interrupts other work."""

    WATCHED = (*ENDING, signal.SIGTSTP, signal.SIGWINCH)

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda number, frame: None) for number in self.WATCHED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        return self._reader

    def read(self) -> bytes:
        """The numbers of those that came."""
        return os.read(self._reader, 1024)


def stepped_interval(interval_s: float, key: str) -> float:
    """The next longer one for `+`, the next shorter one for `-`."""
    if key == "-":
        return max((step for step in INTERVALS_S if step < interval_s), default=interval_s)
    return min((step for step in INTERVALS_S if step > interval_s), default=interval_s)
