"""Which of the kernel's capabilities(7) this process has: asked for by name, independent of its user."""
from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
PURPOSES = {
    "CAP_NET_ADMIN": "take packets from the kernel",
    "CAP_NET_RAW": "answer for REJECT",
    "CAP_SYS_ADMIN": "enter another network namespace",
}


def missing_capability(names: Iterable[str], *, for_children: bool = False) -> str | None:
    """The first of these capabilities that this process lacks; None: it has them all.

    for_children: programs that it starts must have them, too.  Root's do; another user's have what is ambient.
    """
    held = _set("CapEff")
    if for_children and os.geteuid() != 0:
        held &= _set("CapAmb")
    return next((name for name in names if not held >> NUMBERS[name] & 1), None)


def _set(name: str) -> int:
    status = Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(f"{name}:"))
