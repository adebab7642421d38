"""Whole texts: iptables-save's, scripts', and the complaints about them with their places."""
from __future__ import annotations

from textwrap import dedent

import pytest

from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_rules, print_ruleset
from pyfw.rules.model import RulesError, Ruleset

SAVED = dedent("""\
    *raw
    :PREROUTING ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    -A PREROUTING -p udp -m udp --dport 514 -j NOTRACK
    COMMIT
    *filter
    :INPUT DROP [0:0]
    :FORWARD DROP [0:0]
    :OUTPUT ACCEPT [0:0]
    :guests - [0:0]
    :log_and_drop - [0:0]
    -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
    -4 -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
    -A INPUT -s 2001:db8::/32 -j REJECT --reject-with icmp6-adm-prohibited
    -A INPUT -j REJECT
    -A FORWARD -i wlan+ -g guests
    -A guests -p udp -m udp --dport 53 -j RETURN
    -A guests -j log_and_drop
    -A log_and_drop -j LOG --log-prefix "dropped: "
    -A log_and_drop -j DROP
    COMMIT
    """)


def shown(ruleset: Ruleset, chain: str, table: str = "filter") -> list[str]:
    return print_rules(ruleset, table, chain)[1:]


def test_saved_text_comes_back_as_it_was() -> None:
    assert print_ruleset(parse_save(SAVED)) == SAVED


def test_comments_counters_and_blank_lines_are_read_over() -> None:
    text = "# Generated\n\n*filter\n:INPUT DROP [7:420]\n[3:180] -A INPUT -c 1 2 -s 10.0.0.1 -j DROP # why\nCOMMIT # end\n"
    assert shown(parse_save(text), "INPUT") == ["-A INPUT -s 10.0.0.1/32 -j DROP"]


def test_counters_are_printed() -> None:
    ruleset = parse_save("*filter\n:INPUT DROP\n:own -\n-A INPUT -j own\n-A own\nCOMMIT\n")
    counters = {("filter", "INPUT"): ((7, 420), [(3, 180)]), ("filter", "FORWARD"): ((0, 0), []),
                ("filter", "OUTPUT"): ((0, 0), []), ("filter", "own"): (None, [(2, 120)])}
    assert print_rules(ruleset, "filter", counters=counters) == [
        "-P INPUT DROP -c 7 420", "-P FORWARD ACCEPT -c 0 0", "-P OUTPUT ACCEPT -c 0 0", "-N own",
        "-A INPUT -c 3 180 -j own", "-A own -c 2 120"]
    assert ":INPUT DROP [7:420]\n" in print_ruleset(ruleset, counters=counters)
    assert "\n[3:180] -A INPUT -j own\n" in print_ruleset(ruleset, counters=counters)


def test_one_family_is_printed_as_its_iptables_takes_it() -> None:
    text = print_ruleset(parse_save(SAVED), family=6)
    assert "-A INPUT -j REJECT --reject-with icmp6-port-unreachable\n" in text
    assert "2001:db8::/32" in text
    assert "--dport 22" not in text


def test_a_script_acts_line_by_line() -> None:
    ruleset = parse_save(dedent("""\
        #!/bin/sh
        iptables -F
        iptables -X
        iptables -P INPUT DROP
        iptables -N own
        /sbin/iptables -A INPUT -p tcp \\
            --dport 22 \\
            -j own
        sudo iptables -I INPUT -i lo -j ACCEPT
        sudo /usr/sbin/iptables-legacy -t filter -I INPUT 2 -p udp -j DROP
        iptables -t raw -A PREROUTING -p udp -j NOTRACK
        -j DROP -A FORWARD -s 10.0.0.1
        """))
    assert print_rules(ruleset, "filter") == [
        "-P INPUT DROP", "-P FORWARD ACCEPT", "-P OUTPUT ACCEPT", "-N own", "-A INPUT -i lo -j ACCEPT",
        "-A INPUT -p udp -j DROP", "-A INPUT -p tcp -m tcp --dport 22 -j own", "-A FORWARD -s 10.0.0.1/32 -j DROP"]
    assert shown(ruleset, "PREROUTING", "raw") == ["-A PREROUTING -p udp -j NOTRACK"]


def test_flush_and_delete_forget() -> None:
    ruleset = parse_save("-N own\n-A own -j DROP\n-A INPUT -j DROP\n-F own\n-X own\n-F\n-Z\n")
    assert print_rules(ruleset, "filter") == ["-P INPUT ACCEPT", "-P FORWARD ACCEPT", "-P OUTPUT ACCEPT"]


def test_inserted_address_lists_stand_in_reverse_as_iptables_leaves_them() -> None:
    ruleset = parse_save("-I FORWARD -s 3.3.3.3,4.4.4.4 -d 5.5.5.5,6.6.6.6\n")
    assert shown(ruleset, "FORWARD") == [
        "-A FORWARD -s 4.4.4.4/32 -d 6.6.6.6/32", "-A FORWARD -s 4.4.4.4/32 -d 5.5.5.5/32",
        "-A FORWARD -s 3.3.3.3/32 -d 6.6.6.6/32", "-A FORWARD -s 3.3.3.3/32 -d 5.5.5.5/32"]


@pytest.mark.parametrize(("text", "families"), [
    ("iptables -A INPUT -p tcp\n", [None]),
    ("iptables -A INPUT -p tcp\nip6tables -A INPUT -p udp\n", [4, 6]),
    ("-4 -A INPUT -p tcp\n-6 -A INPUT -p udp\n-A INPUT -p icmp\n", [4, 6, None])])
