"""What the table counts of each source."""
from __future__ import annotations

from collections import Counter

from kit.traffic import Watch
from pyfw.conntrack.selection import Selection
from pyfw.observe.dump import dump_records, source_records

TCP = 6


def rows(watch: Watch) -> dict[str, dict[str, int]]:
    found, cursor = {}, 1
    while cursor:
        records, cursor = source_records(watch.engine, cursor, watch.now_ns)
        found |= {record.pop("source"): record for record in records}
    return found


def in_table(watch: Watch) -> list[dict]:
    """All entries, those too that are expired and not swept yet."""
    found, cursor = [], 1
    while cursor:
        records, cursor = dump_records(watch.engine, Selection(), cursor, 0)
        found += records
    return found


def counts_are_the_tables(watch: Watch) -> None:
    entries = in_table(watch)
    states = Counter(record["original"]["src"] for record in entries)
    established = Counter(record["original"]["src"] for record in entries if record["assured"] and record["protocol"] == TCP)
    counted = rows(watch)
    assert {host: row["states"] for host, row in counted.items() if row["states"]} == states
    assert {host: row["connections"] for host, row in counted.items() if row["connections"]} == established
