"""The administrator's choices for connection tracking, under one name from the config to the tracker.

DATA.  Names are the kernel's sysctls without `nf_conntrack_`; `tcp.liberal` is its `tcp_be_liberal`.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyfw.conntrack.timeouts import DEFAULTS

TIMEOUT_MAX_S = 2147483             # 24 days: the kernel's limit, where its milliseconds end


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """What holds for TCP.  Raises ValueError for what cannot be."""

    loose: bool = True              # take up connections that began before the daemon
    liberal: bool = False           # only RSTs out of window are INVALID
    max_retrans: int = 3            # retransmissions after which the timeout is shortened
    ignore_invalid_rst: bool = False    # an RST out of window is not INVALID

    def __post_init__(self) -> None:
        if not 0 <= self.max_retrans <= 255:
            raise ValueError(f"tcp.max_retrans must be 0 to 255, not {self.max_retrans}")


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """What holds for all protocols.  Raises ValueError for what cannot be."""

    accounting: bool = True         # packets= and bytes= of each direction
    checksum: bool = True           # a wrong transport checksum is INVALID
    tcp: TcpSettings = TcpSettings()
    timeouts: Mapping[str, float] = field(default_factory=dict)     # seconds; those not named keep their defaults

    def __post_init__(self) -> None:
        unknown = set(self.timeouts) - set(DEFAULTS)
        if unknown:
            raise ValueError(f"no timeout is named {min(unknown)!r}; there are: {', '.join(DEFAULTS)}")
        for name, seconds in self.timeouts.items():
            if not 0 <= seconds <= TIMEOUT_MAX_S:
                raise ValueError(f"timeout {name} must be 0 to {TIMEOUT_MAX_S} seconds, not {seconds}")
