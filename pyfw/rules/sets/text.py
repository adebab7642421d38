"""ipset's language: what `ipset save` prints and `ipset add` reads.  ipset(8).

Knows what sets and elements are called, and nothing of what they are kept in.  Wording of errors is ipset's own, for
scripts that look for it.
"""
from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pyfw.rules.values import CONTROL, parse_port, parse_protocol, print_protocol, show_ipv6

DONE, FAILED, USAGE = 0, 1, 2           # exit statuses
MAX_NAME_LENGTH = 31
MAX_COMMENT_LENGTH = 255
MAX_TIMEOUT_S = 2147483
MAX_MAXELEM = 2 ** 32 - 1
SMALLEST_HASH, SMALLEST_LIST = 64, 4    # what smaller sizes are rounded up to
ADDRESS_TYPES = ("hash:ip", "hash:net", "hash:ip,port", "hash:net,port")
TYPES = (*ADDRESS_TYPES, "list:set")
BITS = {4: 32, 6: 128}
FAMILIES = {"inet": 4, "ipv4": 4, "-4": 4, "inet6": 6, "ipv6": 6, "-6": 6}
ICMP, ICMPV6 = 1, 58
PORT_PROTOCOLS = {6, 17, 132, 136}

# The names of ipset's own table, the first of each pair being what it prints.
ICMP_CODES: dict[str, tuple[int, int]] = {
    "echo-reply": (0, 0), "pong": (0, 0), "network-unreachable": (3, 0), "host-unreachable": (3, 1),
    "protocol-unreachable": (3, 2), "port-unreachable": (3, 3), "fragmentation-needed": (3, 4), "source-route-failed": (3, 5),
    "network-unknown": (3, 6), "host-unknown": (3, 7), "network-prohibited": (3, 9), "host-prohibited": (3, 10),
    "TOS-network-unreachable": (3, 11), "TOS-host-unreachable": (3, 12), "communication-prohibited": (3, 13),
    "host-precedence-violation": (3, 14), "precedence-cutoff": (3, 15), "source-quench": (4, 0), "network-redirect": (5, 0),
    "host-redirect": (5, 1), "TOS-network-redirect": (5, 2), "TOS-host-redirect": (5, 3), "echo-request": (8, 0),
    "ping": (8, 0), "router-advertisement": (9, 0), "router-solicitation": (10, 0), "ttl-zero-during-transit": (11, 0),
    "ttl-zero-during-reassembly": (11, 1), "ip-header-bad": (12, 0), "required-option-missing": (12, 1),
    "timestamp-request": (13, 0), "timestamp-reply": (14, 0), "address-mask-request": (17, 0), "address-mask-reply": (18, 0),
}
ICMPV6_CODES: dict[str, tuple[int, int]] = {
    "no-route": (1, 0), "communication-prohibited": (1, 1), "address-unreachable": (1, 3), "port-unreachable": (1, 4),
    "packet-too-big": (2, 0), "ttl-zero-during-transit": (3, 0), "ttl-zero-during-reassembly": (3, 1), "bad-header": (4, 0),
    "unknown-header-type": (4, 1), "unknown-option": (4, 2), "echo-request": (128, 0), "ping": (128, 0),
    "echo-reply": (129, 0), "pong": (129, 0), "router-solicitation": (133, 0), "router-advertisement": (134, 0),
    "neighbour-solicitation": (135, 0), "neigbour-solicitation": (135, 0), "neighbour-advertisement": (136, 0),
    "neigbour-advertisement": (136, 0), "redirect": (137, 0),
}


