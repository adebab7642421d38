"""Rulesets of any length are printed in pieces, and listings of them by the worker: others are answered meanwhile."""
from __future__ import annotations

from concurrent.futures import Future

import pytest

from kit.control import StillDaemon
from pyfw.edge.control.answers import LINES_AT_ONCE
from pyfw.edge.control.table import COMMANDS, Pause
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

RULES = 5000


class BusyDaemon(StillDaemon):
    """Its worker does what it is told to when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        program = Program(parse_save("*filter\n" + "-A FORWARD -p udp -j DROP\n" * RULES + "COMMIT\n"), self.engine.environment)
        self.engine.load(program)
        self.engine.load_shadow(Program(program.ruleset))
        self.tasks = []

    def in_background(self, work, *arguments):
        future = Future()
        self.tasks.append((future, work, arguments))
        return future

    def work(self) -> None:
        future, work, arguments = self.tasks.pop()
        future.set_result(work(*arguments))


@pytest.mark.parametrize(("command", "arguments", "by_worker"), [
    ("list-rules", {"verbose": True}, False), ("shadow", {"action": "rules"}, False), ("iptables-save", {"counters": True}, False),
    ("iptables", {"words": ["-S"]}, True), ("iptables", {"words": ["-L", "-v", "-n"]}, True)])
def test_a_long_ruleset(command: str, arguments: dict, by_worker: bool) -> None:
    daemon = BusyDaemon()
    answers = COMMANDS[command].handler(daemon, arguments)
    if by_worker:
        assert [type(next(answers)) for _ in range(3)] == [Pause] * 3       # nothing is printed yet
        daemon.work()
    pieces = [answer["text"] for answer in answers]
    assert len(pieces) >= RULES // LINES_AT_ONCE
    assert max(piece.count("\n") for piece in pieces) <= LINES_AT_ONCE
    assert "".join(pieces).count("DROP") == RULES
