"""Nothing opens by itself: without a daemon, without Python, with a bad config, after others have restored their rules.

Each test has a container of its own, which it spoils.
"""
from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfw.lab import GATEWAY_INSIDE, wait_until
from service.container import RULES, Container, NewContainer, at_us

LAST_GOOD = "/var/lib/pyfw/last-good-rules"
# What others restore at boot: everything of theirs, and nothing of ours.
NFTABLES = "flush ruleset\ntable inet theirs {\n chain input {\n  type filter hook input priority 0;\n }\n}\n"
RESTORED = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n" \
           ":POSTROUTING ACCEPT [0:0]\n-A INPUT -m comment --comment theirs\nCOMMIT\n"
NEVER = "[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n"


@pytest.fixture
def installed(new_container: NewContainer, installation: Path) -> Iterator[Container]:
    """One of its own, for a test that spoils it."""
    with new_container(installation) as container:
        yield container


def write(container: Container, path: str, text: str) -> None:
    container.run("mkdir", "-p", str(Path(path).parent), check=True)
    container.run("tee", path, input=text, check=True)


def pings(container: Container) -> bool:
    return container.lab.run("client", ["ping", "-c1", "-W1", GATEWAY_INSIDE.ipv4]).returncode == 0


def never_starts(container: Container) -> None:
    write(container, "/etc/systemd/system/pyfw.service.d/never.conf", NEVER)


def is_closed(container: Container) -> bool:
    """The unit did its part, and nothing comes in.  The control: by hand it is opened."""
    assert container.run("systemctl", "is-active", "pyfw-closed").stdout == "active\n"
    closed = not pings(container)
    container.run("pyfw", "open", check=True)
    assert pings(container)
    return closed


def test_without_a_daemon_it_stays_closed(installed: Container) -> None:
    never_starts(installed)
    installed.reboot()
    assert installed.run("systemctl", "is-active", "pyfw").stdout == "failed\n"
    assert is_closed(installed)
    installed.run("systemctl", "disable", "pyfw", check=True)       # who disables the one disables the other
    installed.reboot()
    assert pings(installed)


def test_with_python_broken_it_stays_closed(installed: Container) -> None:
    """As a Debian does that comes to another Python."""
    installed.run("sh", "-c", "mv /opt/pyfw/lib/python3* /opt/pyfw/lib/gone", check=True)
    installed.reboot()
    assert installed.run("systemctl", "is-active", "pyfw").stdout != "active\n"
    assert installed.run("systemctl", "is-active", "pyfw-closed").stdout == "active\n"
    assert not pings(installed)


def test_with_a_bad_config_the_last_good_rules_serve_from_boot_on(installed: Container) -> None:
    good = installed.run("cat", RULES, check=True).stdout
    write(installed, RULES, "nonsense\n")
    for again in (lambda: installed.run("systemctl", "restart", "pyfw", check=True), installed.reboot):
        again()
        assert installed.run("systemctl", "is-active", "pyfw").stdout == "active\n"
        wait_until(lambda: "degraded: rules: serving the last good ones, of " in installed.journal("pyfw"), "the journal's line")
        assert "serving the last good ones, of " in installed.run("pyfwctl", "ping", check=True).stderr
        assert pings(installed)
    found = installed.run("stat", "--format=%U %a", LAST_GOOD, Path(LAST_GOOD).parent, check=True).stdout
    assert found == "pyfw 600\npyfw 700\n"
    write(installed, RULES, good)
    installed.run("systemctl", "reload", "pyfw", check=True)
    assert installed.run("pyfwctl", "ping", check=True).stderr == ""
    # Without them it is closed.
    write(installed, RULES, "nonsense\n")
    installed.run("rm", LAST_GOOD, check=True)
    installed.reboot()
    assert installed.run("systemctl", "is-active", "pyfw").stdout == "failed\n"
    assert is_closed(installed)


@pytest.mark.parametrize("daemon", [True, False])
def test_what_others_restore_at_boot_is_not_the_last_word(installed: Container, daemon: bool) -> None:
    write(installed, "/etc/nftables.conf", NFTABLES)
    for family in ("v4", "v6"):
        write(installed, f"/etc/iptables/rules.{family}", RESTORED)
    installed.run("systemctl", "enable", "nftables", "netfilter-persistent", check=True)
    if not daemon:
        never_starts(installed)
    installed.reboot()
    for unit in ("nftables", "netfilter-persistent"):
        assert installed.run("systemctl", "is-active", unit).stdout == "active\n"
        assert at_us(installed, unit, "ActiveEnter") < at_us(installed, "pyfw-closed", "InactiveExit")
    # One of the two has been before the other; the last of them, at least, has what it wanted.
    rules = installed.run("iptables-save", "-t", "mangle").stdout + installed.run("nft", "list", "ruleset").stdout
    assert "theirs" in rules
    assert "ordering cycle" not in installed.run("journalctl", "--boot", "--output=cat").stdout
    if daemon:
        assert installed.run("pyfwctl", "ping").returncode == 0
        before = judged(installed)
        assert pings(installed)
        assert judged(installed) > before
    else:
        assert is_closed(installed)


def judged(container: Container) -> int:
    """Packets that the daemon has answered."""
    container.run("pyfwctl", "ping", check=True)
    return json.loads(container.run("pyfwctl", "stats", "--json", check=True).stdout)["queue"]["packets"]


def test_a_daemon_that_ends_again_and_again_is_started_less_and_less_often(installed: Container) -> None:
    write(installed, "/etc/systemd/system/pyfw.service.d/short.conf",
          "[Service]\nExecStart=\nExecStart=/opt/pyfw/bin/pyfw run -c /etc/pyfw/pyfw.yaml --set queue.number=99\n")
    write(installed, "/root/holds.py", "import socket, netfilterqueue\nq = netfilterqueue.NetfilterQueue()\n"
                                       "q.bind(99, print)\nprint('held', flush=True)\ninput()\n")
    holder = installed.start("/opt/pyfw/bin/python", "/root/holds.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"        # that queue is another's: no start succeeds
    installed.run("systemctl", "daemon-reload", check=True)
    installed.run("systemctl", "restart", "--no-block", "pyfw", check=True)
    wait_until(lambda: int(installed.property("pyfw", "NRestarts")) >= 7, "several starts", 60)
    waits = [float(seconds) for seconds in re.findall(r"short lives in a row: waiting ([\d.]+) s", installed.journal("pyfw"))]
    assert waits[:2] == [0.25, 0.5]
    write(installed, "/etc/systemd/system/pyfw.service.d/short.conf", "")
    installed.run("systemctl", "daemon-reload", check=True)
    installed.run("systemctl", "restart", "pyfw", check=True)
    installed.run("pyfwctl", "ping", check=True)
