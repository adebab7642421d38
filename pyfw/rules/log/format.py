"""A logged packet -> the line that the kernel's LOG target prints for it, byte for byte.

Knows the header layouts, since it prints fields that judging needs not; reads only bytes that are there, and
says as the kernel does where they end.  Source of the format: `dmesg` of Linux 6.x, checked against it by tests/lab/rules.
"""
from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from pyfw.enums import Hook, Reason
from pyfw.rules.code import LogSettings

_ACCURATE_ECN = 0x01           # the last of the four bits behind the data offset (RFC 9768); older kernels print no AE
_TCP_FLAGS = (("CWR", 0x80), ("ECE", 0x40), ("URG", 0x20), ("ACK", 0x10), ("PSH", 0x08), ("RST", 0x04), ("SYN", 0x02),
              ("FIN", 0x01))
_DONT_FRAGMENT, _MORE_FRAGMENTS, _CONGESTION, _OFFSET = 0x4000, 0x2000, 0x8000, 0x1FFF
_QUOTING_ICMP = {3, 4, 5, 11}
_ICMP_LENGTHS = {0: 4, 3: 28, 4: 28, 5: 28, 8: 4, 11: 28, 12: 28, 13: 20, 14: 20, 17: 12, 18: 12}
_QUOTING_ICMPV6 = {1, 2, 3, 4}
_EXTENSIONS = {0, 43, 44, 50, 51, 60}
_NO_NEXT_HEADER = 59
_PORT_PROTOCOLS = {17: "UDP", 136: "UDPLITE"}


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One packet that LOG met, or that was dropped.  `length` is that of the whole packet, of which `data` may be the beginning only."""

    settings: LogSettings
    rule: str | None            # None: dropped, and not by a rule
    now_ns: int
    hook: Hook
    indev: str
    outdev: str
    mark: int
    length: int
    data: bytes


def trace_settings(rule: str) -> LogSettings:
    """How TRACE prints a packet that matched `rule`: xt_trace's prefix, and all there is to print."""
    return LogSettings(prefix=f"TRACE: {rule} ", tcp_sequence=True, tcp_options=True, ip_options=True)


def audit_settings(rule: str) -> LogSettings:
    """How a packet is printed that matched `rule`, which only audits."""
    return LogSettings(prefix=f"AUDIT: {rule} ")


def drop_settings(rule: str | None, reason: Reason, text: str) -> LogSettings:
    """How a dropped packet is printed: with what dropped it, and with the sequence numbers that reasons are about."""
    why = reason.name if reason in (Reason.RULE, Reason.POLICY) else f"{reason.name} ({text})"
    return LogSettings(prefix=f"DROP: {rule or '-'} {why} ", tcp_sequence=True)


def format_log(record: LogRecord) -> str:
    """The line without its time stamp: `prefixIN=eth0 OUT=eth1 MAC= SRC=... `, with the space at its end."""
    head = f"{record.settings.prefix}IN={record.indev} OUT={record.outdev} "
    if record.indev:
        head += "MAC= "
    printer = _Printer(record)
    version = record.data[0] >> 4 if record.data else 0
    if version == 4:
        printer.ipv4(0)
    elif version == 6:
        printer.ipv6(0)
    else:
        printer.add(f"LEN={record.length} ")    # not IP: only a drop's
    return head + "".join(printer.parts)


