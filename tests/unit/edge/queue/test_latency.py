"""The histogram of verdict latencies."""
from __future__ import annotations

import pytest

from pyfw.edge.queue.latency import BOUNDS_NS, histogram_of

BOUNDS_US = ["10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "10000", "20000", "50000", "100000", "more"]


def test_bounds_go_from_10_us_to_100_ms():
    assert list(histogram_of([])["up_to_us"]) == BOUNDS_US
    assert BOUNDS_NS == tuple(int(bound) * 1000 for bound in BOUNDS_US[:-1])


@pytest.mark.parametrize(("took_ns", "bound"), [
    (0, "10"), (10_000, "10"), (10_001, "20"), (20_000, "20"), (99_999_999, "100000"), (100_000_000, "100000"),
    (100_000_001, "more"), (2**63, "more"),
])
def test_a_packet_counts_at_the_first_bound_that_it_does_not_exceed(took_ns, bound):
    counters = histogram_of([(took_ns, 1)])
    assert {name for name, count in counters["up_to_us"].items() if count} == {bound}
    assert (counters["packets"], counters["sum_ns"]) == (1, took_ns)


def test_each_packet_of_a_batch_counts():
    counters = histogram_of([(15_000, 64), (45_000, 6), (15_000, 30)])
    assert {name: count for name, count in counters["up_to_us"].items() if count} == {"20": 94, "50": 6}
    assert (counters["packets"], counters["sum_ns"], counters["mean_us"]) == (100, 94 * 15_000 + 6 * 45_000, 16)


def test_nothing_observed_is_no_division_by_zero():
    assert histogram_of([])["mean_us"] == 0
