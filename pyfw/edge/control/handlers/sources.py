"""The control command `sources`: as pfctl -s Sources."""
from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from pyfw.edge.control.handlers.connections import FIRST_CURSOR
from pyfw.edge.control.table import USAGE, Answers, CommandError, Pause, Services

MAX_SOURCES = 10_000            # that are put in order


def sources(services: Services, arguments: Mapping[str, Any]) -> Answers:
    limits, number = services.engine.limits, arguments.get("number")
    if limits is None:
        raise CommandError("nobody counts sources: set limits.per_source in the config, and restart")
    if number is not None and not 1 <= number <= MAX_SOURCES:
        raise CommandError(f"argument 'number' must be 1 to {MAX_SOURCES}", USAGE, "bad_argument")
    most: list[dict[str, Any]] = []
    listed = 0
    for records in _slices(services):
        if number is None:
            listed += len(records)
            yield _answer(records, limits.window_s, arguments)
        else:
            most = heapq.nlargest(number, most + records, key=lambda record: (record["states"], record["new"]))
            yield Pause(0)
    if number is not None:
        listed = len(most)
        yield _answer(most, limits.window_s, arguments)
    return {"count": listed}


def _slices(services: Services) -> Iterator[list[dict[str, Any]]]:
    from pyfw.observe.dump import source_records
    cursor, now_ns = FIRST_CURSOR, services.now_ns()
    while cursor:
        records, cursor = source_records(services.engine, cursor, now_ns)
        yield records


def _answer(records: list[dict[str, Any]], window_s: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments.get("json"):
        return {"records": records}
    rate = ", rate {new}/" + f"{window_s}s" if window_s else ""
    line = "{source} ( states {states}, connections {connections}" + rate + " )\n"
    return {"text": "".join(line.format(**record) for record in records)}
