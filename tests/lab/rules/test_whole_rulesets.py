"""A whole machine's dump is loaded: filter and raw serve in pyfw, the other tables in the kernel, and the diversion stays."""
from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.lab import SERVER, Lab

NAT = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o nowhere -j MASQUERADE\nCOMMIT\n"
MANGLE = ("*mangle\n:FORWARD ACCEPT [0:0]\n:mine - [0:0]\n:PYFW-FORWARD - [0:0]\n-A FORWARD -j PYFW-FORWARD\n-A FORWARD -j mine\n"
          "-A mine -p tcp -j MARK --set-mark 7\n-A PYFW-FORWARD -j NFQUEUE --queue-num 99\nCOMMIT\n")
FILTER = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p icmp -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def firewall(lab: Lab, tmp_path: Path) -> Iterator[Firewall]:
    (tmp_path / "all.rules").write_text(MANGLE + NAT + FILTER)
    (tmp_path / "pyfw.yaml").write_text("hooks: [INPUT, FORWARD]\nother_tables: kernel\nrules: {file: all.rules}\n")
    with Firewall(lab, tmp_path / "pyfw.yaml", tmp_path) as firewall:
        yield firewall


def restored(firewall: Firewall, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "pyfw-iptables-restore", *options], input=text, capture_output=True, text=True, timeout=30,
                          env={"PYFW_SOCKET": str(firewall.socket), "PATH": "/usr/bin:/bin"}, check=False)


def rules(lab: Lab, table: str) -> list[str]:
    return lab.run("gateway", ["iptables", "-t", table, "-S"], check=True).stdout.splitlines()


def pings(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c", "1", "-W", "1", SERVER.ipv4]).returncode == 0


def test_other_tables_serve_in_the_kernel(lab: Lab, firewall: Firewall, tmp_path: Path) -> None:
    assert "-A POSTROUTING -o nowhere -j MASQUERADE" in rules(lab, "nat")
    mangle = rules(lab, "mangle")
    assert "-A FORWARD -j mine" in mangle
    assert "-A INPUT -j PYFW-INPUT" in mangle
    assert "-A mine -p tcp -j MARK --set-xmark 0x7/0xffffffff" in mangle
    assert not any("queue-num 99" in line for line in mangle)
    assert pings(lab)

    (tmp_path / "all.rules").write_text(NAT.replace("nowhere", "elsewhere") + FILTER.replace("ACCEPT\n", "DROP\n"))
    subprocess.run([BIN / "pyfwctl", "reload"], env={"PYFW_SOCKET": str(firewall.socket)}, check=True, timeout=30)
    assert [line for line in rules(lab, "nat") if "MASQUERADE" in line] == ["-A POSTROUTING -o elsewhere -j MASQUERADE"]
    assert not pings(lab)


def test_a_restored_text_brings_them_too(lab: Lab, firewall: Firewall) -> None:
    assert restored(firewall, NAT.replace("nowhere", "dummy7") + FILTER).returncode == 0
    assert [line for line in rules(lab, "nat") if "MASQUERADE" in line] == ["-A POSTROUTING -o dummy7 -j MASQUERADE"]
    refused = restored(firewall, NAT.replace("MASQUERADE", "NONSENSE") + FILTER.replace("ACCEPT\n", "DROP\n"))
    assert refused.returncode == 4
    assert "NONSENSE" in refused.stderr
    assert pings(lab)           # nothing of the text counts
    assert restored(firewall, "*nat\n-A POSTROUTING -o dummy8 -j MASQUERADE\nCOMMIT\n", "--noflush").returncode == 0
    assert len([line for line in rules(lab, "nat") if "MASQUERADE" in line]) == 2
