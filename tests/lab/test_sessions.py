"""Live sessions through a default-deny gateway: each with the one rule that allows it, and as control
without that rule (or with its helper off), when it must fail, be counted, and leave no trace.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import services
from firewall import Firewall
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

pytestmark = pytest.mark.usefixtures("servers")

C4, S4, C6, S6 = CLIENT.ipv4, SERVER.ipv4, CLIENT.ipv6, SERVER.ipv6
FULL_C6 = "2001:0db8:0001:0000:0000:0000:0000:0002"
FULL_S6 = "2001:0db8:0002:0000:0000:0000:0000:0002"
FILE = services.FILE_NAME

KNOWN = "-m state --state ESTABLISHED -j ACCEPT"
RELATED = "-m state --state RELATED -j ACCEPT"
POLICY = "-P FORWARD DROP"


def tcp(port: int, state: str = "TIME_WAIT") -> str:
    """A finished TCP connection from the client, as list-conntrack shows it; `*` stands for any number."""
    return (f"tcp      6 * {state} src={C4} dst={S4} sport=* dport={port} packets=* bytes=* "
            f"src={S4} dst={C4} sport={port} dport=* packets=* bytes=* [ASSURED] mark=0 use=1")


def tcp6(port: int) -> str:
    return (f"ipv6     10 tcp      6 * TIME_WAIT src={FULL_C6} dst={FULL_S6} sport=* dport={port} packets=* bytes=* "
            f"src={FULL_S6} dst={FULL_C6} sport={port} dport=* packets=* bytes=* [ASSURED] mark=0 use=1")


def matches(template: str, line: str) -> bool:
    return re.fullmatch(re.escape(template).replace(r"\*", r"\d+"), line) is not None


@dataclass(frozen=True)
class Session:
    command: str
    says: str                       # what its output must match
    allow: str                      # the rule that its first packet needs
    opens: int                      # packets which that rule decides
    line: str                       # the connection, as list-conntrack shows it
    arguments: tuple[str, ...] = () # of list-conntrack


NF6 = ("-f", "ipv6", "-o", "nf")
SESSIONS = {
    "ping": Session(
        f"ping -c 1 -W 1 {S4}", "1 received", "-p icmp -m icmp --icmp-type 8 -j ACCEPT", 1,
        f"icmp     1 * src={C4} dst={S4} type=8 code=0 id=* packets=1 bytes=84 "
        f"src={S4} dst={C4} type=0 code=0 id=* packets=1 bytes=84 mark=0 use=1"),
    "ping6": Session(
        f"ping -c 1 -W 1 {S6}", "1 received", "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT", 1,
        f"ipv6     10 icmpv6   58 * src={FULL_C6} dst={FULL_S6} type=128 code=0 id=* packets=1 bytes=104 "
        f"src={FULL_S6} dst={FULL_C6} type=129 code=0 id=* packets=1 bytes=104 mark=0 use=1", NF6),
    "dns": Session(
        f"dig +short +time=1 +tries=1 @{S4} {services.DNS_NAME}", rf"^{S4}$",
        "-p udp -m udp --dport 53 -m state --state NEW -j ACCEPT", 1,
        f"udp      17 * src={C4} dst={S4} sport=* dport=53 packets=1 bytes=* "
        f"src={S4} dst={C4} sport=53 dport=* packets=1 bytes=* mark=0 use=1"),
    "dns over tcp": Session(
        f"dig +tcp +short +time=1 +tries=1 @{S4} {services.DNS_NAME}", rf"^{S4}$",
        "-p tcp -m tcp --dport 53 -m state --state NEW -j ACCEPT", 1, tcp(53)),
    "http": Session(
        f"curl -sS -m 2 http://{S4}/{FILE}", "^Hello",
        "-p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT", 1, tcp(80)),
    "http over ipv6": Session(
        f"curl -sS -m 2 http://[{S6}]/{FILE}", "^Hello",
        "-p tcp -m tcp --dport 80 -m state --state NEW -j ACCEPT", 1, tcp6(80), NF6),
    "ssh": Session(
        f"ssh-keyscan -T 2 -t ed25519 {S4}", "SSH-2.0-OpenSSH",
        "-p tcp -m tcp --dport 22 -m state --state NEW -j ACCEPT", 1, tcp(22)),
}
EACH_SESSION = pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)


@EACH_SESSION
def test_a_session_with_its_rule(session: Session, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, session.allow])
    result = lab.run("client", shlex.split(session.command))
    assert re.search(session.says, result.stdout + result.stderr, re.MULTILINE)

    wait_until(lambda: any(matches(session.line, line) for line in firewall.connections(*session.arguments)),
               f"{session.line} in list-conntrack", 3)
    assert len(firewall.connections(*session.arguments)) == 1
    packets = firewall.rule_packets()
    assert packets[f"-A FORWARD {session.allow}"] == session.opens
    assert packets[f"-A FORWARD {KNOWN}"] >= 1
    assert packets[POLICY] == 0


@EACH_SESSION
def test_the_same_session_without_its_rule(session: Session, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN])
    result = lab.run("client", shlex.split(session.command))
    assert not re.search(session.says, result.stdout + result.stderr, re.MULTILINE)

    assert firewall.connections(*session.arguments) == []
    packets = firewall.rule_packets()
    assert packets[POLICY] >= 1
    assert packets[f"-A FORWARD {KNOWN}"] == 0


# -- FTP --------------------------------------------------------------------------------------------------

FTP_COMMANDS = {
    "PORT curl": f"curl -sS -m 2 -P - --disable-eprt ftp://{S4}/{FILE}",
    "EPRT curl": f"curl -sS -m 2 -P - ftp://{S4}/{FILE}",
    "EPRT curl ipv6": f"curl -sS -m 2 -P - ftp://[{S6}]/{FILE}",
    "PASV curl": f"curl -sS -m 2 --disable-epsv ftp://{S4}/{FILE}",
    "EPSV curl": f"curl -sS -m 2 ftp://{S4}/{FILE}",
    "EPSV curl ipv6": f"curl -sS -m 2 ftp://[{S6}]/{FILE}",
    "PORT lftp": f"lftp -c 'set ftp:passive-mode off; set net:timeout 2; set net:max-retries 1; open {S4}; cat {FILE}'",
    "PASV lftp": f"lftp -c 'set ftp:passive-mode on; set net:timeout 2; set net:max-retries 1; open {S4}; cat {FILE}'",
}
EACH_FTP = pytest.mark.parametrize("command", FTP_COMMANDS.values(), ids=FTP_COMMANDS)
FTP_CONTROL = "-i eth1 -p tcp -m tcp --dport 21 -m state --state NEW -j ACCEPT"


@EACH_FTP
def test_ftp_transfers_with_its_helper(command: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, RELATED, FTP_CONTROL])
    result = lab.run("client", shlex.split(command))
    assert result.stdout == services.FILE_TEXT, result.stderr

    packets = firewall.rule_packets()
    assert packets[f"-A FORWARD {FTP_CONTROL}"] == 1
    assert packets[f"-A FORWARD {RELATED}"] == 1, "the data connection's SYN"
    assert packets[POLICY] == 0
    connections = firewall.connections("-o", "nf")
    assert sorted(" dport=21 " in line for line in connections) == [False, True], connections


@EACH_FTP
def test_ftp_does_not_transfer_without_its_helper(command: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, RELATED, FTP_CONTROL], helpers={})
    result = lab.run("client", shlex.split(command))
    assert services.FILE_TEXT not in result.stdout

    packets = firewall.rule_packets()
    assert packets[f"-A FORWARD {FTP_CONTROL}"] == 1
    assert packets[f"-A FORWARD {RELATED}"] == 0
    assert packets[POLICY] >= 1
    assert len(firewall.connections("-o", "nf")) == 1, "the control connection alone"


# -- errors, refusals, strangers ------------------------------------------------------------------------------

TRACE = "-p udp -m udp --dport 33434:33534 -m state --state NEW -j ACCEPT"


@pytest.mark.parametrize("address", [S4, S6])
def test_icmp_errors_come_back_as_related(address: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, RELATED, TRACE])
    result = lab.run("client", ["traceroute", "-n", "-q", "1", "-N", "1", "-w", "1", "-f", "2", "-m", "2", address])
    assert re.search(rf"^ 2  {address} ", result.stdout, re.MULTILINE), result.stdout
    packets = firewall.rule_packets()
    assert (packets[f"-A FORWARD {TRACE}"], packets[f"-A FORWARD {RELATED}"], packets[POLICY]) == (1, 1, 0)
    [line] = firewall.connections("-o", "nf", "-p", "udp")
    assert "[UNREPLIED]" in line
    assert " packets=1 " in line


@pytest.mark.parametrize("address", [S4, S6])
def test_icmp_errors_are_lost_without_related(address: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, TRACE])
    result = lab.run("client", ["traceroute", "-n", "-q", "1", "-N", "1", "-w", "1", "-f", "2", "-m", "2", address])
    assert re.search(r"^ 2  \*$", result.stdout, re.MULTILINE), result.stdout
    packets = firewall.rule_packets()
    assert (packets[f"-A FORWARD {TRACE}"], packets[POLICY]) == (1, 1)


def test_a_refused_connection_leaves_nothing(lab: Lab, guard: Guard) -> None:
    """The server's RST comes through as ESTABLISHED and takes the entry with it."""
    allow = "-p tcp -m tcp --dport 81 -j ACCEPT"
    firewall = guard(FORWARD=[KNOWN, allow])
    result = lab.run("client", ["curl", "-sS", "-m", "2", f"http://{S4}:81/"])
    assert result.returncode == 7, result.stderr
    packets = firewall.rule_packets()
    assert (packets[f"-A FORWARD {allow}"], packets[f"-A FORWARD {KNOWN}"]) == (1, 1)
    assert firewall.connections() == []


