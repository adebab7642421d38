"""The rules that divert, as text: from whatever iptables-save shows to what was asked for, and back."""
from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from pyfw.edge.host.divert import Diversion
from pyfw.edge.host.iptables import Family
from pyfw.edge.host.iptables_rules import SavedTable, installation, is_printed_form, removal, restoration
from pyfw.edge.host.own_mark import draw_mark

NOTHING = """\
*mangle
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""


HOOKS = ("INPUT", "FORWARD", "OUTPUT")
# As where the kernel has no table `security`.
MANGLE = {4: Family("iptables", "legacy", "mangle", HOOKS), 6: Family("ip6tables", "legacy", "mangle", HOOKS)}


def table(*lines: str) -> SavedTable:
    return SavedTable.parse("mangle", NOTHING.replace("COMMIT", "\n".join([*lines, "COMMIT"])))


def installed(diversion: Diversion, *, on: SavedTable) -> list[str]:
    """The lines between *mangle and COMMIT."""
    return installation(on, diversion.chains(MANGLE[4]), diversion.hooks).splitlines()[1:-1]


def test_a_gateway():
    assert installed(Diversion(7, hooks=["FORWARD"], exempt=["wg0"]), on=table()) == [
        ":PYFW-DEFRAG - [0:0]",
        ":PYFW-FORWARD - [0:0]",
        "-A PYFW-DEFRAG -p 253 -m socket -j RETURN",
        "-A PYFW-FORWARD -i wg0 -j RETURN",
        "-A PYFW-FORWARD -o wg0 -j RETURN",
        "-A PYFW-FORWARD -j NFQUEUE --queue-num 7",
        "-A FORWARD -j PYFW-FORWARD"]


def test_each_table_has_its_part():
    diversion, mangle = Diversion(7), Family("iptables", "nft", "mangle", ("INPUT",))
    late = Family("iptables", "nft", "security", ("FORWARD", "OUTPUT"))
    assert list(diversion.chains(mangle)) == ["PYFW-DEFRAG", "PYFW-INPUT"]
    assert list(diversion.chains(late)) == ["PYFW-FORWARD", "PYFW-OUTPUT"]
    former = table(":PYFW-FORWARD - [0:0]", "-A FORWARD -j PYFW-FORWARD", "-A PYFW-FORWARD -j NFQUEUE --queue-num 7")
    assert installation(former, diversion.chains(mangle), mangle.hooks).splitlines()[-4:-1] == [
        "-D FORWARD -j PYFW-FORWARD", "-F PYFW-FORWARD", "-X PYFW-FORWARD"]
    assert "PYFW-FORWARD was in mangle, too" in former.faults(diversion.chains(mangle), mangle.hooks)


@pytest.mark.parametrize(("version", "rules"), [
    (4, ["-o lo -m addrtype --dst-type LOCAL,BROADCAST,MULTICAST -j RETURN"]),
    (6, ["-o lo -m addrtype --dst-type LOCAL,ANYCAST -j RETURN", "-o lo -m addrtype --dst-type MULTICAST -j RETURN"])])
def test_lo_is_exempt_for_what_stays_in_the_machine(version: int, rules: Sequence[str]):
    chains = Diversion(0).chains(MANGLE[version])
    assert chains["PYFW-INPUT"][:-1] == ["-i lo -j RETURN"]
    assert chains["PYFW-OUTPUT"][4:-1] == rules
    assert chains["PYFW-FORWARD"][:-1] == []


@pytest.mark.parametrize(("version", "error"), [(4, "-p icmp -m icmp --icmp-type 3"), (6, "-p ipv6-icmp -m icmp6 --icmpv6-type 1")])
def test_only_rejects_answers_are_exempt_and_only_where_they_leave(version: int, error: str):
    chains = Diversion(0, exempt=["eth7"], mark=0x8BADF00D).chains(MANGLE[version])
    assert chains["PYFW-OUTPUT"][4:] == [
        "-p tcp -m tcp --tcp-flags RST RST -m mark --mark 0x8badf00d -j RETURN",
        f"{error} -m mark --mark 0x8badf00d -j RETURN",
        "-o eth7 -j RETURN",
        "-j NFQUEUE --queue-num 0"]
    assert not any("mark" in rule for chain in ("PYFW-INPUT", "PYFW-FORWARD") for rule in chains[chain])
    assert not any("mark" in rule for rules in Diversion(0).chains(MANGLE[version]).values() for rule in rules)


def test_when_down_accept():
    assert Diversion(0, bypass=True).chains(MANGLE[4])["PYFW-INPUT"][-1] == "-j NFQUEUE --queue-num 0 --queue-bypass"


JUMP = "-A FORWARD -j PYFW-FORWARD"
FIRST = "-I FORWARD -j PYFW-FORWARD"
LAST = "-A FORWARD -j PYFW-FORWARD"
MSS = "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"


@pytest.mark.parametrize(("rules", "fault", "repair"), [
    ([], "was missing", [LAST]),
    ([MSS], "was missing", [LAST]),
    ([MSS, "-A FORWARD -j ACCEPT"], "was missing", [FIRST]),
    ([JUMP], None, []),
    ([JUMP, "-A FORWARD -j ACCEPT"], None, []),
    ([JUMP] * 3, "was there 3 times", ["-D FORWARD -j PYFW-FORWARD"] * 3 + [LAST]),
    (["-A FORWARD -j ACCEPT", JUMP], "was behind rules that let packets pass", ["-D FORWARD -j PYFW-FORWARD", FIRST]),
    (["-A FORWARD -i eth0 -j RETURN", JUMP], "was behind rules that let packets pass", ["-D FORWARD -j PYFW-FORWARD", FIRST]),
    (["-A FORWARD -g THEIRS", JUMP], "was behind rules that let packets pass", ["-D FORWARD -j PYFW-FORWARD", FIRST]),
    (["-A FORWARD -j NFQUEUE --queue-num 9", JUMP], "was behind rules that let packets pass",
     ["-D FORWARD -j PYFW-FORWARD", FIRST]),
    (["-A FORWARD -i eth3 -j PYFW-FORWARD"], "was missing", ["-D FORWARD -i eth3 -j PYFW-FORWARD", LAST]),
    # What lets nothing pass stands first: behind the jump these do nothing for a packet that NFQUEUE accepts.
    ([JUMP, MSS], "was before rules that its packets would not meet", ["-D FORWARD -j PYFW-FORWARD", LAST]),
    ([MSS, JUMP, "-A FORWARD -j ACCEPT", MSS], None, []),
    ([MSS, "-A FORWARD -j MARK --set-xmark 0x1/0x1",
      '-A FORWARD -i eth9 -m comment --comment "it\'s closed" -j DROP', JUMP], None, []),
    # As iptables-save prints `ip daddr vmap { 192.0.2.1 : accept }`.
    (["-A FORWARD", JUMP], "was behind rules that let packets pass", ["-D FORWARD -j PYFW-FORWARD", FIRST]),
])
def test_one_jump_that_no_packet_passes_by(rules: Sequence[str], fault: str | None, repair: Sequence[str]):
    saved = table(":PYFW-FORWARD - [0:0]", ":THEIRS - [0:0]", *rules)
    assert saved.jump_fault("FORWARD") == (fault and f"FORWARD's jump to PYFW-FORWARD {fault}")
    changed = installed(Diversion(0, hooks=["FORWARD"]), on=saved)
    assert [line for line in changed if line.startswith(("-D", "-I", "-A FORWARD"))] == repair


def test_a_chain_that_only_bears_a_hooks_name():
    """As nft makes one: the kernel does not call it."""
    assert SavedTable.parse("mangle", "*mangle\n:FORWARD ACCEPT [0:0]\n:FORWARD - [0:0]\n:PYFW-FORWARD - [0:0]\n-A FORWARD -j PYFW-FORWARD\n"
                            ).jump_fault("FORWARD") == "FORWARD was no chain of the kernel's"


def test_a_hook_that_is_no_longer_wanted_goes():
    changed = installed(Diversion(0, hooks=["FORWARD"]), on=table(":PYFW-INPUT - [0:0]", "-A INPUT -j PYFW-INPUT"))
    assert changed[-3:] == ["-D INPUT -j PYFW-INPUT", "-F PYFW-INPUT", "-X PYFW-INPUT"]


def test_removal_takes_all_that_is_there_and_nothing_else():
    saved = table(":PYFW-DEFRAG - [0:0]", ":PYFW-OUTPUT - [0:0]", ":MINE - [0:0]", "-A OUTPUT -j MINE",
                  "-A OUTPUT -j PYFW-OUTPUT", "-A OUTPUT -j PYFW-OUTPUT", "-A MINE -i eth0 -g PYFW-OUTPUT")
    assert removal(saved).splitlines() == [
        "*mangle", "-D OUTPUT -j PYFW-OUTPUT", "-D OUTPUT -j PYFW-OUTPUT", "-D MINE -i eth0 -g PYFW-OUTPUT",
        "-F PYFW-DEFRAG", "-F PYFW-OUTPUT", "-X PYFW-DEFRAG", "-X PYFW-OUTPUT", "COMMIT"]
    assert removal(table()) == ""


def test_other_tables_do_not_count():
    assert removal(SavedTable.parse("mangle", "*filter\n:PYFW-INPUT - [0:0]\n-A INPUT -j PYFW-INPUT\nCOMMIT\n")) == ""


def test_back_to_a_predecessors_rules():
    before = table(":PYFW-FORWARD - [0:0]", "-A FORWARD -j MARK --set-xmark 0x1/0x1", JUMP, "-A FORWARD -j ACCEPT",
                   "-A PYFW-FORWARD -j NFQUEUE --queue-num 7")
    now = table(":PYFW-FORWARD - [0:0]", ":PYFW-INPUT - [0:0]", JUMP, "-A FORWARD -j MARK --set-xmark 0x1/0x1",
                "-A FORWARD -j ACCEPT", "-A INPUT -j PYFW-INPUT", "-A PYFW-INPUT -j NFQUEUE --queue-num 8")
    assert restoration(now, before).splitlines()[1:-1] == [
        ":PYFW-FORWARD - [0:0]", "-D INPUT -j PYFW-INPUT", "-D FORWARD -j PYFW-FORWARD",
        "-A PYFW-FORWARD -j NFQUEUE --queue-num 7", "-I FORWARD 2 -j PYFW-FORWARD", "-F PYFW-INPUT", "-X PYFW-INPUT"]


def test_back_to_nothing():
    now = table(":PYFW-FORWARD - [0:0]", JUMP)
    assert restoration(now, table()) == removal(now)
    assert restoration(table(), table()) == ""


def test_back_to_a_place_that_is_no_more():
    before = table(":PYFW-FORWARD - [0:0]", *["-A FORWARD -j MARK --set-xmark 0x1/0x1"] * 4, JUMP)
    assert "-I FORWARD 1 -j PYFW-FORWARD" in restoration(table(), before).splitlines()


def test_what_was_installed_is_told_from_what_was_not():
    wanted = Diversion(7, hooks=["OUTPUT"], mark=1).chains(MANGLE[4])
    assert is_printed_form(wanted, wanted)
    assert is_printed_form({**wanted, "PYFW-DEFRAG": ["-p 253 -m socket --other-words -j RETURN"]}, wanted)
    for other in ({**wanted, "PYFW-OUTPUT": wanted["PYFW-OUTPUT"][:-1]}, {**wanted, "PYFW-INPUT": []},
                  {**wanted, "PYFW-OUTPUT": [*wanted["PYFW-OUTPUT"][:-1], "-j NFQUEUE --queue-num 7 --queue-bypass"]}):
        assert not is_printed_form(other, wanted)


def test_every_fault_is_named():
    chains = Diversion(7, hooks=["INPUT", "FORWARD"]).chains(MANGLE[4])
    found = table(":PYFW-FORWARD - [0:0]", ":PYFW-DEFRAG - [0:0]", "-A PYFW-FORWARD -j RETURN",
                  *(f"-A PYFW-FORWARD {rule}" for rule in chains["PYFW-FORWARD"]))
    assert found.faults(chains, ["INPUT", "FORWARD"]) == [
        "FORWARD's jump to PYFW-FORWARD was missing", "PYFW-DEFRAG had other rules", "PYFW-INPUT was missing",
        "PYFW-FORWARD had other rules"]


@pytest.mark.parametrize(("options", "complaint"), [
    ({"hooks": ["PREROUTING"]}, "hook 'PREROUTING' cannot be diverted: choose from INPUT, FORWARD, OUTPUT"),
    ({"exempt": ["eth0 -j ACCEPT"]}, "'eth0 -j ACCEPT' cannot be an interface's name"),
    ({"exempt": ["eth0\n-F INPUT"]}, "'eth0\\n-F INPUT' cannot be an interface's name"),
    ({"exempt": ["a-name-of-16-ch."]}, "'a-name-of-16-ch.' cannot be an interface's name"),
])
def test_what_cannot_be_diverted(options: dict, complaint: str):
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        Diversion(0, **options)


def test_a_mark_is_drawn_that_routing_does_not_take():
    taken = [(0, 0x80000000), (0, 0x1), (5, 0xFF), (0x80000001, 0xFFFFFFFF)]
    marks = {draw_mark(taken) for _ in range(100)}
    assert len(marks) > 90
    assert all(0 < mark < 2**32 and mark & 0x80000001 == 0x80000001 for mark in marks)
