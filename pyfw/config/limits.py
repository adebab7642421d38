"""The section `limits` of the configuration: what is limited, and how it is written.

All of it is off unless named.  What needs the sets or the rules' language to be checked is checked in config/engine.py.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pyfw.config.values import (
    SECONDS_PER_UNIT,
    Reader,
    Scope,
    choice,
    entries,
    error_at,
    is_null,
    list_of,
    location_of,
    read_switch,
    read_text,
    shown,
    suggest,
    whole_number,
)

MAX_STATES = 2**28                  # as conntrack.max_entries
MAX_NEW = 65535
MAX_WINDOW_S = 86400
MAX_PERCENT = 1000
_RATE = re.compile(r"(\d{1,5})/(\d{0,5})([smhd]?)", re.ASCII)
_PERCENT = re.compile(r"(\d{1,4})%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds."""

    count: int
    window_s: int


@dataclass(frozen=True, slots=True)
class PerSourceConfig:
    """What one source may have; pf's max-src-states, max-src-conn-rate, overload and flush global."""

    max_states: int | None = None           # connections in the table; None: any number
    max_new: Rate | None = None             # connections begun
    overload: tuple[str, ...] = ()          # sets that take sources, at most one for each family
    flush: bool = False                     # which then lose their connections
    prefix4: int = 32                       # what is one source
    prefix6: int = 64
    match: tuple[str, ...] | None = None    # words of a rule: the connections meant; None: all
    places: Mapping[str, str] = field(default_factory=dict, compare=False)  # where each key stands


@dataclass(frozen=True, slots=True)
class AdaptiveConfig:
    """Timeouts shrink from `start` on, in percent of conntrack.max_entries, to nothing at `end`; as in pf."""

    start: int = 60
    end: int = 120


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What there may be of connections, beyond the size of their table."""

    per_source: PerSourceConfig | None = None
    adaptive: AdaptiveConfig | None = None
    when_full: str = "evict"                # or drop: a full table refuses new connections, and evicts none


# -- values --------------------------------------------------------------------------------------------------


def read_rate(node: yaml.Node, name: str, scope: Scope) -> Rate:
    match = _RATE.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
    if not match or (not match[2] and not match[3]):
        raise error_at(node, f"{name} must be a number in a time such as 30/10s, 100/m or 15/5, not {shown(node)}")
    count, window_s = int(match[1]), int(match[2] or 1) * SECONDS_PER_UNIT.get(match[3], 1)
    if not 1 <= count <= MAX_NEW or not 1 <= window_s <= MAX_WINDOW_S:
        raise error_at(node, f"{name} must be 1 to {MAX_NEW} in 1s to 1d, not {node.value}")
    return Rate(count, window_s)


def read_percent(node: yaml.Node, name: str, scope: Scope) -> int:
    match = _PERCENT.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
    if not match or int(match[1]) > MAX_PERCENT:
        raise error_at(node, f"{name} must be 0% to {MAX_PERCENT}% of conntrack.max_entries, not {shown(node)}")
    return int(match[1])


def read_set_names(node: yaml.Node, name: str, scope: Scope) -> tuple[str, ...]:
    """One name, or a list of two."""
    if isinstance(node, yaml.SequenceNode):
        names: tuple[str, ...] = list_of(read_text, at_least=1, at_most=2)(node, name, scope)
        return names
    return (read_text(node, name, scope),)


def read_words(node: yaml.Node, name: str, scope: Scope) -> tuple[str, ...]:
    text = read_text(node, name, scope)
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise error_at(node, f"{name}: {error}") from error
    if not words:
        raise error_at(node, f"{name} must be matches of a rule such as '-i eth1 -p tcp'")
    return words


# -- sections ------------------------------------------------------------------------------------------------


_PER_SOURCE: dict[str, Reader] = {
    "max_states": whole_number(1, MAX_STATES), "max_new": read_rate, "overload": read_set_names, "flush": read_switch,
    "prefix4": whole_number(1, 32), "prefix6": whole_number(1, 128), "match": read_words}
_ADAPTIVE: dict[str, Reader] = {"start": read_percent, "end": read_percent}


def _members(node: yaml.Node, name: str, scope: Scope, readers: Mapping[str, Reader]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by key, and where they stand."""
    values, places = {}, {}
    for key, key_node, value_node in () if is_null(node) else entries(node, name):
        if key not in readers:
            raise error_at(key_node, f"unknown key '{key}' in {name}, {suggest(key, list(readers))}")
        values[key] = readers[key](value_node, f"{name}.{key}", scope)
        places[key] = location_of(value_node.start_mark)
    return values, places


def _per_source(node: yaml.Node, name: str, scope: Scope) -> PerSourceConfig | None:
    if is_null(node):
        return None
    values, places = _members(node, name, scope, _PER_SOURCE)
    if not values.keys() & {"max_states", "max_new"}:
        raise error_at(node, f"{name} limits nothing: it needs max_states, such as 200, or max_new, such as 30/10s")
    if values.get("flush") and "overload" not in values:
        raise error_at(node, f"{name}.flush is about sources that are added to a set: it needs {name}.overload")
    return PerSourceConfig(**values, places=places)


def _adaptive(node: yaml.Node, name: str, scope: Scope) -> AdaptiveConfig | None:
    if is_null(node):
        return None
    values, _ = _members(node, name, scope, _ADAPTIVE)
    adaptive = AdaptiveConfig(**values)
    if adaptive.start >= adaptive.end:
        raise error_at(node, f"{name}.start must be less than its end: {adaptive.start}% is not less than {adaptive.end}%")
    return adaptive


_LIMITS: dict[str, Reader] = {"per_source": _per_source, "adaptive": _adaptive, "when_full": choice("evict", "drop")}


def read_limits(node: yaml.Node, name: str, scope: Scope) -> LimitsConfig:
    return LimitsConfig(**_members(node, name, scope, _LIMITS)[0])
