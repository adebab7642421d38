"""A boot: pyfw guards before anything else brings the network up, and goes last."""
from __future__ import annotations

import pytest

from service.container import Container, at_us


@pytest.fixture(scope="module")
def booted(guarding: Container) -> Container:
    """Booted with a service that sets the network up."""
    guarding.run("systemctl", "enable", "systemd-networkd.service", check=True)
    guarding.reboot()
    assert guarding.run("systemctl", "is-active", "systemd-networkd").stdout == "active\n"
    return guarding


@pytest.mark.parametrize("unit", ["network-pre.target", "systemd-networkd.service", "network.target", "ssh.service"])
def test_packets_are_judged_before(booted: Container, unit: str) -> None:
    """READY=1, which makes the unit active, is sent when the diversion is in place."""
    assert at_us(booted, "pyfw", "ActiveEnter") < at_us(booted, unit, "InactiveExit")


def test_it_waits_for_nothing_that_it_does_not_need(booted: Container) -> None:
    """Thus it is before sysinit.target's end, for which ordinary services wait; and no order is a circle."""
    after = set(booted.property("pyfw", "After").split())
    assert {"local-fs.target", "systemd-sysctl.service"} <= after
    assert not after & {"sysinit.target", "basic.target", "network.target", "dbus.service"}
    assert "ordering cycle" not in booted.run("journalctl", "--boot", "--output=cat").stdout


def test_at_shutdown_it_ends_when_the_network_has(booted: Container) -> None:
    booted.reboot()
    said = booted.run("journalctl", "--boot=-1", "--output=cat", "--unit=pyfw", "--unit=systemd-networkd").stdout.splitlines()
    last = {unit: {line.split()[0]: number for number, line in enumerate(said) if f" {unit}.service" in line}
            for unit in ("pyfw", "systemd-networkd")}
    assert last["systemd-networkd"]["Stopped"] < last["pyfw"]["Stopping"] < last["pyfw"]["Stopped"]


def test_the_network_is_closed_before_it_comes_up(booted: Container) -> None:
    assert at_us(booted, "pyfw-closed", "ActiveEnter") <= at_us(booted, "pyfw", "InactiveExit")
    assert at_us(booted, "pyfw-closed", "ActiveEnter") < at_us(booted, "systemd-networkd.service", "InactiveExit")
