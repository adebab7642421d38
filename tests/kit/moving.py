"""Daemons whose connections move, and what a client hears of them."""
from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any

from kit.control import StillDaemon, udp_packet
from pyfw.edge.control.table import COMMANDS, Listen, Pause
from pyfw.edge.queue_counters import QueueCounters
from pyfw.engine.engine import Engine
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

START_NS = 10**12
SECOND_NS = 10**9


class MovedDaemon(StillDaemon):
    """A daemon whose clock is moved by whoever waits for it; flow 9 is dropped by a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.clock_ns = START_NS
        self.engine = Engine(max_entries=64)
        self.engine.load(Program(parse_save("-A FORWARD -s 10.0.0.9 -j DROP\n"), self.engine.environment))
        self.counted: dict[str, Any] = {"packets": 0, "version": "1", "states": {"NEW": 0}}
        self.kernel: QueueCounters | None = QueueCounters(0, 1, 0, 2, 65531, 0, 0, 0)

    def now_ns(self) -> int:
        return self.clock_ns

    def statistics(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.counted))

    def queue_counters(self) -> QueueCounters | None:
        return self.kernel

    def judge(self, flow: int, count: int = 1) -> None:
        for _ in range(count):
            self.engine.judge(udp_packet(flow), Hook.FORWARD, "eth1", "eth0", self.clock_ns)


class Asked:
    """A command under way, without a server: answers are collected, waits are up to the test."""

    def __init__(self, services: StillDaemon, name: str, **arguments: Any) -> None:
        self.services = services
        self.answers: Generator = COMMANDS[name].handler(services, arguments)
        self.got: list[dict] = []
        self.ended = False
        self.waits: Listen | Pause = self._next(None)

    def _next(self, heard: Any) -> Any:
        """Go on to the next wait that takes time."""
        try:
            while True:
                answer, heard = self.answers.send(heard), None
                if isinstance(answer, dict):
                    self.got.append(answer)
                elif answer.seconds:
                    return answer
        except StopIteration:
            self.ended = True
            return None

    def wait(self) -> float:
        """Let the time pass that it waits for; returns it."""
        seconds = self.waits.seconds
        self.services.clock_ns += round(seconds * SECOND_NS)
        self.waits = self._next(None)
        return seconds

    def hear(self, request: Any) -> None:
        """The peer speaks after a tenth of a second."""
        assert isinstance(self.waits, Listen)
        self.services.clock_ns += SECOND_NS // 10
        self.waits = self._next(request)

    def records(self) -> list[dict]:
        taken = [record for answer in self.got for record in answer.get("records", ())]
        self.got = []
        return taken


class LiveDaemon(MovedDaemon):
    def now_ns(self) -> int:
        return time.monotonic_ns()

    def judge(self, flow: int, count: int = 1) -> None:
        self.clock_ns = self.now_ns()
        super().judge(flow, count)
