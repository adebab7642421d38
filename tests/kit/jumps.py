"""Rulesets that are long to run."""
from __future__ import annotations


def doubled_jumps(depth: int) -> str:
    """Chains that jump twice to the next: 2^depth steps."""
    jumps = "".join(f"-A chain{n} -j chain{n + 1}\n" * 2 for n in range(depth))
    return f"*filter\n:FORWARD ACCEPT\n{''.join(f':chain{n} -{chr(10)}' for n in range(depth + 1))}-A FORWARD -j chain0\n{jumps}COMMIT\n"
