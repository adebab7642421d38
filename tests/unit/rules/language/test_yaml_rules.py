"""Rules in YAML: the same Rule whichever way it is written, and every mistake with its place."""
from __future__ import annotations

import io
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from pyfw.rules.language.iptables import parse_rule, parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.language.yaml_rules import load_rules
from pyfw.rules.model import RulesError, Ruleset

VARIABLES = {"LAN": "eth1", "ADMIN": "192.0.2.0/24", "BOTH": "10.0.0.0/8,fd00::/8"}


def load(text: str, base_dir: Path = Path("/nonexistent"), node: yaml.Node | None = None) -> Ruleset:
    """The ruleset of a document whose only key is `rules`."""
    document = node or yaml.compose(text, yaml.SafeLoader)
    return load_rules(document.value[0][1], VARIABLES, base_dir, "c.yaml", Path.read_text)


def rules_of(item: str, table: str = "filter", chain: str = "FORWARD") -> tuple:
    ruleset = load(f"rules:\n  {table}:\n    {chain}:\n      rules:\n        - {item}\n")
    return ruleset.table(table).chain(chain).rules


@pytest.mark.parametrize(("mapping", "line"), [
    ("{state: NEW, in: $LAN, proto: tcp, dport: 22, src: $ADMIN, jump: ACCEPT, comment: administration}",
     "-m state --state NEW -i eth1 -p tcp --dport 22 -s 192.0.2.0/24 -m comment --comment administration -j ACCEPT"),
    ("{dport: 22, proto: tcp, jump: DROP}", "-p tcp --dport 22 -j DROP"),
    ("{jump: DROP, dport: 1024:65535, proto: udp}", "-p udp --dport 1024:65535 -j DROP"),
    ("{source-port: 1, destination-port: 2, protocol: sctp}", "-p sctp --sport 1 --dport 2"),
    ("{state: [ESTABLISHED, RELATED], jump: ACCEPT}", "-m state --state ESTABLISHED,RELATED -j ACCEPT"),
    ("{ctstate: INVALID, jump: DROP}", "-m conntrack --ctstate INVALID -j DROP"),
    ("{src: '! 10.0.0.1'}", "! -s 10.0.0.1"),
    ("{src: ! 10.0.0.1}", "! -s 10.0.0.1"),
    ("{in: '! eth0', out: wlan+}", "! -i eth0 -o wlan+"),
    ("{src: [10.0.0.0/8, 192.0.2.1]}", "-s 10.0.0.0/8,192.0.2.1"),
    ("{src: $BOTH, jump: REJECT}", "-s 10.0.0.0/8,fd00::/8 -j REJECT"),
    ("{proto: tcp, syn: true}", "-p tcp --syn"),
    ("{proto: tcp, syn: false}", "-p tcp ! --syn"),
    ("{proto: tcp, tcp-flags: 'SYN,ACK SYN'}", "-p tcp --tcp-flags SYN,ACK SYN"),
    ("{proto: tcp, tcp-flags: '! SYN,ACK SYN'}", "-p tcp ! --tcp-flags SYN,ACK SYN"),
    ("{proto: icmp, icmp-type: echo-request}", "-p icmp --icmp-type echo-request"),
    ("{proto: icmpv6, icmpv6-type: 128}", "-p icmpv6 --icmpv6-type 128"),
    ("{proto: '! tcp'}", "! -p tcp"),
    ("{fragment: true}", "-f"),
    ("{family: 4, proto: tcp}", "-4 -p tcp"),
    ("{family: ipv6}", "-6 -j own"),
    ("{jump: LOG, log-prefix: 'a: b', log-level: info, log-uid: true}", "-j LOG --log-prefix 'a: b' --log-level info --log-uid"),
    ("{proto: tcp, jump: REJECT, reject-with: tcp-reset}", "-p tcp -j REJECT --reject-with tcp-reset"),
    ("{comment: '$LAN only'}", "-m comment --comment 'eth1 only'"),
])
def test_a_mapping_and_a_line_are_the_same_rule(mapping: str, line: str) -> None:
    if "own" in line:
        mapping, line = mapping.replace("}", ", jump: DROP}"), line.replace("own", "DROP")
    written = rules_of(mapping)
    assert written == parse_rule(line)
    assert written == rules_of(repr(line))
    assert written == rules_of(line.replace("'", '"') if ": " not in line else repr(line))
    assert written == rules_of(repr(f"-A FORWARD {line}"))


