"""One walk through the table, which ends the connections that the rules in force would not have accepted.

May know: the engine.  Must not know: who waits for the walk, and what is done between its parts.
"""
from __future__ import annotations

from collections.abc import Iterator

from pyfw.engine.engine import Engine
from pyfw.engine.review import review


class ConnectionReview:
    """Iterate over it, in the main thread: each part of the walk is done when it is asked for.

    The worker must not walk: it may be kept from the processor while it holds the lock that the packets need.
    Yields the connections that a part has ended, as lines of /proc/net/nf_conntrack; "": none.
    killed, unknown    how many have ended so far; how many stay because their first packet is not known
    """

    def __init__(self, engine: Engine, now_ns: int) -> None:
        self.killed = self.unknown = 0
        self._slices = review(engine, engine.program, now_ns)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        part = next(self._slices)
        self.killed += part.killed
        self.unknown += part.unknown
        return part.text.decode("ascii")

    def finish(self) -> None:
        """What is left of the walk."""
        for _ in self:
            pass

    @property
    def result(self) -> str:
        """One line for the administrator."""
        rest = f"; {self.unknown} more stay, of whose first packet nothing is known" if self.unknown else ""
        return f"{self.killed} flow entries have been deleted, which these rules would not have accepted{rest}."
