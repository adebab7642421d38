"""An IP packet outside the queue: as a capture file has it, or as reassembly makes it."""
from typing import NamedTuple


class IpPacket(NamedTuple):
    """One IP packet as it was captured."""
    data: bytes                 # from the IP header; link-layer padding is gone
    length: int                 # how long it was on the wire: more than len(data) where a snap length cut it
    offloaded: bool = False     # taken before the sender's network card: checksums are not filled in yet
