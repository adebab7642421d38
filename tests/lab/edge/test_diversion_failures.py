"""Starts that fail, and what they leave of the kernel's rules; rules in iptables' other backend; the lock."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firewall import Firewall
from lab.edge.wrapper import failing_program
from pyfw.edge.host.iptables import ATTEMPTS, DivertError
from pyfw.edge.host.owner_lock import DiversionOwner, lock_path
from pyfw.lab import SERVER, Lab, LabError, wait_until

Guard = Callable[..., Firewall]
ALWAYS = 1_000_000
PROGRAMS = ("iptables", "ip6tables")


def passes(lab: Lab, family: int) -> bool:
    return lab.run("client", ["ping", "-c1", "-W0.5", SERVER.address(family)]).returncode == 0


def rules(lab: Lab, suffix: str = "") -> list[str]:
    """Whatever of pyfw is in the tables, of both families."""
    return [line for program in PROGRAMS
            for line in lab.run("gateway", [f"{program}{suffix}-save"]).stdout.splitlines() if "PYFW" in line]


def run_to_its_end(firewall: Firewall, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*firewall.argv, *more], capture_output=True, text=True, timeout=60)


@pytest.fixture
def restore_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sets how often ip6tables-restore fails from now on."""
    with failing_program("ip6tables-restore", tmp_path, monkeypatch) as fails:
        yield fails


def test_a_failure_that_passes_is_none(lab: Lab, guard: Guard, restore_fails):
    restore_fails(ATTEMPTS - 1)
    guard(FORWARD=[])
    assert not passes(lab, 4)
    assert not passes(lab, 6)


def test_a_first_start_that_fails_leaves_nothing(lab: Lab, guard: Guard, restore_fails):
    restore_fails(ALWAYS)
    with pytest.raises(LabError, match=r"pyfw: ip6tables-restore failed: .*Resource temporarily unavailable"):
        guard(FORWARD=[])
    restore_fails(0)
    assert rules(lab) == []
    assert passes(lab, 4)
    assert passes(lab, 6)


def test_a_restart_that_fails_leaves_the_predecessors_rules(lab: Lab, guard: Guard, restore_fails):
    firewall = guard(FORWARD=[])
    before = rules(lab)
    firewall.kill()
    restore_fails(ALWAYS)
    firewall.argv += ["--set", "queue.number=9", "--set", "hooks=[INPUT, FORWARD]"]
    assert run_to_its_end(firewall).returncode == 1
    assert rules(lab) == before
    assert not passes(lab, 4)
    assert not passes(lab, 6)
    restore_fails(0)
    firewall.start()
    assert "-A PYFW-INPUT -j NFQUEUE --queue-num 9" in rules(lab)


def test_a_takeover_that_fails_leaves_the_predecessor_and_its_rules(lab: Lab, guard: Guard, restore_fails):
    firewall = guard(FORWARD=["-p icmp -j ACCEPT"])
    before = rules(lab)
    restore_fails(ALWAYS)
    done = run_to_its_end(firewall, "--takeover", "--set", "hooks=[INPUT, FORWARD]")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "ip6tables-restore failed" in done.stderr
    assert rules(lab) == before
    restore_fails(0)
    assert firewall.ctl("ping").returncode == 0
    assert firewall.process.poll() is None
    assert (passes(lab, 4), passes(lab, 6)) == (True, False), "its rules serve"
    lab.run("gateway", ["iptables", "-t", "security", "-F"], check=True)
    wait_until(lambda: sorted(rules(lab)) == sorted(before), "the predecessor to watch again")


