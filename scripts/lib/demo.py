"""The demo: a table of sessions, each run through the gateway of a lab under config/pyfw.yaml.

For each: the command, what came of it, the rules whose counters moved (the last of a new
connection's first packet decided it), and the connections that `pyfwctl list-conntrack` shows
for it.
"""
from __future__ import annotations

import argparse
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import services
from firewall import Firewall
from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, Lab, LabError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "pyfw.yaml"
WIDTH = 100
INSIDE_PORT = 8080              # a server on the client's host, that nobody outside may reach

FILE4 = f"ftp://{SERVER.ipv4}/{services.FILE_NAME}"
FILE6 = f"ftp://[{SERVER.ipv6}]/{services.FILE_NAME}"


@dataclass(frozen=True)
class Session:
    """One command on one host, and what shows that it came out as it should."""

    title: str
    command: str
    expect: str                 # a regular expression that its output must match ...
    rules: tuple[str, ...]      # ... and parts of the rules that must have counted packets
    lines: tuple[str, ...] = () # expressions of which each must match a new line of list-conntrack; none: no new line
    role: str = "client"
    fails: bool = False         # the command must not succeed


ESTABLISHED = "--state ESTABLISHED -j ACCEPT"
FTP_CONTROL = '--comment "FTP control"'
FTP_DATA = '--comment "FTP data"'
ERRORS = '--comment "errors about known connections"'

TO_SERVER = f"src={CLIENT.ipv4} dst={SERVER.ipv4} "
TO_CLIENT = f"src={SERVER.ipv4} dst={CLIENT.ipv4} "
FTP_CONTROL_LINE = rf"^tcp .*? {TO_SERVER}sport=\d+ dport=21 "
ACTIVE_DATA_LINE = rf"^tcp .*? {TO_CLIENT}sport=20 dport=\d+ "
PASSIVE_DATA_LINE = rf"^tcp .*? {TO_SERVER}sport=\d+ dport=(?!21 )\d+ "

TO_SERVER6 = "src=2001:0db8:0001:0000:0000:0000:0000:0002 dst=2001:0db8:0002:0000:0000:0000:0000:0002 "
TO_CLIENT6 = "src=2001:0db8:0002:0000:0000:0000:0000:0002 dst=2001:0db8:0001:0000:0000:0000:0000:0002 "
FTP_CONTROL_LINE6 = FTP_CONTROL_LINE.replace("^tcp", "^ipv6 +10 tcp").replace(TO_SERVER, TO_SERVER6)
ACTIVE_DATA_LINE6 = ACTIVE_DATA_LINE.replace("^tcp", "^ipv6 +10 tcp").replace(TO_CLIENT, TO_CLIENT6)
PASSIVE_DATA_LINE6 = PASSIVE_DATA_LINE.replace("^tcp", "^ipv6 +10 tcp").replace(TO_SERVER, TO_SERVER6)

