"""The values that options take: text -> value -> text.

Parsers raise ValueError with one line that says what would be right; they know neither options nor places.
"""
from __future__ import annotations

import difflib
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from pyfw.rules import names
from pyfw.rules.model import NotInPyfw

IFNAMSIZ = 16
MAX_MEANT_LENGTH = 64           # characters of a word that might be another one
MAX_COMPARED = 1000             # words that a suggestion is chosen from
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no name and no text on one line may hold: control characters, separators of lines, halves of UTF-16."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known word nearest to `word`, or nothing; of very many words only the first are compared."""
    folded = {name.casefold(): name for name in islice(known, MAX_COMPARED)}
    near = difflib.get_close_matches(word[:MAX_MEANT_LENGTH].casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[near[0]]}?" if near else ""


def parse_number(text: str, largest: int, what: str) -> int:
    """A whole number in decimal, 0x hexadecimal or 0 octal, as strtoul() reads it."""
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text):
        raise ValueError(f"{what} {text!r} is not a number from 0 to {largest}")
    try:
        number = int(text, 8 if re.fullmatch(r"0[0-9]+", text) else 0)
    except ValueError:
        raise ValueError(f"{what} {text!r} is not an octal number, which its leading 0 makes it") from None
    if number > largest:
        raise ValueError(f"{what} {text} is out of range: 0 to {largest}")
    return number


# -- addresses ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Network:
    """Addresses whose bits under `mask` are those of `address`; both are integers of 32 or 128 bits.

    `written`: the text it was read from, where that had bits outside the mask.
    """

    family: int
    address: int
    mask: int
    written: str = field(default="", compare=False, repr=False)

    @property
    def bits(self) -> int:
        return 32 if self.family == 4 else 128

    def __str__(self) -> str:
        show = ipaddress.IPv4Address if self.family == 4 else show_ipv6
        ones = self.mask.bit_count()
        contiguous = self.mask == ((1 << ones) - 1) << (self.bits - ones)
        return f"{show(self.address)}/{ones if contiguous else show(self.mask)}"


def show_ipv6(address: int) -> str:
    """As inet_ntop() writes it: mapped IPv4 addresses keep their dots."""
    if address >> 32 == 0xFFFF:
        return f"::ffff:{ipaddress.IPv4Address(address & 0xFFFFFFFF)}"
    return str(ipaddress.IPv6Address(address))


def parse_networks(text: str) -> tuple[Network, ...]:
    """`a`, `a/prefix`, `a/mask`, or several of them separated by commas."""
    return tuple(parse_network(part) for part in text.split(","))


def parse_network(text: str) -> Network:
    host, slash, mask_text = text.partition("/")
    if not host:
        raise ValueError(f"an address is missing in {text!r}" if text else "an address is missing")
    address, family = parse_address(host)
    mask = parse_mask(mask_text, family) if slash else (1 << (32 if family == 4 else 128)) - 1
    return Network(family, address & mask, mask, text if address & ~mask else "")


def parse_address(text: str) -> tuple[int, int]:
    """The address as an integer, and its family.  IPv4 may leave trailing zeros out: 10.1 is 10.1.0.0."""
    try:
        if ":" in text and "%" not in text:
            return int(ipaddress.IPv6Address(text)), 6
        if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", text):
            return int(ipaddress.IPv4Address(text + ".0" * (3 - text.count(".")))), 4
    except ipaddress.AddressValueError as error:
        raise ValueError(f"{text!r} is not an address: {error}") from None
    if text.startswith("$"):
        raise ValueError(f"variable {text} has no value here; write the address")
    refusal = NotInPyfw if re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text) else ValueError
    raise refusal(f"{text!r} is not an address; names are not resolved, write 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32")


