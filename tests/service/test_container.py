"""The container itself: what the other tests take for granted."""
from __future__ import annotations

from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER


def test_it_is_a_whole_debian_with_systemd_at_its_head(container):
    assert container.run("systemctl", "is-system-running").stdout == "running\n"
    assert container.run("cat", "/proc/1/comm").stdout == "systemd\n"


def test_it_stands_in_the_labs_gateway(container):
    links = container.run("ip", "-brief", "address", check=True).stdout
    assert GATEWAY_INSIDE.ipv4 in links
    assert container.lab.run("client", ["ping", "-c1", "-W2", GATEWAY_INSIDE.ipv4]).returncode == 0
    assert container.lab.run("client", ["ping", "-c1", "-W2", SERVER.ipv4]).returncode == 0
    assert container.run("ping", "-c1", "-W2", CLIENT.ipv4).returncode == 0


def test_a_boot_keeps_the_files_and_ends_the_processes(container):
    leader = container.leader
    container.run("sh", "-c", "echo kept >/root/kept; echo gone >/run/gone", check=True)
    container.reboot()
    assert container.leader != leader
    assert container.run("cat", "/root/kept").stdout == "kept\n"
    assert container.run("cat", "/run/gone").returncode != 0
