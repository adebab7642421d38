"""IP reassembly as Linux does it before its connection tracking (ip_fragment.c; nf_conntrack_reasm.c, kernel 6.x).

scapy's defragment() and defragment6() do not serve here.  The first loses a datagram whose last fragment
is not the last to arrive and keeps fragments for ever; the second fills holes with the letter X; neither knows
time, duplicates, or that an overlap condemns the whole datagram (RFC 5722, and Linux for IPv4 too).
So what is here is the kernel's behaviour on bytes, with the clock handed in.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum

from pyfw.wire.checksum import internet_checksum
from pyfw.wire.ip_packet import IpPacket

IPV4_TIMEOUT_NS = 30 * 1_000_000_000    # net.ipv4.ipfrag_time
IPV6_TIMEOUT_NS = 60 * 1_000_000_000    # net.netfilter.nf_conntrack_frag6_timeout
MEMORY_LIMIT = 4 << 20                  # net.ipv4.ipfrag_high_thresh, nf_conntrack_frag6_high_thresh: bytes each
FRAGMENT_OVERHEAD = 768                 # what the kernel's books add for a small fragment besides its bytes
MAX_DISTANCE = 64                       # net.ipv4.ipfrag_max_dist

_IP_MF = 0x2000
_IP_DF = 0x4000
_IP_OFFSET = 0x1FFF
_FRAGMENT_HEADER = 44
_AUTHENTICATION_HEADER = 51
_NO_NEXT_HEADER = 59
_SKIPPED_HEADERS = {0, 43, 60, _AUTHENTICATION_HEADER}     # hop-by-hop, routing, destination options
_TRANSPORT_HEADER = {6: 20, 17: 8, 58: 8}                  # the least of it that a first fragment must hold; others: 1

_ECN_NOT_ECT = 1 << 0                   # bits of the set of ECN codes seen: 1 << code
_ECN_CE = 1 << 3


class Withheld(Enum):
    """Why a fragment is not, or does not complete, a packet; the value says it to a user."""
    WAITING = "fragment, waiting for the rest"
    DUPLICATE = "fragment, a duplicate"
    OVERLAP = "fragment, overlaps another: datagram dropped"
    CONTRADICTION = "fragment, disagrees with the others about the end: dropped"
    EMPTY = "fragment, empty: dropped"
    TOO_LONG = "fragment, of a datagram that is too long: dropped"
    ECN = "fragment, ECN marks contradict each other: datagram dropped"
    HEADER = "fragment, its header is cut off: dropped"
    MEMORY = "fragment, no memory left for reassembly: dropped"


@dataclass(slots=True)
class _Fragment:
    key: Hashable
    header: bytes               # what precedes the fragmentable part, without the fragment header
    offset: int                 # bytes
    end: int
    more: bool
    payload: bytes              # shorter than end - offset where a snap length cut it
    ecn: int                    # 1 << ECN code
    dont_fragment: bool
    offloaded: bool


@dataclass(slots=True)
class _Datagram:
    """The fragments of one datagram so far."""
    deadline_ns: int
    serial: int = 0             # IPv4: how many fragments its sender had sent when the last of these came
    length: int = 0             # the highest end seen; final once the last fragment is in
    have_last: bool = False
    header: bytes = b""         # of the fragment at offset 0
    received: int = 0           # bytes, by the fragments' lengths
    memory: int = 0
    ecn: int = 0                # set of the codes seen
    longest: int = 0            # fragment, with its header
    longest_unfragmentable: int = 0     # of those with DF
    offloaded: bool = False
    pieces: dict[int, bytes] = field(default_factory=dict)      # offset -> payload
    runs: list[tuple[int, int]] = field(default_factory=list)   # [start, end) in order; only the last one grows

    @property
    def complete(self) -> bool:
        return self.have_last and self.header != b"" and self.received == self.length

    def note_end(self, fragment: _Fragment) -> Withheld | None:
        if fragment.more:
            if fragment.end <= self.length:
                return None
            if self.have_last:
                return Withheld.CONTRADICTION
        else:
            if fragment.end < self.length or (self.have_last and fragment.end != self.length):
                return Withheld.CONTRADICTION
            self.have_last = True
        self.length = fragment.end
        return None

    def insert(self, fragment: _Fragment) -> Withheld | None:
        refusal = self._place(fragment.offset, fragment.end)
        if refusal is not None:
            return refusal
        self.pieces[fragment.offset] = fragment.payload
        self.received += fragment.end - fragment.offset
        self.ecn |= fragment.ecn
        self.offloaded |= fragment.offloaded
        size = len(fragment.header) + fragment.end - fragment.offset
        self.longest = max(self.longest, size)
        if fragment.dont_fragment:
            self.longest_unfragmentable = max(self.longest_unfragmentable, size)
        if fragment.offset == 0:
            self.header = fragment.header
        return None

    def _place(self, start: int, end: int) -> Withheld | None:
        if self.runs and end <= self.runs[-1][1]:
            return self._place_before_tail(start, end)
        tail_end = self.runs[-1][1] if self.runs else 0
        if start < tail_end:
            return Withheld.OVERLAP
        if self.runs and start == tail_end:
            self.runs[-1] = self.runs[-1][0], end
        else:
            self.runs.append((start, end))
        return None

    def _place_before_tail(self, start: int, end: int) -> Withheld | None:
        following = bisect_right(self.runs, (start, 0xFFFFF))
        if following and start < self.runs[following - 1][1]:
            return Withheld.DUPLICATE if end <= self.runs[following - 1][1] else Withheld.OVERLAP
        if following < len(self.runs) and end > self.runs[following][0]:
            return Withheld.OVERLAP
        insort(self.runs, (start, end))
        return None

    def payload(self) -> bytes:
        """The bytes from the beginning up to the first that no fragment brought."""
        parts, place = [], 0
        for offset in sorted(self.pieces):
            if offset != place:
                break
            parts.append(self.pieces[offset])
            place += len(self.pieces[offset])
        return b"".join(parts)


class _Family(ABC):
    """What the two IP versions have in common: datagrams by key, their deadlines, the memory they may take."""

    timeout_ns: int
    fatal: frozenset[Withheld]  # a fragment refused for one of these takes its datagram with it

    def __init__(self, memory_limit: int) -> None:
        self.datagrams: dict[Hashable, _Datagram] = {}      # oldest deadline first
        self.memory = 0
        self._memory_limit = memory_limit

    def add(self, fragment: _Fragment, now_ns: int) -> IpPacket | Withheld:
        self._expire(now_ns)
        if self.memory > self._memory_limit:
            return Withheld.MEMORY
        datagram = self.datagrams.get(fragment.key)
        if datagram is None:
            datagram = self._begin(fragment.key, now_ns)
        return self._queue(datagram, fragment)

    def forget(self, key: Hashable) -> None:
        datagram = self.datagrams.pop(key, None)
        if datagram is not None:
            self.memory -= datagram.memory

    def _begin(self, key: Hashable, now_ns: int) -> _Datagram:
        datagram = self.datagrams[key] = _Datagram(now_ns + self.timeout_ns, memory=FRAGMENT_OVERHEAD)
        self.memory += datagram.memory
        return datagram

    def _expire(self, now_ns: int) -> None:
        while self.datagrams:
            key, oldest = next(iter(self.datagrams.items()))
            if oldest.deadline_ns > now_ns:
                return
            self.forget(key)

    def _queue(self, datagram: _Datagram, fragment: _Fragment) -> IpPacket | Withheld:
        refusal = datagram.note_end(fragment)
        if refusal is None and fragment.end == fragment.offset:
            refusal = Withheld.EMPTY
        if refusal is None:
            refusal = datagram.insert(fragment)
        if refusal is not None:
            if refusal in self.fatal:
                self.forget(fragment.key)
            return refusal
        cost = fragment.end - fragment.offset + FRAGMENT_OVERHEAD
        datagram.memory += cost
        self.memory += cost
        if not datagram.complete:
            return Withheld.WAITING
        self.forget(fragment.key)
        marks = datagram.ecn
        if marks & _ECN_NOT_ECT and marks != _ECN_NOT_ECT:
            return Withheld.ECN
        congested = marks & _ECN_CE and marks != _ECN_CE
        return self._rebuild(datagram, bytearray(datagram.header), 3 if congested else 0)

    @abstractmethod
    def _rebuild(self, datagram: _Datagram, header: bytearray, ecn: int) -> IpPacket | Withheld:
        """The whole packet: the first fragment's `header`, its length fields set, the ECN bits `ecn` added."""


