"""Rulesets of any length are printed by the worker, and in pieces: others are answered meanwhile."""
from __future__ import annotations

from concurrent.futures import Future

import pytest
from unit.control.harness import StillDaemon

from pyfw.edge.commands import COMMANDS, Pause
from pyfw.rules.iptables import parse_save
from pyfw.rules.program import Program

RULES = 5000


class BusyDaemon(StillDaemon):
    """Its worker does what it is told to when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        program = Program(parse_save("*filter\n" + "-A FORWARD -p udp -j DROP\n" * RULES + "COMMIT\n"), self.engine.surroundings)
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


@pytest.mark.parametrize("command, arguments", [
    ("list-rules", {"verbose": True}), ("shadow", {"action": "rules"}), ("iptables-save", {"counters": True}),
    ("iptables", {"words": ["-S"]}), ("iptables", {"words": ["-L", "-v", "-n"]})])
def test_a_long_ruleset(command: str, arguments: dict) -> None:
    daemon = BusyDaemon()
    answers = COMMANDS[command].handler(daemon, arguments)
    assert [type(next(answers)) for _ in range(3)] == [Pause] * 3       # nothing is printed yet
    daemon.work()
    pieces = [answer["text"] for answer in answers]
    assert len(pieces) >= RULES // 1000 and max(piece.count("\n") for piece in pieces) <= 1000
    assert "".join(pieces).count("DROP") == RULES
