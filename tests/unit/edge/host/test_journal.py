"""What the daemon says of itself: how often, and that nothing of it is lost."""
from __future__ import annotations

from collections.abc import Iterable

from pyfw.edge.host.journal import Journal, Line


class Kept:
    """An outlet that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: Iterable[Line]) -> None:
        self.lines += [text for text, _ in lines]


def test_a_counter_that_grows_is_said_once() -> None:
    kept, counted = Kept(), 7
    journal = Journal(kept)
    journal.follow_growth("{} connections went on without", lambda: counted)
    journal.start()
    journal.stop()
    assert kept.lines == ["7 connections went on without"]


def test_a_line_stays_one_line_and_steers_no_terminal() -> None:
    kept = Kept()
    journal = Journal(kept)
    journal.say("helper failed: \x1b[31m\u202e\npyfw: all is well")
    journal.start()
    journal.stop()
    assert kept.lines == [r"helper failed: \x1b[31m\u202e\x0apyfw: all is well"]