class _Ipv4(_Family):
    timeout_ns = IPV4_TIMEOUT_NS
    fatal = frozenset({Withheld.OVERLAP, Withheld.CONTRADICTION, Withheld.EMPTY})

    def __init__(self, memory_limit: int) -> None:
        super().__init__(memory_limit)
        self._serials: dict[bytes, int] = {}        # fragments seen, by sender

    def feed(self, packet: IpPacket, now_ns: int) -> IpPacket | Withheld:
        data = packet.data
        header_length = (data[0] & 15) * 4
        total = data[2] << 8 | data[3]
        if not 20 <= header_length <= min(len(data), total) or total > packet.length:
            return packet
        header = data[:header_length]
        if internet_checksum(header):
            return packet
        frag_off = data[6] << 8 | data[7]
        offset = (frag_off & _IP_OFFSET) * 8
        end = offset + total - header_length
        more = bool(frag_off & _IP_MF)
        if more:
            end &= ~7
        fragment = _Fragment((data[12:20], data[4:6], data[9]), header, offset, end, more,
                             data[header_length:header_length + end - offset], 1 << (data[1] & 3),
                             bool(frag_off & _IP_DF), packet.offloaded)
        self._start_over_if_far(fragment.key, data[12:16], now_ns)
        answer = self.add(fragment, now_ns)
        datagram = self.datagrams.get(fragment.key)
        if datagram is not None:
            datagram.serial = self._serials[data[12:16]]
        return answer

    def _start_over_if_far(self, key: Hashable, sender: bytes, now_ns: int) -> None:
        """After MAX_DISTANCE other fragments of the same sender an identification is likely to be another datagram's."""
        if len(self._serials) > 1024 + 2 * len(self.datagrams):
            waiting = {key_[0][:4] for key_ in self.datagrams}      # type: ignore[index]
            self._serials = {host: serial for host, serial in self._serials.items() if host in waiting}
        serial = self._serials[sender] = self._serials.get(sender, 0) + 1
        datagram = self.datagrams.get(key)
        if datagram is not None and datagram.deadline_ns > now_ns and serial - datagram.serial > MAX_DISTANCE:
            self.forget(key)

    def _rebuild(self, datagram: _Datagram, header: bytearray, ecn: int) -> IpPacket | Withheld:
        length = len(header) + datagram.length
        if length > 0xFFFF:
            return Withheld.TOO_LONG
        keeps_df = datagram.longest_unfragmentable == datagram.longest
        header[1] |= ecn
        header[2:4] = length.to_bytes(2, "big")
        header[6:8] = (_IP_DF if keeps_df else 0).to_bytes(2, "big")
        header[10:12] = bytes(2)
        header[10:12] = internet_checksum(header).to_bytes(2, "big")
        return IpPacket(bytes(header) + datagram.payload(), length, datagram.offloaded)


