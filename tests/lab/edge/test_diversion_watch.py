"""What other programs do to the kernel's rules, with a daemon that puts it right and, as the control, without one."""
from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from firewall import Firewall
from lab.edge.wrapper import failing_program
from pyfw.cli.pyfwctl.client import ask
from pyfw.edge.host.divert import Diversion
from pyfw.lab import SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

PROGRAM = {4: "iptables", 6: "ip6tables"}
TABLE = {4: "ip security", 6: "ip6 security"}
WITHOUT_OURS = "*security\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"

# What opens FORWARD, as words of iptables -t security, or of a program with its input.
CHANGES = {
    "flush the table": ["-F"],
    "flush the chain": ["-F", "PYFW-FORWARD"],
    "delete the jump": ["-D", "FORWARD", "-j", "PYFW-FORWARD"],
    "accept before the jump": ["-I", "FORWARD", "-j", "ACCEPT"],
    "return before the queue": ["-I", "PYFW-FORWARD", "-j", "RETURN"],
    "restore another's table": ["{program}-restore"],
    "nft flush ruleset": ["nft", "flush", "ruleset"],
    "nft delete table": ["nft", "delete", "table", "{table}"],
}


def change(lab: Lab, family: int, words: list[str]) -> None:
    """Do as another program would on the gateway."""
    argv = [word.format(program=PROGRAM[family], table=TABLE[family]) for word in words]
    if argv[0].startswith("-"):
        argv = [PROGRAM[family], "-t", "security", *argv]
    elif argv[0] == "nft":
        argv = ["nft", " ".join(argv[1:])]
    lab.run("gateway", argv, input=WITHOUT_OURS, check=True)


def passes(lab: Lab, family: int) -> bool:
    return lab.run("client", ["ping", "-c1", "-W0.5", SERVER.address(family)]).returncode == 0


def saved(lab: Lab, family: int) -> list[str]:
    """The rules and chains of security, without counters and comments."""
    lines = lab.run("gateway", [f"{PROGRAM[family]}-save", "-t", "security"], check=True).stdout.splitlines()
    return [line.split(" [")[0] for line in lines if not line.startswith("#")]


def counters(firewall: Firewall) -> dict:
    [answer, _] = ask(str(firewall.socket), {"command": "stats", "json": True})
    return answer["records"][0]["diversion"]


@contextmanager
def put_back(firewall: Firewall, lab: Lab) -> Iterator[None]:
    """What is done inside is undone by the daemon, which counts it."""
    before, repairs = ours(lab), counters(firewall)["repairs"]
    yield
    wait_until(lambda: ours(lab) == before and counters(firewall)["in_place"] == 1, "the diversion to be put back")
    assert counters(firewall)["repairs"] > repairs


def ours(lab: Lab) -> list[str]:
    """pyfw's rules of both families, and what stands first in FORWARD."""
    return [line for rules in (saved(lab, 4), saved(lab, 6))
            for line in [*filter(lambda rule: "PYFW" in rule, rules), next(filter(lambda rule: "-A FORWARD" in rule, rules), "")]]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("words", CHANGES.values(), ids=list(CHANGES))
def test_the_control_what_nobody_puts_back_stays_open(lab: Lab, words: list[str], family: int):
    with lab.inside("gateway"):
        Diversion(0, hooks=["FORWARD"]).install()
    assert not passes(lab, family)
    change(lab, family, words)
    assert passes(lab, family)


def test_what_others_change_is_put_back(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[])
    for words in CHANGES.values():
        with put_back(firewall, lab):
            change(lab, 4, words)
            change(lab, 6, words)
    assert not passes(lab, 4)
    assert not passes(lab, 6)
    stats = counters(firewall)
    assert stats["failures"] == 0
    log = firewall.log.read_text()
    assert "pyfw: the diversion was changed from outside: FORWARD's jump to PYFW-FORWARD was missing (IPv4" in log
    assert 0 < log.count("put back") < stats["repairs"], "there is not a line for each"


def test_defragmentation_is_put_back(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=["-p icmp -j ACCEPT", "-p ipv6-icmp -j ACCEPT"])
    for program in PROGRAM.values():
        lab.run("gateway", [program, "-t", "mangle", "-F", "PYFW-DEFRAG"], check=True)
    wait_until(lambda: counters(firewall)["repairs"] and counters(firewall)["in_place"] == 1, "it to be put back")
    for family in (4, 6):
        assert lab.run("client", ["ping", "-c1", "-W1", "-s4000", SERVER.address(family)]).returncode == 0


def test_what_lets_nothing_pass_may_stand_first(lab: Lab, guard: Guard):
    """Behind the jump it would do nothing for a packet that the queue accepts."""
    firewall = guard(FORWARD=[])
    change(lab, 4, ["-I", "FORWARD", "-j", "MARK", "--set-mark", "1"])
    before = counters(firewall)
    firewall.ctl("reload", check=True)      # looks anew
    after = counters(firewall)
    assert after["checks"] > before["checks"]
    assert after["repairs"] == 0
    assert saved(lab, 4).index("-A FORWARD -j PYFW-FORWARD") > saved(lab, 4).index(
        "-A FORWARD -j MARK --set-xmark 0x1/0xffffffff")


