"""Random FTP control connections and the data connections they lead to."""
from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from differential.generate_tcp import impair
from kit.packed_packets import ACK, FIN, PSH, RST, SYN, TCP, address, ip, tcp
from kit.witness import Sent

End = tuple[bytes, int]
STRANGERS = {4: address("203.0.113.9"), 16: address("2001:db8:bad::9")}
NEWLINES = ("\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r")


@dataclass(slots=True)
class Control:
    """A control connection, handshake done, and where both ends' numbers stand."""

    random: Random
    ends: tuple[End, End]
    next: list[int]
    sent: list[Sent] = field(default_factory=list)
    announced: list[tuple[bytes, int]] = field(default_factory=list)      # where somebody said they listen

    def emit(self, side: int, flags: int, payload: bytes = b"", *, seq: int | None = None) -> None:
        (src, sport), (dst, dport) = self.ends[side], self.ends[1 - side]
        at = self.next[side] if seq is None else seq
        segment = tcp(src, dst, sport, dport, flags, at, self.next[1 - side] if flags & ACK else 0, payload=payload, window=60_000)
        self.sent.append(Sent(side, ip(src, dst, TCP, segment)))
        if seq is None:
            self.next[side] = (at + len(payload) + bool(flags & (SYN | FIN))) % (1 << 32)

    def say(self, side: int, text: bytes) -> None:
        """`text`, in as many segments as chance will have it, some of them sent again."""
        random = self.random
        cuts = sorted(random.sample(range(1, len(text)), min(random.choice((0, 0, 0, 0, 1, 2)), len(text) - 1))) if len(text) > 1 else []
        start = self.next[side]
        for begin, end in pairwise([0, *cuts, len(text)]):
            self.emit(side, PSH | ACK, text[begin:end])
            if random.random() < 0.1:
                self.emit(side, PSH | ACK, text[begin:end], seq=start + begin)
        if cuts and random.random() < 0.5:
            self.emit(side, PSH | ACK, text, seq=start)     # a host whose pieces were dropped repeats the whole
        if random.random() < 0.6:
            self.emit(1 - side, ACK)


def session(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Login, announcements of every shape, data connections to what was announced or to nothing, an end."""
    control = Control(random, (ends[0], (ends[1][0], 21 if random.random() < 0.95 else ends[1][1])),
                      [random.choice((random.getrandbits(32), (1 << 32) - random.randrange(1, 90))) for _ in ends])
    if random.random() < 0.93:
        control.emit(0, SYN)
        control.emit(1, SYN | ACK)
    control.emit(0, ACK)
    if random.random() < 0.9:
        control.say(1, b"220 welcome\r\n")
        control.say(0, b"USER anonymous\r\n")
    for _ in range(random.choice((1, 2, 3, 5))):
        random.choice((_small_talk, _announce, _announce, _announce, _connect, _connect))(control)
    if random.random() < 0.4:
        control.emit(random.getrandbits(1), random.choice((FIN | ACK, RST)))
    _connect(control)
    return impair(random, control.sent) if random.random() < 0.3 else control.sent


def _small_talk(control: Control) -> None:
    side = control.random.getrandbits(1)
    control.say(side, control.random.choice((b"TYPE I\r\n", b"NOOP\r\n", b"PWD\r\n")) if side == 0
                else control.random.choice((b"200 ok\r\n", b"230-hello\r\n230 there\r\n", b"150 here it comes\r\n")))


def _announce(control: Control) -> None:
    """PORT, EPRT, 227, 229: right most of the time; else malformed, pipelined, from the wrong side."""
    random = control.random
    side = random.getrandbits(1)
    host = control.ends[side][0] if random.random() < 0.9 else STRANGERS[len(control.ends[0][0])]
    port = random.choice((random.randrange(1024, 65536), random.randrange(1024, 65536), 20, 80, 0, 65535))
    line = (_client_line if side == 0 else _server_line)(random, host, port)
    if random.random() < 0.15:
        line = _spoiled(random, line)
    newline = random.choice(NEWLINES)
    text = random.choice(("", "", "", "", "TYPE I\r\n", "227-hm\r\n")) + line + newline + random.choice(("", "", "", "", "LIST\r\n"))
    control.say(side if random.random() < 0.97 else 1 - side, text.encode("latin-1"))
    control.announced.append((host, port))


def _numbers(host: bytes, port: int) -> str:
    return ",".join(map(str, (*host, port >> 8, port & 255)))


def _client_line(random: Random, host: bytes, port: int) -> str:
    family = 1 if len(host) == 4 else 2
    if family == 1 and random.random() < 0.6:
        return random.choice(("PORT ", "PORT ", "port ", "Port ")) + _numbers(host, port)
    mark = random.choice(("|", "|", "|", "!", ","))
    if random.random() < 0.05:
        family = 3 - family
    text = str(ipaddress.ip_address(host))
    return random.choice(("EPRT ", "eprt ")) + mark.join(("", str(family), text, str(port), ""))


def _server_line(random: Random, host: bytes, port: int) -> str:
    if len(host) == 4 and random.random() < 0.6:
        return random.choice(("227 Entering Passive Mode ({}).", "227 Entering Passive Mode ({})", "227 ={}", "227 {}")).format(_numbers(host, port))
    mark = random.choice(("|", "|", "|", "!"))
    return random.choice(("229 Entering Extended Passive Mode ({}).", "229 ({})", "229 {}")).format(f"{mark * 3}{port}{mark}")


def _spoiled(random: Random, line: str) -> str:
    how = random.randrange(5)
    at = random.randrange(len(line))
    if how == 0:
        return line[:at]
    if how == 1:
        return line[:at] + random.choice(("x", "9", "0", " ", ",", "|")) + line[at:]
    if how == 2:
        return line.replace(",", ",300,", 1)
    if how == 3:
        return line[:at] + line[at + 1:]
    return line.rsplit(",", 1)[0]


def _connect(control: Control) -> None:
    """A data connection to an announced place: by the right host, a stranger, a bare ACK, twice."""
    random = control.random
    if not control.announced:
        return
    host, port = random.choice(control.announced[-2:])
    ends = control.ends
    callers = [end for end, _ in ends if end != host] or [ends[0][0]]
    caller = callers[0] if random.random() < 0.9 else STRANGERS[len(host)]
    side = 0 if caller == ends[0][0] else 1
    source = random.choice((20, random.randrange(1024, 65536)))
    opening = random.choice((SYN, SYN, SYN, SYN, ACK))
    mine, theirs = random.getrandbits(32), random.getrandbits(32)

    def emit(way: int, flags: int, seq: int, ack: int, payload: bytes = b"") -> None:
        (src, sport), (dst, dport) = ((caller, source), (host, port)) if way == side else ((host, port), (caller, source))
        control.sent.append(Sent(way, ip(src, dst, TCP, tcp(src, dst, sport, dport, flags, seq, ack, payload=payload))))

    steps = ((side, opening, mine, theirs if opening & ACK else 0), (1 - side, SYN | ACK, theirs, mine + 1), (side, ACK, mine + 1, theirs + 1),
             (1 - side, PSH | ACK, theirs + 1, mine + 1, b"data"), (1 - side, FIN | ACK, theirs + 5, mine + 1))
    for step in steps[:random.choice((1, 2, 3, 5))]:
        emit(*step)
