"""`pyfwctl explain pcap FILE --frame N`: the frame goes to the daemon, which reads no files of its users."""
from __future__ import annotations

from typing import Any

from pyfw.cli.pyfwctl.client import Refused

USAGE = 2


def with_captured_packet(request: dict[str, Any]) -> dict[str, Any]:
    """The request with the packet's bytes in the place of a capture file's name.  Raises Refused."""
    words = request.get("words", ())
    if request["command"] != "explain" or "pcap" not in words:
        return request
    from pyfw.cli.frames import without_files
    from pyfw.explain.packet_spec import SpecError  # loads the engine, which nothing else here needs
    try:
        return {**request, "words": without_files(words)}
    except SpecError as error:
        raise Refused(str(error), USAGE) from error
