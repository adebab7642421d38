"""The rules that divert, as text: from whatever iptables-save shows to what was asked for."""
from __future__ import annotations

import pytest

from pyfw.edge.divert import Diversion, removal

NOTHING = """\
*mangle
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_a_gateway():
    assert lines(Diversion(7, hooks=["FORWARD"], exempt=["wg0"]).transaction(NOTHING)) == [
        "*mangle",
        ":PYFW-DEFRAG - [0:0]",
        ":PYFW-FORWARD - [0:0]",
        "-A PYFW-DEFRAG -p 253 -m socket -j RETURN",
        "-A PYFW-FORWARD -i wg0 -j RETURN",
        "-A PYFW-FORWARD -o wg0 -j RETURN",
        "-A PYFW-FORWARD -j NFQUEUE --queue-num 7",
        "-I FORWARD -j PYFW-FORWARD",
        "COMMIT"]


def test_a_host_exempts_what_pyfw_itself_sends():
    installed = lines(Diversion(0, hooks=["OUTPUT"], exempt=["lo"], mark=0x10).transaction(NOTHING))
    assert installed[4:7] == ["-A PYFW-OUTPUT -m mark --mark 0x10/0x10 -j RETURN",
                              "-A PYFW-OUTPUT -o lo -j RETURN",
                              "-A PYFW-OUTPUT -j NFQUEUE --queue-num 0"]


def test_when_down_accept():
    assert "-A PYFW-INPUT -j NFQUEUE --queue-num 0 --queue-bypass" in lines(
        Diversion(0, hooks=["INPUT"], bypass=True).transaction(NOTHING))


@pytest.mark.parametrize("jumps, repair", [
    (0, ["-I FORWARD -j PYFW-FORWARD"]),
    (1, []),
    (3, ["-D FORWARD -j PYFW-FORWARD"] * 2),
])
def test_one_jump_whatever_a_predecessor_left(jumps: int, repair: list[str]):
    saved = NOTHING.replace("COMMIT", ":PYFW-FORWARD - [0:0]\n" + "-A FORWARD -j PYFW-FORWARD\n" * jumps + "COMMIT")
    changed = lines(Diversion(0, hooks=["FORWARD"]).transaction(saved))
    assert [line for line in changed if line.endswith("FORWARD -j PYFW-FORWARD")] == repair


def test_a_hook_that_is_no_longer_wanted_goes():
    saved = NOTHING.replace("COMMIT", ":PYFW-INPUT - [0:0]\n-A INPUT -j PYFW-INPUT\nCOMMIT")
    changed = lines(Diversion(0, hooks=["FORWARD"]).transaction(saved))
    assert changed[-4:-1] == ["-D INPUT -j PYFW-INPUT", "-F PYFW-INPUT", "-X PYFW-INPUT"]


def test_removal_takes_all_that_is_there_and_nothing_else():
    saved = NOTHING.replace("COMMIT", ":PYFW-DEFRAG - [0:0]\n:PYFW-OUTPUT - [0:0]\n:MINE - [0:0]\n"
                            "-A OUTPUT -j MINE\n-A OUTPUT -j PYFW-OUTPUT\n-A OUTPUT -j PYFW-OUTPUT\nCOMMIT")
    assert lines(removal(saved)) == ["*mangle", "-D OUTPUT -j PYFW-OUTPUT", "-D OUTPUT -j PYFW-OUTPUT",
                                     "-F PYFW-OUTPUT", "-X PYFW-OUTPUT", "-F PYFW-DEFRAG", "-X PYFW-DEFRAG", "COMMIT"]


def test_nothing_to_remove():
    assert removal(NOTHING) == ""


@pytest.mark.parametrize("options, complaint", [
    ({"hooks": ["PREROUTING"]}, "hook 'PREROUTING' cannot be diverted: choose from INPUT, FORWARD, OUTPUT"),
    ({"exempt": ["eth0 -j ACCEPT"]}, "'eth0 -j ACCEPT' cannot be an interface's name"),
    ({"exempt": ["eth0\n-F INPUT"]}, "'eth0\\n-F INPUT' cannot be an interface's name"),
    ({"exempt": ["a-name-of-16-ch."]}, "'a-name-of-16-ch.' cannot be an interface's name"),
])
def test_what_cannot_be_diverted(options: dict, complaint: str):
    with pytest.raises(ValueError) as caught:
        Diversion(0, **options)
    assert str(caught.value) == complaint
