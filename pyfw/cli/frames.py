"""`explain pcap FILE --frame N`: the command line reads the capture; what is asked about is the frame's bytes."""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyfw.explain.packet_spec import SpecError, read_spec
from pyfw.wire.ip_packet import IpPacket

MAX_SENT = 16 * 1024            # bytes of a captured packet: more than all its headers


def without_files(words: Sequence[str]) -> list[str]:
    """A question's words, those about a capture file as `hex`.  Raises SpecError."""
    spec = read_spec(words)
    if spec.packet[0] != "pcap":
        return list(words)
    packet = captured_packet(spec.packet[1:], spec.frame)
    at = words.index("pcap")
    sent = ["hex", packet.data[:MAX_SENT].hex(), "--wire-length", str(packet.length)]
    return [*words[:at], *words[at + 2:], *sent, *(["--trusted"] if packet.offloaded else [])]


def read_frame(spec: argparse.Namespace) -> None:
    """Put a frame's bytes in the place of its capture file, if `spec` names one.  Raises SpecError."""
    if spec.packet[0] == "pcap":
        packet = captured_packet(spec.packet[1:], spec.frame)
        spec.packet, spec.wire_length, spec.trusted = ["hex", packet.data.hex()], packet.length, packet.offloaded


def captured_packet(words: Sequence[str], frame: int) -> IpPacket:
    """The IP packet in frame number `frame` of a capture file.  Raises SpecError."""
    from pyfw.edge.capture.pcap import Capture, CaptureError  # with scapy, which takes long to load
    if len(words) != 1:
        raise SpecError("pcap takes one file, as pcap capture.pcap --frame 3")
    last = 0
    try:
        with Capture(words[0]) as capture:
            for record in capture:
                last = record.number
                if last == frame:
                    if record.packet is None:
                        raise SpecError(f"{words[0]}: frame {frame} carries no IP packet")
                    return record.packet
    except CaptureError as error:
        raise SpecError(str(error)) from error
    raise SpecError(f"{words[0]} has no frame {frame}: it has {last}")