class SetError(ValueError):
    """What cannot be done with a set, in ipset's words; `status` is the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class SetOptions:
    """The kind of a set: what `ipset create` says behind the name.

    `family` is 4, 6, or 0 for a list; `timeout_s` None: elements have none.  `hashsize`, `bucketsize`, `initval` and `size` are kept
    for printing only.
    """

    type: str
    family: int = 4
    hashsize: int = 1024
    maxelem: int = 65536
    netmask: int | None = None
    size: int = 8
    timeout_s: int | None = None
    counters: bool = False
    comment: bool = False
    bucketsize: int = 12
    initval: str = ""

    @property
    def bits(self) -> int:
        return BITS[self.family]

    @property
    def has_ports(self) -> bool:
        return self.type.endswith(",port")

    @property
    def has_networks(self) -> bool:
        return self.type.startswith("hash:net")

    def same(self, other: SetOptions) -> bool:
        """Whether `create -exist` takes one for the other."""
        return replace(self, hashsize=0, size=0, bucketsize=0, initval="") == \
            replace(other, hashsize=0, size=0, bucketsize=0, initval="")

    def __str__(self) -> str:
        words = [self.type]
        if self.type == "list:set":
            words.append(f"size {self.size}")
        else:
            words.append(f"family {'inet' if self.family == 4 else 'inet6'} hashsize {self.hashsize} maxelem {self.maxelem}")
        if self.netmask:
            words.append(f"netmask {self.netmask}")
        if self.timeout_s is not None:
            words.append(f"timeout {self.timeout_s}")
        words += [name for name, there in (("counters", self.counters), ("comment", self.comment)) if there]
        if self.type != "list:set":
            words.append(f"bucketsize {self.bucketsize}")
        if self.initval:
            words.append(f"initval {self.initval}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Elements:
    """Addresses from `first` to `last`, every `step`, each with every port: what one `ipset add` may stand for.

    None: the set's own timeout; counters that stay as they are; no comment.
    """

    first: int
    last: int
    prefix: int
    step: int = 1
    protocol: int = 0
    first_port: int = 0
    last_port: int = 0
    nomatch: bool = False
    timeout_s: int | None = None
    packets: int | None = None
    bytes: int | None = None
    comment: str | None = None

    @property
    def count(self) -> int:
        """How many elements these are."""
        return ((self.last - self.first) // self.step + 1) * (self.last_port - self.first_port + 1)


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A set as element of a list, perhaps with a neighbour that it is to stand before or after."""

    name: str
    before: str | None = None
    after: str | None = None
    timeout_s: int | None = None
    packets: int | None = None
    bytes: int | None = None
    comment: str | None = None


ElementRow: TypeAlias = tuple[int, int, int, int, bool, int | None, int, int, str | None]
"""Address, prefix length, protocol, port, nomatch, remaining seconds, packets, bytes, comment: one of Contents.rows()."""
MemberRow: TypeAlias = tuple[str, int | None, int, int, str | None]
"""Name, remaining seconds, packets, bytes, comment: one of ListContents.member_rows()."""


# -- words and numbers -----------------------------------------------------------------------------------------------------

_WORD = re.compile(r'"([^"]*)"|(\S+)')


def split_words(line: str) -> list[tuple[str, int]]:
    """The words of a line with their columns, from 1.  Quotes hold a word together; a backslash is a character as any other."""
    found = []
    for word in _WORD.finditer(line):
        quoted, plain = word.groups()
        if plain is not None and '"' in plain:
            raise SetError("Syntax error: a quotation mark must stand at a word's beginning, and be closed on the line")
        found.append((word[2] if quoted is None else quoted, word.start() + 1))
    return found


def number(text: str, smallest: int, largest: int) -> int:
    try:
        value = int(text, 8 if re.fullmatch(r"[-+]?0[0-7]+", text) else 0)
    except ValueError:
        raise SetError(f"Syntax error: '{text}' is invalid as number") from None
    if not smallest <= value <= largest:
        raise SetError(f"Syntax error: '{text}' is out of range {smallest}-{largest}")
    return value


def options_of(words: Sequence[str], known: dict[str, Callable[[str], object] | None]) -> dict[str, Any]:
    """Option -> value, True for one whose parser is None."""
    given: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if word not in known:
            raise SetError(f"Unknown argument: `{word}'", USAGE)
        parse = known[word]
        if word in given and parse:
            raise SetError(f"Syntax error: {word} already specified")
        if parse is None:
            given[word] = True
        elif (value := next(rest, None)) is None:
            raise SetError(f"Missing mandatory argument of option `{word}'", USAGE)
        else:
            given[word] = parse(value)
    return given


# -- create ----------------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    if len(name) > MAX_NAME_LENGTH:
        raise SetError(f"Syntax error: setname '{name}' is longer than {MAX_NAME_LENGTH} characters")
    if not name or re.search(r'[\s"\x00-\x1f\x7f]', name) or not name.isascii():
        raise SetError(f"Syntax error: setname '{name}' has characters that a file of sets cannot hold")
    return name


