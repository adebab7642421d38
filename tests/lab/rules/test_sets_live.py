"""ipset as witness: the same commands given to it and to pyfw end alike, and each reads what the other prints."""
from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator

import pytest

from lab.rules.kernel import NOW_NS, Kernel, sets
from pyfw.rules.sets.store import EXIST, SetStore, command_named, take_arguments
from pyfw.rules.sets.text import SetError

OPTIONS = ["", " counters", " timeout 900", " comment", " timeout 900 counters comment"]
TYPES = ["hash:ip", "hash:ip netmask 31", "hash:net", "hash:ip,port", "hash:net,port",
         "hash:ip family inet6", "hash:ip family inet6 netmask 127", "hash:net family inet6", "hash:ip,port family inet6",
         "hash:net,port family inet6"]
PORTS = ["80", "udp:53", "tcp:80-83", "udplite:1-3", "sctp:7", "gre:0", "77:0", "tcp:http"]
ICMP = {4: ["icmp:echo-request", "icmp:3/1", "icmp:ping", "icmp:77/5"], 6: ["icmpv6:echo-request", "icmpv6:1/3", "icmpv6:200/1"]}


class Ipset:
    """The real one, in a namespace."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def answers(self, commands: list[str]) -> list[tuple[int, str]]:
        """Exit status and message of each command."""
        script = 'while read -r line; do message=$(eval "ipset $line" 2>&1); echo "$?" $message; done'
        done = subprocess.run(["ip", "netns", "exec", self.kernel.name, "bash", "-c", script], check=True, text=True,
                              input="".join(f"{command}\n" for command in commands), capture_output=True)
        found = [line.partition(" ") for line in done.stdout.splitlines()]
        return [(int(status), message.removeprefix("ipset v7.17: ")) for status, _, message in found]

    def save(self) -> str:
        return self.kernel.run("ipset", "save")

    def restore(self, text: str) -> None:
        self.kernel.run("ipset", "restore", text=text)


class Ours:
    """pyfw's, with the same face."""

    def __init__(self) -> None:
        self.store = SetStore()

    def answer(self, command: str) -> tuple[int, str]:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
        rest = [word for word in words if word not in EXIST]
        name = command_named(rest[0])
        try:
            if name == "test":
                of, *element = take_arguments(name, rest[1:])
                return (0 if self.store.test(of, element, NOW_NS) else 1), ""
            self.store.change(name, rest[1:], NOW_NS, len(rest) < len(words))
        except SetError as error:
            return error.status, str(error)
        return 0, ""

    def save(self) -> str:
        return "".join(self.store.saved(None, NOW_NS))


@pytest.fixture
def ipset(kernel: Kernel) -> Iterator[Ipset]:
    yield Ipset(kernel)
    kernel.run("ipset", "flush")
    kernel.run("ipset", "destroy")


class Words:
    """Random elements, from a space small enough that they meet."""

    def __init__(self, kind: str, options: str, seed: int) -> None:
        self.random = random.Random(f"{kind}{options}{seed}")
        self.family = 6 if "inet6" in kind else 4
        self.networks = kind.startswith("hash:net")
        self.ports = ",port" in kind
        self.netmask = "netmask" in kind
        self.options = options

    def address(self) -> str:
        pick = self.random.randrange
        hosts = 6 if self.ports else 40
        return f"10.0.{pick(3)}.{pick(hosts)}" if self.family == 4 else f"2001:db8::{pick(2):x}:{pick(hosts):x}"

    def span(self, one: bool) -> str:
        pick = self.random.randrange
        if self.family == 6:
            return f"{self.address()}/{self.random.choice([64, 112, 120, 126, 127, 128])}" if self.networks and pick(2) else self.address()
        kind = pick(4)
        if kind == 0 and (self.networks or not one):
            return f"{self.address()}/{self.random.choice([16, 24, 28, 30, 31, 32] if self.networks else [28, 30, 31, 32])}"
        if kind == 1 and not one:
            start, _, last = self.address().rpartition(".")
            ends = int(last), pick(40)
            if self.netmask:        # the kernel does not cut a range that runs backwards to the mask
                ends = sorted(ends)
            return f"{start}.{ends[0]}-{start}.{ends[1]}"
        return self.address()

    def element(self, one: bool = False) -> str:
        text = self.span(one)
        if self.ports:
            ports = [port for port in PORTS + ICMP[self.family] if not one or not re.search("[0-9]-[0-9]", port)]
            text += f",{self.random.choice(ports)}"
        return text

    def command(self) -> str:
        roll = self.random.random()
        exist = " -exist" if self.random.random() < 0.5 else ""
        if roll < 0.25:
            return f"del s {self.element()}{exist}"
        settings = [setting for needed, setting in (("timeout", f"timeout {self.random.choice([0, 900])}"),
                                                    ("comment", 'comment "one two"'))
                    if needed in self.options and self.random.random() < 0.4]
        if "counters" in self.options:      # left out, the kernel may show what its memory held before
            settings.append(f"packets {self.random.randrange(9)} bytes {self.random.randrange(99)}")
        if self.networks and self.random.random() < 0.25:
            settings.append("nomatch")
        return " ".join([f"add s {self.element()}", *settings]) + exist

    def question(self) -> str:
        nomatch = " nomatch" if self.networks and self.random.random() < 0.3 else ""
        return f"test s {self.element(one=True)}{nomatch}"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", TYPES)
