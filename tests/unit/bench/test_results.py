"""Figures, targets, the table and the JSON of the benchmark."""
import json

import pytest

from bench.results import METRICS, TARGETS, Figure, Results, figures_table, targets_table, to_json


def results_of(**samples_by_figure: list[float]) -> Results:
    """Results from `metric__contender=[samples]`, a dash in a contender's name written as an underscore."""
    results = Results()
    for name, samples in samples_by_figure.items():
        metric, contender = name.split("__")
        for sample in samples:
            results.add(metric, contender.replace("_", "-"), sample)
    return results


def target(beginning: str):
    (found,) = [target for target in TARGETS if target.title.startswith(beginning)]
    return found


class TestResults:
    def test_value_is_the_median_so_that_one_disturbed_round_does_not_count(self):
        assert results_of(cpu_64__pyfw=[2000, 9000, 1900]).value(Figure("cpu_64", "pyfw")) == 2000

    def test_what_was_not_measured_has_no_value(self):
        assert Results().value(Figure("cpu_64", "pyfw")) is None

    def test_an_unknown_metric_is_refused(self):
        with pytest.raises(KeyError):
            Results().add("cpu_65", "pyfw", 1)

    def test_round_trip_added_is_the_difference_to_no_firewall(self):
        results = results_of(round_trip_p50__none=[10], round_trip_p50__pyfw=[70, 72, 71])
        assert results.added("round_trip_p50", "pyfw") == 61
        assert results.added("round_trip_p50", "kernel") is None


class TestTargets:
    def test_each_names_metrics_that_exist(self):
        figures = [figure for target in TARGETS for figure in (target.figure, target.against) if figure]
        assert {figure.metric for figure in figures} <= METRICS.keys()

    @pytest.mark.parametrize(
        ("beginning", "figure", "against", "at_limit", "beyond"),
        [
            ("CPU per packet, of the batched", "cpu_64__pyfw", "cpu_64__c_batch", 112, 113),
            ("TCP stream", "stream__pyfw", "stream__c_gso", 90, 89),
            ("new connections", "connections__pyfw", "connections__kernel", 60, 59),
            ("bytes a connection", "bytes_per_connection__pyfw", None, 200, 201),
            ("CPU per packet at 1,000,000", "cpu_million__pyfw", "cpu_64__pyfw", 150, 151),
            ("listing", "list_million__pyfw", "list_million__kernel", 100, 101),
        ],
    )
    def test_reached_at_the_limit_and_missed_beyond_it(self, beginning, figure, against, at_limit, beyond):
        hundred = {against: [100]} if against else {}
        assert target(beginning) not in results_of(**{figure: [at_limit]}, **hundred).missed()
        assert target(beginning) in results_of(**{figure: [beyond]}, **hundred).missed()

    def test_one_that_lacks_a_figure_is_neither_reached_nor_missed(self):
        results = results_of(cpu_64__pyfw=[5000])
        assert results.missed() == []
        assert results.achieved(target("CPU per packet, of the batched")) is None


class TestTables:
    def test_a_row_per_metric_and_a_column_per_contender(self):
        results = results_of(packets_64__none=[900_000], packets_64__pyfw=[512_345.6], cpu_64__pyfw=[1950.4])
        assert figures_table(results, ["none", "pyfw"]).splitlines() == [
            "                                 none     pyfw",
            "UDP, 64 flows  packets/s      900,000  512,346",
            "UDP, 64 flows  CPU ns/packet        -    1,950",
        ]

    def test_round_trips_have_a_row_for_what_is_added(self):
        results = results_of(round_trip_p99__none=[20.0], round_trip_p99__pyfw=[95.25])
        assert figures_table(results, ["none", "pyfw"]).splitlines()[1:] == [
            "round trip, p99        us  20.0  95.2",
            "round trip added, p99  us   0.0  75.2",
        ]

    def test_targets_say_limit_ratio_and_whether_it_was_reached(self):
        results = results_of(cpu_64__pyfw=[2100], cpu_64__c_batch=[2000], stream__pyfw=[8], stream__c_gso=[10])
        assert targets_table(results).splitlines() == [
            "target                                      limit          here",
            "CPU per packet, of the batched C program's  at most 1.12   1.05  reached",
            "TCP stream, of the C program's with GSO     at least 0.90  0.80   MISSED",
        ]


class TestJson:
    def test_all_samples_and_targets_are_there(self):
        document = json.loads(to_json(results_of(cpu_64__pyfw=[3, 1, 2], cpu_64__c_batch=[2]), {"rounds": 3}))
        metric = {"metric": "cpu_64", "title": "UDP, 64 flows", "unit": "CPU ns/packet"}
        assert document == {
            "schema": 1,
            "rounds": 3,
            "figures": [
                {**metric, "contender": "pyfw", "median": 2, "samples": [3, 1, 2]},
                {**metric, "contender": "c-batch", "median": 2, "samples": [2]},
            ],
            "targets": [
                {
                    "title": "CPU per packet, of the batched C program's",
                    "limit": 1.12,
                    "at_most": True,
                    "value": 1.0,
                    "reached": True,
                },
            ],
        }
