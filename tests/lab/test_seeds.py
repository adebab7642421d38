"""Rulesets that textbooks and articles about connection tracking give for a single host, on a live host: each
loads, and does what the text around it says.  The host is the lab's client, its peer the server, but where
the host is itself the server.
"""
from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet

import services
from firewall import Firewall
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

HOST, PEER = CLIENT.ipv4, SERVER.ipv4
WEB_PAGE = f"http://{PEER}/{services.FILE_NAME}"
FTP_FILE = f"ftp://{PEER}/{services.FILE_NAME}"
VARIABLES = {"IPADDR": HOST, "NAME_SERVER": PEER, "REMOTE_SSH_SERVER": PEER, "UNPRIVPORTS": "1024:65535",
             "INTERFACE": "eth0"}
CLOSED_PORT = 4001


@pytest.fixture(autouse=True)
def peer_servers(lab: Lab, shared_directory: Path) -> None:
    services.start_dns(lab, "server", PEER)
    services.start_http(lab, "server", shared_directory)
    services.start_ftp(lab, "server", shared_directory)
    services.start_http(lab, "client", shared_directory, 8080)


@pytest.fixture
def sshd(lab: Lab, shared_directory: Path) -> None:
    services.start_ssh(lab, "server", shared_directory)


def fetches(lab: Lab, *arguments: str, role: str = "client") -> bool:
    return lab.run(role, ["curl", "-sS", "-m", "1", *arguments]).stdout == services.FILE_TEXT


def is_fetched_from(lab: Lab) -> bool:
    return fetches(lab, f"http://{HOST}:8080/{services.FILE_NAME}", role="server")


def resolves(lab: Lab, *arguments: str) -> bool:
    command = ["dig", "+short", "+time=1", "+tries=1", f"@{PEER}", services.DNS_NAME, *arguments]
    return lab.run("client", command).stdout == f"{PEER}\n"


def pings(lab: Lab, role: str, address: str) -> bool:
    return lab.run(role, ["ping", "-c", "1", "-W", "1", address]).returncode == 0


def reaches_ssh(lab: Lab) -> bool:
    result = lab.run("client", ["ssh-keyscan", "-T", "1", "-t", "ed25519", PEER])
    return "SSH-2.0" in result.stdout + result.stderr


def send(lab: Lab, role: str, packet: Packet) -> None:
    with lab.inside(role), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(packet), (packet.dst, 0))


def send_datagram(lab: Lab, sport: int, dport: int) -> None:
    with lab.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((HOST, sport))
        sender.sendto(b"", (PEER, dport))


def error_about_datagram(sport: int, dport: int, **icmp: int | str) -> Packet:
    """An ICMP error that the peer sends about the host's datagram."""
    return IP(src=PEER, dst=HOST) / ICMP(**icmp) / IP(src=HOST, dst=PEER) / UDP(sport=sport, dport=dport)


def wait_counted(firewall: Firewall, rule: str, packets: int) -> None:
    wait_until(lambda: firewall.rule_packets()[rule] == packets, f"{packets} packets at {rule}", 3)


# -- Linux Security: DNS, server to server, port 53 to port 53 ---------------------------------------------------

DNS_INPUT = ["-m state --state ESTABLISHED,RELATED -j ACCEPT"]
DNS_OUTPUT = ["--out-interface $INTERFACE -p udp -s $IPADDR --source-port 53 -d $NAME_SERVER --destination-port 53 "
              "-m state --state NEW,RELATED -j ACCEPT"]


def test_dns_between_ports_53(lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=DNS_INPUT, OUTPUT=DNS_OUTPUT, variables=VARIABLES)
    assert resolves(lab, "-b", f"{HOST}#53")
    [line] = firewall.connections()
    assert f"src={HOST} dst={PEER} sport=53 dport=53 packets=1 " in line
    assert "[UNREPLIED]" not in line
    assert [count for rule, count in firewall.rule_packets().items() if rule.startswith("-A")] == [1, 1]


@pytest.mark.parametrize("arguments", [(), ("-b", f"{HOST}#53", "+tcp")], ids=["another source port", "tcp"])
def test_no_dns_otherwise(arguments: tuple[str, ...], lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=DNS_INPUT, OUTPUT=DNS_OUTPUT, variables=VARIABLES)
    assert not resolves(lab, *arguments)
    assert firewall.rule_packets()["-P OUTPUT DROP"] >= 1
    assert firewall.connections() == []