class _Ipv6(_Family):
    timeout_ns = IPV6_TIMEOUT_NS
    fatal = frozenset({Withheld.OVERLAP})

    def feed(self, packet: IpPacket, now_ns: int) -> IpPacket | Withheld:
        payload_length = packet.data[4] << 8 | packet.data[5]
        length = 40 + payload_length
        data = packet.data[:length]
        place = _fragment_header(data)
        if place is None or payload_length == 0 or length > packet.length:
            return packet
        header_at, next_header_at = place
        start = header_at + 8
        if _lacks_headers(data, header_at, length) or len(data) < start <= length:
            return packet
        if start > length:
            return Withheld.HEADER
        frag_off = data[header_at + 2] << 8 | data[header_at + 3]
        offset = frag_off & ~7
        end = offset + length - start
        more = bool(frag_off & 1)
        key = data[8:40], data[header_at + 4:header_at + 8]
        if end > 0xFFFF:
            return Withheld.TOO_LONG
        if more and end % 8:
            self.forget(key)
            return packet
        header = bytearray(data[:header_at])
        header[next_header_at & 0xFF] = data[header_at]     # the kernel has one byte for the place (find_prev_fhdr())
        fragment = _Fragment(key, bytes(header), offset, end, more, data[start:start + end - offset],
                             1 << (data[1] >> 4 & 3), False, packet.offloaded)
        return self.add(fragment, now_ns)

    def _rebuild(self, datagram: _Datagram, header: bytearray, ecn: int) -> IpPacket | Withheld:
        length = len(header) + datagram.length
        if length - 40 > 0xFFFF:
            return Withheld.TOO_LONG
        header[1] |= ecn << 4
        header[4:6] = (length - 40).to_bytes(2, "big")
        return IpPacket(bytes(header) + datagram.payload(), length, datagram.offloaded)


