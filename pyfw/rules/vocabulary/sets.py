"""Address sets in rules.  iptables-extensions(8): set, SET."""
from __future__ import annotations

from pyfw.rules.kinds import MatchKind, TargetKind

MATCHES: tuple[MatchKind, ...] = ()
TARGETS: tuple[TargetKind, ...] = ()
