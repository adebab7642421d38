"""pyfw-iptables and its kin on a running daemon: rules change under the traffic, counters go on, and only what is saved lasts."""
from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.lab import CLIENT, SERVER, Lab, LabError

RULES = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p icmp -j ACCEPT\nCOMMIT\n"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def firewall(lab: Lab, tmp_path: Path):
    (tmp_path / "gateway.rules").write_text(RULES)
    (tmp_path / "pyfw.yaml").write_text("hooks: [FORWARD]\nrules: {file: gateway.rules}\n")
    with Firewall(lab, tmp_path / "pyfw.yaml", tmp_path) as firewall:
        yield firewall


@pytest.fixture
def run(firewall: Firewall) -> Run:
    def command(name: str, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PYFW_SOCKET": str(firewall.socket), "PATH": "/usr/bin:/bin"}
        return subprocess.run([BIN / name, *words], input=text, capture_output=True, text=True, env=environment, timeout=30)
    return command


def pings(lab: Lab, address: str = SERVER.ipv4) -> bool:
    return lab.run("client", ["ping", "-c", "1", "-W", "1", address]).returncode == 0


def test_rules_change_under_the_traffic(lab: Lab, run: Run) -> None:
    assert pings(lab)
    assert run("pyfw-iptables", "-I", "FORWARD", "-p", "icmp", "-s", CLIENT.ipv4, "-j", "DROP").returncode == 0
    assert not pings(lab)
    assert run("pyfw-iptables", "-D", "FORWARD", "1").returncode == 0
    assert pings(lab)


def test_a_change_keeps_the_counters_of_the_other_rules(lab: Lab, run: Run) -> None:
    assert pings(lab)
    assert run("pyfw-iptables", "-I", "FORWARD", "1", "-p", "udp", "-j", "DROP").returncode == 0
    rows = run("pyfw-iptables", "-L", "FORWARD", "-n", "-v", "--line-numbers").stdout.splitlines()
    assert rows[2].split()[:4] == ["1", "0", "0", "DROP"]
    assert rows[3].split()[:4] == ["2", "2", "168", "ACCEPT"]
    assert pings(lab)
    assert run("pyfw-iptables", "-L", "FORWARD", "2", "-n", "-v").stdout.split()[:2] == ["4", "336"]
    assert run("pyfw-iptables", "-Z", "FORWARD").returncode == 0
    assert run("pyfw-iptables", "-L", "FORWARD", "2", "-n", "-v").stdout.split()[:2] == ["0", "0"]


def test_a_family_has_its_own_view(run: Run) -> None:
    assert run("pyfw-ip6tables", "-P", "FORWARD", "ACCEPT").returncode == 0
    assert run("pyfw-ip6tables", "-A", "FORWARD", "-s", "fd00::/8", "-j", "DROP").returncode == 0
    assert run("pyfw-iptables", "-S", "FORWARD").stdout == "-P FORWARD DROP\n-A FORWARD -p icmp -j ACCEPT\n"
    assert run("pyfw-ip6tables", "-S", "FORWARD").stdout == "-P FORWARD ACCEPT\n-A FORWARD -p icmp -j ACCEPT\n-A FORWARD -s fd00::/8 -j DROP\n"


def test_restore_is_all_or_nothing(lab: Lab, run: Run) -> None:
    saved = run("pyfw-iptables-save", "-t", "filter").stdout
    assert "*filter" in saved
    assert "-A FORWARD -p icmp -j ACCEPT\n" in saved
    broken = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -j ACCEPT\n-A FORWARD -p tcp --dport nonsense -j ACCEPT\nCOMMIT\n"
    refused = run("pyfw-iptables-restore", text=broken)
    assert refused.returncode != 0
    assert "Error occurred at line: 4\n" in refused.stderr
    assert "nonsense" in refused.stderr
    assert run("pyfw-iptables", "-S", "FORWARD").stdout == "-P FORWARD DROP\n-A FORWARD -p icmp -j ACCEPT\n"
    assert pings(lab)
    empty = "*filter\n:FORWARD DROP [7:77]\nCOMMIT\n"
    assert run("pyfw-iptables-restore", "--test", text=empty).returncode == 0
    assert pings(lab)
    assert run("pyfw-iptables-restore", "-c", text=empty).returncode == 0
    assert "Chain FORWARD (policy DROP 7 packets, 77 bytes)" in run("pyfw-iptables", "-L", "FORWARD", "-v").stdout
    assert not pings(lab)
    assert run("pyfw-iptables-restore", "--noflush", text="*filter\n-A FORWARD -p icmp -j ACCEPT\nCOMMIT\n").returncode == 0
    assert pings(lab)
    assert run("pyfw-iptables-restore", text=saved).returncode == 0
    assert run("pyfw-iptables-save", "-t", "filter").stdout.splitlines()[1:-1] == saved.splitlines()[1:-1]


def test_only_what_is_saved_survives_a_reload(lab: Lab, run: Run, tmp_path: Path) -> None:
    for save in (False, True):
        assert run("pyfw-iptables", "-I", "FORWARD", "-p", "icmp", "-j", "DROP").returncode == 0
        assert not pings(lab)
        if save:
            assert run("pyfwctl", "save").returncode == 0
        assert run("pyfwctl", "reload").returncode == 0
        assert pings(lab) is not save
    assert "-A FORWARD -p icmp -j DROP\n-A FORWARD -p icmp -j ACCEPT\n" in (tmp_path / "gateway.rules").read_text()


def test_unsupported_lines_are_refused_or_left_out(run: Run) -> None:
    text = f"*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n{RULES}"
    refused = run("pyfw-iptables-restore", text=text)
    assert refused.returncode != 0
    assert "table nat" in refused.stderr
    taken = run("pyfw-iptables-restore", "--skip-unsupported", text=text)
    assert taken.returncode == 0
    assert "warning: line 1: table nat" in taken.stderr
    nat = run("pyfw-iptables", "-t", "nat", "-S")
    assert nat.returncode == 3
    assert "stays with the kernel" in nat.stderr


def test_without_a_daemon(run: Run, firewall: Firewall) -> None:
    firewall.stop()
    done = run("pyfw-iptables", "-S")
    assert done.returncode == 3
    assert done.stderr.startswith("pyfw-iptables: ")


def test_sets_and_marks_act(lab: Lab, run: Run) -> None:
    assert run("pyfwctl", "set", "create", "bad", "hash:ip", "timeout", "600").returncode == 0
    assert run("pyfw-iptables", "-I", "FORWARD", "-m", "set", "--match-set", "bad", "src", "-j", "DROP").returncode == 0
    assert pings(lab)
    assert run("pyfwctl", "set", "add", "bad", CLIENT.ipv4).returncode == 0
    assert not pings(lab)
    assert run("pyfwctl", "set", "test", "bad", CLIENT.ipv4).returncode == 0
    assert run("pyfwctl", "set", "destroy", "bad").returncode == 1
    assert run("pyfwctl", "set", "del", "bad", CLIENT.ipv4).returncode == 0
    assert pings(lab)
    lab.run("gateway", ["iptables", "-t", "mangle", "-A", "POSTROUTING", "-m", "mark", "--mark", "0x2a"], check=True)
    assert run("pyfw-iptables", "-I", "FORWARD", "-p", "icmp", "-d", SERVER.ipv4, "-j", "MARK", "--set-mark", "42").returncode == 0
    assert pings(lab)
    counted = lab.run("gateway", ["iptables", "-t", "mangle", "-L", "POSTROUTING", "-v", "-n", "-x"]).stdout
    assert [line.split()[0] for line in counted.splitlines() if "mark match 0x2a" in line] == ["1"]


def test_a_ruleset_with_nat_runs_without_it(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "all.rules").write_text(f"*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -j REDIRECT --to-ports 80\nCOMMIT\n{RULES}")
    (tmp_path / "nat.yaml").write_text("hooks: [FORWARD]\nrules: {file: all.rules}\n")
    firewall = Firewall(lab, tmp_path / "nat.yaml", tmp_path)
    with pytest.raises(LabError, match="table nat: translating addresses stays with the kernel"):
        firewall.start()
    firewall.argv.append("--skip-unsupported")
    with firewall:
        assert pings(lab)
    assert "warning: " in firewall.log.read_text()
    assert "this table is left out" in firewall.log.read_text()


def test_a_text_that_names_what_is_not_there(run: Run) -> None:
    text = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m set --match-set none src -j DROP\n-A FORWARD -p icmp -j ACCEPT\nCOMMIT\n"
    refused = run("pyfw-iptables-restore", text=text)
    assert refused.returncode == 4
    assert "none" in refused.stderr
    taken = run("pyfw-iptables-restore", "--skip-unsupported", text=text)
    assert taken.returncode == 0
    assert "without it more packets may pass" in taken.stderr
    assert "line:3:" in taken.stderr
    assert run("pyfw-iptables", "-S", "FORWARD").stdout == "-P FORWARD DROP\n-A FORWARD -p icmp -j ACCEPT\n"


def test_each_family_makes_and_deletes_its_chain(run: Run) -> None:
    for name in ("pyfw-iptables", "pyfw-ip6tables"):
        assert run(name, "-N", "f2b").returncode == 0
        assert run(name, "-A", "f2b", "-j", "RETURN").returncode == 0
        assert run(name, "-I", "FORWARD", "-j", "f2b").returncode == 0
    for name in ("pyfw-iptables", "pyfw-ip6tables"):
        assert run(name, "-D", "FORWARD", "-j", "f2b").returncode == 0
        assert run(name, "-F", "f2b").returncode == 0
        assert run(name, "-X", "f2b").returncode == 0
    assert run("pyfw-iptables", "-S", "f2b").returncode == 1
