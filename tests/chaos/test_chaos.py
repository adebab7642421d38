"""Chaos for a minute, with another seed in each run; `scripts/chaos` goes on for an hour.  And that the probe sees anything."""
from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.actions import ACTIONS
from chaos.probe import WAYS, Probe
from chaos.scene import Scene
from pyfw.lab import Lab, wait_until

SECONDS = 60


@pytest.mark.timeout(600)
def test_nothing_opens_and_nothing_allowed_dies(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    with Scene(tmp_path, seed) as scene:
        scene.run(SECONDS)
        assert scene.happened
        assert scene.probe.sent > 100
        print(f"seed {seed}: {scene.happened} actions, {scene.probe.sent} forbidden packets")


@pytest.fixture
def open_lab() -> Iterator[Lab]:
    """A gateway that nothing guards."""
    with Lab(f"pyfw-open-{os.getpid()}") as lab:
        yield lab


def test_the_probe_sees_every_way_that_is_open(open_lab: Lab) -> None:
    """The control: without a firewall everything that is forbidden comes through."""
    with Probe(open_lab) as probe:
        seen: set[str] = set()

        def all_seen() -> bool:
            seen.update(leak.what for leak in probe.leaks())
            return len(seen) == len(WAYS) * 2 + 3 * 2       # UDP is told apart by its sender, TCP by its receiver alone

        wait_until(all_seen, "everything forbidden to come through")


def test_the_probe_sees_a_connection_that_dies(open_lab: Lab) -> None:
    """Another control: what cuts the cable for a while is seen as silence, what resets a connection as its end."""
    with Probe(open_lab) as probe:
        probe.hold()
        wait_until(lambda: probe.silent_s() < 0.5, "held connections to speak")
        open_lab.run("gateway", ["sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"])
        wait_until(lambda: probe.silent_s() > 1.0, "held connections to fall silent")
        assert not probe.broken()
        assert not probe.allowed(0.2)
        open_lab.run("gateway", ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        open_lab.run("server", ["ss", "-K", "sport", "=", "7001"])
        wait_until(lambda: len(probe.broken()) == 2, "held connections to end")


def test_the_same_seed_is_the_same_order() -> None:
    def order(seed: int) -> list[str]:
        scene = Scene(Path("/nowhere"), seed)
        return [scene.random.choices(ACTIONS, [action.weight for action in ACTIONS])[0].name for _ in range(20)]

    assert order(1) == order(1) != order(2)
