"""One list of packets from a seed: many flows of every kind, interleaved as on a busy link."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from differential import (
    generate_datagrams,
    generate_extensions,
    generate_ftp,
    generate_icmp,
    generate_layers,
    generate_others,
    generate_tcp,
)
from kit.packed_packets import address
from kit.witness import Sent, Settings

End = tuple[bytes, int]
Generator = Callable[[Random, tuple[End, End]], list[Sent]]

# What crosses the link, and how often.  IPv4 or IPv6 is chosen for each flow where both are possible.
FLOWS: tuple[tuple[Generator, int], ...] = (
    (generate_tcp.conversation, 50),
    (generate_datagrams.udp_exchange, 10),
    (generate_datagrams.udplite_exchange, 4),
    (generate_datagrams.generic_exchange, 2),
    (generate_icmp.queries, 8),
    (generate_icmp.odd_types, 3),
    (generate_icmp.errors, 12),
    (generate_icmp.redirects, 1),
    (generate_layers.fragments, 6),
    (generate_layers.ipv4_options, 2),
    (generate_extensions.chains, 4),
    (generate_layers.lying_lengths, 3),
    (generate_layers.noise, 3),
    (generate_ftp.session, 14),
    (generate_others.sctp_association, 4),
    (generate_others.gre_tunnel, 2),
)
ONLY_FAMILY = {generate_icmp.redirects: 6, generate_layers.ipv4_options: 4, generate_extensions.chains: 6}
CONCURRENT = 30                 # flows under way at a time
PACKETS = 10_000                # of one scenario, if nothing else is asked for

VARIANTS = (Settings(), Settings(ftp=True), Settings(tcp_loose=False, ftp=True), Settings(tcp_be_liberal=True))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to inject, and how strictly both sides are to track it."""

    settings: Settings
    packets: list[Sent]


def scenario(seed: int, count: int, flows: tuple[tuple[Generator, int], ...] = FLOWS) -> Scenario:
    """At least `count` packets; the same seed gives the same ones.  The variants take turns."""
    random = Random(seed)
    generators, weights = [flow for flow, _ in flows], [weight for _, weight in flows]
    running: list[list[Sent]] = []
    packets: list[Sent] = []
    number = 0
    while len(packets) < count:
        while len(running) < CONCURRENT:
            generator = random.choices(generators, weights)[0]
            running.append(generator(random, _ends(random, number, ONLY_FAMILY.get(generator)))[::-1])
            number += 1
        chosen = random.randrange(len(running))
        for _ in range(random.choice((1, 1, 2, 5))):
            if running[chosen]:
                packets.append(running[chosen].pop())
        if not running[chosen]:
            running.pop(chosen)
    return Scenario(VARIANTS[seed % len(VARIANTS)], packets)


def with_pauses(original: Scenario, pauses: int, pause_s: float, timeouts: tuple[tuple[str, int], ...]) -> Scenario:
    """The same packets under the given timeouts, with that many waits among them."""
    packets = list(original.packets)
    for number in range(1, pauses + 1):
        at = number * len(packets) // (pauses + 1)
        packets[at] = replace(packets[at], pause_s=pause_s)
    return Scenario(replace(original.settings, timeouts=timeouts), packets)


def _ends(random: Random, number: int, family: int | None) -> tuple[End, End]:
    """Two ends that no other flow of the list has; a server may serve several."""
    client = 1 + number % 60_000
    if (family or random.choice((4, 4, 6))) == 4:
        hosts = bytes((10, 1, client >> 8, client & 255)), bytes((10, 2, 0, random.randrange(1, 5)))
    else:
        hosts = address(f"2001:db8:1::{client:x}"), address(f"2001:db8:2::{random.randrange(1, 5):x}")
    return (hosts[0], random.randrange(1024, 65536)), (hosts[1], random.choice((22, 53, 80, 443, random.randrange(1, 65536))))


TIMEOUTS = ("tcp_syn_sent", "tcp_syn_recv", "tcp_established", "tcp_fin_wait", "tcp_close_wait", "tcp_last_ack", "tcp_time_wait",
            "tcp_close", "tcp_max_retrans", "tcp_unacknowledged", "udp", "udp_stream", "icmp", "icmpv6", "generic")
