"""What a user asks about: words -> one packet, where it is met, and between which interfaces.

The words are those of `pyfwctl explain` and `pyfw explain`.  A TCP or SCTP packet of a connection that is known
is its next one, unless the words say otherwise.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn

from pyfw.engine.engine import Engine
from pyfw.enums import Hook, TcpState
from pyfw.explain.dry_run import Answer, Known, dry_run, find_known
from pyfw.rules import names, values
from pyfw.wire.build import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Address, IpHeader, sctp_chunk

HOOKS = ("INPUT", "FORWARD", "OUTPUT")
DEFAULT_SPORT = 40000
MAX_OPTIONS = 100
ICMP_HEADER = 8
ICMP_ERRORS, ICMPV6_ERRORS = {3, 4, 5, 11, 12}, set(range(1, 128))
TCP_FLAGS = names.TCP_FLAGS | {"ECE": 0x40, "CWR": 0x80}
SYN, RST, ACK = TCP_FLAGS["SYN"], TCP_FLAGS["RST"], TCP_FLAGS["ACK"]
SCTP_CHUNKS = {"DATA": 0, "INIT": 1, "INIT-ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT-ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
               "SHUTDOWN-ACK": 8, "ERROR": 9, "COOKIE-ECHO": 10, "COOKIE-ACK": 11, "SHUTDOWN-COMPLETE": 14}
WITH_PORTS = {TCP, UDP, UDPLITE, SCTP}
OVER = {TcpState.TIME_WAIT, TcpState.CLOSE}
HELP = """\
what is asked about:
  tcp|udp|udplite|sctp SRC[:PORT] DST:PORT    IPv6 with a port: [2001:db8::1]:443
  icmp|icmpv6 [TYPE] SRC DST                  TYPE as iptables has them, or type/code; default: echo-request
  PROTOCOL SRC DST                            any other, by name or number
  hex 4500...                                 the bytes of a packet, from its IP header
  pcap FILE [--frame N]                       a packet of a capture file
"""


class SpecError(ValueError):
    """Words that ask about no packet: one line that says what would."""


@dataclass(frozen=True, slots=True)
class PacketSpec:
    """A packet and where it is met."""

    data: bytes
    hook: Hook
    indev: str = ""
    outdev: str = ""
    length: int | None = None       # on the wire, where `data` is only the beginning
    trusted: bool = False           # its checksums are not to be looked at, as those of a packet that a stack has passed
    mark: int = 0
    hardware: bytes | None = None
    owner: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()     # what was assumed

    def put(self, engine: Engine, now_ns: int) -> Answer:
        """Ask the engine."""
        return dry_run(engine, self.data, self.hook, self.indev, self.outdev, now_ns, mark=self.mark, length=self.length,
                   trusted=self.trusted, hardware=self.hardware, owner=self.owner)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message}; `{self.prog} --help` shows what can be asked")


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of a spec, the same on every command line."""
    parser.add_argument("packet", nargs="+", metavar="WORD", help="the packet, see below")
    parser.add_argument("--in", dest="indev", metavar="IFACE", type=_interface, help="the interface it came in by")
    parser.add_argument("--out", dest="outdev", metavar="IFACE", type=_interface, help="the interface it leaves by")
    parser.add_argument("--hook", choices=HOOKS, type=str.upper,
                        help="where it is met (default: INPUT with --in alone, OUTPUT with --out alone, else FORWARD)")
    parser.add_argument("--flags", metavar="SYN,ACK", type=_tcp_flags,
                        help="TCP (default: SYN, or what a known connection waits for)")
    parser.add_argument("--seq", type=_number(0xFFFFFFFF), help="TCP (default: the connection's next)")
    parser.add_argument("--ack", type=_number(0xFFFFFFFF), help="TCP (default: all that was sent)")
    parser.add_argument("--chunk", type=str.upper, choices=SCTP_CHUNKS,
                        help="SCTP (default: INIT, or DATA of a known connection)")
    parser.add_argument("--id", type=_number(0xFFFF), default=1, help="of an ICMP request or reply (default: 1)")
    parser.add_argument("--quote", nargs=3, metavar=("PROTOCOL", "SRC", "DST"), help="the packet that an ICMP error is about")
    parser.add_argument("--length", type=_number(0xFFFF), help="of the whole packet in bytes (default: no payload)")
    parser.add_argument("--ttl", type=_number(255), default=64, help="or hop limit (default: 64)")
    parser.add_argument("--tos", type=_number(255), default=0, help="or traffic class")
    parser.add_argument("--mark", type=_number(0xFFFFFFFF), default=0, help="the packet's mark before the rules")
    parser.add_argument("--mac", type=_mac, metavar="ADDRESS", help="the sender's Ethernet address")
    parser.add_argument("--uid", type=_number(0xFFFFFFFF), help="user of the socket that sends it")
    parser.add_argument("--gid", type=_number(0xFFFFFFFF), help="group of the socket that sends it")
    parser.add_argument("--frame", type=_number(1 << 31), default=1, metavar="N", help="of a capture file, from 1 (default: 1)")
    parser.add_argument("--wire-length", type=_number(0xFFFF + 40), metavar="BYTES",
                        help="with hex: the length before it was cut")
    parser.add_argument("--trusted", action="store_true", help="with hex: its checksums are not looked at")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def spec_parser(program: str, parent: type[argparse.ArgumentParser] = _Parser) -> argparse.ArgumentParser:
    parser = parent(prog=program, allow_abbrev=False, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
                    add_help=False, description="What would become of a packet, and why: nothing is changed.")
    add_spec_arguments(parser)
    return parser


