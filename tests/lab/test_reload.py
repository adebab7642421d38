"""Ten thousand rules are loaded again and again under traffic: no packet is lost, and what they say holds from then on."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.lab import SERVER, Lab

RULES = 10_000
PINGS = 5000                    # 10 s: two reloads at least, on a slow machine too


def write_rules(path: Path, verdict: str) -> None:
    listed = "".join(f"-A FORWARD -s 198.18.{number >> 8}.{number & 255}/32 -j DROP\n" for number in range(RULES))
    path.write_text(f"*filter\n:FORWARD DROP [0:0]\n{listed}-A FORWARD -p icmp -j {verdict}\nCOMMIT\n")


def lost_of(ping: subprocess.Popen[str]) -> int:
    report = ping.communicate(timeout=100)[0]
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", report).groups())
    assert sent == PINGS
    return sent - received


@pytest.mark.alone
def test_no_packet_is_lost(lab: Lab, tmp_path: Path) -> None:
    rules = tmp_path / "all.rules"
    write_rules(rules, "ACCEPT")
    (tmp_path / "pyfw.yaml").write_text("hooks: [FORWARD]\nrules: {file: all.rules}\n")
    ping = ["ping", "-q", "-n", "-i", "0.002", "-W", "1", "-c", str(PINGS), SERVER.ipv4]
    with Firewall(lab, tmp_path / "pyfw.yaml", tmp_path) as firewall:
        reload = [BIN / "pyfwctl", "--socket", firewall.socket, "reload"]
        for verdict, expected in (("ACCEPT", 0), ("DROP", PINGS)):     # the second time is the control
            write_rules(rules, verdict)
            subprocess.run(reload, check=True, capture_output=True)
            running = lab.start("client", ping, stdout=subprocess.PIPE, text=True)
            reloads = 0
            while running.poll() is None:
                done = subprocess.run(reload, capture_output=True, text=True)
                assert f"{RULES + 1} rules loaded" in done.stderr
                reloads += 1
            assert (lost_of(running), reloads > 1) == (expected, True)