@pytest.mark.parametrize(("mapping", "line"), [
    ("{proto: udp, dport: 514, jump: NOTRACK}", "-p udp --dport 514 -j NOTRACK"),
    ("{notrack: true, jump: CT}", "-j CT --notrack"),
    ("{proto: tcp, dport: 21, jump: CT, helper: ftp}", "-p tcp --dport 21 -j CT --helper ftp"),
])
def test_raw_targets(mapping: str, line: str) -> None:
    assert rules_of(mapping, "raw", "PREROUTING") == parse_rule(line, table="raw")


WHOLE = """\
rules:
  raw: |
    # syslog is not tracked
    -A PREROUTING -i $LAN -p udp --dport 514 -j NOTRACK
  filter:
    INPUT:
      policy: DROP
      rules:
        - -m state --state ESTABLISHED,RELATED -j ACCEPT
        - {proto: tcp, dport: 22, goto: guests}
    guests: {rules: [{jump: DROP}]}
    FORWARD: {}
"""
SAVED = dedent("""\
    *raw
    :PREROUTING ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    -A PREROUTING -i eth1 -p udp -m udp --dport 514 -j NOTRACK
    COMMIT
    *filter
    :INPUT DROP [0:0]
    :FORWARD ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    :guests - [0:0]
    -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
    -A INPUT -p tcp -m tcp --dport 22 -g guests
    -A guests -j DROP
    COMMIT
    """)


def test_tables_chains_and_policies() -> None:
    assert print_ruleset(load(WHOLE)) == SAVED
    assert load(WHOLE) == parse_save(SAVED)


@pytest.mark.parametrize("text", ["rules: {file: all.rules}\n", "rules:\n  filter: {file: filter.rules}\n  raw: {file: raw.rules}\n"])
def test_files(tmp_path: Path, text: str) -> None:
    raw, filter_ = SAVED.split("COMMIT\n")[:2]
    (tmp_path / "all.rules").write_text(SAVED.replace("eth1", "$LAN"))
    (tmp_path / "raw.rules").write_text(raw.replace("*raw\n", "") + "COMMIT\n")
    (tmp_path / "filter.rules").write_text(filter_)
    assert print_ruleset(load(text, tmp_path)) == SAVED


def test_whole_text_under_rules() -> None:
    assert load("rules: |\n" + "".join(f"  {line}\n" for line in SAVED.splitlines())) == parse_save(SAVED)


def test_anchors_are_followed() -> None:
    ruleset = load("rules:\n  filter:\n    INPUT: {rules: [&web {proto: tcp, dport: 80}]}\n    FORWARD: {rules: [*web]}\n")
    assert ruleset.table("filter").chain("INPUT").rules == ruleset.table("filter").chain("FORWARD").rules


def chain(rule: str) -> str:
    """One rule in column 9 of line 5."""
    return f"rules:\n  filter:\n    INPUT:\n      rules:\n      - {rule}\n"