def read_spec(words: Sequence[str]) -> argparse.Namespace:
    """Looks up names of services, so it may wait for them.  Raises SpecError."""
    if sum(word.startswith("-") for word in words) > MAX_OPTIONS:      # argparse needs their square in time
        raise SpecError(f"a question has at most {MAX_OPTIONS} options")
    spec = spec_parser("explain").parse_args(list(words))
    if _has_ports(spec.packet[0]):
        spec.packet = [_with_port_number(word) for word in spec.packet]
    return spec


def _has_ports(kind: str) -> bool:
    try:
        return values.parse_protocol(kind) in WITH_PORTS
    except ValueError:          # pcap, hex, or what packet_spec() refuses
        return False


def _with_port_number(word: str) -> str:
    """An end of a connection with its port as a number, if it has the name of a service."""
    host, colon, name = word.rpartition(":")
    if not colon or not name or name[0].isdigit() or (":" in host and not host.endswith("]")):
        return word
    try:
        return f"{host}:{values.parse_port(name)}"
    except ValueError as error:
        raise SpecError(str(error)) from None


def packet_spec(spec: argparse.Namespace, engine: Engine, now_ns: int) -> PacketSpec:
    """The packet that the words mean, which may depend on what the engine knows of its connection.  Raises SpecError."""
    kind, *words = spec.packet
    try:
        if kind == "pcap":
            raise SpecError("a capture file is read by the command line, which hands over the frame as hex")
        if kind == "hex":
            return _met(_hex("".join(words)), spec, length=spec.wire_length, trusted=spec.trusted)
        return _Builder(spec, lambda data: find_known(engine, data, now_ns)).asked(kind, words)
    except ValueError as error:
        raise error if isinstance(error, SpecError) else SpecError(str(error)) from None


def _met(data: bytes, spec: argparse.Namespace, *, notes: Sequence[str] = (), length: int | None = None,
         trusted: bool = False) -> PacketSpec:
    owner = None
    if spec.uid is not None or spec.gid is not None:
        owner = (spec.uid or 0, spec.gid or 0)
    return PacketSpec(data, Hook[spec.hook or _hook(spec)], spec.indev or "", spec.outdev or "", length, trusted,
                 spec.mark, spec.mac, owner, tuple(notes))


def _hook(spec: argparse.Namespace) -> str:
    if bool(spec.indev) == bool(spec.outdev):
        return "FORWARD"
    return "INPUT" if spec.indev else "OUTPUT"


