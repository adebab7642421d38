"""One line about a packet, in tcpdump's manner: who to whom, and what.  Says what it can read, never raises."""
from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop

_TCP_FLAGS = "FSRP.UEW"                 # bit 0 up, tcpdump's letters
_NAMES = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 132: "sctp",
          136: "udplite"}
_WITH_PORTS = {6, 17, 132, 136}
_EXTENSION_HEADERS = {0, 43, 60}        # hop-by-hop, routing, destination options
_FRAGMENT_HEADER = 44

_ICMP = {0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request", 11: "time exceeded",
         12: "parameter problem", 13: "timestamp request", 14: "timestamp reply"}
_ICMP6 = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request",
          129: "echo reply", 133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation",
          136: "neighbor advertisement"}
_WITH_ID = {(1, 0), (1, 8), (58, 128), (58, 129)}


def summarize(data: bytes, length: int | None = None) -> str:
    """`10.0.0.2:40000 > 10.0.1.2:80 tcp S` for an IP packet; `length` is the real one of a packet that was cut."""
    version = data[0] >> 4 if data else 0
    real_length = len(data) if length is None else length
    if version == 4 and len(data) >= 20:
        return _ipv4(data, real_length)
    if version == 6 and len(data) >= 40:
        return _ipv6(data, real_length)
    return f"not a whole IP header ({len(data)} bytes)"


def _ipv4(data: bytes, length: int) -> str:
    source, destination = inet_ntop(AF_INET, data[12:16]), inet_ntop(AF_INET, data[16:20])
    start = (data[0] & 15) * 4
    offset = (data[6] << 8 | data[7]) & 0x1FFF
    if offset or data[6] & 0x20:
        return f"{source} > {destination} {_name(data[9])} fragment {offset * 8}+{max(length - start, 0)}"
    return _transport(source, destination, data[9], data[start:], length - start)


def _ipv6(data: bytes, length: int) -> str:
    source, destination = inet_ntop(AF_INET6, data[8:24]), inet_ntop(AF_INET6, data[24:40])
    kind, start = data[6], 40
    while kind in _EXTENSION_HEADERS and start + 2 <= len(data):
        kind, start = data[start], start + (data[start + 1] + 1) * 8
    if kind == _FRAGMENT_HEADER and start + 8 <= len(data):
        offset = (data[start + 2] << 8 | data[start + 3]) & ~7
        return f"{source} > {destination} {_name(data[start])} fragment {offset}+{max(length - start - 8, 0)}"
    if kind in _WITH_PORTS:
        source, destination = f"[{source}]", f"[{destination}]"
    return _transport(source, destination, kind, data[start:], length - start)


def _name(protocol: int) -> str:
    return _NAMES.get(protocol, f"protocol {protocol}")


def _transport(source: str, destination: str, protocol: int, header: bytes, length: int) -> str:
    if protocol in _WITH_PORTS and len(header) >= 4:
        source += f":{header[0] << 8 | header[1]}"
        destination += f":{header[2] << 8 | header[3]}"
    who = f"{source} > {destination} {_name(protocol)}"
    if protocol == 6 and len(header) >= 14:
        return who + _tcp(header, length)
    if protocol in (1, 58) and len(header) >= 2:
        return who + _icmp(protocol, header)
    if protocol in (17, 136):
        return f"{who} {max(length - 8, 0)} bytes"
    return who


def _tcp(header: bytes, length: int) -> str:
    flags = "".join(letter for bit, letter in enumerate(_TCP_FLAGS) if header[13] >> bit & 1)
    payload = length - (header[12] >> 4) * 4
    return f" {flags or 'none'}" + (f" {payload} bytes" if payload > 0 else "")


def _icmp(protocol: int, header: bytes) -> str:
    kind, code = header[0], header[1]
    known = (_ICMP if protocol == 1 else _ICMP6).get(kind)
    text = f" {known}" if known else f" type {kind}"
    if (protocol, kind) in _WITH_ID and len(header) >= 8:
        return f"{text} id {header[4] << 8 | header[5]} seq {header[6] << 8 | header[7]}"
    return f"{text} code {code}" if code or not known else text