SESSIONS = (
    Session("ping", f"ping -c 2 -i 0.2 -W 2 {SERVER.ipv4}", "2 received",
            ("--icmp-type 8 ", ESTABLISHED),
            (rf"^icmp .*? {TO_SERVER}type=8 code=0 id=\d+ .*src={SERVER.ipv4} .*type=0 code=0",)),
    Session("ping over IPv6", f"ping -c 2 -i 0.2 -W 2 {SERVER.ipv6}", "2 received",
            ("--icmpv6-type 128 ", ESTABLISHED), (r"^ipv6 +10 icmpv6 ",)),
    Session("DNS", f"dig +short +time=2 +tries=1 @{SERVER.ipv4} {services.DNS_NAME}", rf"^{SERVER.ipv4}$",
            ("-p udp .*--comment DNS", ESTABLISHED), (rf"^udp .*? {TO_SERVER}sport=\d+ dport=53 ",)),
    Session("DNS over TCP", f"dig +tcp +short +time=2 +tries=1 @{SERVER.ipv4} {services.DNS_NAME}", rf"^{SERVER.ipv4}$",
            ("-p tcp .*--comment DNS", ESTABLISHED), (rf"^tcp .*? {TO_SERVER}sport=\d+ dport=53 .*\[ASSURED\]",)),
    Session("HTTP", f"curl -sS -m 5 http://{SERVER.ipv4}/{services.FILE_NAME}", "^Hello",
            ("--comment HTTP ", ESTABLISHED), (rf"^tcp .*? {TO_SERVER}sport=\d+ dport=80 .*\[ASSURED\]",)),
    Session("HTTP over IPv6", f"curl -sS -m 5 http://[{SERVER.ipv6}]/{services.FILE_NAME}", "^Hello",
            ("--comment HTTP ", ESTABLISHED), (r"^ipv6 +10 tcp .* dport=80 .*\[ASSURED\]",)),
    Session("ssh", f"ssh-keyscan -T 5 -t ed25519 {SERVER.ipv4}", "SSH-2.0-OpenSSH",
            ("--comment ssh", ESTABLISHED), (rf"^tcp .*? {TO_SERVER}sport=\d+ dport=22 .*\[ASSURED\]",)),
    Session("FTP active (PORT), curl", f"curl -sS -m 5 -P - --disable-eprt {FILE4}", "^Hello",
            (FTP_CONTROL, FTP_DATA, ESTABLISHED), (FTP_CONTROL_LINE, ACTIVE_DATA_LINE)),
    Session("FTP active (EPRT), curl, IPv6", f"curl -sS -m 5 -P - {FILE6}", "^Hello",
            (FTP_CONTROL, FTP_DATA, ESTABLISHED), (FTP_CONTROL_LINE6, ACTIVE_DATA_LINE6)),
    Session("FTP passive (PASV), curl", f"curl -sS -m 5 --disable-epsv {FILE4}", "^Hello",
            (FTP_CONTROL, FTP_DATA, ESTABLISHED), (FTP_CONTROL_LINE, PASSIVE_DATA_LINE)),
    Session("FTP passive (EPSV), curl, IPv6", f"curl -sS -m 5 {FILE6}", "^Hello",
            (FTP_CONTROL, FTP_DATA, ESTABLISHED), (FTP_CONTROL_LINE6, PASSIVE_DATA_LINE6)),
    Session("FTP active, lftp", f"lftp -c 'set ftp:passive-mode off; open {SERVER.ipv4}; cat {services.FILE_NAME}'", "^Hello",
            (FTP_CONTROL, FTP_DATA, ESTABLISHED), (FTP_CONTROL_LINE, ACTIVE_DATA_LINE)),
    Session("FTP passive, lftp", f"lftp -c 'set ftp:passive-mode on; open {SERVER.ipv4}; cat {services.FILE_NAME}'", "^Hello",
            (FTP_CONTROL, FTP_DATA, ESTABLISHED), (FTP_CONTROL_LINE, PASSIVE_DATA_LINE)),
    Session("traceroute: errors from the gateway and from the server",
            f"traceroute -n -q 1 -w 2 -m 3 {SERVER.ipv4}", rf"1  {GATEWAY_INSIDE.ipv4} .*\n 2  {SERVER.ipv4} ",
            ("--comment traceroute", ERRORS),
            (rf"^udp .*? {TO_SERVER}sport=\d+ dport=334\d\d .*\[UNREPLIED\]",)),
    Session("from the gateway itself: the server on the client's host does answer",
            f"curl -sS -m 5 http://{CLIENT.ipv4}:{INSIDE_PORT}/{services.FILE_NAME}", "^Hello",
            ("-A OUTPUT .*--state NEW", "-A INPUT .*ESTABLISHED -j ACCEPT"),
            (rf"^tcp .* dport={INSIDE_PORT} .*\[ASSURED\]",), role="gateway"),
    Session("from outside, unasked: the same server must not be reached",
            f"curl -sS -m 2 http://{CLIENT.ipv4}:{INSIDE_PORT}/{services.FILE_NAME}", "timed out|timeout",
            ("-A FORWARD -j LOG", "-P FORWARD DROP"), role="server", fails=True),
    Session("from outside, over IPv6: nor so",
            f"curl -sS -m 2 http://[{CLIENT.ipv6}]:{INSIDE_PORT}/{services.FILE_NAME}", "timed out|timeout",
            ("-A FORWARD -j LOG", "-P FORWARD DROP"), role="server", fails=True),
    Session("from inside, a port that the policy does not name", f"curl -sS -m 2 http://{SERVER.ipv4}:{INSIDE_PORT}/",
            "timed out|timeout", ("-A FORWARD -j LOG", "-P FORWARD DROP"), fails=True),
)


