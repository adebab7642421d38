"""Random TCP conversations: two hosts that mostly behave, a network that does not, and an attacker.

`conversation` gives the packets of one flow in the order in which the firewall sees them.  Hosts keep
their own idea of what was sent and received; each step is drawn from a weighted list of things that
hosts, networks and attackers do, and the list is drawn again for every conversation, so that some are
calm and some are wild.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from kit.packed_packets import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP, URG, ip, tcp
from kit.witness import Sent

MODULUS = 1 << 32
VALID_SHAPES = (SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, FIN | PSH | ACK, ACK | URG)


@dataclass(slots=True)
class Host:
    """One end of a conversation and what it believes."""

    address: bytes
    port: int
    initial: int
    window: int
    scale: int | None = None            # offered in its SYNs; None: not offered
    next: int = 0                       # next sequence number to send
    heard: int = 0                      # next sequence number it expects from the other
    closed: bool = False

    def advertised(self, *, unscaled: bool = False) -> int:
        return min(65535, self.window if unscaled or self.scale is None else self.window >> min(self.scale, 14))


@dataclass(slots=True)
class Conversation:
    """Packets so far; `hosts[0]` opens."""

    random: Random
    hosts: tuple[Host, Host]
    sack: bool
    sent: list[Sent] = field(default_factory=list)

    def emit(self, side: int, flags: int, seq: int, ack: int, *, payload: bytes = b"", options: bytes = b"",
             window: int | None = None, offset: int | None = None, sum_: int | None = None) -> None:
        here, there = self.hosts[side], self.hosts[1 - side]
        if window is None:
            window = here.advertised(unscaled=bool(flags & SYN))
        segment = tcp(here.address, there.address, here.port, there.port, flags, seq % MODULUS, ack % MODULUS,
                      window=window, payload=payload, options=options, offset=offset, sum_=sum_)
        self.sent.append(Sent(side, ip(here.address, there.address, TCP, segment)))


def _options(conversation: Conversation, side: int, *, syn: bool) -> bytes:
    random, host = conversation.random, conversation.hosts[side]
    parts: list[bytes] = []
    if syn:
        parts.append(b"\x02\x04\x05\xb4")
        if conversation.sack:
            parts.append(b"\x04\x02")
        if host.scale is not None:
            parts.append(bytes([3, 3, host.scale]))
    if random.random() < 0.3:
        parts.append(b"\x01\x01\x08\x0a" + random.randbytes(8))
    return b"".join(parts)


def _sack_block(conversation: Conversation, side: int) -> bytes:
    """One to three blocks around what was heard: honest, ahead of the truth, or nonsense."""
    random, host = conversation.random, conversation.hosts[side]
    blocks = b""
    for _ in range(random.choice((1, 1, 2, 3))):
        left = host.heard + random.choice((0, 100, 1460, -1460, 70_000, random.getrandbits(32)))
        blocks += struct.pack("!II", left % MODULUS, (left + random.choice((1, 1460, 100_000))) % MODULUS)
    return b"\x01\x01" + bytes([5, 2 + len(blocks)]) + blocks


# -- what hosts do ---------------------------------------------------------------------------------

def _syn(conversation: Conversation, side: int) -> None:
    host = conversation.hosts[side]
    flags = SYN | conversation.random.choice((0, 0, 0, ECE | CWR, PSH, URG))
    conversation.emit(side, flags, host.initial, 0, options=_options(conversation, side, syn=True))
    host.next = host.initial + 1


def _syn_ack(conversation: Conversation, side: int) -> None:
    host, other = conversation.hosts[side], conversation.hosts[1 - side]
    host.heard = other.next
    conversation.emit(side, SYN | ACK, host.initial, host.heard, options=_options(conversation, side, syn=True))
    host.next = host.initial + 1


def _ack(conversation: Conversation, side: int) -> None:
    host = conversation.hosts[side]
    host.heard = conversation.hosts[1 - side].next
    conversation.emit(side, ACK, host.next, host.heard, options=_options(conversation, side, syn=False))


def _data(conversation: Conversation, side: int) -> None:
    random, host = conversation.random, conversation.hosts[side]
    if random.random() < 0.7:
        host.heard = conversation.hosts[1 - side].next
    payload = bytes(random.choice((1, 10, 100, 536, 1460, 1460)))
    conversation.emit(side, ACK | random.choice((0, PSH)), host.next, host.heard, payload=payload,
                      options=_options(conversation, side, syn=False))
    host.next += len(payload)


def _burst(conversation: Conversation, side: int) -> None:
    for _ in range(conversation.random.randrange(2, 8)):
        _data(conversation, side)


def _fin(conversation: Conversation, side: int) -> None:
    host = conversation.hosts[side]
    payload = bytes(conversation.random.choice((0, 0, 0, 20)))
    conversation.emit(side, FIN | ACK, host.next, host.heard, payload=payload)
    host.next += len(payload) + 1
    host.closed = True


def _reset(conversation: Conversation, side: int) -> None:
    """Exact, a little off, far off, old, from before the connection; with and without ACK."""
    random, host = conversation.random, conversation.hosts[side]
    seq = random.choice((host.next, conversation.hosts[1 - side].heard, host.next, host.next + 1, host.next - 1, host.next + 5000,
                         host.initial, host.next - 70_000, host.next + 200_000, 0, random.getrandbits(32)))
    flags = random.choice((RST, RST | ACK))
    ack = random.choice((0, host.heard, conversation.hosts[1 - side].next)) if flags & ACK else random.choice((0, 0, host.heard))
    conversation.emit(side, flags, seq, ack, window=random.choice((0, None)))


def _retransmit(conversation: Conversation, side: int) -> None:
    """Something of this side's again, byte for byte, once or until the retransmission rule bites."""
    mine = [sent for sent in conversation.sent if sent.side == side]
    if mine:
        chosen = mine[-1] if conversation.random.random() < 0.6 else conversation.random.choice(mine)
        conversation.sent += [chosen] * conversation.random.choice((1, 1, 1, 2, 3, 4))


