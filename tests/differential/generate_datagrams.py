"""Random UDP, UDP-Lite and nameless protocols: exchanges, wrong lengths, wrong sums, short headers."""
from __future__ import annotations

from random import Random

from kit.packed_packets import UDP, UDPLITE, ip, udp, udplite
from kit.witness import Sent

End = tuple[bytes, int]
GENERIC_PROTOCOLS = (2, 4, 41, 46, 50, 59, 88, 89, 103, 112, 253, 255)


def udp_exchange(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """A few datagrams each way; one in eight is somehow wrong."""
    sent = []
    for _ in range(random.choice((1, 2, 4, 8))):
        side = random.choice((0, 0, 1))
        (src, sport), (dst, dport) = ends[side], ends[1 - side]
        payload = random.randbytes(random.choice((0, 1, 20, 21, 500)))
        wrong: dict[str, int] = {}
        if random.random() < 0.12:
            wrong = random.choice(({"sum_": random.getrandbits(16)}, {"sum_": 0}, {"length": 0}, {"length": 7},
                                   {"length": 8}, {"length": 8 + len(payload) + 1}, {"length": 7 + len(payload)}))
        datagram = udp(src, dst, sport, dport, payload, **wrong)
        if random.random() < 0.04:
            datagram = datagram[:random.randrange(8)]
        sent.append(Sent(side, ip(src, dst, UDP, datagram)))
    return sent


def udplite_exchange(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Coverage of all, of the header, of part, of too little and too much; sums right, zero, wrong, and as
    the kernel wants them: its tracker takes the pseudo-header's protocol to be UDP (udplite_error())."""
    sent = []
    for _ in range(random.choice((1, 2, 4, 8))):
        side = random.choice((0, 0, 1))
        (src, sport), (dst, dport) = ends[side], ends[1 - side]
        payload = random.randbytes(random.choice((0, 1, 20, 21)))
        coverage = random.choice((0, 0, 8, 8, 8 + len(payload), 9, 12, 1, 7, 9 + len(payload), 60_000))
        wrong = {"sum_": random.choice((0, random.getrandbits(16)))} if random.random() < 0.1 else {}
        datagram = udplite(src, dst, sport, dport, payload, coverage=coverage, summed_as=random.choice((UDP, UDP, UDPLITE)), **wrong)
        if random.random() < 0.04:
            datagram = datagram[:random.randrange(8)]
        sent.append(Sent(side, ip(src, dst, UDPLITE, datagram)))
    return sent


def generic_exchange(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """A protocol without ports, as the tracker knows it: one connection per pair of hosts."""
    protocol = random.choice(GENERIC_PROTOCOLS)
    return [Sent(side, ip(ends[side][0], ends[1 - side][0], protocol, random.randbytes(random.choice((0, 1, 4, 40)))))
            for side in random.choices((0, 0, 1), k=random.choice((1, 2, 4)))]


def udp_streams(random: Random, ends: list[tuple[End, End]], *, gap_s: float = 2.1) -> list[Sent]:
    """UDP conversations around the rule that makes a stream of one after 2 s of traffic both ways: the
    first packets of all, a wait, the rest of all.  Lasts `gap_s` seconds and a half."""
    before, halfway, after = [], [], []
    for pair in ends:
        for stage in (before, halfway, after):
            for side in random.choice(((), (0,), (1,), (0, 1), (1, 0), (0, 0), (0, 1, 0))):
                (src, sport), (dst, dport) = pair[side], pair[1 - side]
                stage.append(Sent(side, ip(src, dst, UDP, udp(src, dst, sport, dport, b"x"))))
    for stage, pause_s in ((halfway, 0.5), (after, gap_s)):
        if stage:
            stage[0] = Sent(stage[0].side, stage[0].data, pause_s)
    return before + halfway + after
