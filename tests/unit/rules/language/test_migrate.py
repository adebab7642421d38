"""What is taken of a text of iptables-save, and what is said of the rest."""
from __future__ import annotations

import pytest

from pyfw.rules.language.migrate import UFWS, Taken, take
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.model import RulesError, Ruleset

LOOSENS, TIGHTENS = "loosens: the rules after it decide about what it refused", "tightens: the rules after it decide about what it accepted"
HEAD = "*filter\n:INPUT DROP [5:300]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


def taken(rules: str, head: str = HEAD, **options) -> Taken:
    return take(Ruleset(), f"{head}{rules}\nCOMMIT\n", 4, "ipv4.saved", **options)


def rules_of(result: Taken) -> list[str]:
    return [line for line in print_ruleset(result.ruleset).splitlines() if " -A " in f" {line}"]


@pytest.mark.parametrize(("rule", "reason", "effect"), [
    ('-A INPUT -m u32 --u32 "0x0=0x0" -j ACCEPT', "there is no match 'u32' in pyfw", TIGHTENS),
    ('-A INPUT -m u32 --u32 "0x0=0x0" -j DROP', "there is no match 'u32' in pyfw", LOOSENS),
    ('-A INPUT -m u32 --u32 "0x0=0x0" -m comment --comment "-j ACCEPT" -j REJECT', "there is no match 'u32' in pyfw", LOOSENS),
    ('-A INPUT -m u32 --u32 "0x0=0x0" -j RETURN', "there is no match 'u32' in pyfw", "may loosen or tighten"),
    ('-A INPUT -m u32 --u32 "0x0=0x0"', "there is no match 'u32' in pyfw", "changes no verdict"),
    ("-A INPUT -j NFLOG --nflog-group 1", "target NFLOG: pyfw does not do this", "changes no verdict"),
    ("-A INPUT -j NFQUEUE --queue-num 3", "target NFQUEUE: pyfw does not do this", "may loosen or tighten"),
    ("-A INPUT -i lo -s 192.0.2.0/24 -j DROP", "packets of lo are not diverted", LOOSENS),
])
def test_what_cannot_be_taken_has_its_place_and_its_effect(rule: str, reason: str, effect: str) -> None:
    result = taken(f"-A INPUT -p icmp -j ACCEPT\n{rule}\n-A INPUT -p tcp -j ACCEPT")
    [left] = result.left_out
    assert (left.place, left.rule, left.reason, left.effect) == ("ipv4.saved:6", rule, reason, effect)
    assert rules_of(result) == ["-4 -A INPUT -p icmp -j ACCEPT", "-4 -A INPUT -p tcp -j ACCEPT"]


def test_an_accept_in_raw_accepts_nothing() -> None:
    head = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    [left] = taken('-A PREROUTING -m u32 --u32 "0x0=0x0" -j ACCEPT', head).left_out
    assert left.effect == "may loosen or tighten"


@pytest.mark.parametrize("rule", ["-A INPUT -i lo -j ACCEPT", "-A INPUT -s 127.0.0.0/8 ! -i lo -j DROP"])
def test_usual_rules_about_lo_are_taken(rule: str) -> None:
    result = taken(rule)
    assert not result.left_out
    assert [text.removeprefix("-4 ") for text in rules_of(result)] == [rule]


def test_other_tables_stay_with_the_kernel() -> None:
    nat = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT\n"
    result = taken("-A INPUT -j DROP", nat + HEAD)
    assert result.kept_by_kernel == {"nat": 1}
    assert not result.left_out
    assert result.ruleset.table("filter").chain("INPUT").policy == "DROP"


def test_each_family_has_its_own() -> None:
    both = take(taken("-A INPUT -p tcp -j ACCEPT").ruleset, f"{HEAD.replace('DROP', 'ACCEPT')}-A INPUT -p udp -j DROP\nCOMMIT\n", 6, "ipv6.saved")
    assert rules_of(both) == ["-4 -A INPUT -p tcp -j ACCEPT", "-6 -A INPUT -p udp -j DROP"]
    chain = both.ruleset.table("filter").chain("INPUT")
    assert (chain.policy_of(4), chain.policy_of(6)) == ("DROP", "ACCEPT")


def test_of_ufw_nothing_else_is_taken() -> None:
    result = taken(":f2b-sshd - [0:0]\n:ufw-user-input - [0:0]\n-A INPUT -j f2b-sshd\n-A INPUT -j ufw-user-input\n"
                   "-A f2b-sshd -s 192.0.2.1/32 -j DROP\n-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT", owners=UFWS)
    assert rules_of(result) == ["-4 -A INPUT -j ufw-user-input", "-4 -A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT"]
    [left] = result.left_out
    assert (left.place, left.reason, left.effect) == ("ipv4.saved:7", "it is another program's", "may loosen or tighten")


def test_a_text_that_was_cut_off_is_refused() -> None:
    with pytest.raises(RulesError, match=r"ipv4.saved: COMMIT expected at line 2"):
        take(Ruleset(), "*filter\n", 4, "ipv4.saved")
