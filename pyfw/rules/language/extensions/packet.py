"""What can be told from one packet alone, beyond ports and types.  iptables-extensions(8)."""
from __future__ import annotations

import grp
import ipaddress
import pwd
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pyfw.rules import names, values
from pyfw.rules.code import RuleCode
from pyfw.rules.language.kinds import MatchKind, Option
from pyfw.rules.model import Match, Setting
from pyfw.rules.values import PortRange
from pyfw.rules.xt.packet import AddressRangeTest, AddressTypeTest, FieldTest, HardwareTest, PortsTest, TextTest

MAX_COMMENT_LENGTH = 255
MAX_PORTS = 15                  # XT_MULTI_PORTS; a range takes two
PORT_PROTOCOLS = tuple(names.PROTOCOLS[name] for name in ("tcp", "udp", "udplite", "sctp", "dccp"))
ALL_32_BITS = 0xFFFFFFFF


def negation(setting: Setting) -> str:
    return "! " if setting.inverted else ""


# -- numbers of the header ------------------------------------------------------------------------------------------

def parse_length(text: str) -> PortRange:
    low, colon, high = text.partition(":")
    lowest = values.parse_number(low, 65535, "length") if low or not colon else 0
    highest = (values.parse_number(high, 65535, "length") if high else 65535) if colon else lowest
    if lowest > highest:
        raise ValueError(f"lengths {text} run backwards; write {highest}:{lowest}")
    return PortRange(lowest, highest)


def compile_length(match: Match, code: RuleCode) -> None:
    setting = match.settings[0]
    code.tests.append(FieldTest("length", setting.value.low, setting.value.high, setting.inverted))


def hops_match(name: str, family: int, word: str) -> MatchKind:
    """ttl and hl, which differ in name and family only."""
    options = tuple(Option(f"--{name}-{comparison}", partial(values.parse_number, largest=255, what=word),
                           aliases=(f"--{name}",) if comparison == "eq" and name == "ttl" else (),
                           negatable=comparison == "eq") for comparison in ("eq", "lt", "gt"))
    signs = {f"--{name}-eq": "==", f"--{name}-lt": "<", f"--{name}-gt": ">"}

    def check(match: Match) -> None:
        if len(match.settings) > 1:
            raise ValueError(f"only one of --{name}-eq, --{name}-lt, --{name}-gt can be asked at once")

    def compile_hops(match: Match, code: RuleCode) -> None:
        setting = match.settings[0]
        low, high = {"eq": (setting.value, setting.value), "lt": (0, setting.value - 1), "gt": (setting.value + 1, 256)}[
            setting.option[-2:]]
        code.tests.append(FieldTest("ttl", low % 2**32, high if high >= 0 else 0, setting.inverted))

    def show(match: Match, numeric: bool) -> str:
        setting = match.settings[0]
        return f"{word} match {word} {'!=' if setting.inverted else signs[setting.option]} {setting.value}"

    return MatchKind(name, options, compile_hops, show=show, family=family, check=check)


@dataclass(frozen=True, slots=True)
class Masked:
    """A value, of which the bits under `mask` count; printed with its mask unless that is `whole`."""

    value: int
    mask: int
    whole: int = ALL_32_BITS
    digits: int = 1

    def __str__(self) -> str:
        shown = f"0x{self.value:0{self.digits}x}"
        return shown if self.mask == self.whole and self.digits == 1 else f"{shown}/0x{self.mask:0{self.digits}x}"


def parse_mark(text: str) -> Masked:
    value, slash, mask = text.partition("/")
    return Masked(values.parse_number(value, ALL_32_BITS, "mark"),
                  values.parse_number(mask, ALL_32_BITS, "mask") if slash else ALL_32_BITS)


