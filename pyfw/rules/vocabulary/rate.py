"""How often, how many, how recently.  iptables-extensions(8): limit, hashlimit, connlimit, recent, statistic."""
from __future__ import annotations

from pyfw.rules.kinds import MatchKind

MATCHES: tuple[MatchKind, ...] = ()