INSIDE = "-i eth1 -o eth0 -m state --state NEW -j ACCEPT"


@pytest.mark.parametrize("address", [C4, f"[{C6}]"])
def test_a_stranger_does_not_get_in(address: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, INSIDE])
    stranger = lab.run("server", ["curl", "-sS", "-m", "1", f"http://{address}:8080/{FILE}"])
    assert stranger.returncode == 28, "timed out"
    packets = firewall.rule_packets()
    assert packets[POLICY] >= 1
    assert packets[f"-A FORWARD {INSIDE}"] == 0
    assert firewall.connections("-o", "nf") == []


@pytest.mark.parametrize("address", [C4, f"[{C6}]"])
def test_a_stranger_gets_in_where_a_rule_says_so(address: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, "-i eth0 -p tcp -m tcp --dport 8080 -j ACCEPT"])
    guest = lab.run("server", ["curl", "-sS", "-m", "2", f"http://{address}:8080/{FILE}"])
    assert guest.stdout == services.FILE_TEXT
    assert firewall.rule_packets()[POLICY] == 0


REJECTIONS = {
    "tcp-reset": (f"curl -sS -m 3 http://{S4}:8080/", "-p tcp -j REJECT --reject-with tcp-reset"),
    "tcp-reset ipv6": (f"curl -sS -m 3 http://[{S6}]:8080/", "-p tcp -j REJECT --reject-with tcp-reset"),
    "icmp-port-unreachable": (f"curl -sS -m 3 http://{S4}:8080/", "-p tcp -j REJECT --reject-with icmp-port-unreachable"),
    "icmp-admin-prohibited": (f"curl -sS -m 3 http://{S4}:8080/", "-p tcp -j REJECT --reject-with icmp-admin-prohibited"),
}


@pytest.mark.parametrize(("command", "rule"), REJECTIONS.values(), ids=REJECTIONS)
def test_reject_says_no_at_once(command: str, rule: str, lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=[KNOWN, rule])
    result = lab.run("client", shlex.split(command))
    assert result.returncode == 7, "failed to connect: refused or unreachable, not timed out"
    assert firewall.rule_packets()[f"-A FORWARD {rule}"] == 1
    assert firewall.connections("-o", "nf") == []


def test_drop_says_nothing(lab: Lab, guard: Guard) -> None:
    """The control of REJECT: the same connection, dropped, times out."""
    guard(FORWARD=[KNOWN, "-p tcp -j DROP"])
    assert lab.run("client", ["curl", "-sS", "-m", "1", f"http://{S4}:8080/"]).returncode == 28
