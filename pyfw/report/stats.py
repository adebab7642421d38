"""Counters -> text for people: one counter a line, grouped as they are nested."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAME_WIDTH = 28
INDENT = "  "


def stats_text(statistics: Mapping[str, Any]) -> str:
    """Every counter of a nested mapping, in its order; a group without counters is left out."""
    return "".join(f"{line}\n" for line in _lines(statistics, ""))


def _lines(group: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in group.items():
        if not isinstance(value, Mapping):
            yield f"{indent + name:<{NAME_WIDTH}} {value}"
        elif value:
            yield f"{indent}{name}:"
            yield from _lines(value, indent + INDENT)
