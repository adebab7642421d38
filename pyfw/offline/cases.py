"""A file of policy tests, read: zones, and cases as sentences.

    tcp lan:any -> wan:443 NEW => ACCEPT
    └┬┘ └──┬──┘    └──┬──┘ └┬┘    └─┬──┘
    protocol from     to    what    verdict, and `by RULE` if it matters which rule decides

Every error names file:line:column.  Knows no packet and no engine.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TypeAlias

import yaml

from pyfw.bounded_text import CONFIG_BYTES, NotYaml, compose_yaml
from pyfw.config.schema import HOOKS
from pyfw.edge.bounded_files import read_text_file
from pyfw.enums import CtState, Hook
from pyfw.rules import names, values
from pyfw.rules.lexer import substitute
from pyfw.rules.model import Location, RulesError

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
SELF = ("self", "gateway")
VERDICTS = ("ACCEPT", "DROP", "REJECT")
ARROW = re.compile(r"\s*(?:=>|⇒)\s*")
DIRECTION = re.compile(r"^(->|<-|→|←)\s*")
PLAIN_PORTS = (1, 1023, 1024, 40000, 65535)     # what "any" stands for
SOURCE_PORTS = (40000,)                         # what a source without a port stands for
CASE_KEYS = ("name", "case", "steps", "family", "hook", "pcap", "in", "out", "frames")


class PolicyError(Exception):
    """A file of tests that cannot be used: `file:line:column: what`."""


@dataclass(frozen=True)
class Zone:
    """Where hosts are: an interface, and addresses there.  The machine itself has no interface."""

    name: str
    interface: str
    networks: tuple[Network, ...]

    @property
    def is_self(self) -> bool:
        return self.name in SELF

    def host(self, family: int, number: int) -> Address | None:
        """The zone's `number`th host of a family; None: it has no such addresses."""
        for network in self.networks:
            if network.version == family:
                return network[min(number, network.num_addresses - 1)] if network.num_addresses > 1 else network[0]
        return None


@dataclass(frozen=True)
class End:
    """One side of the traffic."""

    zone: Zone
    address: Address | None = None      # None: any host of the zone
    ports: tuple[int, ...] = ()

    def host(self, family: int, number: int) -> Address | None:
        """The address, else the zone's `number`th host; None: it is of the other family, or there is none of this one."""
        host = self.address or self.zone.host(family, number)
        return host if host and host.version == family else None


@dataclass(frozen=True)
class Expected:
    verdict: str
    state: str | None = None
    reject: str | None = None
    rule: str | None = None             # a rule's name, or words of its text


@dataclass(frozen=True)
class Traffic:
    """A packet, or several that differ in their ports."""

    protocol: int
    source: End
    destination: End
    what: tuple[str, ...] = ()          # TCP flags, an ICMP type


@dataclass(frozen=True)
class PacketStep:
    """The next packet of the case's connection."""

    text: str
    location: Location
    expected: Expected
    reply: bool
    flags: str = ""
    payload: str | None = None
    error: str = ""             # an ICMP error about the other side's last packet: its type


@dataclass(frozen=True)
class TrafficStep:
    """The first packet of another connection."""

    text: str
    traffic: Traffic
    expected: Expected


@dataclass(frozen=True)
class WaitStep:
    """No packet for a while."""

    text: str
    seconds: int


CaseStep: TypeAlias = PacketStep | TrafficStep | WaitStep


@dataclass(frozen=True)
class TrafficCase:
    """What the rules should say of a connection's first packet, or of each step."""

    name: str
    location: Location
    traffic: Traffic
    expected: Expected | None           # None: the steps have theirs
    steps: tuple[CaseStep, ...] = ()
    family: int | None = None
    hook: Hook | None = None


@dataclass(frozen=True)
class CaptureCase:
    """What the rules should say of a capture's frames."""

    name: str
    location: Location
    pcap: Path
    frames: Mapping[int, Expected]      # by number; 0: all others
    hook: Hook
    indev: str
    outdev: str


