"""Small worlds in full, through the kernel's tracking and pyfw's: every order of TCP packets to a depth of five,
every ICMP type, every protocol."""
from __future__ import annotations

import pytest

from differential.examine import examine
from differential.generate_exhaustive import CHANGING, CLASSES, batches, openings, sequences
from differential.generate_icmp import message
from differential.generate_mix import Scenario
from kit.packed_packets import address, ip
from kit.witness import Sent, Settings, Witness


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("settings", "depth"), [
    (Settings(), 5), (Settings(tcp_loose=False), 4), (Settings(tcp_be_liberal=True), 4)], ids=["usual", "strict", "liberal"])
def test_every_order(settings: Settings, depth: int) -> None:
    with Witness(settings) as witness:
        for packets in batches(depth):
            examine(Scenario(settings, packets), witness).must_agree()


@pytest.mark.parametrize("hosts", [(address("10.0.0.2"), address("10.0.1.2")), (address("2001:db8::2"), address("2001:db8:1::2"))],
                         ids=["ipv4", "ipv6"])
def test_every_icmp_type(hosts: tuple[bytes, bytes]) -> None:
    """Each type from the one side, then from the other, with the ids of each pair of types their own."""
    packets = [Sent(side, message(hosts[side], hosts[1 - side], kind, code, bytes((kind, 0, 0, 1)), bytes(8)))
               for kind in range(256) for code in (0, 1) for side in (0, 1)]
    examine(Scenario(Settings(), packets)).must_agree()


@pytest.mark.parametrize("hosts", [(address("10.0.0.2"), address("10.0.1.2")), (address("2001:db8::2"), address("2001:db8:1::2"))],
                         ids=["ipv4", "ipv6"])
def test_every_protocol_at_every_short_length(hosts: tuple[bytes, bytes]) -> None:
    """Each protocol number over 0 to 48 bytes of nothing, both ways."""
    packets = [Sent(side, ip(hosts[side], hosts[1 - side], protocol, bytes(length)))
               for protocol in range(256) for length in range(49) for side in (0, 1)]
    examine(Scenario(Settings(), packets)).must_agree()


def test_nothing_is_left_out() -> None:
    assert sum(1 for _ in sequences(3)) == 3 * (2 * len(CHANGING)) ** 2
    begun = {steps[0][1] for steps in sequences(2)} | {steps[0][1] for steps in openings()}
    assert begun | {"n"} == set(CLASSES)
