"""`pyfwctl top ...` and `pyfwctl stats --watch ...`: samples with rates, one after another, until the peer leaves.

Entries for the table of commands.  While one of them is under way, a further request for the same command on the same
connection changes what is shown from then on; one that cannot be is answered with a note, and changes nothing.
"""
from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from pyfw.edge.control.handlers.connections import selection
from pyfw.edge.control.table import USAGE, Answers, CommandError, Listen, Pause, Services, find_command
from pyfw.enums import Reason
from pyfw.observe.top import Top
from pyfw.report.rates import flat, plain, rates
from pyfw.report.top import MAX_LINES, QUEUE_LOSSES, TABLE_CHANGES, clock, sample_text

WATCHERS = 4                    # at once: each takes 20 bytes for every connection that the table has room for
DEFAULT_LINES = 20
DEFAULT_INTERVAL_S, LEAST_INTERVAL_S, MAX_INTERVAL_S = 1.0, 0.1, 3600.0
SOON_S = 0.5                    # what changed is shown after so long, though the interval is longer
HEARTBEAT_S = 10.0              # of silence, until something is said nevertheless: a peer that has gone is noticed by it
REST = 5                        # an interval is so many times as long as the walk through the table takes, at least

_at_work: set[Top] = set()


@dataclass(frozen=True)
class View:
    """What a `top` shows."""

    selection: Any
    sort: str
    reverse: bool
    lines: int
    interval_s: float

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> View:
        """Raises CommandError."""
        lines = arguments.get("lines", DEFAULT_LINES)
        if not 1 <= lines <= MAX_LINES:
            raise CommandError(f"--lines takes a number from 1 to {MAX_LINES}, not {lines}", USAGE, "bad_argument")
        return cls(selection(arguments), arguments.get("sort", "bytes"), arguments.get("reverse", False), lines,
                   interval(arguments.get("interval", DEFAULT_INTERVAL_S), "--interval"))


def interval(seconds: float, option: str) -> float:
    """Raises CommandError for one that cannot be."""
    if not LEAST_INTERVAL_S <= seconds <= MAX_INTERVAL_S:
        raise CommandError(f"{option} takes {LEAST_INTERVAL_S:g} to {MAX_INTERVAL_S:g} seconds, not {seconds:g}",
                           USAGE, "bad_argument")
    return seconds


# -- top -----------------------------------------------------------------------------------------------------------------