def mark_match(name: str) -> MatchKind:
    def compile_mark(match: Match, code: RuleCode) -> None:
        setting = match.settings[0]
        code.tests.append(FieldTest(name, setting.value.value, setting.value.value, setting.inverted, setting.value.mask))

    def show(match: Match, numeric: bool) -> str:
        setting = match.settings[0]
        sign = "!" if setting.inverted else ""
        return f"{name} match {sign}{' ' if sign or name == 'connmark' else ''}{setting.value}"

    return MatchKind(name, (Option("--mark", parse_mark),), compile_mark, show=show)


TOS_NAMES = {"minimize-delay": 0x10, "maximize-throughput": 0x08, "maximize-reliability": 0x04, "minimize-cost": 0x02,
             "normal-service": 0x00}


TOS_SHOWN = {"-".join(word.capitalize() for word in name.split("-")): number for name, number in TOS_NAMES.items()}


def parse_tos(text: str) -> Masked:
    if text.lower() in TOS_NAMES:
        return Masked(TOS_NAMES[text.lower()], 0x3F, digits=2)
    if not text[:1].isdigit():
        raise ValueError(f"{text!r} is neither a number nor one of {', '.join(TOS_NAMES)}")
    value, slash, mask = text.partition("/")
    return Masked(values.parse_number(value, 255, "TOS"), values.parse_number(mask, 255, "mask") if slash else 255, digits=2)


def compile_tos(match: Match, code: RuleCode) -> None:
    setting = match.settings[0]
    code.tests.append(FieldTest("tos", setting.value.value, setting.value.value, setting.inverted, setting.value.mask))


def show_tos(match: Match, numeric: bool) -> str:
    setting = match.settings[0]
    known = [name for name, number in TOS_SHOWN.items() if Masked(number, 0x3F, digits=2) == setting.value and not numeric]
    return f"tos match{'!' if setting.inverted else ''}{' ' + known[0] if known else setting.value}"


DSCP_CLASSES = {"be": 0, "ef": 0x2E, "cs0": 0, **{f"cs{n}": 8 * n for n in range(1, 8)},
                **{f"af{n}{drop}": 8 * n + 2 * drop for n in range(1, 5) for drop in range(1, 4)}}


def parse_dscp_class(text: str) -> int:
    if text.lower() not in DSCP_CLASSES:
        raise ValueError(f"unknown DSCP class {text!r}{values.suggestion(text, DSCP_CLASSES)}")
    return DSCP_CLASSES[text.lower()]


def compile_dscp(match: Match, code: RuleCode) -> None:
    setting = match.settings[0]
    code.tests.append(FieldTest("tos", setting.value << 2, setting.value << 2, setting.inverted, 0xFC))


# -- ports and addresses ----------------------------------------------------------------------------------------------

def parse_port_list(text: str) -> tuple[PortRange, ...]:
    ports = tuple(values.parse_ports(part) for part in text.split(","))
    if sum(1 if span.low == span.high else 2 for span in ports) > MAX_PORTS:
        raise ValueError(f"more than {MAX_PORTS} ports (a range counts as two); write another rule for the rest")
    return ports


def print_port_list(ports: tuple[PortRange, ...]) -> str:
    return ",".join(map(str, ports))


PORT_SIDES = {"--sports": (True, False), "--dports": (False, True), "--ports": (True, True)}


def check_multiport(match: Match) -> None:
    if len(match.settings) > 1:
        raise ValueError("multiport takes one of --sports, --dports and --ports")


def compile_multiport(match: Match, code: RuleCode) -> None:
    setting = match.settings[0]
    code.tests.append(PortsTest(setting.value, *PORT_SIDES[setting.option], setting.inverted))


