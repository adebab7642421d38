"""Interface names follow what happens to interfaces."""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import NetNS

from pyfw.edge.host.links import Links
from pyfw.lab import Lab


@pytest.fixture
def ip(lab: Lab) -> Iterator[NetNS]:
    """rtnetlink on the gateway, with a cable there of which both ends are loose."""
    with NetNS(lab.namespace("gateway")) as ip:
        ip.link("add", kind="veth", ifname="loose0", peer={"ifname": "loose1"})
        yield ip
        for index in ip.link_lookup(lambda link: link.get_attr("IFLA_IFNAME").startswith("loose"))[::2]:
            ip.link("del", index=index)


@pytest.fixture
def changes() -> list[dict[int, str]]:
    return []


@pytest.fixture
def links(lab: Lab, ip: NetNS, changes: list[dict[int, str]]) -> Iterator[Links]:
    with lab.inside("gateway"):
        links = Links(on_change=lambda names: changes.append(dict(names)))
    with links:
        yield links


def index_of(ip: NetNS, name: str) -> int:
    [index] = ip.link_lookup(ifname=name)
    return index


def test_what_is_there_at_the_start(links: Links, changes: list):
    assert {"lo", "eth0", "eth1", "loose0", "loose1"} == set(links.names.values())
    links.read()
    assert changes == []


def test_a_new_name(links: Links, ip: NetNS, changes: list):
    index = index_of(ip, "loose0")
    ip.link("set", index=index, ifname="loose9")
    links.read()
    assert changes == [links.names]
    assert links.names[index] == "loose9"


def test_interfaces_come_and_go(links: Links, ip: NetNS, changes: list):
    before = links.names
    ip.link("add", kind="veth", ifname="loose2", peer={"ifname": "loose3"})
    links.read()
    assert set(links.names.values()) - set(before.values()) == {"loose2", "loose3"}
    ip.link("del", index=index_of(ip, "loose2"))
    links.read()
    assert links.names == before == changes[-1]


def test_a_change_that_names_nothing_is_no_change(links: Links, ip: NetNS, changes: list):
    ip.link("set", index=index_of(ip, "loose0"), mtu=1400)
    links.read()
    assert changes == []


def test_lost_announcements_are_made_up_for(lab: Lab, links: Links, ip: NetNS, changes: list):
    index = index_of(ip, "loose0")
    for number in range(1000):
        ip.link("set", index=index, ifname=f"loose{number + 10}")
    assert dropped(lab, links) > 0
    links.read()
    assert links.names[index] == "loose1009"
    assert len(changes) == 1


def dropped(lab: Lab, links: Links) -> int:
    """How many announcements the kernel could not deliver, by the socket's line in /proc/net/netlink."""
    inode = str(os.fstat(links.fileno()).st_ino)
    with lab.inside("gateway"):
        rows = [line.split() for line in Path("/proc/thread-self/net/netlink").read_text().splitlines()]
    return next(int(row[8]) for row in rows if row[9] == inode)