def test_a_burst_of_foreign_changes_is_no_storm_of_ours(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[])
    before = counters(firewall)
    burst = "insert rule ip security FORWARD accept\nflush chain ip security FORWARD\n" * 500      # nft: a transaction each
    lab.run("gateway", ["nft", "-i"], input=burst, check=True)
    wait_until(lambda: not passes(lab, 4), "the diversion to be put back")
    after = counters(firewall)
    assert 1 <= after["repairs"] - before["repairs"] <= 50
    assert after["checks"] - before["checks"] <= 100


def test_of_two_that_both_want_to_be_first_neither_runs_hot(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[])
    rival = lab.start("gateway", ["sh", "-c", "while sleep 0.01; do iptables -t security -S FORWARD | sed -n 2p | grep -q ACCEPT ||"
                                              " iptables -t security -I FORWARD -j ACCEPT; done"])
    wait_until(lambda: counters(firewall)["repairs"] >= 4, "four repairs")
    lab.stop(rival)
    wait_until(lambda: not passes(lab, 4), "the daemon to have had the last word")
    assert counters(firewall)["repairs"] < 50


def test_what_cannot_be_put_back_is_told_until_it_can(lab: Lab, guard: Guard, tmp_path, monkeypatch):
    with failing_program("ip6tables-restore", tmp_path, monkeypatch) as fails:
        firewall = guard(FORWARD=[], settings=[f"metrics.listen={tmp_path}/metrics.sock"])
        fails(1000)
        change(lab, 4, ["-F"])
        change(lab, 6, ["-F"])
        wait_until(lambda: counters(firewall)["failures"] > 0, "a failure to be counted")
        done = firewall.ctl("ping")
        assert done.returncode == 1
        assert done.stderr.startswith("pyfwctl: the diversion is not in place: ")
        assert "ip6tables-restore failed" in done.stderr
        assert counters(firewall)["in_place"] == 0
        assert "FORWARD's jump" in counters(firewall)["fault"]
        assert "pyfw_diversion_in_place 0.0" in metrics(tmp_path)
        assert not passes(lab, 4), "what can be put back is"
        fails(0)
        wait_until(lambda: counters(firewall)["in_place"] == 1, "the diversion to be put back")
        assert firewall.ctl("ping").returncode == 0
        assert "pyfw_diversion_in_place 1.0" in metrics(tmp_path)
        assert not passes(lab, 6)


def test_what_cannot_be_read_is_closed_and_told(lab: Lab, guard: Guard):
    """A rule that only nft has hides the whole table from iptables-save."""
    firewall = guard(FORWARD=[])
    lab.run("gateway", ["nft", "insert rule ip security FORWARD accept; insert rule ip security FORWARD tcp option maxseg size set 1000"],
            check=True)
    assert "is incompatible" in lab.run("gateway", ["iptables-save", "-t", "security"]).stdout
    wait_until(lambda: counters(firewall)["in_place"] == 0, "the trouble to be noticed")
    assert "cannot print the table security" in firewall.ctl("ping").stderr
    assert not passes(lab, 4)
    checks = counters(firewall)["checks"]
    wait_until(lambda: counters(firewall)["checks"] > checks + 1, "two more looks")
    assert lab.run("gateway", ["nft", "list chain ip security FORWARD"]).stdout.count("PYFW-FORWARD") == 1, "it is put first"
    for _ in range(2):
        listing = lab.run("gateway", ["nft", "-a", "list chain ip security FORWARD"], check=True).stdout
        [handle] = re.findall(r"jump PYFW-FORWARD # handle (\d+)", listing)
        lab.run("gateway", ["nft", f"delete rule ip security FORWARD handle {handle}"], check=True)
        wait_until(lambda: not passes(lab, 4), "the jump to be back")
    lab.run("gateway", ["nft", "insert rule ip security FORWARD accept"], check=True)
    wait_until(lambda: not passes(lab, 4), "the jump to be first again")
    listing = lab.run("gateway", ["nft", "list chain ip security FORWARD"]).stdout
    assert listing.count("PYFW-FORWARD") == 1
    lab.run("gateway", ["nft", "flush chain ip security FORWARD"], check=True)
    wait_until(lambda: counters(firewall)["in_place"] == 1, "the diversion to be put back")
    assert not passes(lab, 4)


def test_a_dormant_table_is_told(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[])
    lab.run("gateway", ["nft", "add table ip security { flags dormant; }"], check=True)
    wait_until(lambda: counters(firewall)["in_place"] == 0, "the trouble to be noticed")
    assert "table is dormant" in firewall.ctl("ping").stderr
    lab.run("gateway", ["nft", "add table ip security"], check=True)
    wait_until(lambda: counters(firewall)["in_place"] == 1, "it to be awake again")
    assert not passes(lab, 4)


def metrics(directory) -> str:
    return subprocess.run(["curl", "-s", "--unix-socket", directory / "metrics.sock", "http://localhost/metrics"],
                          capture_output=True, text=True).stdout
