"""Matches on real connections: the kernel's rules and pyfw's on one gateway count the same packets and bytes, rule by rule.

    client ──── gateway: the kernel's rules in the chain before pyfw's queue ──── server

Behind the queue they would see the connection, and the sending socket, as later packets have left them.  Rules count and go on, so
that every match meets every packet; over all sessions each must have fitted some packets and not others.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

import services
from firewall import Firewall
from pyfw.lab import CLIENT, GATEWAY_INSIDE, PREFIX_LENGTH, SERVER, Lab

pytestmark = pytest.mark.usefixtures("servers")

TOOLS = {4: "iptables", 6: "ip6tables"}
NOBODY = 65534
EVERY = "-m comment --comment every"
Counts = list[tuple[int, int]]      # packets and bytes of each rule
Guard = Callable[..., Firewall]

CONNECTION_RULES = """\
-j CONNMARK --set-xmark 0x17/0xff -m conntrack --ctstate NEW -p tcp
-m connmark --mark 0x17
-m connmark ! --mark 0x17
-m connmark --mark 0x10/0xf0
-m connmark --mark 0
-m conntrack --ctproto 6
-m conntrack ! --ctproto 6
-m conntrack --ctdir ORIGINAL
-m conntrack --ctdir REPLY
-m conntrack --ctorigdstport 80
-m conntrack ! --ctorigdstport 1:1023
-m conntrack --ctorigsrcport 1024:65535
-m conntrack --ctreplsrcport 80
-m conntrack ! --ctrepldstport 1024:65535
-m conntrack --ctrepldstport :255
-m conntrack --ctstatus NONE
-m conntrack ! --ctstatus NONE
-m conntrack --ctstatus EXPECTED
-m conntrack --ctstatus SEEN_REPLY
-m conntrack ! --ctstatus SEEN_REPLY
-m conntrack --ctstatus ASSURED
-m conntrack --ctstatus CONFIRMED
-m conntrack ! --ctstatus CONFIRMED,EXPECTED
-m conntrack --ctexpire 0
-m conntrack --ctexpire 1:50
-m conntrack --ctexpire 55:65
-m conntrack --ctexpire 100:130
-m conntrack ! --ctexpire 0:400000
-m conntrack --ctexpire 400000:432000 --ctdir REPLY
-m connbytes --connbytes 1:1 --connbytes-dir both --connbytes-mode packets
-m connbytes --connbytes 3: --connbytes-dir original --connbytes-mode packets
-m connbytes ! --connbytes 0:2 --connbytes-dir reply --connbytes-mode packets
-m connbytes --connbytes 0:0 --connbytes-dir reply --connbytes-mode bytes
-m connbytes --connbytes 100:400 --connbytes-dir both --connbytes-mode bytes
-m connbytes ! --connbytes 100: --connbytes-dir original --connbytes-mode bytes
-m connbytes --connbytes 61: --connbytes-dir original --connbytes-mode avgpkt
-m connbytes --connbytes :80 --connbytes-dir both --connbytes-mode avgpkt
-m connbytes --connbytes 60:5000 --connbytes-dir reply --connbytes-mode avgpkt
-m helper --helper ftp
-m helper ! --helper ftp
-m helper --helper ftp-2121
-m helper --helper f
-m helper ! --helper tftp
-m conntrack --ctstate RELATED --ctstatus EXPECTED
-m conntrack --ctstate INVALID --ctproto 17
-m conntrack --ctorigsrc {client}
-m conntrack ! --ctorigsrc {client}
-m conntrack --ctorigdst {server}/{prefix}
-m conntrack --ctreplsrc {server}
-m conntrack ! --ctrepldst {client}
-m conntrack --ctorigsrc {client} --ctdir REPLY
"""
# What --ctexpire asks for was set by this very packet: a whole number of seconds, or a moment less.
NEVER = {"-m conntrack --ctstatus NONE", "-m helper --helper f", "-m conntrack --ctstate INVALID --ctproto 17"}
ALWAYS = {"-m conntrack ! --ctstatus NONE", "-m helper ! --helper tftp"}

SMALL_UDP = """
import socket
s = socket.socket(socket.AF_INET6 if ":" in "{host}" else socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("{host}", 9))
s.settimeout(0.3)
for size in (1, 400):
    s.send(b"x" * size)
    try: s.recv(1)
    except OSError: pass