def show(label: str, text: str) -> None:
    """Print a text under its label, folded at WIDTH."""
    print(textwrap.fill(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label) + "  ",
                        break_long_words=False, break_on_hyphens=False))


class Demo:
    """Runs sessions on a lab, and prints."""

    def __init__(self, lab: Lab, firewall: Firewall) -> None:
        self.lab = lab
        self.firewall = firewall
        terminal = sys.stdout.isatty()
        self.bold, self.green, self.red, self.plain = (
            ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if terminal else ("", "", "", ""))

    def run(self, number: int, session: Session) -> bool:
        """Run one session; whether it came out as it should."""
        before = self._snapshot()
        result = self.lab.run(session.role, shlex.split(session.command))
        packets, connections = self._snapshot()
        counted = {rule: count - before[0].get(rule, 0) for rule, count in packets.items()
                   if count > before[0].get(rule, 0)}
        lines = [line for identity, line in connections.items() if identity not in before[1]]
        defects = list(_defects(session, result, counted, lines))

        print(f"\n{self.bold}{number}. {session.title}{self.plain}")
        show(f"{session.role}$ ", session.command)
        for line in (result.stdout + result.stderr).splitlines():
            if line.strip() and not line.startswith("#"):
                show("    ", line)
        for rule, count in counted.items():
            show(f"  {count:>4} packet{' ' if count == 1 else 's'}  ", rule)
        for line in lines:
            show("  table  ", line)
        if not lines:
            print("  table  nothing new")
        for defect in defects:
            print(f"  {self.red}NOT as it should be: {defect}{self.plain}")
        return not defects

    def _snapshot(self) -> tuple[dict[str, int], dict[str, str]]:
        """Packets by rule; connections by what identifies them, their lines as listed."""
        lines = self.firewall.connections("-f", "ipv4") + self.firewall.connections("-f", "ipv6", "-o", "nf")
        return self.firewall.rule_packets(), {_identity(line): line for line in lines}


def _identity(line: str) -> str:
    """The protocol and the original tuple: the rest of a line changes with time."""
    protocol = line.partition(" ")[0]
    found = re.search(r"src=\S+ dst=\S+ (?:sport=\S+ dport=\S+|type=\S+ code=\S+ id=\S+)?", line)
    return f"{protocol} {found[0] if found else line}"


def _defects(session: Session, result: subprocess.CompletedProcess, counted: dict[str, int], lines: list[str]):
    output = result.stdout + result.stderr
    if (result.returncode != 0) != session.fails:
        yield f"exit status {result.returncode}"
    if not re.search(session.expect, output, re.MULTILINE):
        yield f"its output does not say {session.expect!r}"
    for part in session.rules:
        if not any(re.search(part, rule) for rule in counted):
            yield f"no packet was counted by the rule {part!r}"
    for expression in session.lines:
        if not any(re.search(expression, line) for line in lines):
            yield f"no new connection {expression!r}"
    if lines and not session.lines:
        yield "a connection came into being"


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Real sessions through a gateway guarded by pyfw.")
    parser.add_argument("--lab", default="pyfw-demo", help="name of the lab to build (default: %(default)s)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    with tempfile.TemporaryDirectory(prefix="pyfw-demo-", dir="/run") as scratch, Lab(args.lab) as lab:
        directory = Path(scratch)
        services.start_dns(lab, "server", SERVER.ipv4)
        services.start_http(lab, "server", directory)
        services.start_ssh(lab, "server", directory)
        services.start_ftp(lab, "server", directory)
        services.start_http(lab, "client", directory, INSIDE_PORT)
        services.start_http(lab, "server", directory, INSIDE_PORT)
        with Firewall(lab, CONFIG, directory) as firewall:
            print(f"pyfw guards {lab.namespace('gateway')} with {CONFIG.relative_to(ROOT)}:")
            for line in lab.status():
                show("  ", line)
            demo = Demo(lab, firewall)
            passed = [demo.run(number, session) for number, session in enumerate(SESSIONS, 1)]

    print(f"\n{demo.bold}What passed{demo.plain}")
    for session, good in zip(SESSIONS, passed, strict=True):
        print(f"  {demo.green + 'passed' if good else demo.red + 'FAILED'}{demo.plain}  {session.title}")
    print(f"\n{sum(passed)} of {len(SESSIONS)} passed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LabError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