def _fragment_header(data: bytes) -> tuple[int, int] | None:
    """Where an IPv6 packet's fragment header is, and where the next-header byte that announces it; None: there is none."""
    announced_at, place, kind = 6, 40, data[6]
    while kind != _FRAGMENT_HEADER:
        if kind not in _SKIPPED_HEADERS or place + 2 > len(data):
            return None
        size = _extension_size(kind, data[place + 1])
        announced_at, kind, place = place, data[place], place + size
    return (place, announced_at) if place <= len(data) else None


def _lacks_headers(data: bytes, place: int, length: int) -> bool:
    """Whether a packet of `length` bytes with a fragment header at `place` is a first fragment, and its headers up to the
    transport's are not all in it: such a one is not kept for the rest (RFC 8200, 4.5; ipv6frag_thdr_truncated())."""
    kind = _FRAGMENT_HEADER
    while kind == _FRAGMENT_HEADER or kind in _SKIPPED_HEADERS:
        if place + (4 if kind == _FRAGMENT_HEADER else 2) > len(data):
            return False
        if kind == _FRAGMENT_HEADER:
            if (data[place + 2] << 8 | data[place + 3]) & ~7:
                return False
            size = 8
        else:
            size = _extension_size(kind, data[place + 1])
        kind, place = data[place], place + size
    return kind != _NO_NEXT_HEADER and place + _TRANSPORT_HEADER.get(kind, 1) > length


def _extension_size(kind: int, units: int) -> int:
    return (units + 2) * 4 if kind == _AUTHENTICATION_HEADER else (units + 1) * 8


class Reassembler:
    """Makes whole packets of fragments.  A clock that is handed to `feed` must never go back."""

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self._ipv4 = _Ipv4(memory_limit)
        self._ipv6 = _Ipv6(memory_limit)

    @property
    def waiting(self) -> int:
        """Datagrams of which something is missing."""
        return len(self._ipv4.datagrams) + len(self._ipv6.datagrams)

    def feed(self, packet: IpPacket, now_ns: int) -> IpPacket | Withheld:
        """The packet itself if it is no fragment, or one that cannot be read; the whole datagram, with the header that the
        kernel gives it, if this fragment completes it; else why there is nothing to judge."""
        data = packet.data
        version = data[0] >> 4 if data else 0
        if version == 4:
            if len(data) >= 20 and (data[7] or data[6] & 0x3F):
                return self._ipv4.feed(packet, now_ns)
        elif version == 6 and len(data) >= 40 and (data[6] == _FRAGMENT_HEADER or data[6] in _SKIPPED_HEADERS):
            return self._ipv6.feed(packet, now_ns)
        return packet
