"""pyfw's engine on the packets that the kernel has testified about, at the times it saw them."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kit.packed_packets import is_fragment, whole_length
from kit.witness import Evidence, Sent, Settings
from pyfw.conntrack.selection import Selection
from pyfw.conntrack.settings import TcpSettings, TrackingSettings
from pyfw.engine.engine import Engine
from pyfw.enums import Direction, Hook, Reason, Verdict
from pyfw.helpers import HelperBinding
from pyfw.helpers.ftp import FtpHelper
from pyfw.observe.dump import dump_text, expect_text
from pyfw.wire.ip_packet import IpPacket
from pyfw.wire.reassembly import Reassembler, Withheld

MAX_ENTRIES = 262144        # the kernel's nf_conntrack_max
NO_PACKET = (Reason.NOT_IP, Reason.IP_TRUNCATED, Reason.IP_HEADER)


@dataclass(frozen=True, slots=True)
class Judged:
    """What pyfw made of one packet, in the witness's terms."""

    state: str
    direction: str | None
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class EngineEvidence:
    """Of packets that the kernel's tracking never saw, pyfw is not asked: None.

    datagrams: as Opinion.whole, put together by the reassembly of captures.
    """

    opinions: list[Judged | None]
    datagrams: list[bytes | None]
    table: list[str]
    expectations: list[str]


def build_engine(settings: Settings) -> Engine:
    # strict=False: the kernel's helper takes an announcement from whoever makes it, asked or not.
    helpers = (HelperBinding(FtpHelper(strict=False, loose=False), (21,)),) if settings.ftp else ()
    tracking = TrackingSettings(tcp=TcpSettings(loose=settings.tcp_loose, liberal=settings.tcp_be_liberal),
                                timeouts={name: float(seconds) for name, seconds in settings.timeouts})
    return Engine(max_entries=MAX_ENTRIES, tracking=tracking, helpers=helpers)


def judge(packets: Sequence[Sent], kernel: Evidence, settings: Settings,
          prepare: Callable[[Engine], None] = lambda engine: None) -> EngineEvidence:
    """The engine's opinions of `packets`; clock and reassembled datagrams are the witness's.  `prepare` gets the engine first.

    It is not told of interfaces: from whom a packet came is nothing to the kernel's tracking.
    """
    engine = build_engine(settings)
    prepare(engine)
    reassembler = Reassembler()
    datagrams = [_datagram(reassembler, packet.data, seen.time_ns) for packet, seen in zip(packets, kernel.opinions, strict=True)]
    opinions: list[Judged | None] = []
    for packet, seen in zip(packets, kernel.opinions, strict=True):
        if seen.state is None:
            opinions.append(None)
            continue
        ruling = engine.judge(seen.whole or packet.data, Hook.FORWARD, now=seen.time_ns)
        opinions.append(Judged(
            ruling.state.name, None if ruling.direction is Direction.NONE else ruling.direction.name,
            ruling.verdict is Verdict.ACCEPT, ruling.reason_text))
    return EngineEvidence(opinions, datagrams, _table(engine, kernel.read_ns),
                           expect_text(engine, kernel.read_ns).splitlines())


def _datagram(reassembler: Reassembler, data: bytes, now_ns: int) -> bytes | None:
    """What a fragment completes, or is by itself; None: nothing that an IP stack would show to connection tracking."""
    if not is_fragment(data):
        return None
    whole = reassembler.feed(IpPacket(data, len(data)), now_ns)
    if isinstance(whole, Withheld) or Engine(max_entries=1).judge(whole.data, Hook.FORWARD).reason in NO_PACKET:
        return None
    return whole.data[:whole_length(whole.data)]


def _table(engine: Engine, now_ns: int) -> list[str]:
    text, cursor = b"", 1
    while cursor:
        piece, cursor, _ = dump_text(engine, Selection(), "nf", cursor, now_ns)
        text += piece
    return text.decode("ascii").splitlines()