def test_invalid_is_the_error_or_reply_that_answers_nothing(lab: Lab, guard: Guard) -> None:
    """And the same error is RELATED once the host has sent what it is about."""
    invalid, related = "-m state --state INVALID -j DROP", "-p icmp -m state --state RELATED -j ACCEPT"
    firewall = guard(role="client", INPUT=[invalid, related], OUTPUT=[], policies={"OUTPUT": "ACCEPT"})
    error = error_about_datagram(4000, CLOSED_PORT, type="dest-unreach", code="port-unreachable")
    send(lab, "server", IP(src=PEER, dst=HOST) / ICMP(type="echo-reply", id=77))
    send(lab, "server", error)
    wait_counted(firewall, f"-A INPUT {invalid}", 2)
    assert firewall.rule_packets()[f"-A INPUT {related}"] == 0

    send_datagram(lab, 4000, CLOSED_PORT)               # the peer itself answers with the error
    wait_counted(firewall, f"-A INPUT {related}", 1)
    send(lab, "server", error)
    wait_counted(firewall, f"-A INPUT {related}", 2)
    assert firewall.rule_packets()[f"-A INPUT {invalid}"] == 2


# -- Linux Security: ssh that outlives its entry in the table ----------------------------------------------------

SSH_INPUT = ["-m state --state ESTABLISHED,RELATED -j ACCEPT",
             "--in-interface $INTERFACE -p tcp ! --syn -s $REMOTE_SSH_SERVER --source-port 22 "
             "-d $IPADDR --destination-port $UNPRIVPORTS -j ACCEPT"]
SSH_OUTPUT = ["-m state --state ESTABLISHED,RELATED -j ACCEPT",
              "--out-interface $INTERFACE -p tcp -s $IPADDR --source-port $UNPRIVPORTS "
              "-d $REMOTE_SSH_SERVER --destination-port 22 -m state --state NEW -j ACCEPT",
              "--out-interface $INTERFACE -p tcp ! --syn -s $IPADDR --source-port $UNPRIVPORTS "
              "-d $REMOTE_SSH_SERVER --destination-port 22 -j ACCEPT"]


@pytest.fixture
def session(lab: Lab) -> Iterator[Callable[[], dict[str, socket.socket]]]:
    """session() opens a TCP connection to the peer's port 22; its ends by role."""
    opened: list[socket.socket] = []

    def connect() -> dict[str, socket.socket]:
        with lab.inside("server"):
            listener = socket.create_server((PEER, 22))
        opened.append(listener)
        with lab.inside("client"):
            client = socket.create_connection((PEER, 22), timeout=2)
        opened.append(client)
        server, _ = listener.accept()
        opened.append(server)
        server.settimeout(2)
        return {"client": client, "server": server}

    yield connect
    for end in opened:
        end.close()


def say(ends: dict[str, socket.socket], speaker: str) -> bool:
    """Whether what one end says reaches the other."""
    hearer = ends["server" if speaker == "client" else "client"]
    ends[speaker].sendall(b"word")
    try:
        return hearer.recv(16) == b"word"
    except TimeoutError:
        return False


@pytest.mark.usefixtures("sshd")
def test_ssh_to_the_one_server_and_nothing_else(lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=SSH_INPUT, OUTPUT=SSH_OUTPUT, variables=VARIABLES)
    assert reaches_ssh(lab)
    assert not fetches(lab, WEB_PAGE)
    [line] = firewall.connections("-p", "tcp")
    assert " dport=22 " in line
    assert "[ASSURED]" in line


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_a_session_lives_on_when_its_entry_is_gone(speaker: str, guard: Guard, session: Callable) -> None:
    """Whoever speaks first after the loss."""
    firewall = guard(role="client", INPUT=SSH_INPUT, OUTPUT=SSH_OUTPUT, variables=VARIABLES)
    ends = session()
    assert say(ends, "client")
    assert say(ends, "server")
    firewall.ctl("flush", check=True)
    assert firewall.connections() == []
    assert say(ends, speaker)


def test_without_the_rules_for_lost_entries_it_does_not(guard: Guard, session: Callable) -> None:
    """The control: when the server speaks first after the loss, that is NEW from outside."""
    firewall = guard(role="client", INPUT=SSH_INPUT[:1], OUTPUT=SSH_OUTPUT[:2], variables=VARIABLES)
    ends = session()
    assert say(ends, "client")
    assert say(ends, "server")
    firewall.ctl("flush", check=True)
    assert not say(ends, "server")
    assert firewall.rule_packets()["-P INPUT DROP"] >= 1


# -- the user-land states, and UNTRACKED ---------------------------------------------------------------------------


