"""The daemon's counters as Prometheus metrics: `Daemon.statistics()` and the rules' counters, read when they are asked for.

METRICS is the whole list, but for those of rules.  Knows no socket.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pyfw.enums import Reason
from pyfw.escape import printable
from pyfw.report.degraded import PARTS
from pyfw.rules.language.matches import implied_families
from pyfw.rules.model import Rule
from pyfw.rules.program.program import Program

MAX_RULES = 1000                # of which counters are shown, at most: each has up to four series
RULE_LABELS = ("table", "chain", "rule", "family", "comment")
DROP_REASONS = [reason.name for reason in Reason if Reason.NONE < reason < Reason.TCP_IGNORED]     # behind them: remarks
QUEUE_ERRORS = ("enobufs", "receive_errors", "send_errors", "verdict_gone", "verdict_errors", "malformed", "id_gaps",
                "unknown_links")

OPEN_METRICS = "application/openmetrics-text"

Statistics = Mapping[str, Any]
Samples = Iterable[tuple[tuple[str, ...], float]]
"""The values of the labels, and the value."""


@dataclass(frozen=True)
class Series:
    """One metric: its samples, as they are found in the statistics."""

    family: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    samples: Callable[[Statistics], Samples]
    labels: tuple[str, ...] = ()

    def metric(self, statistics: Statistics) -> Metric:
        metric = self.family(self.name, self.help, labels=self.labels)
        for values, value in self.samples(statistics):
            metric.add_metric(values, value)
        return metric


def _at(*path: str) -> Callable[[Statistics], Samples]:
    """The one number at this place; no sample where there is none."""
    def samples(statistics: Statistics) -> Samples:
        value: Any = statistics
        for name in path:
            value = value.get(name) if value else None
        return [] if value is None else [((), value)]
    return samples


def _each(group: str, names: Iterable[str] | None = None, *, of: str | None = None) -> Callable[[Statistics], Samples]:
    """A sample for each counter of a group (or of a group in it), of these names if any are given; one that is not there is 0."""
    def samples(statistics: Statistics) -> Samples:
        counters = statistics.get(group, {})
        counters = counters.get(of, {}) if of else counters
        return [((name,), counters.get(name, 0)) for name in (counters if names is None else names)]
    return samples


def _judged(statistics: Statistics) -> Samples:
    return [((state, verdict.lower()), packets) for state, verdicts in statistics["judged"].items()
            for verdict, packets in verdicts.items()]


def _by_source(drops: str, rules: str) -> Callable[[Statistics], Samples]:
    return lambda statistics: [(("rules",), statistics["log"][rules]), (("drops",), statistics["log"][drops])]


def _reloads(statistics: Statistics) -> Samples:
    return [((result,), statistics["reloads"][result]) for result in ("good", "failed")]


def _reload_times(statistics: Statistics) -> Samples:
    reloads = statistics["reloads"]
    return [((result,), reloads[f"last_{result}_s"]) for result in ("good", "failed") if f"last_{result}_s" in reloads]


def _degraded(statistics: Statistics) -> Samples:
    return [((part,), part in statistics["degraded"]) for part in PARTS]


METRICS = (
    Series(CounterMetricFamily, "pyfw_packets", "Packets judged, by their connection's state and by what became of them.",
           _judged, ("state", "verdict")),
    Series(CounterMetricFamily, "pyfw_bytes", "Bytes of the packets judged, from their IP headers on.", _at("bytes")),
    Series(CounterMetricFamily, "pyfw_drops", "Packets dropped, by reason; each has one.",
           _each("drops", DROP_REASONS), ("reason",)),
    # the queue
    Series(CounterMetricFamily, "pyfw_queue_dropped", "Packets that the kernel dropped because the queue was full.",
           _at("kernel_queue", "queue_dropped")),
    Series(CounterMetricFamily, "pyfw_queue_user_dropped",
           "Packets that the kernel dropped because the socket's receive buffer was full.", _at("kernel_queue", "user_dropped")),
    Series(GaugeMetricFamily, "pyfw_queue_depth", "Packets that wait for their verdict.", _at("kernel_queue", "queued")),
    Series(GaugeMetricFamily, "pyfw_queue_length", "Packets that may wait (queue.length).", _at("queue", "length")),
    Series(CounterMetricFamily, "pyfw_queue_errors", "Troubles between the kernel and the daemon, as `pyfwctl stats` names them.",
           _each("queue", QUEUE_ERRORS), ("error",)),
    Series(GaugeMetricFamily, "pyfw_diversion_in_place", "1: the kernel diverts packets as the config says; 0: it does not.",
           _at("diversion", "in_place")),
    Series(CounterMetricFamily, "pyfw_diversion_repairs", "How often others had changed the diversion, and it was put back.",
           _at("diversion", "repairs")),
    Series(CounterMetricFamily, "pyfw_connections_relearnt",
           "TCP connections that learn their windows anew, since packets may have passed unjudged.",
           _at("diversion", "connections_relearnt")),
    # the tables
    Series(GaugeMetricFamily, "pyfw_conntrack_entries", "Connections in the table.", _at("table", "entries")),
    Series(GaugeMetricFamily, "pyfw_conntrack_entries_limit", "Connections that the table holds.", _at("table", "max_entries")),
    Series(CounterMetricFamily, "pyfw_conntrack_inserted", "Connections entered into the table.", _at("table", "created")),
    Series(CounterMetricFamily, "pyfw_conntrack_early_drop", "Connections evicted for others, the table being full.",
           _at("table", "early_drop")),
    Series(CounterMetricFamily, "pyfw_conntrack_table_full", "Connections refused, the table being full of ASSURED ones.",
           _at("table", "table_full")),
    Series(GaugeMetricFamily, "pyfw_expectations", "Connections that helpers expect.", _at("expectations", "entries")),
    Series(GaugeMetricFamily, "pyfw_expectations_limit", "Expectations that there may be.", _at("expectations", "max_entries")),
    Series(CounterMetricFamily, "pyfw_full", "Times that there was no room to remember something, or that recent forgot the oldest for it.",
           _each("full"), ("memory",)),
    # the rules and the log
    Series(CounterMetricFamily, "pyfw_reloads", "Reloads of the config since the start.", _reloads, ("result",)),
    Series(GaugeMetricFamily, "pyfw_last_reload_timestamp_seconds", "When the last reload of that result was; the start counts as good.",
           _reload_times, ("result",)),
    Series(CounterMetricFamily, "pyfw_log_lines", "Lines about packets, of LOG and TRACE rules or of log.drops.",
           _by_source("drops", "lines"), ("source",)),
    Series(CounterMetricFamily, "pyfw_log_lines_suppressed", "Lines about packets that the rate limit kept back.",
           _by_source("drops_suppressed", "suppressed"), ("source",)),
    # the daemon
    Series(GaugeMetricFamily, "pyfw_degraded", "1: this option is not in force, and judging goes on without it; `pyfwctl stats` says why.",
           _degraded, ("part",)),
    # the metrics themselves
    Series(CounterMetricFamily, "pyfw_metrics_refusals", "Requests for metrics, and connections, that were refused.",
           _each("metrics", of="refusals"), ("reason",)),
)


class StatisticsCollector(Collector):
    """Reads the daemon's counters whenever it is asked: it counts nothing itself."""

    def __init__(self, statistics: Callable[[], Statistics], program: Callable[[], Program | None]) -> None:
        self._statistics = statistics
        self._program = program

    def collect(self) -> Iterator[Metric]:
        statistics = self._statistics()
        yield InfoMetricFamily("pyfw_build", "The daemon's version.", {"version": statistics["daemon"]["version"]})
        yield from (series.metric(statistics) for series in METRICS)
        yield _latency(statistics["verdict_latency"])
        yield from _rules(self._program())