Case: TypeAlias = TrafficCase | CaptureCase


def read_cases(path: Path, variables: Mapping[str, str]) -> list[Case]:
    """`variables` are the config's, for $NAME.  Raises PolicyError."""
    try:
        text = read_text_file(path, CONFIG_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {getattr(error, 'strerror', None) or 'not a text in UTF-8'}") from None
    try:
        root = compose_yaml(text, str(path))
    except NotYaml as error:
        raise PolicyError(f"{path}:{error.mark.line + 1}:{error.mark.column + 1}: not valid YAML: {error}") from None
    try:
        return _Reader(path, variables).read(root)
    except RulesError as error:
        raise PolicyError(str(error)) from None


class _Reader:

    def __init__(self, path: Path, variables: Mapping[str, str]) -> None:
        self.path = path
        self.variables = variables
        self.zones: dict[str, Zone] = {}

    def at(self, node: yaml.Node) -> Location:
        return Location(str(self.path), node.start_mark.line + 1, node.start_mark.column + 1)

    def entries(self, node: yaml.Node, known: tuple[str, ...] | None, what: str) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise RulesError(f"{what} is a mapping", self.at(node))
        for key, value in node.value:
            if known and key.value not in known:
                raise RulesError(f"unknown key {key.value!r}{values.suggestion(key.value, known)}; {what} has "
                                 f"{', '.join(known)}", self.at(key))
            yield key.value, value

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise RulesError("a text is expected here", self.at(node))
        return substitute(node.value, self.variables, self.at(node))

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise RulesError(f"{what} is a list, one `- ` for each", self.at(node))
        items: list[yaml.Node] = node.value
        return items

    def read(self, root: yaml.Node | None) -> list[Case]:
        if root is None:
            raise RulesError("a file of policy tests is a mapping", Location(str(self.path), 1, 1))
        given = dict(self.entries(root, ("zones", "cases"), "a file of policy tests"))
        for name, node in self.entries(given["zones"], None, "zones") if "zones" in given else ():
            self.zones[name] = self.zone(name, node)
        if "cases" not in given:
            raise RulesError("there are no `cases:`", self.at(root))
        return [self.case(node) for node in self.items(given["cases"], "cases")]

    def zone(self, name: str, node: yaml.Node) -> Zone:
        given = dict(self.entries(node, ("interface", "networks"), f"zone {name}"))
        networks = [self.network(item) for item in self.items(given["networks"], "networks")] if "networks" in given else []
        if not networks:
            raise RulesError(f"zone {name} needs networks, such as [192.0.2.0/24]", self.at(node))
        interface = self.text(given["interface"]) if "interface" in given else ""
        if not interface and name not in SELF:
            raise RulesError(f"zone {name} needs an interface; only {' and '.join(SELF)} have none", self.at(node))
        return Zone(name, interface, tuple(networks))

    def network(self, node: yaml.Node) -> Network:
        try:
            return ip_network(self.text(node), strict=False)
        except ValueError as error:
            raise RulesError(str(error), self.at(node)) from None

    def case(self, node: yaml.Node) -> Case:
        if isinstance(node, yaml.ScalarNode):
            text = self.text(node)
            return TrafficCase(text, self.at(node), *self.first_packet(text, self.at(node)))
        given = dict(self.entries(node, CASE_KEYS, "a case"))
        if "pcap" in given:
            return self.capture_case(node, given)
        if "case" not in given:
            raise RulesError("a case is a sentence, or a mapping with `case:` or `pcap:`", self.at(node))
        text = self.text(given["case"])
        steps = tuple(step for item in self.items(given["steps"], "steps") for step in self.steps(item)) if "steps" in given else ()
        traffic, expected = (self.sentence if steps else self.first_packet)(text, self.at(given["case"]))
        return TrafficCase(self.text(given["name"]) if "name" in given else text, self.at(node), traffic, None if steps else expected,
                           steps, self.number(given["family"]) if "family" in given else None,
                           self.hook(given["hook"]) if "hook" in given else None)

    def number(self, node: yaml.Node) -> int:
        if self.text(node) not in ("4", "6"):
            raise RulesError("family is 4 or 6", self.at(node))
        return int(self.text(node))

    def hook(self, node: yaml.Node) -> Hook:
        name = self.text(node)
        if name not in HOOKS:
            raise RulesError(f"{name!r} is not a hook; there are {', '.join(HOOKS)}", self.at(node))
        return Hook[name]

    def capture_case(self, node: yaml.Node, given: dict[str, yaml.Node]) -> Case:
        frames: dict[int, Expected] = {}
        if "frames" not in given:
            raise RulesError("a capture needs `frames:`, such as {1: ACCEPT, others: DROP}", self.at(node))
        for number, value in self.entries(given["frames"], None, "frames"):
            if not ((number.isdigit() and number != "0") or number == "others"):
                raise RulesError(f"{number!r} is neither a frame's number nor `others`", self.at(value))
            frames[0 if number == "others" else int(number)] = self.expected(self.text(value), None, self.at(value))
        name = self.text(given["pcap"])
        return CaptureCase(self.text(given["name"]) if "name" in given else name, self.at(node), self.path.parent / name, frames,
                           self.hook(given["hook"]) if "hook" in given else Hook.FORWARD,
                           self.text(given["in"]) if "in" in given else "", self.text(given["out"]) if "out" in given else "")

    # -- sentences --------------------------------------------------------------------------------------------------------

    def first_packet(self, text: str, location: Location) -> tuple[Traffic, Expected]:
        """A sentence that ends with what is expected."""
        traffic, expected = self.sentence(text, location)
        if expected is None:
            raise RulesError("what is expected is missing: end the sentence with `=> ACCEPT`, DROP or REJECT", location)
        return traffic, expected

    def sentence(self, text: str, location: Location) -> tuple[Traffic, Expected | None]:
        """`PROTOCOL FROM -> TO [TYPE or FLAGS] [STATE] [=> VERDICT]`"""
        sentence, *verdict = ARROW.split(text)
        words = re.sub(r"→", "->", sentence).split()
        if len(words) < 4 or words[2] != "->":
            raise RulesError(f"{text!r} is not a sentence such as `tcp lan:any -> wan:443 NEW => ACCEPT`", location)
        try:
            protocol = values.parse_protocol(words[0])
        except ValueError as error:
            raise RulesError(str(error), location) from None
        state, what = self.state(words[4:])
        return (Traffic(protocol, self.end(words[1], location, SOURCE_PORTS), self.end(words[3], location, PLAIN_PORTS), what),
                self.expected(verdict[0], state, location) if len(verdict) == 1 else None)

    @staticmethod
    def state(words: list[str]) -> tuple[str | None, tuple[str, ...]]:
        states = [word for word in words if word in CtState.__members__]
        return states[0] if states else None, tuple(word for word in words if word not in states)

    def end(self, text: str, location: Location, unsaid: tuple[int, ...]) -> End:
        """`ZONE`, `ZONE/ADDRESS`, each with `:PORTS`."""
        name, slash, rest = text.partition("/")
        found = re.fullmatch(r"(\[[^]]*\]|[^:\[\]]*)(?::([^:]*))?", rest if slash else name)
        if not found:
            raise RulesError(f"{text!r} is not a zone such as lan, lan:443, lan/10.0.0.5:443, lan/[2001:db8::5]:443", location)
        zone = name if slash else found[1]
        if zone not in self.zones:
            raise RulesError(f"unknown zone {zone!r}{values.suggestion(zone, self.zones)}; there are "
                             f"{', '.join(self.zones) or 'none: name them under `zones:`'}", location)
        try:
            address = ip_address(found[1].strip("[]")) if slash else None
            ports = self.ports(found[2]) if found[2] else unsaid
        except ValueError as error:
            raise RulesError(str(error), location) from None
        return End(self.zones[zone], address, ports)

    @staticmethod
    def ports(text: str) -> tuple[int, ...]:
        """`any`, a port, `low-high` (its two ends), or several of them separated by commas."""
        if text == "any":
            return PLAIN_PORTS
        spans = [values.parse_ports(part.replace("-", ":")) for part in text.split(",")]
        return tuple(dict.fromkeys(port for span in spans for port in (span.low, span.high)))

    def expected(self, text: str, state: str | None, location: Location) -> Expected:
        """`VERDICT [KIND] [STATE] [by RULE]`"""
        said, _, rule = text.partition(" by ")
        rule = rule.strip().strip('"')
        later, words = self.state(said.split())
        if not words or words[0] not in VERDICTS or len(words) > (2 if words[0] == "REJECT" else 1):
            raise RulesError(f"{text!r} is no verdict; there are ACCEPT, DROP, REJECT [KIND], each with `by RULE`", location)
        try:
            reject = values.parse_reject(words[1]) if len(words) > 1 else None
        except ValueError as error:
            raise RulesError(str(error), location) from None
        return Expected(words[0], later or state, reject, rule or None)

    # -- steps ------------------------------------------------------------------------------------------------------------

    def steps(self, node: yaml.Node) -> Iterator[CaseStep]:
        """What one line of `steps:` says.

        `-> SYN => ACCEPT`, `<- "text" => ACCEPT`, `<- error host-unreachable => ACCEPT`, `after 10m`, `handshake`, or
        another sentence.
        """
        text, location = self.text(node), self.at(node)
        if text == "handshake":
            accept = Expected("ACCEPT")
            yield PacketStep("-> SYN", location, accept, False, "SYN")
            yield PacketStep("<- SYN,ACK", location, accept, True, "SYN,ACK")
            yield PacketStep("-> ACK", location, accept, False, "ACK")
        elif found := re.fullmatch(r"after (\d+)([smhd]?)", text):
            yield WaitStep(text, int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]])
        elif found := DIRECTION.match(text):
            yield self.packet_step(text, location, found[1] in ("<-", "←"), text[found.end():])
        else:
            yield TrafficStep(text, *self.first_packet(text, location))

    def packet_step(self, text: str, location: Location, reply: bool, rest: str) -> PacketStep:
        said, *verdict = ARROW.split(rest)
        if len(verdict) != 1:
            raise RulesError("what is expected is missing: end the step with `=> ACCEPT`, DROP or REJECT", location)
        quoted = re.search(r'"([^"]*)"', said)
        state, words = self.state((said[:quoted.start()] + said[quoted.end():] if quoted else said).split())
        if words[:1] == ("error",) and len(words) == 2:
            return PacketStep(text, location, self.expected(verdict[0], state, location), reply, error=words[1])
        flags = words[0] if words else "PSH,ACK" if quoted else "ACK"
        for flag in flags.split(","):
            if flag.upper() not in names.TCP_FLAGS:
                raise RulesError(f"unknown TCP flag {flag!r}; there are {', '.join(names.TCP_FLAGS)}", location)
        return PacketStep(text, location, self.expected(verdict[0], state, location), reply, flags.upper(),
                          quoted[1] if quoted else None)


def families(case: TrafficCase) -> list[int]:
    """The families that a case is about: those that both ends have, or the one that it says."""
    ends = (case.traffic.source, case.traffic.destination)
    wanted = [case.family] if case.family else [4, 6]
    protocol = case.traffic.protocol
    wanted = [family for family in wanted if (protocol, family) not in ((1, 6), (58, 4))]
    return [family for family in wanted if all(end.host(family, 1) for end in ends)]
