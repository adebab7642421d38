"""Every TCP packet class from either side, in every order, to a given depth.

The classes are those that the tracker distinguishes, and the two that look the same to its
transition table but not to its window check and its reopening rules:

    S  SYN, the same again when repeated      n  SYN with a new initial sequence number
    s  SYN/ACK   F  FIN/ACK   A  ACK   D  ACK with data   R  RST   r  RST/ACK
    N  no flags at all: INVALID before any connection is looked up

Each sequence is a flow of its own.  Both sides number their packets as an honest host would: what it
has sent so far, what the other has sent so far.  What leaves no gap:

- The tracker knows sides only as first and second, so the first packet always comes from side 0.
- Classes that cannot begin a connection (s F R r N) leave nothing behind, so that what follows them is
  a shorter sequence of the list.  `openings` checks this: each of them followed by each packet.
- N is INVALID by its flags alone.  It is in `openings` and in every sequence up to depth 3.
"""
from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from kit.packed_packets import ACK, FIN, PSH, RST, SYN, TCP, ipv4, tcp
from kit.witness import Sent

CLASSES = {"S": SYN, "n": SYN, "s": SYN | ACK, "F": FIN | ACK, "A": ACK, "D": PSH | ACK, "R": RST, "r": RST | ACK, "N": 0}
CHANGING = "SnsFADRr"
BEGINNING = "SAD"
DATA = b"0123456789"
_NEW_ISN = 1_000_000

Step = tuple[int, str]          # side, class


class Host:
    """One end: what it has sent, so that the next packet follows on."""

    __slots__ = ("initial", "next")

    def __init__(self, initial: int) -> None:
        self.initial = self.next = initial


def sequence(steps: tuple[Step, ...], number: int) -> list[Sent]:
    """The packets of one flow; `number` makes its addresses and ports its own."""
    client = bytes([10, 1 + (number >> 24), number >> 16 & 255, 1])
    ends = ((client, 1024 + (number & 0xFFFF) // 2), (b"\x0a\x00\x00\x02", 80 + (number & 1)))
    hosts = (Host(1000), Host(500_000))
    return [Sent(side, _packet(kind, hosts[side], hosts[1 - side], ends[side], ends[1 - side])) for side, kind in steps]


def _packet(kind: str, sender: Host, receiver: Host, source: tuple[bytes, int], target: tuple[bytes, int]) -> bytes:
    flags = CLASSES[kind]
    if kind == "n":
        sender.initial = sender.next = sender.next + _NEW_ISN
    seq = sender.initial if flags & SYN else sender.next
    payload = DATA if kind == "D" else b""
    segment = tcp(source[0], target[0], source[1], target[1], flags, seq,
                  receiver.next if flags & ACK else 0, payload=payload)
    end = seq + len(payload) + (1 if flags & (SYN | FIN) else 0)
    sender.next = max(sender.next, end)
    return ipv4(source[0], target[0], TCP, segment)


def sequences(depth: int, classes: str = CHANGING) -> Iterator[tuple[Step, ...]]:
    """All sequences of exactly `depth` steps; shorter ones are their beginnings."""
    later = [(side, kind) for side in (0, 1) for kind in classes]
    for opening in BEGINNING:
        for rest in product(later, repeat=depth - 1):
            yield ((0, opening), *rest)


def openings() -> Iterator[tuple[Step, ...]]:
    """Each class that cannot begin a connection, followed by each packet."""
    for opening in set(CLASSES) - set(BEGINNING) - {"n"}:
        for side, kind in product((0, 1), CLASSES):
            yield (0, opening), (side, kind)


def batches(depth: int, flows: int = 20_000) -> Iterator[list[Sent]]:
    """All there is to depth `depth`, in lists of at most `flows` flows: one list, one table."""
    everything: list[Iterator[tuple[Step, ...]]] = [openings(), sequences(min(depth, 3), "".join(CLASSES)), sequences(depth)]
    batch: list[Sent] = []
    number = 0
    for steps in (steps for group in everything for steps in group):
        batch += sequence(steps, number)
        number += 1
        if number == flows:
            yield batch
            batch, number = [], 0
    if batch:
        yield batch
