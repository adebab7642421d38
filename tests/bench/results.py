"""Figures, what they should be, and how they are shown.  Knows no network and no process."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

SCHEMA = 1


@dataclass(frozen=True)
class Metric:
    """A quantity that is measured, once per round and contender."""

    key: str
    title: str
    unit: str
    digits: int = 0             # shown after the decimal point

    def show(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


METRICS = {
    metric.key: metric
    for metric in (
        Metric("packets_64", "UDP, 64 flows", "packets/s"),
        Metric("cpu_64", "UDP, 64 flows", "CPU ns/packet"),
        Metric("packets_50000", "UDP, 50,000 flows", "packets/s"),
        Metric("cpu_50000", "UDP, 50,000 flows", "CPU ns/packet"),
        Metric("stream", "one TCP stream", "Gbit/s", 2),
        Metric("connections", "new TCP connections", "1/s"),
        Metric("round_trip_p50", "round trip, p50", "us", 1),
        Metric("round_trip_p99", "round trip, p99", "us", 1),
        Metric("packets_million", "UDP, 1,000,000 flows", "packets/s"),
        Metric("cpu_million", "UDP, 1,000,000 flows", "CPU ns/packet"),
        Metric("list_million", "list 1,000,000 connections", "s", 2),
        Metric("rules_none", "UDP, 64 flows, the policy", "ns/packet"),
        Metric("rules_1000", "UDP, 64 flows, behind 1,000 rules", "ns/packet"),
        Metric("thousand_rules", "1,000 rules that do not match", "ns/packet"),
        Metric("longest_calm", "longest round trip", "us", 1),
        Metric("longest_reload", "longest round trip during reloads", "us", 1),
        Metric("reload_delay", "reloading 10,000 rules delays by", "us", 1),
        Metric("bytes_per_connection", "a connection takes", "bytes", 1),
    )
}
ADDED = {"round_trip_p50": "round trip added, p50", "round_trip_p99": "round trip added, p99"}
NO_FIREWALL = "none"


@dataclass(frozen=True)
class Figure:
    """One cell: a metric of a contender."""

    metric: str
    contender: str


@dataclass(frozen=True)
class Target:
    """A figure, or its ratio to another, that must not be above (or below) a limit."""

    title: str
    figure: Figure
    against: Figure | None
    limit: float
    at_most: bool

    def reached(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


TARGETS = (
    Target("CPU per packet, of the batched C program's",
           Figure("cpu_64", "pyfw"), Figure("cpu_64", "c-batch"), 1.12, at_most=True),
    Target("TCP stream, of the C program's with GSO",
           Figure("stream", "pyfw"), Figure("stream", "c-gso"), 0.90, at_most=False),
    Target("new connections, of the kernel's conntrack",
           Figure("connections", "pyfw"), Figure("connections", "kernel"), 0.60, at_most=False),
    Target("1,000 rules that do not match, of iptables'",
           Figure("thousand_rules", "pyfw"), Figure("thousand_rules", "kernel"), 1.50, at_most=True),
    Target("reloading 10,000 rules delays a packet, us",
           Figure("reload_delay", "pyfw"), None, 2000, at_most=True),
    Target("bytes a connection",
           Figure("bytes_per_connection", "pyfw"), None, 200, at_most=True),
    Target("CPU per packet at 1,000,000, of that at 64",
           Figure("cpu_million", "pyfw"), Figure("cpu_64", "pyfw"), 1.50, at_most=True),
    Target("listing 1,000,000, of cat nf_conntrack",
           Figure("list_million", "pyfw"), Figure("list_million", "kernel"), 1.00, at_most=True),
)


@dataclass
class Results:
    """Every sample of every figure, and what follows from their medians."""

    samples: dict[Figure, list[float]] = field(default_factory=dict)

    def add(self, metric: str, contender: str, value: float) -> None:
        self.samples.setdefault(Figure(METRICS[metric].key, contender), []).append(value)

    def value(self, figure: Figure) -> float | None:
        """The median of a figure; None: it was not measured."""
        return median(self.samples[figure]) if figure in self.samples else None

    def added(self, metric: str, contender: str) -> float | None:
        """What a contender adds to the same figure without a firewall."""
        value, bare = self.value(Figure(metric, contender)), self.value(Figure(metric, NO_FIREWALL))
        return None if value is None or bare is None else value - bare

    def achieved(self, target: Target) -> float | None:
        """The figure or the ratio that a target is about; None: not measured."""
        value = self.value(target.figure)
        if target.against is None or value is None:
            return value
        against = self.value(target.against)
        return value / against if against else None

    def missed(self) -> list[Target]:
        """The targets that were measured and not reached."""
        pairs = ((target, self.achieved(target)) for target in TARGETS)
        return [target for target, value in pairs if value is not None and not target.reached(value)]


def figures_table(results: Results, contenders: Sequence[str]) -> str:
    """One row per metric that was measured, one column per contender."""
    rows = [("", "", *contenders)]
    for metric in METRICS.values():
        values = [results.value(Figure(metric.key, contender)) for contender in contenders]
        _append_row(rows, metric.title, metric, values)
        if metric.key in ADDED:
            added = [results.added(metric.key, contender) for contender in contenders]
            _append_row(rows, ADDED[metric.key], metric, added)
    return _aligned(rows)


def _append_row(rows: list[tuple[str, ...]], title: str, metric: Metric, values: Sequence[float | None]) -> None:
    if any(value is not None for value in values):
        rows.append((title, metric.unit, *("-" if value is None else metric.show(value) for value in values)))


def targets_table(results: Results) -> str:
    """One row per target that was measured."""
    rows = [("target", "limit", "here", "")]
    for target in TARGETS:
        value = results.achieved(target)
        if value is not None:
            relation = "at most" if target.at_most else "at least"
            judgement = "reached" if target.reached(value) else "MISSED"
            rows.append((target.title, f"{relation} {target.limit:.2f}", f"{value:.2f}", judgement))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first two flush left, figures flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    layout = "  ".join(f"{{:{'<' if index < 2 else '>'}{width}}}" for index, width in enumerate(widths))
    return "\n".join(layout.format(*row).rstrip() for row in rows)


def to_json(results: Results, about: dict[str, object]) -> str:
    """Everything measured, for other programs.

    {"schema": 1, ..about.., "figures": [{"metric", "title", "unit", "contender", "median", "samples"}],
     "targets": [{"title", "limit", "at_most", "value", "reached"}]}
    """
    figures = [
        {
            "metric": figure.metric,
            "title": METRICS[figure.metric].title,
            "unit": METRICS[figure.metric].unit,
            "contender": figure.contender,
            "median": median(samples),
            "samples": samples,
        }
        for figure, samples in results.samples.items()
    ]
    targets = [
        {
            "title": target.title,
            "limit": target.limit,
            "at_most": target.at_most,
            "value": value,
            "reached": target.reached(value),
        }
        for target in TARGETS
        if (value := results.achieved(target)) is not None
    ]
    return json.dumps({"schema": SCHEMA, **about, "figures": figures, "targets": targets}, indent=2) + "\n"
