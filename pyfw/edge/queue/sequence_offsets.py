"""By how much NAT in the kernel has changed the sequence numbers of a connection (ctnetlink: CTA_SEQ_ADJ_*).

The kernel's NAT helpers rewrite an address in FTP's PORT, EPRT, 227 and 229 behind our hook.  If the text becomes longer or
shorter, they count the bytes that follow anew.  We see each segment before that, in the numbers of its sender.  What it
acknowledges has been counted by the receiver, with the change: taken as it is, it would acknowledge bytes that nobody sent.

    client ── seq 100, "PORT 192,0,2,2,…" (24 bytes) ──→ pyfw ──→ NAT ── 27 bytes ──→ server
    client ←── ack 124 ── NAT ←── pyfw: 127, less the 3 that NAT has added ←────────── server

When.  The send() that carries the verdict of an announcement takes it through the rest of the kernel, where NAT changes it.
So right after that send(), and before another packet is received, the loop asks; no acknowledgement can have been judged.
It asks about announcements only.  It never waits: the kernel answers within the send().  A question and its answer take
some 25 microseconds.

Which connection.  We see the original source and the translated destination.  With NAT of the source alone, that is the
kernel's original tuple; with NAT of the destination alone, the inverse of its reply tuple.  With both (hairpin) it is
neither, and the kernel cannot be asked: announcements whose length changes stall such a connection.

One offset a side.  nf_ct_seq_offset() has two, for acknowledgements of bytes before and behind the last change.  We use the
one behind for all.  An acknowledgement of older bytes is then wrong by the changes that it does not cover.  Each of those is
smaller than its announcement, which was sent: so it still lies below all that was sent, and no window is that narrow.

May know: nfnetlink.  Must not know: helpers, the engine.
"""
from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
KERNEL = (0, 0)                         # its netlink port, and no multicast group
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
IPCTNL_MSG_CT_GET = 1 << 8 | 1          # linux/netfilter/nfnetlink_conntrack.h, of NFNL_SUBSYS_CTNETLINK
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY = 1, 2, 15, 16
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_SRC, CTA_IP_DST = {4: 1, 16: 3}, {4: 2, 16: 4}        # by the address's length
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_SEQADJ_OFFSET_AFTER = 3
NESTED = 0x8000
HEADERS = struct.Struct("=IHHIIBBH")    # nlmsghdr, nfgenmsg
ERROR = struct.Struct("=16xi")          # nlmsgerr, behind its nlmsghdr
ATTRIBUTE = struct.Struct("=HH")
RECEIVE_BYTES = 8192

Side = tuple[bytes, int]                # packed address, port


class SequenceOffsets:
    """Of the network namespace in which this was made.  One thread."""

    def __init__(self) -> None:
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        self._kernel.connect(KERNEL)
        self._is_told = True            # by this kernel; else each question would make it look for the module
        self._sequence = 0

    def close(self) -> None:
        self._kernel.close()

    def ask(self, protocol: int, source: Side, destination: Side) -> tuple[int, int] | None:
        """How many bytes were added to what these two have sent.  None: the kernel tracks no such connection."""
        for kind, sides in ((CTA_TUPLE_ORIG, (source, destination)), (CTA_TUPLE_REPLY, (destination, source))):
            answer = self._get(kind, protocol, *sides) if self._is_told else None
            if answer is not None:
                offsets = _offset(answer, CTA_SEQ_ADJ_ORIG), _offset(answer, CTA_SEQ_ADJ_REPLY)
                return offsets if _source(answer[CTA_TUPLE_ORIG]) == source else offsets[::-1]
        return None

    def _get(self, kind: int, protocol: int, source: Side, destination: Side) -> dict[int, bytes] | None:
        self._sequence += 1
        family = socket.AF_INET if len(source[0]) == 4 else socket.AF_INET6
        question = _tuple(kind, protocol, source, destination)
        try:
            self._kernel.send(HEADERS.pack(HEADERS.size + len(question), IPCTNL_MSG_CT_GET, NLM_F_REQUEST, self._sequence, 0,
                                           family, 0, 0) + question)
            while True:
                answer = self._kernel.recv(RECEIVE_BYTES)
                _, type_, _, sequence, *_ = HEADERS.unpack_from(answer)
                if sequence == self._sequence:
                    break
        except OSError:                 # no memory, for now
            return None
        if type_ == NLMSG_ERROR:
            self._is_told = ERROR.unpack_from(answer) != (-errno.EINVAL,)       # nfnetlink knows no ctnetlink
            return None
        return dict(_attributes(answer, HEADERS.size))


def _tuple(kind: int, protocol: int, source: Side, destination: Side) -> bytes:
    length = len(source[0])
    return _attribute(kind | NESTED, b"".join((
        _attribute(CTA_TUPLE_IP | NESTED, _attribute(CTA_IP_SRC[length], source[0]) + _attribute(CTA_IP_DST[length], destination[0])),
        _attribute(CTA_TUPLE_PROTO | NESTED, _attribute(CTA_PROTO_NUM, bytes([protocol]))
                   + _attribute(CTA_PROTO_SRC_PORT, source[1].to_bytes(2)) + _attribute(CTA_PROTO_DST_PORT, destination[1].to_bytes(2))))))


def _source(tuple_: bytes) -> Side:
    parts = dict(_attributes(tuple_))
    addresses, ports = dict(_attributes(parts[CTA_TUPLE_IP])), dict(_attributes(parts[CTA_TUPLE_PROTO]))
    [address] = [addresses[source] for source in CTA_IP_SRC.values() if source in addresses]
    return address, int.from_bytes(ports[CTA_PROTO_SRC_PORT])


def _offset(answer: dict[int, bytes], side: int) -> int:
    """Nothing is said of a connection whose numbers are as they were."""
    changes = dict(_attributes(answer.get(side, b"")))
    return int.from_bytes(changes.get(CTA_SEQADJ_OFFSET_AFTER, b""), signed=True)


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        yield kind & ~NESTED, data[offset + ATTRIBUTE.size:offset + length]
        offset += max(length + 3 & ~3, ATTRIBUTE.size)
