"""Policy tests: what ships passes and meets every rule; what is wrong fails, and says how; bad files name their place."""
from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scapy.layers.inet import IP, TCP
from scapy.utils import wrpcap

from pyfw.cli.pyfw.main import main
from pyfw.config.schema import load_config
from pyfw.offline.cases import PolicyError, read_cases
from pyfw.offline.player import Run, run_cases

CONFIG = Path(__file__).resolve().parents[3] / "config"
POLICY = """
variables: {LAN: eth1}
rules: |
  *filter
  :INPUT DROP
  :FORWARD DROP
  -A FORWARD -m state --state ESTABLISHED -j ACCEPT
  -A FORWARD -i eth1 -p tcp --dport 443 -m comment --comment "the web" -j ACCEPT
  -A FORWARD -i eth1 -p udp --dport 53 -j ACCEPT
  -A FORWARD -p tcp --dport 113 -j REJECT --reject-with tcp-reset
  -A FORWARD -p icmp -m state --state RELATED -j ACCEPT
  -A INPUT -p tcp --dport 22 -j ACCEPT
  COMMIT
"""
ZONES = """
zones:
  lan: {interface: $LAN, networks: [10.0.0.0/24, "fd00:1::/64"]}
  wan: {interface: eth0, networks: [192.0.2.0/24, "fd00:2::/64"]}
  self: {networks: [10.0.0.1/32]}
cases:
"""


def play(tmp_path: Path, cases: str) -> Run:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "tests.yaml").write_text(ZONES + cases)
    config = load_config(tmp_path / "policy.yaml")
    return run_cases(config, read_cases(tmp_path / "tests.yaml", config.variables))


@pytest.mark.parametrize("name", ["pyfw", "host"])
def test_what_ships_passes_and_meets_every_rule(name: str) -> None:
    config = load_config(CONFIG / f"{name}.yaml")
    run = run_cases(config, read_cases(CONFIG / "tests" / f"{name}-tests.yaml", config.variables))
    assert [(outcome.name, outcome.failures) for outcome in run.failed] == []
    hooks = tuple(f"filter:{hook}:" for hook in config.hooks)
    user_chains = [rule for rule in run.untouched if not rule.startswith(("filter:INPUT", "filter:FORWARD", "filter:OUTPUT"))]
    assert user_chains + [rule for rule in run.untouched if rule.startswith(hooks)] == []


@pytest.mark.parametrize("sentence", [
    "tcp lan:any -> wan:443 NEW => ACCEPT", "tcp lan -> wan:443 ⇒ ACCEPT by the web", "tcp wan:any -> lan:443 NEW => DROP",
    "tcp lan -> wan:113 => REJECT", "tcp lan -> wan:113 => REJECT tcp-reset", "udp lan/10.0.0.77:1-2 -> wan:53 => ACCEPT",
    "udp lan/[fd00:1::9]:7 -> wan:53 => ACCEPT", "tcp lan -> self:22 => ACCEPT", "icmp lan -> wan echo-request NEW => DROP",
    "tcp lan -> wan:443 SYN,FIN INVALID => ACCEPT", "gre lan -> wan => DROP by filter:FORWARD:policy:6",
])
def test_a_sentence_that_holds_passes(tmp_path: Path, sentence: str) -> None:
    run = play(tmp_path, f"  - {sentence}\n")
    assert [outcome.failures for outcome in run.failed] == []
    assert all(outcome.packets for outcome in run.outcomes)


@pytest.mark.parametrize(("sentence", "complaint"), [
    ("tcp lan -> wan:443 => DROP", "verdict ACCEPT instead of DROP"),
    ("tcp lan -> wan:443 ESTABLISHED => ACCEPT", "state NEW instead of ESTABLISHED"),
    ("tcp lan -> wan:442-444 => ACCEPT", "ports 40000 -> 442: verdict DROP instead of ACCEPT"),
    ("tcp lan -> wan:113 => REJECT icmp-net-prohibited", "reject tcp-reset instead of icmp-net-prohibited"),
    ("tcp lan -> wan:113 => DROP", "verdict REJECT instead of DROP"),
    ("udp lan -> wan:53 => ACCEPT by the web", "decided by filter:FORWARD:rule:3 instead of the web"),
])
def test_a_sentence_that_does_not_hold_fails(tmp_path: Path, sentence: str, complaint: str) -> None:
    failures = [failure for outcome in play(tmp_path, f"  - {sentence}\n").failed for failure in outcome.failures]
    assert failures
    assert complaint in failures[0]


def test_sequences_with_replies_errors_and_time(tmp_path: Path) -> None:
    run = play(tmp_path, """
  - case: udp lan:5353 -> wan:53
    family: 4
    steps:
      - <- "!" => DROP
      - -> "?" => ACCEPT NEW
      - <- "!" => ACCEPT ESTABLISHED
      - <- error host-unreachable => ACCEPT RELATED
      - after 0s
      - after 10m
      - <- "!" => DROP NEW
""")
    assert [outcome.failures for outcome in run.outcomes] == [[]]
    assert run.outcomes[0].packets == 5


