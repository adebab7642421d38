"""Targets that mark packets and connections.  iptables-extensions(8): MARK, CONNMARK."""
from __future__ import annotations

from pyfw.rules.kinds import TargetKind

TARGETS: tuple[TargetKind, ...] = ()