def test_families_of_a_text(text: str, families: list[int | None]) -> None:
    assert [rule.family for rule in parse_save(text).table("filter").chain("INPUT").rules] == families


def test_variables_are_replaced_where_a_shell_would() -> None:
    ruleset = parse_save("-A INPUT -s $NETS -i ${LAN}+ -m comment --comment \"$LAN\" -j ACCEPT\n"
                         "-A INPUT -m comment --comment '$LAN' -j ACCEPT\n",
                         variables={"NETS": "10.0.0.0/8,192.0.2.0/24", "LAN": "eth"})
    assert shown(ruleset, "INPUT") == [
        "-A INPUT -s 10.0.0.0/8 -i eth+ -m comment --comment eth -j ACCEPT",
        "-A INPUT -s 192.0.2.0/24 -i eth+ -m comment --comment eth -j ACCEPT",
        '-A INPUT -m comment --comment "$LAN" -j ACCEPT']


def test_one_table_text_always_has_its_table() -> None:
    assert print_ruleset(parse_save("", table="raw")) == "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    assert parse_save("").tables == ()


@pytest.mark.parametrize(("text", "complaint"), [
    ("-A INPUT -j ALLOW", "t:1:13: ALLOW is not a target; did you mean ACCEPT?"),
    ("-A INPUT -j accept", "t:1:13: there is no target or chain 'accept'; did you mean ACCEPT?"),
    ("-A INPUT -j geusts\n:guests - [0:0]", "t:1:13: there is no target or chain 'geusts'; did you mean guests?"),
    ("-A INPUT -j OUTPUT", "t:1:13: OUTPUT is a built-in chain"),
    ("-A INPT -j DROP", "t:1:4: unknown chain INPT in table filter; did you mean INPUT?"),
    ("-A PREROUTING -j DROP", "t:1:4: unknown chain PREROUTING in table filter; it belongs to table raw"),
    ("*filter\n-N own\n-N own", "t:3:4: duplicate chain own"),
    (":own - [0:0]\n:own - [0:0]", "t:2:1: duplicate chain own"),
    (":own DROP [0:0]", "t:1:1: chain own is not built-in in table filter and has no policy"),
    (":INPUT REJECT [0:0]", "t:1:8: the policy of INPUT is ACCEPT or DROP, not REJECT"),
    ("-P INPUT REJECT", "t:1:10: the policy of INPUT is ACCEPT or DROP, not REJECT"),
    ("-P own DROP", "t:1:4: unknown chain own"),
    ("-N DROP", "t:1:4: DROP is a target"),
    ("-N " + "a" * 29, "t:1:4: the name of chain " + "a" * 29 + " is longer than 28 bytes"),
    ("*nat", "t:1:1: table nat: translating addresses stays with the kernel"),
    ("iptables -t mangle -A FORWARD -j DROP", "t:1:13: table mangle: changing packets stays with the kernel"),
    ("*fliter", "t:1:1: there is no table 'fliter'; did you mean filter?"),
    ("*filter\n-t raw -A OUTPUT", "t:2:4: -t raw in section *filter"),
    (":a - [0:0]\n:b - [0:0]\n-A a -j b\n-A b -g a", "t:4:9: chains jump in a loop: a -> b -> a"),
    (":a - [0:0]\n-A a -j a", "t:2:9: chains jump in a loop: a -> a"),
    ("-A INPUT -p tcp --dport 70000 -j DROP", "t:1:25: --dport: port 70000 is out of range"),
    ("\n\n  -A INPUT \\\n    -s 10.0.0.0/33", "t:4:8: -s: prefix length 33 is out of range"),
    ("-A INPUT -m comment --comment \"open", "t:1:31: the quote \" is not closed on this line"),
    ("-D INPUT 1", "t:1:1: -D has no place in a ruleset's text"),
    ("-I INPUT 3 -j DROP", "t:1:10: the chain has 0 rules: a rule can be inserted at 1 to 1"),
    ("-X INPUT", "t:1:4: -X deletes an empty chain of one's own"),
    ("-A INPUT -A OUTPUT", "t:1:10: -A after -A: a line has one command"),
    ("-A", "t:1:1: -A needs a value"),
    ("-P INPUT DROP -j ACCEPT", "t:1:15: unexpected '-j' after -P"),
    ("modprobe ip_conntrack", "t:1:1: 'modprobe' is not a line of a ruleset"),
    ("-A INPUT -p tcp -s 0/0 –sport 513:65535 -d –dport 22", "t:1:24: '–sport' begins with a typographic dash; write --sport"),
    ("-A INPUT -p tcp -d --dport 22", "t:1:17: -d needs a value, and --dport follows"),
    ("-A INPUT -s $IPADDR", "t:1:13: -s: variable $IPADDR has no value here"),
])
def test_complaint_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_save(text, source="t")
    assert str(caught.value).startswith(complaint)
    assert caught.value.location == ":".join(complaint.split(":")[:3])
    assert "\n" not in str(caught.value)


def test_undefined_variable() -> None:
    with pytest.raises(RulesError, match=r"^t:2:13: undefined variable \$LNA; did you mean LAN\?"):
        parse_save("\n-A INPUT -i $LNA", source="t", variables={"LAN": "eth0"})


def test_jumps_nest_no_deeper_than_the_stack() -> None:
    def chains(count: int) -> str:
        return "".join(f":c{n} - [0:0]\n" for n in range(count)) + "".join(
            f"-A c{n} -j c{n + 1}\n" for n in range(count - 1)) + "-A INPUT -j c0\n"
    assert parse_save(chains(64))
    with pytest.raises(RulesError, match="jumps nest deeper than 64 chains"):
        parse_save(chains(65))
