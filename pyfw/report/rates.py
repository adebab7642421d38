"""What counters did meanwhile: nested mappings of numbers -> the same of differences per second."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def rates(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Each number's change per second; one that was not there before came from 0.  What is no number is left out."""
    changes: dict[str, Any] = {}
    for name, value in now.items():
        if isinstance(value, Mapping):
            changes[name] = rates(value, before.get(name, {}), seconds)
        elif isinstance(value, int):
            changes[name] = (value - before.get(name, 0)) / seconds
    return changes


def flat(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("table.entries", 7) for each leaf, in its order."""
    for name, value in group.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def plain(number: float) -> str:
    """For programs: whole numbers whole, others with one digit behind the point."""
    return str(number) if isinstance(number, int) else f"{number:.1f}"


def scaled(number: float) -> str:
    """For people: three digits that count, and k, M, G, T for thousands."""
    size = abs(number)
    for unit in ("", "k", "M", "G"):
        if size < 999.5:
            break
        number, size = number / 1000, size / 1000
    else:
        unit = "T"
    if (not unit and number == int(number)) or size >= 99.95:
        return f"{number:.0f}{unit}"
    return f"{number:.{1 if size >= 9.995 or not unit else 2}f}{unit}"