def _family(text: str) -> int:
    if text not in FAMILIES:
        raise SetError(f"Syntax error: unknown inet family {text}")
    return FAMILIES[text]


def _timeout(text: str) -> int:
    return number(text, 0, MAX_TIMEOUT_S)


def _counter(text: str) -> int:
    return number(text, 0, 2 ** 64 - 2)


def _power_of_two(text: str) -> int:
    return max(SMALLEST_HASH, 1 << (number(text, 0, 2 ** 31) - 1).bit_length())


CREATE_OPTIONS: dict[str, Callable[[str], object] | None] = {
    "timeout": _timeout, "counters": None, "comment": None,
}
HASH_OPTIONS = CREATE_OPTIONS | {
    "family": _family, "hashsize": _power_of_two, "maxelem": lambda text: number(text, 0, MAX_MAXELEM),
    "bucketsize": lambda text: number(text, 2, 14), "initval": lambda text: f"{number(text, 0, 2 ** 32 - 1):#010x}",
}
LIST_OPTIONS = CREATE_OPTIONS | {"size": lambda text: max(SMALLEST_LIST, number(text, 0, 2 ** 32 - 1))}


def parse_create(words: Sequence[str]) -> SetOptions:
    """TYPENAME [ CREATE-OPTIONS ]."""
    if words[0] not in TYPES:
        raise SetError(f"Syntax error: typename '{words[0]}' is unknown; there are {', '.join(TYPES)}")
    known = LIST_OPTIONS if words[0] == "list:set" else HASH_OPTIONS
    if words[0] in ("hash:ip", "hash:ip,port"):
        known = known | {"netmask": lambda text: number(text, 1, 128)}
    given = options_of(words[1:], known)
    given["timeout_s"] = given.pop("timeout", None)
    if words[0] == "list:set":
        return SetOptions(words[0], family=0, **given)
    options = SetOptions(words[0], **given)
    if options.netmask and options.netmask > options.bits:
        raise SetError(f"Syntax error: '{options.netmask}' is out of range 1-{options.bits}")
    return replace(options, netmask=None) if options.netmask == options.bits else options


# -- elements --------------------------------------------------------------------------------------------------------------


def parse_address(text: str, family: int) -> int:
    """An address as a number.  IPv4 as inet_aton() reads it: 10.1 is 10.0.0.1."""
    try:
        if family == 4 and text[-1:].isalnum() and not text[-1:].isspace():
            return int.from_bytes(socket.inet_aton(text))
        if family == 6 and "%" not in text:
            return int(ipaddress.IPv6Address(text))
    except (OSError, ValueError):
        pass
    raise SetError(f"Syntax error: cannot parse {text}: resolving to IPv{family} address failed")


def show_address(address: int, family: int) -> str:
    return str(ipaddress.IPv4Address(address)) if family == 4 else show_ipv6(address)


def _prefix(text: str, options: SetOptions) -> int:
    prefix = number(text, 0, options.bits)
    if prefix == 0:
        raise SetError("The value of the CIDR parameter of the IP address is invalid")
    return prefix


def _span(text: str, options: SetOptions) -> tuple[int, int, int | None]:
    """First and last address of `a`, `a/prefix` or `a-b`, and the prefix if there was one."""
    host, slash, prefix_text = text.partition("/")
    start, dash, end = (text, "", "") if slash else text.partition("-")
    if options.family == 6 and (dash or (slash and not options.has_networks and prefix_text != "128")):
        raise SetError(f"Syntax error: {'IP address or IP/cidr' if options.has_networks else 'plain IP address'} must be "
                       f"{'specified' if options.has_networks else 'supplied'}: {text}")
    if slash and prefix_text:
        address, prefix = parse_address(host, options.family), _prefix(prefix_text, options)
        hosts = (1 << (options.bits - prefix)) - 1
        return address & ~hosts, address | hosts, prefix
    first = parse_address(start, options.family)
    last = parse_address(end, options.family) if dash else first
    return min(first, last), max(first, last), None