def _overlap(conversation: Conversation, side: int) -> None:
    random, host = conversation.random, conversation.hosts[side]
    back = random.choice((1, 10, 500, 1460, 5000))
    payload = bytes(back + random.choice((0, 0, 1, 700)))
    conversation.emit(side, ACK, host.next - back, host.heard, payload=payload)
    host.next += len(payload) - back


def _keep_alive(conversation: Conversation, side: int) -> None:
    host = conversation.hosts[side]
    conversation.emit(side, ACK, host.next - 1, host.heard, payload=bytes(conversation.random.choice((0, 1))))


def _window(conversation: Conversation, side: int) -> None:
    """The window closes, opens, shrinks, grows."""
    random, host = conversation.random, conversation.hosts[side]
    host.window = random.choice((0, 0, 1, 1000, 8192, 65535, 300_000, 1 << 20, 1 << 30))
    conversation.emit(side, ACK, host.next, host.heard)


def _selective_ack(conversation: Conversation, side: int) -> None:
    host = conversation.hosts[side]
    conversation.emit(side, ACK, host.next, host.heard, options=_sack_block(conversation, side))


# -- what networks and attackers do ----------------------------------------------------------------

def _out_of_window(conversation: Conversation, side: int) -> None:
    random, host = conversation.random, conversation.hosts[side]
    receiver = conversation.hosts[1 - side]
    seq = host.next + random.choice((1, 1460, receiver.window, receiver.window + 1, 2 * receiver.window, -66_000, -66_001,
                                     -receiver.window, 1 << 20, -(1 << 20), 1 << 31, random.getrandbits(32)))
    conversation.emit(side, random.choice((ACK, PSH | ACK, FIN | ACK)), seq, host.heard,
                      payload=bytes(random.choice((0, 0, 1, 100, 1460))))


def _wrong_ack(conversation: Conversation, side: int) -> None:
    random, host = conversation.random, conversation.hosts[side]
    truth = conversation.hosts[1 - side].next
    ack = truth + random.choice((1, 2, 1000, 66_000, -1, -1000, -66_000, -66_001, -70_000, 1 << 31, random.getrandbits(32)))
    conversation.emit(side, random.choice((ACK, PSH | ACK, SYN | ACK, FIN | ACK)), host.next, ack,
                      payload=bytes(random.choice((0, 0, 10))))


def _stray_syn(conversation: Conversation, side: int) -> None:
    """A SYN or SYN/ACK when nobody asked: the old number, the next, a new one; the other's answer
    to it may be a challenge ACK."""
    random, host, other = conversation.random, conversation.hosts[side], conversation.hosts[1 - side]
    seq = random.choice((host.initial, host.next, host.next + 100_000, random.getrandbits(32)))
    flags = random.choice((SYN, SYN, SYN | ACK))
    conversation.emit(side, flags, seq, host.heard if flags & ACK else 0, options=_options(conversation, side, syn=True))
    answer = random.random()
    if answer < 0.3:
        conversation.emit(1 - side, ACK, other.next, other.heard)
    elif answer < 0.5:
        conversation.emit(1 - side, SYN | ACK, other.initial, seq + 1, options=_options(conversation, 1 - side, syn=True))
    elif answer < 0.6:
        conversation.emit(1 - side, RST, other.heard, 0)
    if random.random() < 0.2:
        conversation.emit(side, RST, other.heard if random.random() < 0.5 else seq + 1, 0)


def _reopen(conversation: Conversation, side: int) -> None:
    """The same ports for a new connection, as after TIME_WAIT: numbers ahead of the old ones, or behind."""
    random = conversation.random
    for host in conversation.hosts:
        host.initial = (host.next + random.choice((1, 100_000, 1 << 24, -5000))) % MODULUS
        host.closed = False
    if random.random() < 0.3:
        conversation.hosts[side].scale = random.choice((None, 0, 3, 14))
    _syn(conversation, side)
    if random.random() < 0.8:
        _syn_ack(conversation, 1 - side)
        _ack(conversation, side)


def _odd_flags(conversation: Conversation, side: int) -> None:
    random, host = conversation.random, conversation.hosts[side]
    conversation.emit(side, random.randrange(256), host.next, host.heard, payload=bytes(random.choice((0, 5))))