def parse_mask(text: str, family: int) -> int:
    bits = 32 if family == 4 else 128
    if text.isascii() and text.isdigit():
        if len(text) > 3 or int(text) > bits:
            raise ValueError(f"prefix length {text} is out of range: 0 to {bits}")
        return ((1 << int(text)) - 1) << (bits - int(text))
    try:
        return int(ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text))
    except ipaddress.AddressValueError:
        raise ValueError(f"mask {text!r} is neither a prefix length from 0 to {bits} nor a mask such as "
                         f"{'255.255.0.0' if family == 4 else 'ffff:ffff::'}") from None


# -- interfaces, protocols, ports ---------------------------------------------------------------------------------

def parse_interface(text: str) -> str:
    """An interface's name; a `+` at its end stands for any rest."""
    if not text:
        raise ValueError("the interface's name is empty; leave the option out to match any")
    if len(text.encode(errors="replace")) >= IFNAMSIZ:
        raise ValueError(f"interface {text!r} is longer than {IFNAMSIZ - 1} bytes")
    if text.startswith("$"):
        raise ValueError(f"variable {text} has no value here; write the interface's name")
    if re.search(r"[\s/<>]", text) or CONTROL.search(text):
        raise ValueError(f"{text!r} is not an interface's name: it holds a space, `/`, `<` or a control character")
    return text


def parse_protocol(text: str) -> int:
    """A protocol's number, 0 to 255, or its name; 0 and `all` mean any."""
    if text.isascii() and text.isdigit():
        return parse_number(text, 255, "protocol")
    known = names.PROTOCOLS | names.PROTOCOL_ALIASES
    if text.lower() not in known:
        raise ValueError(f"unknown protocol {text!r}{suggestion(text, known)}")
    return known[text.lower()]


def print_protocol(number: int) -> str:
    return names.PROTOCOL_NAMES.get(number, str(number))


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from low to high, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


def parse_ports(text: str) -> PortRange:
    """`port`, `low:high`, `low:`, `:high`; a port may be a service's name."""
    if "," in text:
        raise ValueError(f"{text!r} is a list; one port or a range low:high fits here")
    low, colon, high = text.partition(":")
    if not colon:
        return PortRange(port := parse_port(low), port)
    span = PortRange(parse_port(low) if low else 0, parse_port(high) if high else 65535)
    if span.low > span.high:
        raise ValueError(f"port range {text} runs backwards; write {high}:{low}")
    return span


def show_ports(ports: PortRange, protocol: str, numeric: bool) -> str:
    """As iptables -L has it: with services' names, unless it is to be numeric."""
    shown = [str(port) if numeric else service_name(port, protocol) for port in dict.fromkeys((ports.low, ports.high))]
    return ":".join(shown)


def service_name(port: int, protocol: str) -> str:
    for known in (protocol,) if protocol else ("tcp", "udp"):
        with suppress(OSError):
            return socket.getservbyport(port, known)
    return str(port)


def parse_port(text: str) -> int:
    if text[:1].isdigit():
        return parse_number(text, 65535, "port")
    if text.startswith("$"):
        raise ValueError(f"variable {text} has no value here; write the port")
    try:
        return socket.getservbyname(text)
    except (OSError, UnicodeError, ValueError):
        raise ValueError(f"{text!r} is neither a port from 0 to 65535 nor a service's name") from None


# -- flags, types, states -------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class TcpFlags:
    """Of the flags under `mask`, exactly those of `value` are set."""

    mask: int
    value: int

    def __str__(self) -> str:
        return f"{print_flag_set(self.mask)} {print_flag_set(self.value)}"


SYN_ONLY = TcpFlags(0x17, 0x02)     # --syn: of FIN, SYN, RST, ACK only SYN


def parse_tcp_flags(mask: str, value: str) -> TcpFlags:
    return TcpFlags(parse_flag_set(mask), parse_flag_set(value))


def parse_flag_set(text: str) -> int:
    known = names.TCP_FLAGS | names.TCP_FLAG_SETS
    bits = 0
    for flag in text.split(","):
        if flag.upper() not in known:
            raise ValueError(f"unknown TCP flag {flag!r}; there are {', '.join(known)}")
        bits |= known[flag.upper()]
    return bits