def _networks(first: int, last: int, bits: int) -> Iterator[tuple[int, int]]:
    """The fewest networks that make up a range, as (address, prefix)."""
    while first <= last:
        free_bits = (first & -first).bit_length() - 1 if first else bits
        free_bits = min(free_bits, (last - first + 1).bit_length() - 1)
        yield first, bits - free_bits
        first += 1 << free_bits


def _icmp_code(text: str, known: dict[str, tuple[int, int]], what: str) -> int:
    kind, slash, code = text.partition("/")
    if slash and kind.isdecimal() and code.isdecimal() and int(kind) < 256 and int(code) < 256:
        return int(kind) << 8 | int(code)
    if text not in known:
        raise SetError(f"Cannot parse {text} as an {what} type/code.")
    return known[text][0] << 8 | known[text][1]


def _one_port(text: str, protocol: str) -> int:
    try:
        return parse_port(text)
    except ValueError:
        raise SetError(f"Syntax error: cannot parse '{text}' as a {protocol} port") from None


def parse_ports(text: str, family: int) -> tuple[int, int, int]:
    """[proto:]port[-port] as protocol, first and last port."""
    protocol_text, colon, port_text = text.partition(":")
    if not colon:
        protocol_text, port_text = "tcp", text
    try:
        protocol = parse_protocol(protocol_text)
    except ValueError:
        raise SetError(f"Syntax error: cannot parse '{protocol_text}' as a protocol") from None
    if protocol == 0:
        raise SetError("Invalid protocol specified")
    if protocol in (ICMP, ICMPV6):
        if (protocol == ICMP) != (family == 4):
            what, needed = ("ICMP", "inet") if protocol == ICMP else ("ICMPv6", "inet6")
            raise SetError(f"Syntax error: Protocol {what} can be used with family {needed} only")
        code = _icmp_code(port_text, *((ICMP_CODES, "ICMP") if protocol == ICMP else (ICMPV6_CODES, "ICMPv6")))
        return protocol, code, code
    if protocol not in PORT_PROTOCOLS:
        if port_text != "0":
            raise SetError(f"Syntax error: Protocol {protocol_text} can be used with pseudo port value 0 only.")
        return protocol, 0, 0
    first, dash, last = port_text.strip("[]").partition("-")
    ports = sorted(_one_port(port.strip("[]"), protocol_text) for port in ((first, last) if dash else (first,)))
    return protocol, ports[0], ports[-1]


def _comment(text: str) -> str:
    if '"' in text:
        raise SetError('Syntax error: " character is not permitted in comments')
    if len(text.encode(errors="replace")) > MAX_COMMENT_LENGTH or CONTROL.search(text):
        raise SetError(f"Syntax error: a comment is text in UTF-8 of at most {MAX_COMMENT_LENGTH} bytes on one line")
    return text


ADD_OPTIONS: dict[str, Callable[[str], object] | None] = {
    "timeout": _timeout, "packets": _counter, "bytes": _counter, "comment": _comment,
}


def _settings(words: Sequence[str], options: SetOptions, command: str) -> dict[str, Any]:
    """What follows an element of `add`; `del` takes none, `test` nomatch."""
    known = dict(ADD_OPTIONS) if command == "add" else {}
    if options.has_networks and command != "del":
        known["nomatch"] = None
    given = options_of(words, known)
    for needed, there, names_of in (("timeout", options.timeout_s is not None, ("timeout",)),
                                    ("counters", options.counters, ("packets", "bytes")),
                                    ("comment", options.comment, ("comment",))):
        if not there and any(name in given for name in names_of):
            what = {"timeout": "Timeout", "counters": "Packet/byte counters", "comment": "Comment"}[needed]
            kind = {"counters": "counter"}.get(needed, needed)
            raise SetError(f"{what} cannot be used: set was created without {kind} support")
    if "timeout" in given:
        given["timeout_s"] = given.pop("timeout")
    return given