"""


def python(program: str, host: str) -> str:
    return f"python3 -c {shlex.quote(program.format(host=host))}"


def sessions(host: str) -> dict[str, str]:
    url = f"[{host}]" if ":" in host else host
    return {
        "HTTP": f"curl -sS -m 5 http://{url}/{services.FILE_NAME}",
        "two on one connection": f"curl -sS -m 5 http://{url}/{services.FILE_NAME} http://{url}/{services.FILE_NAME}",
        "refused": f"curl -sS -m 5 http://{url}:81/",
        "ping": f"ping -c 3 -i 0.2 -W 2 {host}",
        "FTP active": f"curl -sS -m 5 -P - ftp://{url}/{services.FILE_NAME}",
        "FTP passive": f"curl -sS -m 5 ftp://{url}/{services.FILE_NAME}",
        "UDP to a closed port": python(SMALL_UDP, host),
    }


BEFORE_THE_QUEUE = {"FORWARD": ("mangle", "PREROUTING"), "INPUT": ("mangle", "PREROUTING"), "OUTPUT": ("raw", "OUTPUT")}
"""Where a packet of a chain passes when its connection is known, and pyfw has not yet got it."""
CHAIN = "witness"


class Kernel:
    """The same rules in the gateway's kernel, whose connection tracking counts and knows FTP."""

    def __init__(self, lab: Lab, family: int, chain: str, rules: Sequence[str]) -> None:
        self._lab = lab
        table, hook = BEFORE_THE_QUEUE[chain]
        self.tool = (TOOLS[family], "-t", table)
        self._run("sh", "-c", "echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct")
        self._run(TOOLS[family], "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp")
        self._run(*self.tool, "-N", CHAIN)
        self._run(*self.tool, "-A", hook, "-j", CHAIN)
        for rule in rules:
            self._run(*self.tool, "-A", CHAIN, *shlex.split(rule))

    def _run(self, *argv: str) -> str:
        return self._lab.run("gateway", argv, check=True).stdout

    def counts(self) -> Counts:
        return counted(self._run(*self.tool, "-v", "-S", CHAIN))


def counted(listing: str) -> Counts:
    return [(int(packets), int(size)) for packets, size in re.findall(r"^-A .* -c (\d+) (\d+)", listing, re.MULTILINE)]


def ours(firewall: Firewall, chain: str) -> Counts:
    firewall.settle()
    return counted(firewall.ctl("list-rules", chain, "-v", check=True).stdout)


def passed(now: Counts, before: Counts) -> Counts:
    return [(packets - packets_before, size - size_before)
            for (packets, size), (packets_before, size_before) in zip(now, before, strict=True)]


class Compared:
    """Both, after each other, on one chain of the gateway."""

    def __init__(self, lab: Lab, guard: Guard, family: int, chain: str, rules: Sequence[str]) -> None:
        self.chain, self.rules = chain, rules
        self.firewall = guard(helpers={"ftp": {"strict": False}}, policies={chain: "ACCEPT"}, **{chain: list(rules)})
        self.kernel = Kernel(lab, family, chain, rules)
        self.before = ours(self.firewall, chain), self.kernel.counts()
        self.fitted = [0] * len(rules)

    def same(self, what: str, but: str = "no rule") -> None:
        """Compare what was counted since the last time, except by rules with `but` in them."""
        now = ours(self.firewall, self.chain), self.kernel.counts()
        by_us, by_them = (passed(one, before) for one, before in zip(now, self.before, strict=True))
        self.before = now
        different = {rule: (mine, theirs) for rule, mine, theirs in zip(self.rules, by_us, by_them, strict=True)
                     if mine != theirs and but not in rule}
        assert not different, f"{what}: (pyfw, kernel) of {different}"
        assert max(packets for packets, _ in by_us) > 0, f"{what}: no packet met any rule"
        self.fitted = [total + packets for total, (packets, _) in zip(self.fitted, by_us, strict=True)]

    def constant(self, total: int) -> tuple[set[str], set[str]]:
        """The rules that fitted no packet, and those that fitted all."""
        return ({rule for rule, packets in zip(self.rules, self.fitted, strict=True) if packets == 0},
                {rule for rule, packets in zip(self.rules, self.fitted, strict=True) if packets == total})


def same_session(compared: Compared, name: str, run: Callable[[], object]) -> None:
    """Where packets of both sides cross, the kernel's rules see one with what the other has made of the connection meanwhile:
    only a session that differs three times in a row does differ."""
    for _ in range(2):
        run()
        with suppress(AssertionError):
            return compared.same(name)
    run()
    compared.same(name)


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_known_of_a_connection(lab: Lab, guard: Guard, family: int) -> None:
    rules = [EVERY, *CONNECTION_RULES.format(client=CLIENT.address(family), server=SERVER.address(family),
                                             prefix=PREFIX_LENGTH[family]).splitlines()]
    compared = Compared(lab, guard, family, "FORWARD", rules)
    for name, command in sessions(SERVER.address(family)).items():
        same_session(compared, name, lambda command=command: lab.run("client", shlex.split(command)))
    back = python(SMALL_UDP, CLIENT.address(family))
    lab.run("server", shlex.split(back))
    compared.same("from outside")
    never, always = compared.constant(compared.fitted[0])
    assert never <= NEVER
    assert always - ALWAYS == {EVERY}


def test_a_rule_that_differs_is_found_out(lab: Lab, guard: Guard) -> None:
    compared = Compared(lab, guard, 4, "FORWARD", ["-m conntrack --ctdir ORIGINAL"])
    lab.run("gateway", [*compared.kernel.tool, "-R", CHAIN, "1", "-m", "conntrack", "--ctdir", "REPLY"], check=True)
    lab.run("client", shlex.split(f"curl -sS -m 5 http://{SERVER.ipv4}/{services.FILE_NAME}"))
    with pytest.raises(AssertionError, match="--ctdir ORIGINAL"):
        compared.same("HTTP")


