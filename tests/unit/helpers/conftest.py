"""A control connection, spoken line by line: sequence numbers are counted, expectations kept, as the engine would."""
from ipaddress import ip_address

import pytest

from pyfw.enums import Direction, Verdict
from pyfw.helpers import MEMORY_SIZE, Expectation, Finding, Segment

LOGIN = ("< 220 ready\r\n", "> USER anonymous\r\n", "< 331 password?\r\n", "> PASS guest\r\n", "< 230 welcome\r\n")


class Conversation:
    """Segments are written "> PORT 10,0,0,2,4,1\\r\\n" (from the client) and "< 200 done\\r\\n" (from the server).

    A dropped segment does not advance its sender's sequence number: it may be said again, whole.
    """

    def __init__(self, helper, client="10.0.0.2", server="10.0.1.2", seq=(1000, 5000)):
        self.helper = helper
        self.hosts = (ip_address(client), ip_address(server))
        self.seq = list(seq)
        self.memory = bytearray(MEMORY_SIZE)
        self.expectation: Expectation | None = None
        self.remark = ""

    def say(self, line: str | bytes) -> Finding | None:
        direction, payload = self._direction(line)
        finding = self.send(direction, self.seq[direction], payload)
        if finding is None or finding.verdict == Verdict.ACCEPT:
            self.seq[direction] = self.seq[direction] + len(payload) & 0xFFFFFFFF
        return finding

    def say_all(self, *lines: str | bytes) -> list[Finding | None]:
        return [self.say(line) for line in lines]

    def repeat(self, line: str | bytes, back: int = 0) -> Finding | None:
        """The last segment of its direction again, or one that ended `back` bytes before it."""
        direction, payload = self._direction(line)
        return self.send(direction, self.seq[direction] - back - len(payload) & 0xFFFFFFFF, payload)

    def send(self, direction: Direction, seq: int, payload: bytes) -> Finding | None:
        sender, receiver = self.hosts[direction], self.hosts[1 - direction]
        ports = (40000, 21) if direction == Direction.ORIGINAL else (21, 40000)
        finding = self.helper.inspect(Segment(sender.version, direction, seq, payload, sender.packed, receiver.packed,
                                              *ports), memoryview(self.memory))
        if finding is not None:
            self._apply(finding)
        return finding

    @property
    def opened(self) -> str | None:
        """The active expectation, as "source > destination:port"."""
        return self._text() if self.expectation and self.expectation.active else None

    @property
    def held(self) -> str | None:
        """The inactive expectation."""
        return self._text() if self.expectation and not self.expectation.active else None

    def _text(self) -> str:
        expected = self.expectation
        return f"{ip_address(expected.source)} > {ip_address(expected.destination)} {expected.port}"

    def _apply(self, finding: Finding) -> None:
        self.remark = finding.remark or self.remark
        if finding.cancel and self.held:
            self.expectation = None
        if finding.activate and self.held:
            kept = self.expectation
            self.expectation = Expectation(kept.source, kept.destination, kept.port, kept.protocol)
        for expectation in finding.expectations:
            self.expectation = expectation

    @staticmethod
    def _direction(line: str | bytes) -> tuple[Direction, bytes]:
        raw = line.encode("latin-1") if isinstance(line, str) else line
        return {b"> ": Direction.ORIGINAL, b"< ": Direction.REPLY}[raw[:2]], raw[2:]


@pytest.fixture(scope="session")
def talk():
    """talk(helper, **where) -> a Conversation that has logged in."""
    def logged_in(helper, **where) -> Conversation:
        conversation = Conversation(helper, **where)
        assert conversation.say_all(*LOGIN) == [None] * len(LOGIN)
        return conversation
    return logged_in


@pytest.fixture
def connect():
    """connect(helper, **where) -> a Conversation in which nothing has been said."""
    return Conversation
