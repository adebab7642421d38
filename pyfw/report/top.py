"""A sample of `pyfwctl top` as text: its head, and a row for each connection.

A sample is an object with

    time, elapsed     when it was taken (UTC, seconds since 1970); the seconds that its rates are about
    packets, bits     per second, by verdict
    refused           {reason: {"total", "rate"}}, the most frequent first; remarks about packets that pass are left out
    table             its counters, and the `rate` of those that count changes
    queue             the kernel's: queued, queue_dropped, user_dropped, and the `rate` of the latter; null: the queue is gone
    accounting        false: packets and bytes of connections are not counted, so that they have no rates
    matched           connections that the filter chose
    connections       the first of them, as `list-conntrack -o json` has them, each with `rate`: {"bytes", "packets"}
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pyfw.report.rates import plain

Number = Callable[[float], str]

COLUMNS = ("BYTES/S", "PACKETS/S", "AGE", "PROTO", "STATE", "SOURCE", "DESTINATION")
SORT_COLUMNS = {"bytes": 0, "packets": 1, "age": 2}     # which column a sort key is about
RIGHT = frozenset(SORT_COLUMNS.values())                # columns of numbers
PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp", 136: "udplite"}
TABLE_CHANGES = ("created", "destroyed", "early_drop", "table_full")
QUEUE_LOSSES = ("queue_dropped", "user_dropped")        # the queue was full; the daemon's socket was
MAX_LINES = 1000                                        # connections of one sample
TITLE_WIDTH = 9


def sample_text(sample: Mapping[str, Any]) -> str:
    """All of a sample, without a screen: numbers are not scaled, ages are seconds."""
    rows = [COLUMNS, *(cells(connection, plain, lambda age_s: f"{age_s:.0f}") for connection in sample["connections"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{title:<{TITLE_WIDTH}}{text}" for title, text in head(sample, plain)] + [""]
    for row in rows:
        padded = (cell.rjust(width) if column in RIGHT else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(padded).rstrip())
    return "".join(f"{line}\n" for line in lines)


def head(sample: Mapping[str, Any], number: Number) -> list[tuple[str, str]]:
    """(title, text) of each line above the connections."""
    table, queue = sample["table"], sample["queue"]
    refused = ", ".join(_counted(name, entry["rate"], entry["total"], number) for name, entry in sample["refused"].items())
    counts = "" if sample["accounting"] else "; conntrack.accounting is off: they are not counted"
    return [
        ("time", f"{clock(sample['time'])}, rates over {sample['elapsed']:.1f} s"),
        ("packets", _by_verdict(sample["packets"], number)),
        ("bits", _by_verdict(sample["bits"], number)),
        ("refused", refused or "nothing"),
        ("queue", f"{number(queue['queued'])} waiting, " + ", ".join(
            _counted(name, queue["rate"][name], queue[name], number) for name in QUEUE_LOSSES)
            if queue else "gone"),
        ("table", f"{number(table['entries'])} of {number(table['max_entries'])} ({table['entries'] / table['max_entries']:.1%}), "
         + ", ".join(f"{name} {number(table['rate'][name])}/s" for name in TABLE_CHANGES)),
        ("shown", f"{len(sample['connections'])} of {sample['matched']} connections{counts}"),
    ]


def cells(connection: Mapping[str, Any], number: Number, age: Number) -> tuple[str, ...]:
    """A connection's row, by COLUMNS."""
    original = connection["original"]
    source, destination = _end(original["src"], original.get("sport")), _end(original["dst"], original.get("dport"))
    if "type" in original:
        destination += f" type {original['type']} id {original['id']}"
    return (number(connection["rate"]["bytes"]), number(connection["rate"]["packets"]), age(connection["age"]),
            PROTOCOL_NAMES.get(connection["protocol"], str(connection["protocol"])), _state(connection), source, destination)


def age_text(seconds: float) -> str:
    """`7s`, `3m07s`, `2h05m`, `4d03h`"""
    whole = int(seconds)
    for unit, size, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{lesser}"
    return f"{whole}s"


def clock(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s):%H:%M:%S}"


def _by_verdict(by_verdict: Mapping[str, float], number: Number) -> str:
    return (f"{number(sum(by_verdict.values()))}/s: {number(by_verdict['ACCEPT'])}/s accepted, "
            f"{number(by_verdict['DROP'])}/s dropped")


def _counted(name: str, rate: float, total: int, number: Number) -> str:
    return f"{name} {number(rate)}/s ({number(total)})"


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _state(connection: Mapping[str, Any]) -> str:
    """Of TCP and SCTP their state; of others what conntrack says of them instead."""
    if connection["state"]:
        return str(connection["state"])
    if not connection["seen_reply"]:
        return "UNREPLIED"
    return "ASSURED" if connection["assured"] else "REPLIED"