@pytest.mark.parametrize("family", [4, 6])
def test_the_senders_ethernet_address(lab: Lab, guard: Guard, family: int) -> None:
    rules = [EVERY, f"-m mac --mac-source {CLIENT.mac}", f"-m mac ! --mac-source {CLIENT.mac}", f"-m mac --mac-source {SERVER.mac.upper()}",
             "-m mac --mac-source 02:00:00:00:00:00"]
    compared = Compared(lab, guard, family, "FORWARD", rules)
    lab.run("client", shlex.split(sessions(SERVER.address(family))["HTTP"]))
    compared.same("HTTP")
    assert compared.constant(compared.fitted[0]) == ({rules[4]}, {EVERY})


OWNER_RULES = f"""\
-p tcp --tcp-flags SYN,ACK SYN,ACK -j ACCEPT
-m owner --uid-owner root
-m owner ! --uid-owner 0
-m owner --uid-owner {NOBODY}
-m owner --uid-owner 1-70000
-m owner --gid-owner {NOBODY}
-m owner ! --gid-owner {NOBODY}
-m owner --uid-owner 0 ! --gid-owner {NOBODY}
-m owner --socket-exists
-m owner ! --socket-exists
"""


@pytest.mark.parametrize("family", [4, 6])
def test_the_sending_sockets_owner(lab: Lab, guard: Guard, shared_directory: Path, family: int) -> None:
    """The queue tells no owner of a listener's SYN/ACK, whose socket is not a whole one yet: a rule takes it out of the comparison."""
    rules = [EVERY, *OWNER_RULES.splitlines()]
    compared = Compared(lab, guard, family, "OUTPUT", rules)
    host, inside = SERVER.address(family), GATEWAY_INSIDE.address(family)
    as_nobody = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
    for user in ("", f"{as_nobody} "):
        lab.run("gateway", shlex.split(f"{user}dig +tries=1 +time=2 @{host} {services.DNS_NAME}"), check=True)
        compared.same(f"UDP, {user or 'root'}")
        lab.run("gateway", shlex.split(f"{user}{sessions(host)['HTTP']}"), check=True)
        compared.same(f"HTTP, {user or 'root'}")
    for answered in (f"ping -c 1 -W 2 {inside}", f"curl -sS -m 5 http://{f'[{inside}]' if family == 6 else inside}:81/"):
        lab.run("client", shlex.split(answered))
        compared.same(answered, but="--socket-exists")      # the kernel answers by a socket of its own, which the queue does not tell
    services.start_http(lab, "gateway", shared_directory)
    lab.run("client", shlex.split(f"curl -sS -m 5 http://{f'[{inside}]' if family == 6 else inside}/{services.FILE_NAME}"), check=True)
    compared.same("a server on the gateway")
    never, always = compared.constant(compared.fitted[0])
    assert (never, always) == (set(), {EVERY})


ADDRESS_TYPE_RULES = """\
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL
-m addrtype --src-type LOCAL
-m addrtype --src-type UNICAST
-m addrtype --dst-type UNICAST
-m addrtype --dst-type MULTICAST
-m addrtype --dst-type LOCAL --limit-iface-in
"""
OF_IPV4 = """\
-m addrtype --dst-type BROADCAST
-m addrtype --src-type UNICAST ! --dst-type BROADCAST,MULTICAST
"""
TO_EACH_TYPE = """
import socket
for host, device in {targets}:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    s.sendto(b"x" * 20, (host, 9))
"""


@pytest.mark.parametrize("family", [4, 6])
def test_types_of_addresses(lab: Lab, guard: Guard, family: int) -> None:
    """To both of the gateway's own addresses, the network's broadcast address and a group."""
    compared = Compared(lab, guard, family, "INPUT", [EVERY, *(ADDRESS_TYPE_RULES + (OF_IPV4 if family == 4 else "")).splitlines()])
    others = ["192.0.2.255", "255.255.255.255", "224.0.0.1"] if family == 4 else ["ff02::1"]
    outside = "198.51.100.1" if family == 4 else "2001:db8:2::1"
    for broadcast in others[:-1]:           # the lab's links do no address resolution
        neighbour = f"ip neigh add {broadcast} lladdr ff:ff:ff:ff:ff:ff dev {CLIENT.interface} nud permanent"
        lab.run("client", shlex.split(neighbour), check=True)
    for target in (GATEWAY_INSIDE.address(family), outside, *others):
        program = TO_EACH_TYPE.format(targets=[(target, CLIENT.interface.encode())])
        lab.run("client", ["python3", "-c", program], check=True)
        compared.same(target)
    never, always = compared.constant(compared.fitted[0])
    assert never <= {"-m addrtype --src-type LOCAL", "-m addrtype --dst-type UNICAST"}
    assert always <= {EVERY, "-m addrtype --src-type UNICAST"}