def test_untracked_traffic_has_no_entry_and_no_related_errors(lab: Lab, guard: Guard) -> None:
    untracked, related, invalid = (f"-p {protocol} -m state --state {state} -j {target}" for protocol, state, target in (
        ("udp", "UNTRACKED", "ACCEPT"), ("icmp", "RELATED", "ACCEPT"), ("icmp", "INVALID", "DROP")))
    firewall = guard(role="client", raw={"OUTPUT": [f"-p udp -m udp --dport {CLOSED_PORT} -j NOTRACK"]},
                     INPUT=[related, invalid], OUTPUT=[untracked, "-p udp -m state --state NEW -j ACCEPT"])
    send_datagram(lab, 4000, CLOSED_PORT)
    wait_counted(firewall, f"-A INPUT {invalid}", 1)
    packets = firewall.rule_packets()
    assert (packets[f"-A OUTPUT {untracked}"], packets[f"-A INPUT {related}"]) == (1, 0)
    assert firewall.connections() == []

    send_datagram(lab, 4000, CLOSED_PORT + 1)           # the control: a port that is tracked
    wait_counted(firewall, f"-A INPUT {related}", 1)
    assert len(firewall.connections()) == 1


# -- Linux Security Notes 15: the host begins everything, others nothing --------------------------------------------

BEGINS = "-m state --state NEW,ESTABLISHED -j ACCEPT"
ANSWERS = "-m state --state ESTABLISHED -j ACCEPT"


@pytest.mark.usefixtures("sshd")
def test_the_host_makes_all_connections(lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=[ANSWERS], OUTPUT=[BEGINS])
    assert pings(lab, "client", PEER)
    assert resolves(lab)
    assert fetches(lab, WEB_PAGE)
    assert reaches_ssh(lab)
    assert {line.split()[0] for line in firewall.connections()} == {"icmp", "udp", "tcp"}
    assert firewall.rule_packets()["-P INPUT DROP"] == 0


def test_nobody_makes_one_to_the_host(lab: Lab, guard: Guard) -> None:
    assert pings(lab, "server", HOST), "without a firewall they do"
    assert is_fetched_from(lab)
    firewall = guard(role="client", INPUT=[ANSWERS], OUTPUT=[BEGINS])
    assert not pings(lab, "server", HOST)
    assert not is_fetched_from(lab)
    assert firewall.rule_packets()["-P INPUT DROP"] >= 2
    assert firewall.connections() == []


# -- an ssh server, and forwarding --------------------------------------------------------------------------------

SSHD_INPUT = ["-p tcp -s 0/0 --sport 513:65535 -d $IPADDR --dport 22 -m state --state NEW,ESTABLISHED -j ACCEPT"]
SSHD_OUTPUT = ["-p tcp -s $IPADDR --sport 22 -d 0/0 --dport 513:65535 -m state --state ESTABLISHED -j ACCEPT"]


@pytest.mark.usefixtures("sshd")
def test_an_ssh_server_answers_and_begins_nothing(lab: Lab, guard: Guard) -> None:
    firewall = guard(role="server", INPUT=SSHD_INPUT, OUTPUT=SSHD_OUTPUT, variables={"IPADDR": PEER})
    assert reaches_ssh(lab)
    assert not fetches(lab, WEB_PAGE)
    assert not is_fetched_from(lab)
    packets = firewall.rule_packets()
    assert packets["-P INPUT DROP"] >= 1
    assert packets["-P OUTPUT DROP"] >= 1
    assert all(" dport=22 " in line for line in firewall.connections())


def test_forwarding_only_what_belongs_to_a_connection(lab: Lab, guard: Guard) -> None:
    """The article's target is called ALLOW; here it is a chain."""
    known, begin = "-m state --state RELATED,ESTABLISHED -j ALLOW", "-i eth1 -m state --state NEW -j ALLOW"
    guard(FORWARD=[known, begin], ALLOW=["-j ACCEPT"])
    assert resolves(lab)
    assert fetches(lab, WEB_PAGE)
    assert not is_fetched_from(lab)


def test_forwarding_only_what_belongs_to_a_connection_lets_none_begin(lab: Lab, guard: Guard) -> None:
    guard(FORWARD=["-m state --state RELATED,ESTABLISHED -j ALLOW"], ALLOW=["-j ACCEPT"])
    assert not resolves(lab)
    assert not fetches(lab, WEB_PAGE)


# -- J. C. Stephens, iptables: connection tracking -----------------------------------------------------------------

NOT_SYN = "-p tcp ! --syn -m state --state NEW -j DROP"


@pytest.mark.parametrize(("first_rules", "entries"), [((), 1), ((NOT_SYN,), 0)], ids=["loose", "NEW must be SYN"])
def test_an_ack_to_nowhere_makes_an_entry_unless_new_must_be_syn(first_rules: tuple[str, ...], entries: int,
                                                                 lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=[], OUTPUT=[*first_rules, BEGINS])
    send(lab, "client", IP(src=HOST, dst="198.51.100.77") / TCP(sport=4000, dport=80, flags="A", seq=1, ack=1))
    lines = firewall.connections("-p", "tcp")
    assert len(lines) == entries
    assert all(" ESTABLISHED " in line and "[UNREPLIED]" in line and "[ASSURED]" not in line for line in lines)


