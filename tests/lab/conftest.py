"""Live tests: each has a lab of its own, so that no retransmission of another's session gets into its counts."""
from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import services
from firewall import Firewall
from kit.packed_packets import checksums_filled
from kit.witness import Sent
from pyfw.lab import GATEWAY_INSIDE, GATEWAY_OUTSIDE, SERVER, Lab

ETH_P_ALL = 3
PACKET_OUTGOING = 4             # linux/if_packet.h


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(f"pyfw-test-{os.getpid()}") as lab:
        yield lab


@pytest.fixture(scope="session")
def shared_directory() -> Iterator[Path]:
    """For the servers' files.  Not pytest's own: vsftpd's unprivileged half must get there."""
    with tempfile.TemporaryDirectory(prefix="pyfw-test-", dir="/run") as directory:
        yield Path(directory)


@pytest.fixture
def servers(lab: Lab, shared_directory: Path) -> None:
    """DNS, HTTP (80 and 8080), ssh and FTP on the outside; HTTP 8080 on the inside."""
    services.start_dns(lab, "server", SERVER.ipv4)
    services.start_http(lab, "server", shared_directory)
    services.start_http(lab, "server", shared_directory, 8080)
    services.start_ssh(lab, "server", shared_directory)
    services.start_ftp(lab, "server", shared_directory)
    services.start_http(lab, "client", shared_directory, 8080)


@pytest.fixture
def wire(lab: Lab) -> Iterator[Callable[[], list[Sent]]]:
    """What the gateway has got from the one side and the other, as packets to inject, in the order in which it got them."""
    sides = {GATEWAY_INSIDE.interface: 0, GATEWAY_OUTSIDE.interface: 1}
    with lab.inside("gateway"):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    tap.setblocking(False)

    def seen() -> list[Sent]:
        packets = []
        while True:
            try:
                data, (interface, _, kind, *_) = tap.recvfrom(65536)
            except BlockingIOError:
                return packets
            if interface in sides and kind != PACKET_OUTGOING:
                packets.append(Sent(sides[interface], checksums_filled(data)))

    yield seen
    tap.close()


Guard = Callable[..., Firewall]


@pytest.fixture
def guard(lab: Lab, tmp_path: Path) -> Iterator[Guard]:
    """guard(FORWARD=[rule, ...], ...) starts pyfw on the gateway with these filter chains.

    Rules are iptables lines.  A hook is diverted for each built-in chain that is given; its policy is DROP
    unless `policies` says otherwise; `settings` are for --set.  At the end of the test every pyfw must still be
    there, end politely, and have logged no exception.
    """
    running: list[Firewall] = []

    def start(*, role: str = "gateway", helpers: dict | None = None, variables: dict | None = None,
              policies: dict | None = None, raw: dict | None = None, settings: Sequence[str] = (),
              **chains: Sequence[str]) -> Firewall:
        hooks = [name for name in ("INPUT", "FORWARD", "OUTPUT") if name in chains]
        policy = {name: {"policy": "DROP"} for name in hooks} | {
            name: {"policy": verdict} for name, verdict in (policies or {}).items()}
        directory = tmp_path / str(len(running))
        directory.mkdir()
        config = directory / "pyfw.yaml"
        config.write_text(json.dumps({
            "hooks": hooks,
            "helpers": {"ftp": {}} if helpers is None else helpers,
            "variables": variables or {},
            "rules": {
                "raw": {name: {"rules": list(rules)} for name, rules in (raw or {}).items()},
                "filter": {name: policy.get(name, {}) | {"rules": list(rules)} for name, rules in chains.items()},
            },
        }, indent=1))
        firewall = Firewall(lab, config, directory, role=role, settings=settings)
        firewall.start()
        running.append(firewall)
        return firewall

    yield start
    ends = [firewall.stop() for firewall in running]
    logs = [firewall.log.read_text() for firewall in running]
    assert all(end == 0 for end in ends), (ends, logs)
    assert not any("Traceback" in log for log in logs), logs