class _Printer:
    """Appends the fields of one packet to `parts`.  Methods take the offset of their header."""

    def __init__(self, record: LogRecord) -> None:
        self.data = record.data
        self.length = record.length
        self.settings = record.settings
        self.mark = record.mark
        self.parts: list[str] = []

    def add(self, text: str) -> None:
        self.parts.append(text)

    def unpack(self, layout: str, offset: int) -> tuple[int, ...] | None:
        """The fields at `offset`, or None where the packet ends before."""
        if offset + struct.calcsize(layout) > len(self.data):
            return None
        return struct.unpack_from(layout, self.data, offset)

    def incomplete(self, offset: int) -> None:
        self.add(f"INCOMPLETE [{self.length - offset} bytes] ")

    def add_mark(self) -> None:
        if self.mark:
            self.add(f"MARK=0x{self.mark:x} ")

    # -- IPv4 -----------------------------------------------------------------------------------------------------------

    def ipv4(self, offset: int) -> None:
        header = self.unpack("!BBHHHBBH4s4s", offset)
        if header is None:
            self.add("TRUNCATED")
            return
        version, tos, length, identification, fragment, ttl, protocol, _, src, dst = header
        self.add(f"SRC={ipaddress.IPv4Address(src)} DST={ipaddress.IPv4Address(dst)} ")
        self.add(f"LEN={length} TOS=0x{tos & 0x1E:02X} PREC=0x{tos & 0xE0:02X} TTL={ttl} ID={identification} ")
        for bit, name in ((_CONGESTION, "CE "), (_DONT_FRAGMENT, "DF "), (_MORE_FRAGMENTS, "MF ")):
            if fragment & bit:
                self.add(name)
        if fragment & _OFFSET:
            self.add(f"FRAG:{fragment & _OFFSET} ")
        size = (version & 15) * 4
        if self.settings.ip_options and size > 20 and not self.options(offset + 20, size - 20, "TRUNCATED"):
            return
        if self.transport(protocol, offset + size, bool(fragment & _OFFSET), offset == 0) and offset == 0:
            self.add_mark()

    def options(self, offset: int, size: int, cut: str) -> bool:
        """`OPT (0402...) `, or `cut` and False if not all of them are there."""
        if offset + size > len(self.data):
            self.add(cut)
            return False
        self.add(f"OPT ({self.data[offset:offset + size].hex().upper()}) ")
        return True

    def transport(self, protocol: int, offset: int, fragment: bool, outermost: bool) -> bool:
        """The fields of the transport header; False if the line ends here."""
        if protocol == 6:
            return self.tcp(offset, fragment)
        if protocol in _PORT_PROTOCOLS:
            return self.udp(_PORT_PROTOCOLS[protocol], offset, fragment)
        if protocol == 1:
            self.icmp(offset, fragment, outermost)
        elif protocol in (50, 51):
            self.security(protocol, offset, fragment)
        else:
            self.add(f"PROTO={protocol} ")
        return True

    def tcp(self, offset: int, fragment: bool) -> bool:
        self.add("PROTO=TCP ")
        if fragment:
            return True
        header = self.unpack("!HHIIBBHHH", offset)
        if header is None:
            self.incomplete(offset)
            return False
        sport, dport, seq, ack, size, flags, window, _, urgent = header
        self.add(f"SPT={sport} DPT={dport} ")
        if self.settings.tcp_sequence:
            self.add(f"SEQ={seq} ACK={ack} ")
        self.add(f"WINDOW={window} RES=0x{(size & 0x0E) << 2:02x} ")
        self.add("AE " if size & _ACCURATE_ECN else "")
        self.add("".join(f"{name} " for name, bit in _TCP_FLAGS if flags & bit))
        self.add(f"URGP={urgent} ")
        length = (size >> 4) * 4
        if self.settings.tcp_options and length > 20:
            return self.options(offset + 20, length - 20, "OPT (TRUNCATED)")
        return True

    def udp(self, name: str, offset: int, fragment: bool) -> bool:
        self.add(f"PROTO={name} ")
        if fragment:
            return True
        header = self.unpack("!HHHH", offset)
        if header is None:
            self.incomplete(offset)
            return False
        self.add(f"SPT={header[0]} DPT={header[1]} LEN={header[2]} ")
        return True

    def security(self, protocol: int, offset: int, fragment: bool) -> None:
        """AH and ESP: the security parameters index."""
        self.add("PROTO=ESP " if protocol == 50 else "PROTO=AH ")
        if fragment:
            return
        size, at = (8, 0) if protocol == 50 else (12, 4)
        if offset + size > len(self.data):
            self.incomplete(offset)
        else:
            self.add(f"SPI=0x{int.from_bytes(self.data[offset + at:offset + at + 4], 'big'):x} ")

    def icmp(self, offset: int, fragment: bool, outermost: bool) -> None:
        self.add("PROTO=ICMP ")
        if fragment:
            return
        header = self.unpack("!BBHHH", offset)
        if header is None:
            self.incomplete(offset)
            return
        kind, code, _, high, low = header
        self.add(f"TYPE={kind} CODE={code} ")
        if self.length - offset < _ICMP_LENGTHS.get(kind, 0):
            self.incomplete(offset)
            return
        if kind in (0, 8):
            self.add(f"ID={high} SEQ={low} ")
        elif kind == 12:
            self.add(f"PARAMETER={high >> 8} ")
        elif kind in _QUOTING_ICMP:
            if kind == 5:
                self.add(f"GATEWAY={ipaddress.IPv4Address(high << 16 | low)} ")
            if outermost:
                self.add("[")
                self.ipv4(offset + 8)
                self.add("] ")
            if kind == 3 and code == 4:
                self.add(f"MTU={low} ")

    # -- IPv6 -----------------------------------------------------------------------------------------------------------

    def ipv6(self, offset: int) -> None:
        header = self.unpack("!IHBB16s16s", offset)
        if header is None:
            self.add("TRUNCATED")
            return
        word, payload, protocol, hop_limit, src, dst = header
        self.add(f"SRC={ipaddress.IPv6Address(src).exploded} DST={ipaddress.IPv6Address(dst).exploded} ")
        self.add(f"LEN={payload + 40} TC={word >> 20 & 0xFF} HOPLIMIT={hop_limit} FLOWLBL={word & 0xFFFFF} ")
        walked = self.extensions(protocol, offset + 40)
        if walked is None:
            return
        protocol, at, fragment = walked
        if protocol == 58:
            self.icmpv6(at, fragment, offset == 0)
        elif protocol in (6, *_PORT_PROTOCOLS):
            if not self.transport(protocol, at, fragment, False):
                return
        else:
            self.add(f"PROTO={protocol} ")
        if offset == 0:
            self.add_mark()

    def extensions(self, protocol: int, at: int) -> tuple[int, int, bool] | None:
        """Past the extension headers: protocol, its offset, whether this is a later fragment; None if the line ends here."""
        fragment = False
        shown = self.settings.ip_options
        while protocol in _EXTENSIONS and protocol != _NO_NEXT_HEADER:
            common = self.unpack("!BB", at)
            if common is None:
                self.add("TRUNCATED")
                return None
            if shown:
                self.add("OPT ( ")
            size = (common[1] + 1) * 8
            if protocol == 44:
                fields = self.unpack("!BBHI", at)
                self.add("FRAG:")
                if fields is None:
                    self.add("TRUNCATED ")
                    return None
                self.add(f"{fields[2] & 0xFFF8} {'INCOMPLETE ' if fields[2] & 1 else ''}ID:{fields[3]:08x} ")
                fragment = fragment or bool(fields[2] & 0xFFF8)
                size = 8
            elif protocol in (50, 51):
                size = (common[1] + 2) * 4
                if not self.security_extension(protocol, at, fragment):
                    return None
            elif fragment:
                self.add(")" if shown else "")
                return None
            if shown:
                self.add(") ")
            protocol, at = common[0], at + size
        return protocol, at, fragment

    def security_extension(self, protocol: int, at: int, fragment: bool) -> bool:
        """AH or ESP among the extension headers, shown with the IP options; False if the line ends here, as ESP always does."""
        ends = protocol == 50
        if not self.settings.ip_options:
            return not ends
        self.add("ESP " if ends else "AH ")
        if fragment:
            self.add(")")
            return False
        if at + (8 if ends else 12) > len(self.data):
            self.add(f"INCOMPLETE [{self.length - at} bytes] )")
            return False
        self.add(f"SPI=0x{int.from_bytes(self.data[at + (0 if ends else 4):][:4], 'big'):x} {')' if ends else ''}")
        return not ends

    def icmpv6(self, offset: int, fragment: bool, outermost: bool) -> None:
        self.add("PROTO=ICMPv6 ")
        if fragment:
            return
        header = self.unpack("!BBHHH", offset)
        if header is None:
            self.incomplete(offset)
            return
        kind, code, _, high, low = header
        self.add(f"TYPE={kind} CODE={code} ")
        if kind in (128, 129):
            self.add(f"ID={high} SEQ={low} ")
        elif kind in _QUOTING_ICMPV6:
            if kind == 4:
                self.add(f"POINTER={high << 16 | low:08x} ")
            if outermost:
                self.add("[")
                self.ipv6(offset + 8)
                self.add("] ")
            if kind == 2:
                self.add(f"MTU={high << 16 | low} ")