def parse_elements(words: Sequence[str], options: SetOptions, command: str = "add") -> list[Elements]:
    """ENTRY [ OPTIONS ] of `add`, `del` or `test` for a set of addresses."""
    settings = _settings(words[1:], options, command)
    address_text, comma, port_text = words[0].partition(",")
    if options.has_ports:
        if not comma:
            raise SetError(f"Syntax error: Second element is missing from {words[0]}.")
        if "," in port_text:
            raise SetError(f"Syntax error: Two elem separators in {words[0]}, but settype {options.type} supports one.")
        settings |= dict(zip(("protocol", "first_port", "last_port"), parse_ports(port_text, options.family), strict=True))
    elif comma:
        raise SetError(f"Syntax error: Elem separator in {words[0]}, but settype {options.type} supports none.")
    first, last, prefix = _span(address_text, options)
    if command == "test":
        _check_one(address_text, settings, options)
        if not options.has_networks or prefix is None:
            first = last = parse_address(re.split("[/-]", address_text)[0], options.family)
    if not options.has_networks:
        return [_hosts(first, last, options, settings)]
    if prefix is not None or first == last:
        return [Elements(first, first, prefix or options.bits, **settings)]
    if (first, last) == (0, (1 << options.bits) - 1):
        raise SetError("Invalid range, covers the whole address space")
    return [Elements(address, address, length, **settings) for address, length in _networks(first, last, options.bits)]


def _check_one(address_text: str, settings: dict[str, Any], options: SetOptions) -> None:
    """`test` asks for one element."""
    ranges = [("IP/CIDR", "/" in address_text and not options.has_networks), ("FROM-TO IP", "-" in address_text),
              ("FROM-TO port", settings.get("first_port") != settings.get("last_port"))]
    for what, there in ranges:
        if there and options.type != "hash:ip":
            family = "inet" if options.family == 4 else "inet6"
            raise SetError(f"{what} range is not allowed in command test with set type {options.type} and family {family}")


def _hosts(first: int, last: int, options: SetOptions, settings: dict[str, Any]) -> Elements:
    step = 1 << (options.bits - options.netmask) if options.netmask else 1
    first -= first % step
    if first == 0:
        raise SetError("Null-valued element, cannot be stored in a hash type of set")
    return Elements(first, last, options.bits, step, **settings)


def parse_list_entry(words: Sequence[str], options: SetOptions, command: str = "add") -> ListEntry:
    """SETNAME [ before | after SETNAME ] [ OPTIONS ]."""
    rest = list(words[1:])
    neighbours: dict[str, Any] = {}
    for side in ("before", "after"):
        if side in rest[:-1]:
            place = rest.index(side)
            neighbours[side] = rest[place + 1]
            del rest[place:place + 2]
    if len(neighbours) > 1:
        raise SetError("Syntax error: before and after exclude each other")
    return ListEntry(words[0], **neighbours, **_settings(rest, options, command))


# -- printing --------------------------------------------------------------------------------------------------------------

_FIRST_NAMES = {(protocol, kind << 8 | code): name for protocol, known in ((ICMP, ICMP_CODES), (ICMPV6, ICMPV6_CODES))
                for name, (kind, code) in reversed(known.items())}


def show_port(protocol: int, port: int) -> str:
    if protocol in (ICMP, ICMPV6):
        return f"{print_protocol(protocol)}:{_FIRST_NAMES.get((protocol, port)) or f'{port >> 8}/{port & 255}'}"
    return f"{print_protocol(protocol)}:{port}"


def show_row(row: ElementRow, options: SetOptions) -> str:
    """An element as `ipset save` prints it behind the set's name; `row` is one of Contents.rows()."""
    address, prefix, protocol, port, nomatch, timeout_s, packets, count_bytes, comment = row
    text = show_address(address, options.family)
    if prefix < options.bits:
        text += f"/{prefix}"
    if options.has_ports:
        text += f",{show_port(protocol, port)}"
    return text + _show_settings(options, nomatch, timeout_s, packets, count_bytes, comment)


def show_member(row: MemberRow, options: SetOptions) -> str:
    """A list's element; `row` is one of ListContents.member_rows()."""
    name, timeout_s, packets, count_bytes, comment = row
    return name + _show_settings(options, False, timeout_s, packets, count_bytes, comment)


def _show_settings(options: SetOptions, nomatch: bool, timeout_s: int | None, packets: int, count_bytes: int,
                   comment: str | None) -> str:
    text = "" if timeout_s is None else f" timeout {timeout_s}"
    if nomatch:
        text += " nomatch"
    if options.counters:
        text += f" packets {packets} bytes {count_bytes}"
    return text if comment is None else f'{text} comment "{comment}"'