def print_flag_set(bits: int) -> str:
    return ",".join(name for name, bit in names.TCP_FLAGS.items() if bits & bit) or "NONE"


@dataclass(frozen=True, slots=True)
class IcmpType:
    """A type and its code, None for any."""

    type: int
    code: int | None = None

    def __str__(self) -> str:
        return str(self.type) if self.code is None else f"{self.type}/{self.code}"


def parse_icmp_type(text: str, known: Mapping[str, tuple[int, int | None]]) -> IcmpType:
    """A name, the unambiguous beginning of one, `type` or `type/code`."""
    if text[:1].isdigit():
        kind, slash, code = text.partition("/")
        return IcmpType(parse_number(kind, 255, "ICMP type"), parse_number(code, 255, "ICMP code") if slash else None)
    fitting = [name for name in known if text and name.casefold().startswith(text.casefold())]
    exact = [name for name in fitting if name.casefold() == text.casefold()]
    meanings = {known[name] for name in exact or fitting}
    if len(meanings) > 1:
        raise ValueError(f"ICMP type {text!r} is ambiguous: {', '.join(fitting)}")
    if not meanings:
        raise ValueError(f"unknown ICMP type {text!r}{suggestion(text, known)}")
    return IcmpType(*meanings.pop())


def print_icmp_type(value: IcmpType) -> str:
    return "any" if value.type == names.ANY_ICMP_TYPE else str(value)


def parse_states(text: str, known: Mapping[str, int]) -> int:
    """Names separated by commas, in any case; a comma may trail, as printed rulesets have it."""
    bits = 0
    listed = text.removesuffix(",").split(",")
    for name in listed:
        if name.upper() not in known:
            raise ValueError(f"unknown state {name!r}{suggestion(name, known)}; there are {','.join(known)}")
        bits |= known[name.upper()]
    return bits


def print_states(bits: int, known: Mapping[str, int]) -> str:
    return ",".join(name for name, bit in known.items() if bits & bit)


# -- REJECT, LOG, text ----------------------------------------------------------------------------------------------

def parse_reject(text: str) -> str:
    """The canonical name of a --reject-with kind, from a name, an alias, or the unambiguous beginning of a name."""
    kinds = [*names.REJECTS_V4, *names.REJECTS_V6, "tcp-reset", names.ANY_PORT_UNREACHABLE]
    name = text.lower()
    if name in kinds or name in names.REJECT_ALIASES:
        return names.REJECT_ALIASES.get(name, name)
    fitting = [kind for kind in kinds if name and kind.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    raise ValueError(f"unknown reject type {text!r}{suggestion(text, [*kinds, *names.REJECT_ALIASES])}")


def parse_log_level(text: str) -> int:
    if text.isascii() and text.isdigit():
        return parse_number(text, 7, "log level")
    if text.lower() not in names.LOG_LEVELS:
        raise ValueError(f"unknown log level {text!r}{suggestion(text, names.LOG_LEVELS)}; "
                         f"there are 0 to 7 and {', '.join(names.LOG_LEVELS)}")
    return names.LOG_LEVELS[text.lower()]


def parse_text(text: str, longest: int, what: str) -> str:
    """Any text on one line, at most `longest` bytes."""
    if len(text.encode(errors="replace")) > longest:
        raise ValueError(f"{what} is longer than {longest} bytes")
    if CONTROL.search(text):
        raise ValueError(f"{what} holds a control character, or bytes that are not UTF-8")
    return text


def quote(text: str) -> str:
    """A word as iptables-save writes it: quoted unless it is plain, with `"`, backslash and `'` escaped."""
    if re.fullmatch(r"[-_0-9A-Za-z]+", text):
        return text
    escaped = re.sub(r"([\\\"'])", r"\\\1", text)
    return f'"{escaped}"'