def top(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """Samples as `report.top` prints them.  With `once` a single one, whole interval; else until the peer leaves."""
    view = View.read(arguments)
    if len(_at_work) >= WATCHERS:
        raise CommandError(f"{WATCHERS} are watching the connections, and more would take too much memory; try again later",
                           reason="busy")
    busiest = Top(services.engine)
    _at_work.add(busiest)
    try:
        yield from _samples(services, busiest, view, arguments)
    finally:
        _at_work.discard(busiest)
    return {}


def _samples(services: Services, busiest: Top, view: View,
             arguments: Mapping[str, Any]) -> Generator[dict[str, Any] | Pause | Listen, Any, None]:
    once, as_json = arguments.get("once", False), arguments.get("json", False)
    before = Totals.read(services)
    yield from _walk(services, busiest, view)
    due_ns = before.now_ns + _ns(view.interval_s if once else min(view.interval_s, SOON_S))
    while True:
        heard = yield from _until(services, due_ns, listening=not once)
        if heard is not None:
            try:
                view = View.read(_asked_again("top", heard))
            except CommandError as error:
                yield {"note": str(error)}
            due_ns = before.now_ns + _ns(min(view.interval_s, SOON_S))
            continue
        now = Totals.read(services)
        yield from _walk(services, busiest, view)
        sample = _sample(services, busiest, now, before)
        yield {"records": [sample]} if as_json else {"text": sample_text(sample)}
        if once:
            return
        before, due_ns = now, now.now_ns + max(_ns(view.interval_s), REST * (services.now_ns() - now.now_ns))


def _walk(services: Services, busiest: Top, view: View) -> Generator[Pause, None, None]:
    """Through the whole table; others are answered on the way."""
    cursor = busiest.begin(view.selection, view.sort, view.lines, view.reverse)
    while cursor:
        cursor = busiest.walk(cursor, services.now_ns())
        yield Pause(0)


@dataclass(frozen=True)
class Totals:
    """What was counted up to a time."""

    now_ns: int
    engine: dict[str, Any]
    queue: dict[str, int]       # the kernel's; empty: it is gone

    @classmethod
    def read(cls, services: Services) -> Totals:
        queue = services.queue_counters()
        return cls(services.now_ns(), services.engine.counters(), queue._asdict() if queue else {})


def _sample(services: Services, busiest: Top, now: Totals, before: Totals) -> dict[str, Any]:
    elapsed_s = max(now.now_ns - before.now_ns, 1) / 1e9
    rate = rates(now.engine, before.engine, elapsed_s)
    queue_rate = rates(now.queue, before.queue or now.queue, elapsed_s)
    refused = {name: {"total": total, "rate": rate["reasons"][name]} for name, total in now.engine["reasons"].items()
               if Reason[name] < Reason.TCP_IGNORED}
    return {
        "time": (now.now_ns + services.engine.wall_offset_ns) / 1e9,
        "elapsed": elapsed_s,
        "packets": rate["verdicts"],
        "bits": {verdict: 8 * bytes_rate for verdict, bytes_rate in rate["verdict_bytes"].items()},
        "refused": dict(sorted(refused.items(), key=lambda entry: (-entry[1]["rate"], -entry[1]["total"]))),
        "table": {**now.engine["table"], "rate": {name: rate["table"][name] for name in TABLE_CHANGES}},
        "queue": {**{name: now.queue[name] for name in ("queued", *QUEUE_LOSSES)},
                  "rate": {name: queue_rate[name] for name in QUEUE_LOSSES}} if now.queue else None,
        "accounting": busiest.counts,
        "matched": busiest.matched,
        "connections": busiest.first(),
    }


# -- stats ---------------------------------------------------------------------------------------------------------------


def watch_stats(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """The counters at once and then every `watch` seconds: a line `time name value rate` for each, or with `json` an object

        time, elapsed     as a sample's of `top`; elapsed is 0 at first
        statistics        as `stats --json` has it
        rates             the same, of each number's change per second; empty at first
    """
    interval_s = interval(arguments["watch"], "--watch")
    before: dict[str, Any] = {}
    before_ns = 0
    while True:
        now_ns, statistics = services.now_ns(), services.statistics()
        elapsed_s = (now_ns - before_ns) / 1e9 if before else 0.0
        record = {"time": (now_ns + services.engine.wall_offset_ns) / 1e9, "elapsed": elapsed_s, "statistics": statistics,
                  "rates": rates(statistics, before, elapsed_s) if elapsed_s > 0 else {}}
        yield {"records": [record]} if arguments.get("json") else {"text": _stats_lines(record)}
        yield {}                        # so that it is seen at once
        before, before_ns = statistics, now_ns
        due_ns = now_ns + _ns(interval_s)
        while (heard := (yield from _until(services, due_ns))) is not None:
            try:
                interval_s = interval(_asked_again("stats", heard).get("watch", interval_s), "--watch")
            except CommandError as error:
                yield {"note": str(error)}
            due_ns = now_ns + _ns(min(interval_s, SOON_S))


def _stats_lines(record: Mapping[str, Any]) -> str:
    changes = dict(flat(record["rates"]))
    when = clock(record["time"])
    return "".join(f"{when} {name} {value} {plain(changes[name]) + '/s' if name in changes else '-'}\n"
                   for name, value in flat(record["statistics"]))


# -- both ----------------------------------------------------------------------------------------------------------------


def _until(services: Services, due_ns: int,
           listening: bool = True) -> Generator[dict[str, Any] | Pause | Listen, Any, Any]:
    """Wait; returns what the peer said meanwhile, or None."""
    while (left_s := (due_ns - services.now_ns()) / 1e9) > 0:
        wait_s = min(left_s, HEARTBEAT_S)
        heard = yield Listen(wait_s) if listening else Pause(wait_s)
        if heard is not None:
            return heard
        if left_s > HEARTBEAT_S:
            yield {}
    return None


def _asked_again(name: str, request: Any) -> dict[str, Any]:
    """The arguments of a request that came while `name` is under way.  Raises CommandError."""
    command = find_command(request)
    if command.name != name:
        raise CommandError(f"{name} is under way on this connection: send '{command.name}' on another", USAGE, "bad_argument")
    return command.checked_arguments(request)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
