"""The arithmetic of token buckets, packet by packet: a token costs 10 ns, three fill the bucket."""
from __future__ import annotations

import pytest

from pyfw.token_bucket import take_tokens


def takes(times_ns: list[int], *, cost_ns: int = 10, full_ns: int = 30, credit_ns: int = 30) -> list[tuple[bool, int]]:
    return take_tokens(cost_ns, full_ns, credit_ns, times_ns)


def test_a_full_bucket_passes_its_burst_at_once_and_no_more() -> None:
    assert takes([5, 5, 5, 5]) == [(True, 20), (True, 10), (True, 0), (False, 0)]


def test_a_token_is_earned_to_the_nanosecond() -> None:
    assert takes([9], credit_ns=0) == [(False, 9)]
    assert takes([10], credit_ns=0) == [(True, 0)]


def test_a_packet_that_gets_no_token_loses_no_credit() -> None:
    assert takes([6, 10, 19, 20], credit_ns=0) == [(False, 6), (True, 0), (False, 9), (True, 0)]


def test_a_bucket_earns_no_more_than_what_fills_it() -> None:
    assert takes([29], credit_ns=0) == [(True, 19)]
    assert takes([30], credit_ns=0) == [(True, 20)]
    assert takes([10 ** 18], credit_ns=0) == [(True, 20)]


def test_a_clock_that_goes_back_earns_nothing_and_is_followed() -> None:
    assert takes([50, 40, 45, 55]) == [(True, 20), (True, 10), (True, 5), (True, 5)]


def test_what_another_rate_has_left_counts_up_to_what_fills_this_one() -> None:
    assert takes([0, 0, 0, 0], credit_ns=1000) == [(True, 20), (True, 10), (True, 0), (False, 0)]


@pytest.mark.parametrize("times_ns", [[0] * 5, [7, 3, 10 ** 18]])
def test_a_rate_that_costs_nothing_has_no_limit(times_ns: list[int]) -> None:
    assert takes(times_ns, cost_ns=0, full_ns=0, credit_ns=0) == [(True, 0)] * len(times_ns)
