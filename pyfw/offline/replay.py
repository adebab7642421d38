"""A capture through the engine: records in, judgements out, by the capture's clock or one that stands still.

The engine is the daemon's own; what the kernel does before it (reassembly) is done here.  Prints nothing.
"""
from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pyfw.conntrack.selection import Selection
from pyfw.edge.capture.pcap import Record
from pyfw.engine.engine import Engine
from pyfw.enums import Direction, Hook
from pyfw.observe.dump import dump_text
from pyfw.wire.ip_packet import IpPacket
from pyfw.wire.reassembly import Reassembler, Withheld

SWEEP_EVERY = 64                # packets: expired entries must not pile up in a capture that lasts days


class Replayed(NamedTuple):
    """What became of one record.  None: the engine has not seen it, or the thing does not apply."""
    record: Record
    packet: IpPacket | None     # what was judged; the reassembled datagram at the fragment that completes it
    state: str | None
    direction: str | None
    verdict: str | None
    rule: str | None
    reason: str | None


@dataclass
class Replay:
    """How a capture is put to an engine; `now_ns` is the clock after the last record."""

    engine: Engine
    hook: Hook = Hook.FORWARD
    indev: str = ""
    outdev: str = ""
    at_once: bool = False       # every packet at the time of the first
    now_ns: int | None = None

    def run(self, records: Iterable[Record]) -> Iterator[Replayed]:
        """Judge the records in order.  The clock never goes back: an earlier time counts as the latest seen."""
        reassembler = Reassembler()
        self.engine.helpers.budget.unlimited = self.at_once     # a clock that stands still refills none
        for record in records:
            now_ns = self._advance(record.time_ns)
            if record.number % SWEEP_EVERY == 0:
                self.engine.sweep(now_ns)
                self._tell_zone(now_ns)
            if record.packet is None:
                yield Replayed(record, None, None, None, None, None, "not IP")
                continue
            whole = reassembler.feed(record.packet, now_ns)
            if isinstance(whole, Withheld):
                verdict = None if whole is Withheld.WAITING else "DROP"
                yield Replayed(record, None, None, None, verdict, None, whole.value)
                continue
            yield self._judge(record, whole, now_ns)

    def table(self) -> list[str]:
        """The connections left at the end, as /proc/net/nf_conntrack shows them."""
        lines: list[str] = []
        cursor = 1
        while cursor:
            text, cursor, _ = dump_text(self.engine, Selection(), "nf", cursor, self.now_ns or 0)
            lines += text.decode().splitlines()
        return lines

    def _advance(self, time_ns: int) -> int:
        if self.now_ns is None:
            self._tell_zone(time_ns)
        else:
            time_ns = self.now_ns if self.at_once else max(self.now_ns, time_ns)
        self.now_ns = time_ns
        return time_ns

    def _tell_zone(self, now_ns: int) -> None:
        """This machine's time zone, as it was when the packets were met."""
        self.engine.zone_offset_s = time.localtime(now_ns // 10**9).tm_gmtoff

    def _judge(self, record: Record, packet: IpPacket, now_ns: int) -> Replayed:
        length = packet.length if packet.length > len(packet.data) else None
        judgement = self.engine.judge(packet.data, self.hook, self.indev, self.outdev, now_ns,
                                      length=length, trusted=packet.offloaded)
        direction = None if judgement.direction == Direction.NONE else judgement.direction.name
        return Replayed(record, packet, judgement.state.name, direction, judgement.verdict.name,
                        judgement.rule, judgement.reason_text or None)