def test_a_capture(tmp_path: Path) -> None:
    wrpcap(str(tmp_path / "web.pcap"), [IP(src="10.0.0.5", dst="192.0.2.9") / TCP(sport=4000, dport=port) for port in (443, 80)])
    case = "  - {{pcap: web.pcap, in: $LAN, out: eth0, frames: {{1: ACCEPT NEW, others: {}}}}}\n"
    assert play(tmp_path, case.format("DROP")).failed == []
    assert play(tmp_path, case.format("ACCEPT")).failed[0].failures == ["frame 2: DROP NEW instead of ACCEPT NEW"]


@pytest.mark.parametrize(("cases", "complaint"), [
    ("  - tcp lan wan:443 => ACCEPT\n", "tests.yaml:7:5: 'tcp lan wan:443 => ACCEPT' is not a sentence"),
    ("  - tcp lna -> wan:443 => ACCEPT\n", "tests.yaml:7:5: unknown zone 'lna'; did you mean lan?"),
    ("  - tcp lan -> wan:443\n", "tests.yaml:7:5: what is expected is missing"),
    ("  - tcp lan -> wan:443 => MAYBE\n", "tests.yaml:7:5: 'MAYBE' is no verdict"),
    ("  - tpc lan -> wan:443 => DROP\n", "tests.yaml:7:5: unknown protocol 'tpc'"),
    ("  - tcp lan -> wan:99999 => DROP\n", "tests.yaml:7:5: port 99999 is out of range"),
    ("  - tcp lan -> wan:443 SYM => DROP\n", "tests.yaml:7:5: unknown TCP flag 'SYM'"),
    ("  - {case: tcp lan -> wan:443 => DROP, famly: 4}\n", "tests.yaml:7:40: unknown key 'famly'; did you mean family?"),
    ("  - {case: tcp lan -> wan:443, steps: [-> ACK]}\n", "tests.yaml:7:40: what is expected is missing"),
    ("  - {pcap: none.pcap, frames: {1: ACCEPT}}\n", "none.pcap"),
    ("  - tcp lan -> $WAN:443 => DROP\n", "tests.yaml:7:5: undefined variable $WAN"),
    ("  - {case: icmp lan -> wan => DROP, family: 6}\n", "tests.yaml:7:5: the two ends have no family in common"),
    ("  - {case: tcp lan -> wan:443, steps: []}\n", "tests.yaml:7:12: what is expected is missing"),
    ("  - {case: tcp lan -> wan:443 => ACCEPT, hook: PREROUTING}\n", "tests.yaml:7:48: 'PREROUTING' is not a hook; there are INPUT, FORWARD"),
    ("  - {pcap: web.pcap, frames: {1: ACCEPT}, hook: x}\n", "tests.yaml:7:49: 'x' is not a hook"),
    ("  - {case: tcp lan -> wan:443, family: 6, steps: [tcp lan -> self:22 => ACCEPT]}\n",
     "tests.yaml:7:5: a step needs an IPv6 host of zone self"),
    ("  - {case: tcp lan -> wan:443, family: 6, steps: [tcp lan/10.0.0.5 -> wan:443 => ACCEPT]}\n",
     "tests.yaml:7:5: a step needs an IPv6 host of zone lan"),
    ("  - [\n", "not valid YAML"),
    ("  - \0\n", "not valid YAML: special characters are not allowed"),
    ("  - " + "[" * 1000, "not valid YAML: nested deeper than"),
])
def test_bad_files_name_their_place(tmp_path: Path, cases: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(complaint)):
        play(tmp_path, cases)


def test_reports_and_statuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(tmp_path, "  - tcp lan -> wan:443 => ACCEPT\n  - tcp lan -> wan:443 => DROP\n")
    files = [str(tmp_path / "tests.yaml"), "-c", str(tmp_path / "policy.yaml")]
    assert main(["test", *files]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("TAP version 14\n1..4\nok 1 - ")
    assert "\nnot ok 3 - " in printed
    assert "# untouched: filter:FORWARD:rule:3  -A FORWARD -i eth1 -p udp -m udp --dport 53 -j ACCEPT\n" in printed
    assert main(["test", *files, "--format", "junit", "--output", str(tmp_path / "out.xml")]) == 1
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), len(suite.findall("testcase/failure"))) == ("4", "2", 2)
    (tmp_path / "tests.yaml").write_text(ZONES + "  - tcp lan -> wan:443 => ACCEPT\n")
    assert main(["test", *files]) == 0
    (tmp_path / "tests.yaml").write_text("cases: 5\n")
    assert main(["test", *files]) == 2
    assert capsys.readouterr().err.startswith(f"pyfw: {tmp_path}/tests.yaml:1:8: cases is a list")