@pytest.mark.parametrize(("text", "complaint"), [
    (chain("{dportt: 22}"), "5:10: unknown key 'dportt' in a rule; did you mean dport?"),
    (chain("{proto: tcp, dport: 70000}"), "5:29: --dport: port 70000 is out of range: 0 to 65535"),
    (chain("{src: 10.0.0.0/33}"), "5:15: --src: prefix length 33 is out of range"),
    (chain("{src: $LNA}"), "5:15: undefined variable $LNA; did you mean LAN?"),
    (chain("{jump: nowhere}"), "5:16: there is no target or chain 'nowhere'"),
    (chain("{jump: ALLOW}"), "5:16: ALLOW is not a target; did you mean ACCEPT?"),
    (chain("{dport: 22, dport: 23, proto: tcp}"), "5:21: duplicate key 'dport': it stands in line 5 already"),
    (chain("{dport: 22}"), "5:10: --dport needs its protocol before it"),
    (chain("{src: 10.0.0.1, source: 10.0.0.2}"), "5:25: -s is given twice"),
    (chain("{dport: , proto: tcp}"), "5:16: "),
    (chain("{proto: tcp, dport: !22 }"), '5:29: to negate a value write "! 22'),
    (chain("{out: eth0}"), "5:10: -o cannot be used in INPUT"),
    (chain("{proto: tcp, syn: maybe}"), "5:27: syn has no value: write syn: true"),
    (chain("{proto: tcp, tcp-flags: SYN}"), "5:33: tcp-flags takes 2 words"),
    (chain("{notrack: true}"), "5:10: --notrack is an option of target CT"),
    (chain("{jump: NOTRACK}"), "5:16: target NOTRACK belongs in table raw"),
    (chain("{family: 5}"), "5:18: family is 4 or 6, not 5"),
    (chain("{family: 6, src: 10.0.0.1}"), "5:9: parts of this rule are IPv4 only"),
    (chain("{src: [10.0.0.1, ! 10.0.0.2]}"), "5:26: `!` has no place here"),
    (chain("! -s 10.0.0.0/33"), "5:14: -s: prefix length 33"),
    (chain("{jump: [ACCEPT]}"), "5:16: jump takes a single value, not a list"),
    (chain("[ACCEPT]"), "5:9: a rule is an iptables line or a mapping, not a list"),
    (chain("22"), "5:9: a rule is an iptables line or a mapping"),
    (chain("-p tcp --dport 70000"), "5:24: --dport: port 70000 is out of range"),
    (chain("'-p tcp --dport 70000'"), "5:25: --dport: port 70000 is out of range"),
    (chain("-A FORWARD -j DROP"), "5:12: this rule stands in chain INPUT, not FORWARD"),
    (chain("-P INPUT DROP"), "5:9: a rule of chain INPUT is expected here"),
    (chain("|\n          -p tcp \\\n            --dport 70000"), "7:21: --dport: port 70000"),
    ("rules:\n  filter:\n    INPUT: {}\n    INPUT: {}\n", "4:5: duplicate chain 'INPUT': it stands in line 3 already"),
    ("rules:\n  filter: {}\n  filter: {}\n", "3:3: duplicate table 'filter'"),
    ("rules:\n  nat: {}\n", "2:3: table nat: translating addresses stays with the kernel"),
    ("rules:\n  fliter: {}\n", "2:3: unknown table 'fliter'; did you mean filter?"),
    ("rules:\n  filter:\n    PREROUTING: {}\n", "3:5: table filter has no built-in chain PREROUTING; it belongs to table raw"),
    ("rules:\n  filter:\n    INPUT: {policy: REJECT}\n", "3:21: the policy of INPUT is ACCEPT or DROP, not REJECT"),
    ("rules:\n  filter:\n    own: {policy: DROP}\n", "3:11: chain own is not built-in and has no policy"),
    ("rules:\n  filter:\n    INPUT: {polcy: DROP}\n", "3:13: unknown key 'polcy'; did you mean policy?"),
    ("rules:\n  filter:\n    INPUT: [{jump: DROP}]\n", "3:12: chain INPUT is a mapping"),
    ("rules:\n  filter:\n    INPUT: {rules: {jump: DROP}}\n", "3:20: the rules of INPUT are a list"),
    ("rules:\n  filter:\n    a: {rules: [{jump: b}]}\n    b: {rules: [{goto: a}]}\n", "4:24: chains jump in a loop: a -> b -> a"),
    ("rules:\n  filter: [1]\n", "2:11: rules are iptables text, a mapping, or {file: NAME}, not a list"),
    ("rules:\n  filter: {file: absent.rules}\n", "2:18: /nonexistent/absent.rules: No such file or directory"),
    ("rules:\n  filter: {file: a, INPUT: {}}\n", "2:11: file: NAME stands alone"),
    ("rules:\n  raw: >\n    -A OUTPUT\n", "2:8: `>` joins lines"),
    ("rules:\n  raw: |\n    -A OUTPUT -p udp\n\n    # c\n    -A OUTPUT -p tcpp\n", "6:18: -p: unknown protocol 'tcpp'"),
    ("rules:\n  raw: |2\n      -A OUTPUT -p tcpp\n", "3:20: -p: unknown protocol 'tcpp'"),
    ("rules:\n  raw: |\n    *filter\n", "3:5: table filter in a text of table raw"),
    ("rules:\n  raw: |\n\n    -A OUTPUT -s $NOWHERE\n", "4:18: undefined variable $NOWHERE"),
])
def test_complaint_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(text)
    assert str(caught.value).startswith(f"c.yaml:{complaint}" if not complaint.startswith("/") else complaint)
    assert caught.value.location == "c.yaml:" + ":".join(complaint.split(":")[:2])


def test_a_node_without_its_text_is_refused() -> None:
    """YAML takes the `!` of `- ! -s 10.0.0.1` for a tag: without the text the rule would turn into its opposite."""
    with pytest.raises(ValueError, match="compose the YAML from a str"):
        load("", node=yaml.compose(io.BytesIO(b"rules: {}"), yaml.SafeLoader))


def test_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "host.rules").write_text("*filter\n-A INPUT -j DORP\n")
    with pytest.raises(RulesError) as caught:
        load("rules: {filter: {file: host.rules}}\n", tmp_path)
    assert caught.value.location == f"{tmp_path}/host.rules:2:13"
