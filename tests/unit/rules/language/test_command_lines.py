"""How command lines and restored texts are taken apart: as getopt_long() and iptables-restore do, all or nothing."""
from __future__ import annotations

import pytest

from pyfw.rules.language.commands import CommandFailed, Request, read_request
from pyfw.rules.language.edit import edit
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.language.restore import Options, restore
from pyfw.rules.model import RulesError, Ruleset


def taken_apart(line: list[str], family: int = 4) -> tuple[object, ...]:
    request: Request = read_request(line, family)
    return (request.command, request.taken, request.number, request.table, request.flags, request.counters,
            [word.text for word in request.words])


@pytest.mark.parametrize(("short", "full"), [
    ("-nvL INPUT", "-n -v -L INPUT"), ("-vnL", "-v -n -L"), ("-nvxL INPUT 3", "-n -v -x -L INPUT 3"), ("-LINPUT -n", "-L INPUT -n"),
    ("-w5 -S", "-w 5 -S"), ("--wait=5 -S", "-S"), ("-tfilter -S", "-t filter -S"), ("--table=raw -S", "-t raw -S"),
    ("-L -n --line", "-L -n --line-numbers"),
    ("--num --verb --list", "-n -v -L"), ("-AINPUT -s 1.1.1.1 -j DROP", "-A INPUT -s 1.1.1.1 -j DROP"),
    ("-c 1,2 -A INPUT", "-c 1 2 -A INPUT"), ("-4 -S", "-S"),
])
def test_spellings(short: str, full: str) -> None:
    assert taken_apart(short.split()) == taken_apart(full.split())


def test_options_of_matches_are_no_abbreviations() -> None:
    assert taken_apart("-A INPUT -m recent --set".split())[-1] == ["-m", "recent", "--set"]


@pytest.mark.parametrize("text", ["-v", "-nvL", "-6", "--wait=5", "-A"])
def test_free_text_is_no_option_whatever_it_looks_like(text: str) -> None:
    request = read_request(["-A", "INPUT", "-m", "comment", "--comment", text, "-j", "DROP"], 4)
    assert (request.flags, [word.text for word in request.words][3:]) == (set(), [text, "-j", "DROP"])


@pytest.mark.parametrize("words", ["-D INPUT ²", "-L INPUT ²", "-Z INPUT " + "9" * 5000, "-D INPUT 9999999999", "-A INPUT -c ² 1",
                                   "-A INPUT -c 1,2,3", "-A INPUT -c", "-I INPUT 0", "-L --l", "-R INPUT x", "-x9L"])
def test_what_is_no_number_or_no_option_is_a_usage_error(words: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        edit(Ruleset(), read_request(words.split(), 4))
    assert caught.value.status == 2


@pytest.mark.parametrize(("family", "option"), [(4, "-6"), (4, "--ipv6"), (6, "-4")])
def test_the_other_familys_option_is_refused(family: int, option: str) -> None:
    with pytest.raises(CommandFailed, match=r"use pyfw-ip6?tables") as caught:
        read_request([option, "-A", "INPUT", "-j", "DROP"], family)
    assert caught.value.status == 2


@pytest.mark.parametrize("name", ["c\udcff", "\ud800", "a\x00"])
def test_a_chain_has_a_name_that_a_file_can_hold(name: str) -> None:
    with pytest.raises(RulesError, match="cannot be a chain's name"):
        parse_save(f":{name} - [0:0]")


# -- restore ------------------------------------------------------------------------------------------------------------------

BEFORE = parse_save("-P INPUT DROP\n-A INPUT -s 9.9.9.9 -j ACCEPT")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("text", "complaint"), [
    ("*filter", "COMMIT expected at line 2"),
    ("*filter\n:INPUT DROP [0:0]\n-A INPUT -j ACCEPT\n", "COMMIT expected at line 4"),
    ("*filter\n-A INPUT -j ACCEPT\nCOMMIT\n*raw\n-A PREROUTING -j NOTRACK", "COMMIT expected at line 6"),
    ("*filter\n*raw\nCOMMIT", "Bad argument `*raw'\nError occurred at line: 2"),
    ("-A INPUT -j ACCEPT\nCOMMIT", "line 1 failed: '-A' stands in no table"),
    ("*filter\nCOMMIT\n-A INPUT -j ACCEPT", "line 3 failed: '-A' stands in no table"),
    ("COMMIT", "stands in no table"),
])
def test_a_text_that_is_cut_off_changes_nothing(text: str, complaint: str, keep: bool) -> None:
    with pytest.raises(CommandFailed) as caught:
        restore(BEFORE, text, 4, Options(keep=keep))
    assert complaint in str(caught.value)
    assert restore(BEFORE, "", 4, Options(keep=keep)).ruleset == BEFORE


@pytest.mark.parametrize("counters", ["[x:6]", "[²:6]", "[1:]", "[1:18446744073709551616]", "[99999999999999999999999:1]",
                                      "[" + "1" * 5000 + ":0]"])
@pytest.mark.parametrize("line", [":INPUT DROP {}", "{} -A INPUT -j ACCEPT"])
def test_counters_that_are_none_are_refused(line: str, counters: str) -> None:
    with pytest.raises(CommandFailed, match="counter"):
        restore(BEFORE, f"*filter\n{line.format(counters)}\nCOMMIT", 4, Options(counters=True))


def test_the_largest_counters() -> None:
    restored = restore(BEFORE, f"*filter\n[{2 ** 64 - 1}:0] -A INPUT -j ACCEPT\nCOMMIT", 4, Options(counters=True))
    assert restored.counters["filter", "INPUT", 0] == (2 ** 64 - 1, 0)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("family", "kept"), [(4, "-s 1.1.1.1/32"), (6, "-s ::1/128")])
def test_one_text_serves_both_families(family: int, kept: str, keep: bool) -> None:
    text = "*filter\n-A FORWARD -4 -s 1.1.1.1 -j ACCEPT\n-A FORWARD -6 -s ::1 -j ACCEPT\nCOMMIT"
    printed = print_ruleset(restore(BEFORE, text, family, Options(keep=keep)).ruleset)
    assert [line for line in printed.splitlines() if line.startswith("-A FORWARD")] == [f"-A FORWARD {kept} -j ACCEPT"]


def test_all_mistakes_are_told_at_once() -> None:
    text = "*filter\n" + "-A INPUT --nonsense\n" * 30 + "COMMIT"
    with pytest.raises(CommandFailed) as caught:
        restore(BEFORE, text, 4)
    assert str(caught.value).count("unknown option '--nonsense'") == 20
    assert str(caught.value).endswith("Error occurred at line: 21")


@pytest.mark.parametrize(("line", "effect"), [
    ("-A INPUT -m u32 --u32 0=0 -j ACCEPT", "fewer packets may pass"), ("-A INPUT -m u32 --u32 0=0 -j DROP", "more packets may pass"),
    ("-A INPUT -j NFLOG", "no verdict changes"), ("-A INPUT -j NFQUEUE", "more or fewer packets may pass"),
])
def test_what_is_left_out_is_told_with_its_effect(line: str, effect: str) -> None:
    restored = restore(BEFORE, f"*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n{line}\n-A INPUT -p udp\nCOMMIT", 4,
                       Options(skip_unsupported=True))
    assert [warning.partition(":")[0] for warning in restored.skipped] == ["line 1", "line 5"]
    assert restored.skipped[0].endswith("this table is left out")
    assert effect in restored.skipped[1]
    assert "-A INPUT -p udp\n" in print_ruleset(restored.ruleset, family=4)