def test_new_must_be_syn_leaves_real_connections_alone(lab: Lab, guard: Guard) -> None:
    guard(role="client", INPUT=[ANSWERS], OUTPUT=[NOT_SYN, BEGINS])
    assert fetches(lab, WEB_PAGE)


def test_an_open_connection_is_assured_for_five_days(guard: Guard, session: Callable) -> None:
    firewall = guard(role="client", INPUT=[ANSWERS], OUTPUT=[BEGINS])
    ends = session()
    assert say(ends, "client")
    assert say(ends, "server")
    assert say(ends, "client")
    wait_until(lambda: seconds_left(firewall) > 431990, "everything to be acknowledged", 3)
    [line] = firewall.connections()
    assert line.startswith("tcp      6 4319")
    assert " ESTABLISHED " in line
    assert line.endswith("[ASSURED] mark=0 use=1")


def seconds_left(firewall: Firewall) -> int:
    [line] = firewall.connections()
    return int(line.split()[2])


ICMP_OUTPUT = "-p icmp -m state --state NEW,ESTABLISHED,RELATED -j ACCEPT"
ICMP_INPUT = "-p icmp -m state --state ESTABLISHED,RELATED -j ACCEPT"


def test_the_host_pings_and_is_not_pinged(lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=[ICMP_INPUT], OUTPUT=[ICMP_OUTPUT])
    assert pings(lab, "client", PEER)
    assert not pings(lab, "server", HOST)
    assert firewall.rule_packets()["-P INPUT DROP"] == 1


def test_a_redirect_is_related_to_a_connection_that_exists(lab: Lab, guard: Guard) -> None:
    firewall = guard(role="client", INPUT=[ICMP_INPUT.replace("ESTABLISHED,", "")], OUTPUT=[],
                     policies={"OUTPUT": "ACCEPT"})
    rule = "-A INPUT " + ICMP_INPUT.replace("ESTABLISHED,", "")
    redirect = error_about_datagram(4000, 53, type="redirect", code="host-redirect", gw="192.0.2.1")
    send(lab, "server", redirect)
    wait_counted(firewall, "-P INPUT DROP", 1)          # the control: nothing there that it could be about
    assert firewall.rule_packets()[rule] == 0

    send_datagram(lab, 4000, 53)
    send(lab, "server", redirect)
    wait_counted(firewall, rule, 1)


FTP_INPUT = ["-p tcp --sport 21 -m state --state ESTABLISHED -j ACCEPT"]
FTP_OUTPUT = ["-p tcp --dport 21 -m state --state NEW,ESTABLISHED -j ACCEPT"]
ACTIVE_INPUT = ["-p tcp --sport 20 -m state --state ESTABLISHED,RELATED -j ACCEPT"]
ACTIVE_OUTPUT = ["-p tcp --dport 20 -m state --state ESTABLISHED -j ACCEPT"]
PASSIVE_INPUT = ["-p tcp --sport 1024: --dport 1024: -m state --state ESTABLISHED -j ACCEPT"]
PASSIVE_OUTPUT = ["-p tcp --sport 1024: --dport 1024: -m state --state ESTABLISHED,RELATED -j ACCEPT"]
ACTIVE_FETCH = ("-P", "-", "--disable-eprt", FTP_FILE)
PASSIVE_FETCH = ("--disable-epsv", FTP_FILE)


@pytest.mark.parametrize(("data_input", "data_output", "active", "passive"), [
    ([], [], False, False),
    (ACTIVE_INPUT, ACTIVE_OUTPUT, True, False),
    (PASSIVE_INPUT, PASSIVE_OUTPUT, False, True),
    (ACTIVE_INPUT + PASSIVE_INPUT, ACTIVE_OUTPUT + PASSIVE_OUTPUT, True, True),
], ids=["control connection only", "active", "passive", "both"])
def test_ftp_as_far_as_the_rules_go(data_input: list[str], data_output: list[str], active: bool, passive: bool,
                                    lab: Lab, guard: Guard) -> None:
    guard(role="client", INPUT=FTP_INPUT + data_input, OUTPUT=FTP_OUTPUT + data_output)
    assert fetches(lab, *ACTIVE_FETCH) is active
    assert fetches(lab, *PASSIVE_FETCH) is passive


def test_ftp_rules_open_nothing_without_the_helper(lab: Lab, guard: Guard) -> None:
    guard(role="client", INPUT=FTP_INPUT + ACTIVE_INPUT + PASSIVE_INPUT,
          OUTPUT=FTP_OUTPUT + ACTIVE_OUTPUT + PASSIVE_OUTPUT, helpers={})
    assert not fetches(lab, *ACTIVE_FETCH)
    assert not fetches(lab, *PASSIVE_FETCH)