def _latency(latency: Statistics) -> Metric:
    buckets, packets = [], 0
    for bound_us, counted in latency["up_to_us"].items():
        packets += counted
        buckets.append(("+Inf" if bound_us == "more" else str(int(bound_us) / 1e6), packets))
    metric = HistogramMetricFamily("pyfw_verdict_latency_seconds",
                                   "Time from taking a packet out of the queue to having sent its verdict.")
    metric.add_metric((), buckets, latency["sum_ns"] / 1e9)
    return metric


def _rules(program: Program | None) -> Iterator[Metric]:
    packets = CounterMetricFamily("pyfw_rule_packets", "Packets that a rule, or a chain's policy, matched.", labels=RULE_LABELS)
    size = CounterMetricFamily("pyfw_rule_bytes", "Bytes of these packets.", labels=RULE_LABELS)
    rules = sum(len(chain.rules) for _, chain in program.ruleset.chains()) if program else 0
    for labels, counted in _rule_counters(program) if program else ():
        packets.add_metric(labels, counted[0])
        size.add_metric(labels, counted[1])
    yield GaugeMetricFamily("pyfw_rules", "Rules in force.", rules)
    yield GaugeMetricFamily("pyfw_rules_exported", f"Rules whose counters are shown: the first {MAX_RULES}.", min(rules, MAX_RULES))
    yield packets
    yield size


def _rule_counters(program: Program) -> Iterator[tuple[tuple[str, ...], tuple[int, int]]]:
    """(labels, (packets, bytes)) of each policy, and of the first MAX_RULES rules in each family that they can match."""
    counters = {family: program.counters(family) for family in (4, 6)}
    left = MAX_RULES
    for table, chain in program.ruleset.chains():
        for index, rule in enumerate(chain.rules[:left], 1):
            for family in sorted(_families(rule)):
                yield ((table.name, _text(chain.name), str(index), f"ipv{family}", _comment(rule)),
                       counters[family][table.name, chain.name][1][index - 1])
        left -= min(left, len(chain.rules))
        for family in counters:
            if (counted := counters[family][table.name, chain.name][0]) is not None:
                yield (table.name, _text(chain.name), "policy", f"ipv{family}", ""), counted


def _families(rule: Rule) -> set[int]:
    return {rule.family} if rule.family else implied_families(rule) or {4, 6}


def _comment(rule: Rule) -> str:
    comment = rule.match("comment")
    return _text(comment.settings[0].value) if comment else ""


def _text(text: str) -> str:
    """A label's value must be UTF-8.  Names and comments from a command line need not be."""
    return printable(text)


class Exposition:
    """The metrics as text, in the format that a client accepts."""

    def __init__(self, statistics: Callable[[], Statistics], program: Callable[[], Program | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StatisticsCollector(statistics, program))
        ProcessCollector(registry=self._registry)

    def __call__(self, accept: str) -> tuple[bytes, str]:
        """(the text, its content type); `accept` is the value of a request's Accept header."""
        encode, content_type = choose_encoder(f"{OPEN_METRICS}; version=1.0.0" if OPEN_METRICS in accept else "")
        return encode(self._registry), content_type