@pytest.mark.parametrize("how", ["reload", "takeover"])
def test_a_reload_and_a_takeover_repair(lab: Lab, guard: Guard, how: str):
    firewall = guard(FORWARD=[])
    before, predecessor = rules(lab), firewall.process
    lab.run("gateway", ["iptables", "-t", "security", "-F"], check=True)
    if how == "reload":
        assert firewall.ctl("reload").returncode == 0
    else:
        with firewall.log.open("ab") as log:
            firewall.process = subprocess.Popen([*firewall.argv, "--takeover"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        assert predecessor.wait(20) == 0
    assert sorted(rules(lab)) == sorted(before)


# -- the two backends ----------------------------------------------------------------------------------------


def install_with(lab: Lab, suffix: str, table: str = "mangle") -> None:
    for program in PROGRAMS:
        lab.run("gateway", [f"{program}{suffix}-restore", "-n"], check=True, input=(
            f"*{table}\n:PYFW-FORWARD - [0:0]\n-A PYFW-FORWARD -j NFQUEUE --queue-num 0\n-A FORWARD -j PYFW-FORWARD\nCOMMIT\n"))


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """chosen("legacy") makes that the backend of `iptables` for what is started from then on."""
    def choose(backend: str) -> None:
        directory = tmp_path / backend
        directory.mkdir()
        for program in PROGRAMS:
            for end in ("", "-save", "-restore"):
                (directory / f"{program}{end}").symlink_to(f"/usr/sbin/xtables-{backend}-multi")
        monkeypatch.setenv("PATH", f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin")
    return choose


@pytest.mark.parametrize("table", ["mangle", "security"])
@pytest.mark.parametrize(("backend", "other"), [("nft", "legacy"), ("legacy", "nft")])
def test_rules_in_the_other_backend_are_taken_over(lab: Lab, guard: Guard, chosen, backend: str, other: str, table: str):
    chosen(backend)
    install_with(lab, f"-{other}", table)
    firewall = guard(FORWARD=["-p icmp -j ACCEPT", "-p ipv6-icmp -j ACCEPT"])
    assert rules(lab, f"-{other}") == []
    assert rules(lab, f"-{backend}")
    assert passes(lab, 4)
    assert passes(lab, 6)
    assert "packets                      4" in firewall.ctl("stats").stdout, "each is judged once"
    install_with(lab, f"-{other}", table)
    firewall.stop()
    assert rules(lab, f"-{other}") == rules(lab, f"-{backend}") == []
    firewall.start()


def test_legacy_tables_are_watched(lab: Lab, guard: Guard, chosen):
    chosen("legacy")
    guard(FORWARD=[])
    before = rules(lab)
    for program in PROGRAMS:
        lab.run("gateway", [f"{program}-legacy", "-t", "security", "-F"], check=True)
        wait_until(lambda: sorted(rules(lab)) == sorted(before), "the diversion to be put back")
    assert not passes(lab, 4)
    assert not passes(lab, 6)


# -- the lock ------------------------------------------------------------------------------------------------

HOLD_ALL = """
import os, socket, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
held = [socket.socket(socket.AF_UNIX) for _ in range(2)]
held[0].bind("\\0pyfw-divert")
held[1].bind("\\0" + sys.argv[1])
for act in (lambda: open(sys.argv[1], "a"), lambda: os.mkdir(sys.argv[1]), lambda: os.unlink(sys.argv[1])):
    try:
        act()
    except OSError:
        pass
    else:
        sys.exit("nobody could")
print("holding", flush=True)
time.sleep(60)
"""


def test_a_user_without_rights_keeps_no_daemon_from_starting(lab: Lab, guard: Guard):
    with lab.inside("gateway"):
        path = lock_path()
    holder = lab.start("gateway", [sys.executable, "-c", HOLD_ALL, path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "holding\n"
    guard(FORWARD=[])
    assert not passes(lab, 4)
    assert path.stat().st_mode & 0o777 == 0o600
    assert holder.poll() is None


@pytest.mark.parametrize("damage", [
    lambda path: path.chmod(0o666), lambda path: path.with_suffix(".2").hardlink_to(path),
    lambda path: (path.unlink(), path.mkdir()), lambda path: (path.unlink(), path.symlink_to("/dev/null"))], ids=["writable", "linked", "a directory", "a symbolic link"])
def test_a_lock_that_others_could_have_made_is_refused(lab: Lab, damage: Callable[[Path], object]):
    with lab.inside("gateway"):
        DiversionOwner().close()
        path = lock_path()
        damage(path)
        try:
            with pytest.raises(DivertError, match=f"^{path}"):
                DiversionOwner()
        finally:
            path.rmdir() if path.is_dir() else path.unlink()
            path.with_suffix(".2").unlink(missing_ok=True)


def test_the_lock_goes_with_a_clean_end_and_keeps_the_mark_over_another(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[], OUTPUT=[])
    with lab.inside("gateway"):
        path = lock_path()
    mark = path.read_text().strip()
    assert len([rule for rule in rules(lab) if f"--mark {int(mark, 16):#x} -j RETURN" in rule]) == 4
    firewall.kill()
    firewall.start()
    assert path.read_text().strip() == mark
    firewall.stop()
    assert not path.exists()
    firewall.start()
    assert path.read_text().strip() != mark
