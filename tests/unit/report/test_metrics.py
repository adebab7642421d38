"""The metrics: what they are called, that they say what the statistics say, and the dashboard that draws them."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kit.control import engine_with, udp_packet
from pyfw.edge.queue.latency import histogram_of
from pyfw.enums import Hook, Reason
from pyfw.report.metrics import DROP_REASONS, MAX_RULES, METRICS, OPEN_METRICS, Exposition
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

DASHBOARD = Path(__file__).resolve().parents[3] / "config" / "grafana-dashboard.json"

RULES = r"""
*raw
:PREROUTING ACCEPT
*filter
:FORWARD DROP
:mine -
-A FORWARD -p udp -m comment --comment "to \"mine\"" -j mine
-A FORWARD -s 192.0.2.0/24 -j ACCEPT
-A FORWARD -p icmpv6 -m icmp6 --icmpv6-type echo-request -j ACCEPT
-A mine -d 192.0.2.2 -j ACCEPT
COMMIT
"""


@pytest.fixture
def engine():
    """Three connections that begin before there are rules, two packets of which the rules drop the second time."""
    engine = engine_with(3)
    engine.load(Program(parse_save(RULES)))
    for flow in range(2):
        engine.judge(udp_packet(flow), Hook.FORWARD, "eth1", "eth0", now=1)
    engine.judge(b"", Hook.FORWARD)
    return engine


@pytest.fixture
def statistics(engine):
    """As Daemon.statistics() has them; no two numbers are equal where they could be mistaken for each other."""
    return {
        "daemon": {"version": "1.2.3"},
        "degraded": {"adopt": "the kernel tells nothing"},
        **engine.counters(),
        "queue": {"number": 0, "length": 8192, "packets": 6, "enobufs": 11, "receive_errors": 12, "send_errors": 13, "verdict_gone": 14,
                  "verdict_errors": 15, "malformed": 16, "id_gaps": 17, "unknown_links": 18, "batches": 4},
        "diversion": {"in_place": 0, "checks": 61, "repairs": 62, "failures": 63, "connections_relearnt": 64,
                      "fault": "INPUT's jump to PYFW-INPUT was missing"},
        "kernel_queue": {"queued": 21, "queue_dropped": 22, "user_dropped": 23, "id_sequence": 24},
        "verdict_latency": histogram_of([(15_000, 4), (200_000_000, 2)]),
        "reloads": {"good": 31, "failed": 32, "last_good_s": 1_700_000_001, "last_failed_s": 1_700_000_002},
        "log": {"lines": 41, "suppressed": 42, "drops": 43, "drops_suppressed": 44},
        "metrics": {"connections": 1, "answers": 2, "refusals": {"idle": 51, "too_many": 52}},
    }


def samples(text: str, parse=text_string_to_metric_families) -> dict[tuple, float]:
    """(name, labels) -> value; a sample that comes twice is an error."""
    found = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


@pytest.fixture
def exposed(engine, statistics) -> Iterator:
    """exposed(name, label=...) is the value of that sample."""
    text, content_type = Exposition(lambda: statistics, lambda: engine.program)("")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(text.decode())

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset(labels.items())))
    value.names = {name for name, _ in found}
    value.all = found
    return value


# -- values --------------------------------------------------------------------------------------------------


def test_packets_are_told_by_state_and_verdict(exposed, statistics):
    assert exposed("pyfw_packets_total", state="NEW", verdict="accept") == 3
    assert exposed("pyfw_packets_total", state="NEW", verdict="drop") == 2
    assert exposed("pyfw_packets_total", state="INVALID", verdict="drop") == 1
    for state, verdicts in statistics["judged"].items():
        for verdict, packets in verdicts.items():
            assert exposed("pyfw_packets_total", state=state, verdict=verdict.lower()) == packets
    assert exposed("pyfw_bytes_total") == statistics["bytes"] == 5 * 28


def test_whether_packets_are_diverted_is_told(exposed):
    assert exposed("pyfw_diversion_in_place") == 0
    assert exposed("pyfw_diversion_repairs_total") == 62
    assert exposed("pyfw_connections_relearnt_total") == 64


def test_a_reason_that_has_not_come_yet_is_0(exposed):
    """A series that is there from the start loses nothing of its first increase."""
    told = {dict(labels)["reason"]: value for (name, labels), value in exposed.all.items() if name == "pyfw_drops_total"}
    assert {reason: value for reason, value in told.items() if value} == {"POLICY": 2, "IP_TRUNCATED": 1}
    assert list(told) == DROP_REASONS


def test_the_reasons_of_drops_are_all_but_the_remarks():
    assert {Reason[name] for name in DROP_REASONS} == set(Reason) - {
        Reason.NONE, Reason.TCP_IGNORED, Reason.TCP_CHALLENGE_ACK, Reason.TCP_OVERSHOT, Reason.TCP_SEQ_UNDER,
        Reason.TCP_ACK_UNDER, Reason.HELPER_REFUSED, Reason.HELPER_BUSY}


@pytest.mark.parametrize(("name", "labels", "value"), [
    ("pyfw_build_info", {"version": "1.2.3"}, 1),
    ("pyfw_queue_depth", {}, 21), ("pyfw_queue_dropped_total", {}, 22), ("pyfw_queue_user_dropped_total", {}, 23),
    ("pyfw_queue_length", {}, 8192),
    ("pyfw_queue_errors_total", {"error": "enobufs"}, 11), ("pyfw_queue_errors_total", {"error": "unknown_links"}, 18),
    ("pyfw_conntrack_entries", {}, 3), ("pyfw_conntrack_entries_limit", {}, 3), ("pyfw_conntrack_inserted_total", {}, 3),
    ("pyfw_conntrack_early_drop_total", {}, 0), ("pyfw_conntrack_table_full_total", {}, 0),
    ("pyfw_expectations", {}, 0), ("pyfw_expectations_limit", {}, 4096),
    ("pyfw_full_total", {"memory": "hashlimit"}, 0), ("pyfw_full_total", {"memory": "interfaces"}, 0),
    ("pyfw_reloads_total", {"result": "good"}, 31), ("pyfw_reloads_total", {"result": "failed"}, 32),
    ("pyfw_last_reload_timestamp_seconds", {"result": "good"}, 1_700_000_001),
    ("pyfw_last_reload_timestamp_seconds", {"result": "failed"}, 1_700_000_002),
    ("pyfw_log_lines_total", {"source": "rules"}, 41), ("pyfw_log_lines_suppressed_total", {"source": "rules"}, 42),
    ("pyfw_log_lines_total", {"source": "drops"}, 43), ("pyfw_log_lines_suppressed_total", {"source": "drops"}, 44),
    ("pyfw_metrics_refusals_total", {"reason": "idle"}, 51), ("pyfw_metrics_refusals_total", {"reason": "too_many"}, 52),
])
def test_a_metric_has_the_value_of_its_counter(exposed, name, labels, value):
    assert exposed(name, **labels) == value


def test_the_latency_is_a_histogram(exposed):
    def up_to(bound: str) -> float | None:
        return exposed("pyfw_verdict_latency_seconds_bucket", le=bound)
    assert [up_to(bound) for bound in ("1e-05", "2e-05", "5e-05", "0.001", "0.1", "+Inf")] == [0, 4, 4, 4, 4, 6]
    assert exposed("pyfw_verdict_latency_seconds_count") == 6
    assert exposed("pyfw_verdict_latency_seconds_sum") == pytest.approx(4 * 15e-6 + 2 * 0.2)


def test_what_is_not_known_is_left_out(engine, statistics):
    """The queue is gone, no reload has failed."""
    statistics["kernel_queue"] = {}
    del statistics["reloads"]["last_failed_s"]
    text, _ = Exposition(lambda: statistics, lambda: None)("")
    names = {name for name, _ in samples(text.decode())}
    assert not names & {"pyfw_queue_depth", "pyfw_queue_dropped_total", "pyfw_queue_user_dropped_total", "pyfw_rule_packets_total"}
    assert ("pyfw_last_reload_timestamp_seconds", frozenset({("result", "failed")})) not in samples(text.decode())
    assert samples(text.decode())["pyfw_rules", frozenset()] == 0


def test_the_daemons_process_is_told_of(exposed):
    assert exposed("process_resident_memory_bytes") > 0


# -- rules ---------------------------------------------------------------------------------------------------


def rule(exposed, what: str, table: str, chain: str, number: str, family: int, comment: str = "") -> float | None:
    return exposed(f"pyfw_rule_{what}_total", table=table, chain=chain, rule=number, family=f"ipv{family}", comment=comment)


def test_rules_have_counters_by_family(exposed):
    assert rule(exposed, "packets", "filter", "FORWARD", "1", 4, 'to "mine"') == 2
    assert rule(exposed, "bytes", "filter", "FORWARD", "1", 4, 'to "mine"') == 56
    assert rule(exposed, "packets", "filter", "FORWARD", "1", 6, 'to "mine"') == 0
    assert rule(exposed, "packets", "filter", "mine", "1", 4) == 0
    assert rule(exposed, "packets", "filter", "FORWARD", "policy", 4) == 2
    assert rule(exposed, "packets", "filter", "FORWARD", "policy", 6) == 0
    assert rule(exposed, "packets", "raw", "PREROUTING", "policy", 4) == 2


def test_a_rule_of_one_family_has_none_in_the_other(exposed):
    assert rule(exposed, "packets", "filter", "FORWARD", "2", 4) == 0
    assert rule(exposed, "packets", "filter", "FORWARD", "2", 6) is None
    assert rule(exposed, "packets", "filter", "FORWARD", "3", 4) is None
    assert rule(exposed, "packets", "filter", "FORWARD", "3", 6) == 0


def test_a_chain_of_ones_own_has_no_policy(exposed):
    assert rule(exposed, "packets", "filter", "mine", "policy", 4) is None


@pytest.mark.parametrize(("rules", "shown"), [(MAX_RULES - 1, MAX_RULES - 1), (MAX_RULES, MAX_RULES), (MAX_RULES + 500, MAX_RULES)])
def test_there_is_an_end_to_the_rules(statistics, rules, shown):
    """The first ones are shown, chain by chain, and every policy; how many there are can be seen."""
    here = rules // 2
    text = ":FORWARD DROP\n:mine -\n" + "-A FORWARD -p udp -j ACCEPT\n" * here + "-A mine -p udp -j ACCEPT\n" * (rules - here)
    program = Program(parse_save(text))
    found = samples(Exposition(lambda: statistics, lambda: program)("")[0].decode())
    labels = [dict(labels) for name, labels in found if name == "pyfw_rule_packets_total"]
    numbers = {(label["chain"], label["rule"]) for label in labels if label["rule"] != "policy"}
    assert numbers == {("FORWARD", str(number)) for number in range(1, here + 1)} | {
        ("mine", str(number)) for number in range(1, shown - here + 1)}
    assert len([label for label in labels if label["rule"] == "policy"]) == 2 * 3
    assert (found["pyfw_rules", frozenset()], found["pyfw_rules_exported", frozenset()]) == (rules, shown)


@pytest.mark.parametrize(("comment", "shown"), [
    ("a\\b", "a\\b"), ('say "hi"', 'say "hi"'), ("two\nlines", "two\\x0alines"), ("grün {x=1},", "grün {x=1},"),
    ("not UTF-8: \udce4", "not UTF-8: \\udce4"), ("red \x1b[31m, backwards \u202e", "red \\x1b[31m, backwards \\u202e"),
])
@pytest.mark.parametrize(("accept", "parse"), [("", text_string_to_metric_families), (OPEN_METRICS, parse_openmetrics)])
def test_any_comment_is_printed(statistics, comment, shown, accept, parse):
    program = Program(parse_save(":FORWARD ACCEPT\n-A FORWARD -m comment --comment plain -j ACCEPT"))
    (match,) = [match for match in program.ruleset.table("filter").chain("FORWARD").rules[0].matches if match.name == "comment"]
    object.__setattr__(match.settings[0], "value", comment)
    text, _ = Exposition(lambda: statistics, lambda: program)(accept)
    comments = {dict(labels).get("comment") for _, labels in samples(text.decode(), parse)}
    assert shown in comments


# -- the text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [
    "application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8,text/plain;q=0.5",
    "application/openmetrics-text; version=\xe4; escaping=none", "application/openmetrics-text;version=",
])
def test_openmetrics_for_who_asks_for_it(engine, statistics, accept):
    text, content_type = Exposition(lambda: statistics, lambda: engine.program)(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert content_type.isascii()
    plain, _ = Exposition(lambda: statistics, lambda: engine.program)("")
    own = {key: value for key, value in samples(text.decode(), parse_openmetrics).items() if key[0].startswith("pyfw_")}
    assert own == {key: value for key, value in samples(plain.decode()).items() if key[0].startswith("pyfw_")}


@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/plain; version=9", "text/plain; version=x", ",;,=;", "\xff" * 100])
def test_plain_text_for_everybody_else(engine, statistics, accept):
    assert Exposition(lambda: statistics, lambda: engine.program)(accept)[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_it_is_read_when_it_is_asked_for(engine, statistics):
    exposition = Exposition(lambda: statistics, lambda: engine.program)
    exposition("")
    statistics["kernel_queue"]["queued"] = 77
    assert samples(exposition("")[0].decode())["pyfw_queue_depth", frozenset()] == 77


def test_names_follow_the_conventions(engine, statistics):
    """Words in lower case; what only grows ends in _total and nothing else does; each metric has a help text."""
    text, _ = Exposition(lambda: statistics, lambda: engine.program)("")
    for family in text_string_to_metric_families(text.decode()):
        if not family.name.startswith("pyfw_"):
            continue
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", family.name)
        assert family.documentation
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
    assert len({series.name for series in METRICS}) == len(METRICS)


# -- the dashboard -------------------------------------------------------------------------------------------


def dashboard() -> dict:
    return json.loads(DASHBOARD.read_text())


def expressions(node) -> Iterator[str]:
    """Every text in the dashboard that Prometheus is asked."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key in ("expr", "query", "definition") and isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            yield from expressions(value)


def test_the_dashboard_asks_for_what_there_is(exposed):
    asked = {name for text in expressions(dashboard()) for name in re.findall(r"\bpyfw_\w+", text)}
    assert len(asked) > 20
    assert asked - exposed.names == set()


def test_the_dashboard_shows_every_metric(exposed):
    asked = " ".join(expressions(dashboard()))
    assert {series.name for series in METRICS if series.name not in asked} == set()


def test_the_dashboard_asks_for_labels_that_there_are(exposed):
    known = {label for name, labels in exposed.all for label, _ in labels} | {"instance", "le"}
    for text in expressions(dashboard()):
        for names in re.findall(r"\bby \(([^)]*)\)", text):
            assert set(names.split(", ")) <= known, text
        for name in re.findall(r"(\w+)=~?\"", text):
            assert name in known, text


def test_the_dashboard_can_be_imported():
    """Each panel has a number and a place of its own, and takes its data from the source that the user chooses."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [variable["name"] for variable in dashboard()["templating"]["list"]]
    assert names == ["datasource", "instance"]
    assert dashboard()["uid"] == "pyfw"
    assert "id" not in dashboard()