def show_multiport(match: Match, numeric: bool) -> str:
    setting = match.settings[0]
    ports = ",".join(values.show_ports(span, "", numeric) for span in setting.value)
    return f"multiport {setting.option[2:]} {' !' if setting.inverted else ''}{ports}"


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses from low to high, both included, as integers."""

    family: int
    low: int
    high: int

    def packed(self) -> tuple[bytes, bytes]:
        size = 4 if self.family == 4 else 16
        return self.low.to_bytes(size, "big"), self.high.to_bytes(size, "big")

    def __str__(self) -> str:
        show = ipaddress.IPv4Address if self.family == 4 else values.show_ipv6
        return f"{show(self.low)}-{show(self.high)}"


def parse_address_range(text: str) -> AddressRange:
    low_text, dash, high_text = text.partition("-")
    low, family = values.parse_address(low_text)
    high, high_family = values.parse_address(high_text) if dash else (low, family)
    if family != high_family:
        raise ValueError(f"{text} begins in one family and ends in the other")
    if low > high:
        raise ValueError(f"range {text} runs backwards; write {high_text}-{low_text}")
    return AddressRange(family, low, high)


def compile_iprange(match: Match, code: RuleCode) -> None:
    for setting in match.settings:
        low, high = setting.value.packed()
        code.tests.append(AddressRangeTest(setting.option == "--src-range", low, high, setting.inverted))


def show_iprange(match: Match, numeric: bool) -> str:
    sides = {"--src-range": "source", "--dst-range": "destination"}
    return " ".join(f"{sides[setting.option]} IP range {negation(setting)}{setting.value}" for setting in match.settings)


def parse_hardware(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", text):
        raise ValueError(f"{text!r} is not an Ethernet address; write six bytes, as 00:16:3e:01:02:03")
    return bytes(int(part, 16) for part in text.split(":"))


def compile_mac(match: Match, code: RuleCode) -> None:
    code.tests.append(HardwareTest(match.settings[0].value, match.settings[0].inverted))


ADDRESS_TYPES = {name: 1 << number for number, name in enumerate(
    ("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT"))}
"""Bits of RTN_*, by the names of --src-type."""


def parse_address_types(text: str) -> int:
    bits = 0
    for name in text.split(","):
        if name.upper() not in ADDRESS_TYPES:
            raise ValueError(f"unknown address type {name!r}{values.suggestion(name, ADDRESS_TYPES)}; "
                             f"there are {', '.join(ADDRESS_TYPES)}")
        bits |= ADDRESS_TYPES[name.upper()]
    return bits


def print_address_types(bits: int) -> str:
    return ",".join(name for name, bit in ADDRESS_TYPES.items() if bits & bit)


def check_addrtype(match: Match) -> None:
    if not match.get("--src-type") and not match.get("--dst-type"):
        raise ValueError("addrtype needs --src-type or --dst-type")
    if match.get("--limit-iface-in") and match.get("--limit-iface-out"):
        raise ValueError("addrtype takes one of --limit-iface-in and --limit-iface-out")


def compile_addrtype(match: Match, code: RuleCode) -> None:
    interface = "in" if match.get("--limit-iface-in") else "out" if match.get("--limit-iface-out") else ""
    for setting in match.settings:
        if setting.option.endswith("-type"):
            code.tests.append(AddressTypeTest(setting.option == "--src-type", setting.value, setting.inverted, interface))


def show_addrtype(match: Match, numeric: bool) -> str:
    shown = [f"{setting.option[2:]} {'!' if setting.inverted else ''}{print_address_types(setting.value)}"
             for setting in match.settings if setting.option.endswith("-type")]
    limits = [setting.option[2:].replace("iface-", "") for setting in match.settings if not setting.option.endswith("-type")]
    return " ".join(["ADDRTYPE match", *shown, *limits])


# -- the sending socket -----------------------------------------------------------------------------------------------

def parse_owner(text: str, number_of: Callable[[str], int], what: str) -> PortRange:
    """A name, a number or numbers low-high."""
    low, dash, high = text.partition("-")
    if text[:1].isdigit():
        first = values.parse_number(low, ALL_32_BITS - 1, what)
        last = values.parse_number(high, ALL_32_BITS - 1, what) if dash else first
        if first > last:
            raise ValueError(f"range {text} runs backwards; write {high}-{low}")
        return PortRange(first, last)
    try:
        return PortRange(number := number_of(text), number)
    except KeyError:
        raise ValueError(f"there is no {what} {text!r} on this machine") from None


def print_owner(owner: PortRange) -> str:
    return str(owner).replace(":", "-")


def compile_owner(match: Match, code: RuleCode) -> None:
    fields = {"--uid-owner": "uid", "--gid-owner": "gid"}
    for setting in match.settings:
        if setting.option == "--socket-exists":
            code.tests.append(FieldTest("socket", 0, 0, setting.inverted))
        else:
            code.tests.append(FieldTest(fields[setting.option], setting.value.low, setting.value.high, setting.inverted))


def show_owner(match: Match, numeric: bool) -> str:
    words = {"--uid-owner": "owner UID match ", "--gid-owner": "owner GID match ", "--socket-exists": "owner socket exists"}
    return " ".join(f"{negation(setting)}{words[setting.option]}{show_owner_value(setting, numeric)}" for setting in match.settings)


def show_owner_value(setting: Setting, numeric: bool) -> str:
    if setting.value is True:
        return ""
    with suppress(KeyError):
        if not numeric and setting.value.low == setting.value.high:
            return (pwd.getpwuid(setting.value.low).pw_name if setting.option == "--uid-owner"
                    else grp.getgrgid(setting.value.low).gr_name)
    return print_owner(setting.value)


# -- text -------------------------------------------------------------------------------------------------------------

MAX_PATTERN_LENGTH = 128        # XT_STRING_MAX_PATTERN_SIZE


def parse_pattern(text: str) -> bytes:
    pattern = text.encode(errors="surrogateescape")
    if not 1 <= len(pattern) <= MAX_PATTERN_LENGTH:
        raise ValueError(f"a string to look for has 1 to {MAX_PATTERN_LENGTH} bytes")
    return pattern


def parse_hex_pattern(text: str) -> bytes:
    """Text in which `|41 42 0a|` stands for bytes."""
    plain = text.split("|")
    if len(plain) % 2 == 0:
        raise ValueError(f"{text!r} has a `|` without its other; bytes stand between two, as |0d 0a|")
    try:
        parts = [bytes.fromhex(part) if index % 2 else part.encode(errors="surrogateescape") for index, part in enumerate(plain)]
    except ValueError:
        raise ValueError(f"{text!r} has something else than pairs of hexadecimal digits between two `|`") from None
    return parse_pattern(b"".join(parts).decode(errors="surrogateescape"))


def print_pattern(pattern: bytes) -> str:
    """As iptables-save: always quoted; what has bytes that cannot be printed is written in hexadecimal."""
    if is_printable(pattern):
        return '"' + re.sub(r'(["\\\\])', r"\\\1", pattern.decode()) + '"'
    return f'"|{pattern.hex()}|"'


def is_printable(pattern: bytes) -> bool:
    return all(32 <= byte < 127 for byte in pattern)


def parse_algorithm(text: str) -> str:
    if text not in ("bm", "kmp"):
        raise ValueError(f"unknown algorithm {text!r}; there are bm and kmp")
    return text


def check_string(match: Match) -> None:
    if not match.get("--string") or not match.get("--algo"):
        raise ValueError("-m string needs --string (or --hex-string) and --algo bm")
    start, end = match.get("--from"), match.get("--to")
    if start and end and start.value > end.value:
        raise ValueError(f"--from {start.value} is behind --to {end.value}")


def compile_string(match: Match, code: RuleCode) -> None:
    given = {setting.option: setting for setting in match.settings}
    start = given["--from"].value if "--from" in given else 0
    end = given["--to"].value if "--to" in given else 65535
    code.tests.append(TextTest(given["--string"].value, start, end, "--icase" in given, given["--string"].inverted))


def show_string(match: Match, numeric: bool) -> str:
    given = {setting.option: setting for setting in match.settings}
    pattern = given["--string"]
    shown = [f"STRING match {'!' if pattern.inverted else ''}", print_pattern(pattern.value), f"ALGO name {given['--algo'].value}"]
    shown += [f"{word} {given[option].value}" for option, word in (("--from", "FROM"), ("--to", "TO")) if option in given]
    return " ".join([*shown, *(["ICASE"] if "--icase" in given else [])])


MATCHES = (
    MatchKind("comment", compile=lambda match, code: None, show=lambda match, numeric: f"/* {match.settings[0].value} */", options=(
        Option("--comment", partial(values.parse_text, longest=MAX_COMMENT_LENGTH, what="the comment"),
               negatable=False, print=values.quote, free_text=True),
    )),
    MatchKind("length", compile=compile_length, options=(Option("--length", parse_length),),
              show=lambda match, numeric: f"length {'!' if match.settings[0].inverted else ''}{match.settings[0].value}"),
    hops_match("ttl", 4, "TTL"),
    hops_match("hl", 6, "HL"),
    MatchKind("tos", (Option("--tos", parse_tos),), compile_tos, show=show_tos),
    MatchKind("dscp", compile=compile_dscp, options=(
        Option("--dscp", partial(values.parse_number, largest=63, what="DSCP"), print="0x{:02x}".format),
        Option("--dscp-class", parse_dscp_class, stored_as="--dscp"),
    ), show=lambda match, numeric: f"DSCP match {'!' if match.settings[0].inverted else ''}0x{match.settings[0].value:02x}"),
    mark_match("mark"),
    mark_match("connmark"),
    MatchKind("multiport", compile=compile_multiport, show=show_multiport, protocols=PORT_PROTOCOLS, check=check_multiport,
              options=tuple(Option(name, parse_port_list, aliases, print=print_port_list) for name, aliases in (
                  ("--sports", ("--source-ports",)), ("--dports", ("--destination-ports",)), ("--ports", ())))),
    MatchKind("iprange", compile=compile_iprange, show=show_iprange,
              options=(Option("--src-range", parse_address_range), Option("--dst-range", parse_address_range))),
    MatchKind("mac", compile=compile_mac, chains=("PREROUTING", "INPUT", "FORWARD"), options=(
        Option("--mac-source", parse_hardware, print=lambda value: value.hex(":")),
    ), show=lambda match, numeric: f"MAC {negation(match.settings[0])}{match.settings[0].value.hex(':')}"),
    MatchKind("addrtype", compile=compile_addrtype, show=show_addrtype, check=check_addrtype, options=(
        Option("--src-type", parse_address_types, print=print_address_types),
        Option("--dst-type", parse_address_types, print=print_address_types),
        *(Option(name, lambda: True, words=0, negatable=False, print=lambda value: "", not_in=chains)
          for name, chains in (("--limit-iface-in", ("OUTPUT",)), ("--limit-iface-out", ("PREROUTING", "INPUT")))),
    )),
    MatchKind("owner", compile=compile_owner, show=show_owner, chains=("OUTPUT",), options=(
        Option("--socket-exists", lambda: True, words=0, print=lambda value: ""),
        Option("--uid-owner", partial(parse_owner, number_of=lambda name: pwd.getpwnam(name).pw_uid, what="user"), print=print_owner),
        Option("--gid-owner", partial(parse_owner, number_of=lambda name: grp.getgrnam(name).gr_gid, what="group"), print=print_owner),
    )),
    MatchKind("string", compile=compile_string, show=show_string, check=check_string, options=(
        Option("--string", parse_pattern, print=print_pattern, free_text=True,
               printed_as=lambda pattern: "--string" if is_printable(pattern) else "--hex-string"),
        Option("--hex-string", parse_hex_pattern, stored_as="--string", free_text=True),
        Option("--algo", parse_algorithm, negatable=False),
        Option("--from", partial(values.parse_number, largest=65535, what="offset"), negatable=False, trivial=(0).__eq__),
        Option("--to", partial(values.parse_number, largest=65535, what="offset"), negatable=False),
        Option("--icase", lambda: True, words=0, negatable=False, print=lambda value: ""),
    )),
)
