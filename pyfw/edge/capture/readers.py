"""scapy's readers of pcap and pcapng (`RawPcapReader`, `RawPcapNgReader`: bytes in, no dissection), mended.

This mends what scapy's readers do wrong.  They end a damaged file as if it were whole, and ignore if_tsoffset.  They keep
the interfaces of a pcapng section that is over.  They read a snap length of 0 as "nothing" where it means "all".
"""
from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from scapy.error import Scapy_Exception, log_runtime
from scapy.utils import RawPcapNgReader, RawPcapReader

from pyfw.edge.capture.pcap import MAX_FRAME, MAX_RECORD

# What scapy warns about ends here as a CaptureError, said once and with the place in the file.
log_runtime.setLevel(logging.ERROR)

__all__ = ["PcapNgReader", "PcapReader", "Scapy_Exception"]

_LINK_TYPE_BITS = 0x03FFFFFF    # above them a pcap header says how long the frame check sequence is
_PCAPNG_SECRETS = 10            # a Decryption Secrets Block: of no use here, and scapy would load TLS for it
_IF_TSOFFSET = 14

TimedFrame = tuple[int, bytes, int, int]       # time in ns, bytes, length on the wire, link type


class PcapReader(RawPcapReader):
    """scapy's pcap reader over a _Stream."""

    f: Any

    def frames(self) -> Iterator[TimedFrame]:
        link_type = self.linktype & _LINK_TYPE_BITS
        unit_ns = 1 if self.nano else 1000
        for data, (seconds, fraction, length, captured) in self:
            if captured > MAX_FRAME:
                raise self.f.damaged(f"it claims to be {captured} bytes long")
            if len(data) < captured:
                return
            yield seconds * 1_000_000_000 + fraction * unit_ns, data, length, link_type
            self.f.begin_record()

    def _read_packet(self, size: int = MAX_FRAME) -> Any:
        self.f.begin_record()
        try:
            return super()._read_packet(MAX_FRAME)
        except Scapy_Exception as error:
            raise self.f.damaged(str(error)) from None


class _Clock(NamedTuple):
    """How an interface of a pcapng file counts time."""
    units_per_second: int
    offset_s: int

    def time_ns(self, units: int) -> int:
        return units * 1_000_000_000 // self.units_per_second + self.offset_s * 1_000_000_000


class PcapNgReader(RawPcapNgReader):
    """scapy's pcapng reader over a _Stream; a packet's `tsresol` is its interface's _Clock here."""

    f: Any

    def frames(self) -> Iterator[TimedFrame]:
        self.blocktypes.pop(_PCAPNG_SECRETS, None)
        last_ns = 0
        about: Any              # what a packet says depends on its block
        for data, about in self:
            if about.tshigh is not None:        # a Simple Packet Block has no time: that of the one before
                last_ns = about.tsresol.time_ns(about.tshigh << 32 | about.tslow)
            yield last_ns, data, about.wirelen, about.linktype
            self.f.begin_record()

    def _read_packet(self, size: int = MAX_RECORD) -> Any:
        try:
            return super()._read_packet(MAX_RECORD)
        except Scapy_Exception as error:
            raise self.f.damaged(str(error)) from None

    def _read_block(self, size: int = MAX_RECORD) -> Any:
        self.f.begin_record()
        return super()._read_block(size)

    def _read_block_shb(self) -> None:
        self.interfaces = []
        super()._read_block_shb()

    def _read_block_idb(self, block: bytes, size: int) -> None:
        super()._read_block_idb(block, size)
        link_type, snap_length, options = self.interfaces[-1]
        offset: Any = self._read_options(block[8:]).get(_IF_TSOFFSET, bytes(8))
        offset_s = struct.unpack(self.endian + "q", offset)[0] if len(offset) == 8 else 0
        options["tsresol"] = _Clock(options["tsresol"], offset_s)
        self.interfaces[-1] = link_type, snap_length or MAX_RECORD, options

    def _check_interface_id(self, intid: int) -> bool:
        if intid >= len(self.interfaces):
            raise self.f.damaged(f"it names interface {intid}, and the file describes {len(self.interfaces)}")
        return True