def test_random_commands_end_alike(ipset: Ipset, kind: str, options: str) -> None:
    words = Words(kind, options, 1)
    commands = [f"create s {kind}{options}", *(words.command() for _ in range(60)), *(words.question() for _ in range(100))]
    ours = Ours()
    theirs = ipset.answers(commands)
    differing = []
    for command, (status, message) in zip(commands, theirs, strict=True):
        mine = ours.answer(command)
        if mine[0] != status or (status and not command.startswith("test") and mine[1] != message):
            differing.append((command, mine, (status, message)))
    assert not differing
    assert sets(ours.save()) == sets(ipset.save())
    statuses = [status for command, (status, _) in zip(commands, theirs, strict=True) if command.startswith("test")]
    assert 5 < sum(statuses) < 98, "questions that are all answered alike say nothing"


@pytest.mark.parametrize("kind", TYPES)
def test_each_reads_what_the_other_prints(ipset: Ipset, kind: str) -> None:
    words = Words(kind, OPTIONS[-1], 2)
    ipset.answers([f"create s {kind}{OPTIONS[-1]}", "create members list:set counters comment", "add members s comment x",
                   *(words.command() for _ in range(40))])
    printed = ipset.save()
    assert printed.count("\n") > 10
    ours = Ours()
    ours.store.restore(printed.encode(), NOW_NS)
    assert sets(ours.save()) == sets(printed)
    ipset.kernel.run("ipset", "flush")
    ipset.kernel.run("ipset", "destroy")
    ipset.restore(ours.save())
    assert sets(ipset.save()) == sets(printed)


COMMANDS = """
create a hash:ip
create a hash:ip
create -exist a hash:ip
create -exist a hash:ip counters
create b hash:ip
create n hash:net
create l list:set size 8 counters
create m list:set
create x hash:foo
create x hash:ip family inet7
create x hash:ip netmask 33
create x hash:ip bogus 3
create x hash:net netmask 24
create x hash:ip timeout -1
create x hash:ip timeout x
create x hash:ip family
create x hash:ip timeout 1 timeout 2
create x
create
create averyveryveryverylongnamefortheset1 hash:ip
create full hash:ip maxelem 2
add full 1.1.1.1-1.1.1.5
add nosuch 1.1.1.1
add a
add a 1.1.1.1
add a 1.1.1.1
add a 1.1.1.1 -exist
add a 0.0.0.0
add a 1.2.3.4/0
add a 1.2.3.4/33
add a 1.1.1.1 timeout 5
add a 1.1.1.1 comment x
add a 1.1.1.1 packets 5
add a 1.1.1.1 comment
add a 1.1.1.1 nomatch
add a 1.1.1.1,80
add a ::1
add n 0.0.0.0/0
add n 0.0.0.0-255.255.255.255
add n 0.0.0.0
add n 1.2.3.4 nomatch
test n 1.2.3.4
test n 1.2.3.4 nomatch
test n 1.1.1.1-1.1.1.2
del n 1.2.3.4 nomatch
del a 9.9.9.9
del a 9.9.9.9 -exist
del nosuch 1.1.1.1
add l a
add l a
add l b before a packets 3
add l n after a
add l nosuch
add l l
add l m
add l full after nosuch
add l full before full
test l b
test l b before a
test l a before b
test l n after a
test l nosuch
del l a before b
del l b before a
del l b
del l nosuch
destroy a
destroy nosuch
destroy nosuch -exist
create k hash:ip counters
add k 1.1.1.1 packets 5 bytes 6
add k 1.1.1.1 packets 7 -exist
rename a c
rename b full
rename nosuch d
rename b d
swap a n
swap a nosuch
swap nosuch a
swap a d
swap a l
flush nosuch
flush n
del l a
destroy a
create p hash:ip,port
create p6 hash:ip,port family inet6
add p 1.2.3.4
add p 1.2.3.4,80,5
add p 1.2.3.4,icmpv6:128/0
add p6 ::1,icmp:8/0
add p 1.2.3.4,gre:5
add p 1.2.3.4,0:0
add p 1.2.3.4,300:0
add p 1.2.3.4,icmp:8
add p 1.2.3.4,icmp:bogus
test p 1.2.3.4,80-90
test p 1.2.3.4/24,80
test p 1.2.3.0-1.2.3.4,80
add p6 2001:db8::1-2001:db8::3,80
add p6 2001:db8::/64,80
bogus
""".strip().splitlines()
WORDED_OTHERWISE = {"destroy a": "it is in use by a rule or a list", "rename a c": "it is in use by a rule or a list",
                    "create x hash:foo": "there are hash:ip", "create x hash:ip netmask 33": "is out of range 1-32",
                    "add p 1.2.3.4,icmpv6:128/0": "inet6 only", "add p6 ::1,icmp:8/0": "inet only"}


def test_errors_are_worded_alike(ipset: Ipset) -> None:
    ours = Ours()
    differing = []
    for command, (status, message) in zip(COMMANDS, ipset.answers(COMMANDS), strict=True):
        try:
            mine = ours.answer(command)
        except SetError as error:
            mine = error.status, str(error)
        message = message.removesuffix(" Try `ipset help' for more information.")
        alike = WORDED_OTHERWISE[command] in mine[1] if command in WORDED_OTHERWISE and status else mine[1] == message
        if mine[0] != status or (not alike and not command.startswith("test")):
            differing.append((command, mine, (status, message)))
    assert not differing
    # what cannot fit is not begun
    assert len(ipset.save().split("add full ")) == 3
    assert "add full " not in ours.save()
    ipset.restore("flush full\n")
    assert sets(ours.save()) == sets(ipset.save())