def _hex(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x").replace(":", ""))
    except ValueError:
        raise SpecError("hex takes pairs of hexadecimal digits, as hex 4500001c...") from None
    if not data:
        raise SpecError("hex needs the bytes of a packet, from its IP header on")
    return data


class _Builder:
    """Makes a packet from the fields that were given, and says which it chose itself."""

    def __init__(self, spec: argparse.Namespace, find_known: Callable[[bytes], Known | None]) -> None:
        self.spec = spec
        self.find_known = find_known
        self.notes: list[str] = []

    def asked(self, kind: str, words: list[str]) -> PacketSpec:
        protocol = values.parse_protocol(kind)
        if protocol == 0:
            raise SpecError(f"{kind} is any protocol; ask about one, as tcp 10.0.0.5:40000 203.0.113.7:443")
        self.check_options(protocol)
        if protocol in (ICMP, ICMPV6):
            data = self.icmp(kind, protocol, words)
        else:
            data = self.packet(protocol, *self.ends(kind, protocol, words))
        return _met(data, self.spec, notes=self.notes)

    def check_options(self, protocol: int) -> None:
        for option, owner, name in (("flags", TCP, "tcp"), ("seq", TCP, "tcp"), ("ack", TCP, "tcp"), ("chunk", SCTP, "sctp")):
            if getattr(self.spec, option) is not None and protocol != owner:
                raise SpecError(f"--{option} is about {name}")
        if self.spec.quote and protocol not in (ICMP, ICMPV6):
            raise SpecError("--quote is about icmp errors")

    def ends(self, kind: str, protocol: int, words: Sequence[str]) -> tuple[IpHeader, int, int]:
        """The IP header and the ports, 0 where there are none."""
        with_ports = protocol in WITH_PORTS
        form = f"{kind} SRC:PORT DST:PORT" if with_ports else f"{kind} SRC DST"
        if len(words) != 2:
            raise SpecError(f"{form} is expected, not {len(words)} words behind {kind}")
        (src, sport), (dst, dport) = (_end(word, with_ports) for word in words)
        if src.version != dst.version:
            raise SpecError(f"{src} and {dst} are of different families")
        if with_ports and dport is None:
            raise SpecError(f"the destination's port is missing: {form}")
        return IpHeader(src, dst, self.spec.ttl, self.spec.tos), DEFAULT_SPORT if sport is None else sport, dport or 0

    def payload(self, header: IpHeader, size: int) -> bytes:
        """Zeros that make the packet as long as it was asked for."""
        wanted, least = self.spec.length, header.size + size
        if wanted is None:
            return b""
        if wanted < least:
            raise SpecError(f"--length {wanted}: the headers alone are {least} bytes")
        return bytes(wanted - least)

    def packet(self, protocol: int, header: IpHeader, sport: int, dport: int) -> bytes:
        if protocol == TCP:
            return self.tcp(header, sport, dport)
        if protocol == SCTP:
            return self.sctp(header, sport, dport)
        if protocol in (UDP, UDPLITE):
            return header.udp(sport, dport, self.payload(header, 8), protocol=protocol)
        return header.packet(protocol, self.payload(header, 0))

    def tcp(self, header: IpHeader, sport: int, dport: int) -> bytes:
        flags, seq, ack = self.spec.flags, self.spec.seq, self.spec.ack
        known = self.find_known(header.tcp(sport, dport, SYN, seq=0, ack=0))
        if flags is None:
            flags = _next_flags(known)
            why = "as a connection begins" if flags == SYN else "for which the connection waits"
            self.notes.append(f"flags {_flag_names(flags)}, {why}")
        if seq is None:
            seq = _next_seq(known, flags)
            if known:
                self.notes.append(f"seq {seq}, the connection's next")
        if ack is None:
            ack = known.next_ack if known and flags & ACK else 0
        return header.tcp(sport, dport, flags, seq=seq, ack=ack, payload=self.payload(header, 20))

    def sctp(self, header: IpHeader, sport: int, dport: int) -> bytes:
        known = self.find_known(header.sctp(sport, dport, 0, b""))
        chunk = self.spec.chunk or ("DATA" if known else "INIT")
        if self.spec.chunk is None:
            self.notes.append(f"chunk {chunk}")
        tag = known.tag if known and chunk != "INIT" else 0
        return header.sctp(sport, dport, tag, sctp_chunk(SCTP_CHUNKS[chunk]))

    # -- ICMP ---------------------------------------------------------------------------------------------------------

    def icmp(self, kind: str, protocol: int, words: list[str]) -> bytes:
        if len(words) not in (2, 3):
            raise SpecError(f"{kind} [TYPE] SRC DST is expected, as {kind} echo-request "
                                f"{'10.0.0.5 203.0.113.7' if protocol == ICMP else '2001:db8::5 2001:db8::7'}")
        header, _, _ = self.ends(kind, protocol, words[-2:])
        if (header.src.version == 4) != (protocol == ICMP):
            raise SpecError(f"{kind} goes between IPv{4 if protocol == ICMP else 6} addresses")
        name = words[0] if len(words) == 3 else "echo-request"
        known = names.ICMP_TYPES if protocol == ICMP else names.ICMPV6_TYPES
        wanted = values.parse_icmp_type("echo-request" if name == "echo" else name, known)
        if wanted.type in (ICMP_ERRORS if protocol == ICMP else ICMPV6_ERRORS):
            return header.icmp(wanted.type, wanted.code or 0, payload=self.quote(header, name))
        if self.spec.quote:
            raise SpecError(f"--quote belongs to an ICMP error, which {name} is not")
        return header.icmp(wanted.type, wanted.code or 0, self.spec.id, 1, self.payload(header, ICMP_HEADER))

    def quote(self, header: IpHeader, name: str) -> bytes:
        """The beginning of the packet that an error is about."""
        if not self.spec.quote:
            raise SpecError(f"{name} is about another packet; say which with --quote tcp 10.0.0.5:40000 203.0.113.7:443")
        kind, *words = self.spec.quote
        protocol = values.parse_protocol(kind)
        quoted, sport, dport = self.ends(kind, protocol, words)
        if quoted.src.version != header.src.version:
            raise SpecError("an ICMP error quotes a packet of its own family")
        if protocol == TCP:
            return quoted.tcp(sport, dport, SYN, seq=0, ack=0)
        if protocol in (ICMP, ICMPV6):
            return quoted.icmp(8 if protocol == ICMP else 128, 0, self.spec.id, 1)
        return quoted.udp(sport, dport, protocol=protocol) if protocol in WITH_PORTS else quoted.packet(protocol, b"")


def _next_flags(known: Known | None) -> int:
    """A first packet is a SYN; a connection waits for its SYN again, for the answer to it, or for what follows."""
    if known is None or (known.tcp_state in OVER and known.direction == 0):
        return SYN
    if known.tcp_state is TcpState.SYN_SENT:
        return SYN | ACK if known.direction else SYN
    return ACK


def _next_seq(known: Known | None, flags: int) -> int:
    if known is None or not known.next_seq:
        return 1
    again = flags & SYN and not flags & ACK and known.tcp_state is TcpState.SYN_SENT
    return (known.next_seq - bool(again)) % 2**32


def _flag_names(flags: int) -> str:
    return ",".join(name for name, bit in TCP_FLAGS.items() if flags & bit) or "NONE"


def _end(text: str, with_port: bool) -> tuple[Address, int | None]:
    """`10.0.0.5`, `10.0.0.5:443`, `2001:db8::5`, `[2001:db8::5]:443`"""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise SpecError(f"{text!r} is no address with a port; write [2001:db8::1]:443")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise SpecError(f"{text!r}: the port behind the colon is missing")
    if port and not with_port:
        raise SpecError(f"{text!r}: this protocol has no ports")
    number, family = values.parse_address(host)
    address: Address = IPv4Address(number) if family == 4 else IPv6Address(number)
    return address, values.parse_port(port) if port else None


def _number(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            value = -1
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {most}")
        return value
    return number


def _interface(text: str) -> str:
    try:
        return values.parse_interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tcp_flags(text: str) -> int:
    bits = 0
    for name in text.upper().split(","):
        if name not in TCP_FLAGS and name != "NONE":
            raise argparse.ArgumentTypeError(f"unknown TCP flag {name!r}; there are {', '.join(TCP_FLAGS)} and NONE")
        bits |= TCP_FLAGS.get(name, 0)
    return bits


def _mac(text: str) -> bytes:
    try:
        address = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        address = b""
    if len(address) != 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no Ethernet address, as 02:00:00:00:00:01")
    return address