def _broken(conversation: Conversation, side: int) -> None:
    """Headers that lie, options that do not end, sums that do not add up."""
    random, host = conversation.random, conversation.hosts[side]
    lie: dict[str, object] = random.choice((
        {"sum_": random.getrandbits(16)}, {"offset": random.choice((0, 4, 6, 15))},
        {"options": random.choice((b"\x03\x03", b"\x05\x00", b"\x05\x0a\x00", b"\x08", b"\x03\x03\xff\x00", b"\xfe\x02\x03\x01")) + random.randbytes(2)}))
    conversation.emit(side, random.choice((ACK, SYN, ACK | PSH)), host.next, host.heard, **lie)


def _stray(conversation: Conversation, side: int) -> None:
    """Any valid combination with any numbers."""
    random, host = conversation.random, conversation.hosts[side]
    conversation.emit(side, random.choice(VALID_SHAPES), random.choice((host.next, random.getrandbits(32))),
                      random.choice((host.heard, 0, random.getrandbits(32))), window=random.choice((None, 0, random.getrandbits(16))))


Action = Callable[[Conversation, int], None]
CALM: tuple[tuple[Action, int], ...] = (
    (_data, 30), (_ack, 25), (_burst, 8), (_fin, 5), (_keep_alive, 2), (_window, 3), (_selective_ack, 3), (_retransmit, 4), (_overlap, 2))
WILD: tuple[tuple[Action, int], ...] = (
    (_reset, 6), (_out_of_window, 6), (_wrong_ack, 6), (_stray_syn, 6), (_reopen, 4), (_odd_flags, 2), (_broken, 2), (_stray, 3),
    (_syn, 3), (_syn_ack, 3))


# -- a whole conversation --------------------------------------------------------------------------

def conversation(random: Random, ends: tuple[tuple[bytes, int], tuple[bytes, int]]) -> list[Sent]:
    """The packets of one conversation between `ends` (address, port); ends[0] opens, on side 0."""
    talk = Conversation(random, (_host(random, *ends[0]), _host(random, *ends[1])), sack=random.random() < 0.7)
    _open(talk)
    wildness = random.choice((0.0, 0.1, 0.3, 0.6))
    calm, wild = ([action for action, _ in table] for table in (CALM, WILD))
    calm_weights, wild_weights = ([weight for _, weight in table] for table in (CALM, WILD))
    for _ in range(random.choice((2, 5, 10, 25))):
        actions, weights = (wild, wild_weights) if random.random() < wildness else (calm, calm_weights)
        random.choices(actions, weights)[0](talk, random.getrandbits(1))
    if random.random() < 0.5:
        _close(talk)
    return impair(random, talk.sent)


def _host(random: Random, address: bytes, port: int) -> Host:
    initial = random.choice((random.getrandbits(32), MODULUS - random.randrange(1, 5000), 1, 0, (1 << 31) - 100))
    window = random.choice((0, 500, 5840, 8192, 29_200, 65_535, 65_535, 500_000))
    scale = random.choice((None, None, 0, 2, 7, 7, 14, 15, 255))
    return Host(address, port, initial, window, scale, next=initial)


def _open(talk: Conversation) -> None:
    kind = talk.random.random()
    first, second = talk.hosts
    if kind < 0.65:                     # as it should be, perhaps cut off
        steps = (lambda: _syn(talk, 0), lambda: _syn_ack(talk, 1), lambda: _ack(talk, 0))
        for step in steps[:talk.random.choice((1, 2, 3, 3, 3, 3, 3, 3))]:
            step()
    elif kind < 0.75:                   # both at once (RFC 9293, 3.5)
        _syn(talk, 0)
        _syn(talk, 1)
        for side in talk.random.sample((0, 1), 2):
            _syn_ack(talk, side)
    elif kind < 0.8:                    # refused
        _syn(talk, 0)
        talk.emit(1, RST | ACK, 0, first.next, window=0)
    else:                               # the firewall comes late
        for host, other in ((first, second), (second, first)):
            host.next, host.heard = host.initial + 5000, other.initial + 5000


def _close(talk: Conversation) -> None:
    side = talk.random.getrandbits(1)
    order = talk.random.choice(((_fin, _ack, _fin, _ack), (_fin, _fin, _ack, _ack), (_fin, _data, _ack, _fin, _ack), (_fin, _reset), (_fin, _fin)))
    for step in order:
        step(talk, side)
        side = 1 - side


def impair(random: Random, sent: list[Sent]) -> list[Sent]:
    """A network in front of the firewall: losses, repetitions, neighbours exchanged."""
    loss, repetition, disorder = random.choice(((0, 0, 0), (0, 0, 0), (0.05, 0.02, 0.05), (0.2, 0.1, 0.2)))
    arrived: list[Sent] = []
    for packet in sent:
        if random.random() < loss:
            continue
        arrived.append(packet)
        if random.random() < repetition:
            arrived.append(packet)
        if len(arrived) > 1 and random.random() < disorder:
            arrived[-1], arrived[-2] = arrived[-2], arrived[-1]
    return arrived
