"""`pyfwctl explain pcap FILE --frame N`: the frame goes to the daemon, which reads no files of its users."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyfw.cli.pyfwctl.client import Refused

MAX_SENT = 16 * 1024            # bytes of a captured packet: more than all its headers
USAGE = 2


def with_captured_packet(request: dict[str, Any]) -> dict[str, Any]:
    """The request with the packet's bytes in the place of a capture file's name.  Raises Refused."""
    words = request.get("words", ())
    if request["command"] != "explain" or "pcap" not in words:
        return request
    from pyfw.explain.packet_spec import SpecError  # loads the engine, which nothing else here needs
    try:
        return {**request, "words": without_files(words)}
    except SpecError as error:
        raise Refused(str(error), USAGE) from error


def without_files(words: Sequence[str]) -> list[str]:
    """A question's words, those about a capture file as `hex`.  Raises SpecError."""
    from pyfw.explain.packet_spec import captured_packet, read_spec
    question = read_spec(words)
    if question.packet[0] != "pcap":
        return list(words)
    packet = captured_packet(question.packet[1:], question.frame)
    at = words.index("pcap")
    sent = ["hex", packet.data[:MAX_SENT].hex(), "--wire-length", str(packet.length)]
    return [*words[:at], *words[at + 2:], *sent, *(["--trusted"] if packet.offloaded else [])]
