"""Two ends over a network that cuts, repeats and reorders; every reply but that to PORT looks like the answer to PASV."""
from __future__ import annotations

import random
import re
from ipaddress import ip_address

from pyfw.enums import Direction, Verdict
from pyfw.helpers import MEMORY_SIZE, Segment
from pyfw.helpers.ftp import FtpHelper

CLIENT, SERVER = Direction.ORIGINAL, Direction.REPLY
ADDRESSES = (ip_address("10.0.0.2").packed, ip_address("10.0.1.2").packed)
COMMANDS = (*[b"PASV\r\n"] * 8, *[b"NOOP\r\n"] * 4, *[b"STAT a\r\n"] * 4, b"NOOP\rSTAT a\r\n",
            *[b"PORT 10,0,0,2,19,137\r\n"] * 3)
LINE_END = re.compile(rb"\r\n|\r|\n")           # as the server of these tests has it
DIALOGUES = 2000


class Talk:
    """What both ends have to say, and how much of it the other one has."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        commands = [b"NOOP\r\n", *chance.choices(COMMANDS, k=chance.randint(2, 8))]
        self.lines = [line for command in commands for line in LINE_END.split(command)[:-1]]
        self.replies = [self.reply_to(number) for number in range(len(self.lines))]
        self.said = (b"".join(commands), b"220 ready\r\n")
        self.heard = [0, 0]
        self.opened = 0
        self.helper, self.memory = FtpHelper(), bytearray(MEMORY_SIZE)

    def reply_to(self, number: int) -> bytes:
        """The announced port tells whose reply it is.  Only PORT is refused."""
        if self.lines[number].startswith(b"PORT"):
            return b"500 no\r\n"
        before = self.chance.choice([b"", b"", b"150 soon\r\n", b"227-more\r\n200 no\r\n"])
        return before + b"227 (10,0,1,2,%d,0)\r\n" % (100 + number) if number else b"200 ok\r\n"

    def move(self) -> None:
        direction = self.chance.choice((CLIENT, SERVER))
        if direction == SERVER:
            complete = len(LINE_END.findall(self.said[CLIENT][:self.heard[CLIENT]]))
            self.said = (self.said[CLIENT], b"220 ready\r\n" + b"".join(self.replies[:complete]))
        said, heard = self.said[direction], self.heard[direction]
        if direction == CLIENT and not self.heard[SERVER]:
            return
        start, end = heard, said.find(b"\n", heard) + 1 or len(said)
        if self.chance.random() < 0.2:
            start = self.chance.randint(max(heard - 30, 0), min(heard + 3, len(said)))
        if self.chance.random() < 0.2:
            end = self.chance.randint(heard, len(said))
        if start < end:
            self.send(direction, start, said[start:end])

    def send(self, direction: Direction, start: int, payload: bytes) -> None:
        finding = self.helper.inspect(Segment(4, direction, start, payload, ADDRESSES[direction], ADDRESSES[1 - direction],
                                              40000, 21), memoryview(self.memory))
        if start <= self.heard[direction] and (finding is None or finding.verdict is Verdict.ACCEPT):
            self.heard[direction] = max(self.heard[direction], start + len(payload))
        assert not (finding and finding.activate), "another command's reply"
        for expectation in finding.expectations if finding else ():
            if expectation.active:
                self.opened += 1
                assert self.lines[(expectation.port >> 8) - 100] == b"PASV", "another command's reply"


def test_only_the_reply_to_a_request_opens_whatever_the_segments() -> None:
    opened = 0
    for seed in range(DIALOGUES):
        talk = Talk(random.Random(seed))
        for _ in range(30):
            talk.move()
        opened += talk.opened
    assert opened > DIALOGUES // 10, "the control: requests are answered"
