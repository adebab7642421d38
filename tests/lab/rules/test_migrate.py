"""`pyfw migrate` on rules that the kernel has, of iptables' own and of ufw's: what it writes is a config, and what runs stays."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.rules.kernel import Kernel
from pyfw.config.schema import load_config
from pyfw.rules.language.printing import print_ruleset

IPV4 = """*nat
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080
COMMIT
*raw
-A PREROUTING -p udp -m udp --dport 53 -j NOTRACK
COMMIT
*filter
:INPUT DROP
:wardens -
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j wardens
-A INPUT -m u32 --u32 0x0=0x0 -j DROP
-A wardens -m set --match-set trusted src -m comment --comment "the wardens' own" -j ACCEPT
COMMIT
"""
IPV6 = "*filter\n:INPUT DROP\n:FORWARD DROP\n-A INPUT -p ipv6-icmp -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Kernel() as kernel:
        yield kernel


def migrate(kernel: Kernel, source: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """What runs is the same before and after."""
    before = running_rules(kernel)
    done = subprocess.run(["ip", "netns", "exec", kernel.name, sys.executable, "-m", "pyfw", "migrate", source, directory],
                          capture_output=True, text=True)
    assert running_rules(kernel) == before
    return done


def running_rules(kernel: Kernel) -> list[str]:
    return [line for program in ("iptables-save", "ip6tables-save") for line in kernel.run(program).splitlines()
            if not line.startswith("#")]


def test_iptables_rules_become_a_config(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run("ipset", "restore", text="create trusted hash:net\nadd trusted 192.0.2.0/24\n")
    kernel.run("iptables-restore", text=IPV4)
    kernel.run("ip6tables-restore", text=IPV6)
    directory = tmp_path / "new"
    done = migrate(kernel, "iptables", directory)
    assert (done.returncode, done.stderr) == (1, "")
    saved = (directory / "ipv4.saved").read_text().splitlines()
    number = next(number for number, line in enumerate(saved, 1) if "--u32" in line)
    assert done.stdout.splitlines() == [
        f"{directory}/ipv4.saved: table nat stays with the kernel, and goes on there: 1 rules",
        f"{directory}/ipv4.saved:{number}: {saved[number - 1]}: there is no match 'u32' in pyfw; left out, which loosens: "
        "the rules after it decide about what it refused",
        f"pyfw: {directory}/pyfw.yaml: 6 rules; 1 left out",
        f"pyfw: what runs is as it was, and judges beside pyfw until you stop it; next: pyfw check -c {directory}/pyfw.yaml"]
    config = load_config(directory / "pyfw.yaml")
    assert (config.hooks, config.adopt, len(config.sets)) == (("INPUT", "FORWARD", "OUTPUT"), "kernel", 1)
    assert config.rules.table("filter").chain("FORWARD").policy_of(6) == "DROP"
    text = print_ruleset(config.rules)
    for line in saved:
        assert not line.startswith("-A ") or "--u32" in line or "REDIRECT" in line or line in text
    assert "-6 -A INPUT -p ipv6-icmp -j ACCEPT\n" in text
    # The control: a second time there is something in the way, and it stays.
    done = migrate(kernel, "iptables", directory)
    assert (done.returncode, done.stderr) == (2, f"pyfw: {directory}: File exists\n")


@pytest.fixture
def ufw(kernel: Kernel, tmp_path: Path) -> str:
    """A command line that runs a ufw whose files are this test's own."""
    own = tmp_path / "etc-ufw"
    subprocess.run(["cp", "-a", "/etc/ufw", own], check=True)
    return f"mount --bind {own} /etc/ufw && ufw"


def test_ufws_rules_become_a_config(kernel: Kernel, ufw: str, tmp_path: Path) -> None:
    done = migrate(kernel, "ufw", tmp_path / "new")
    assert (done.returncode, done.stderr) == (1, "pyfw: ufw's chains are not there: start it (`ufw enable`), or have "
                                                 "`migrate iptables` read what runs\n")
    for command in ("allow 22/tcp", "limit from 192.0.2.0/24 to any port 80 proto tcp", "--force enable"):
        kernel.run("unshare", "--mount", "sh", "-c", f"{ufw} {command}")
    kernel.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "2222", "-j", "ACCEPT")     # nobody told ufw
    done = migrate(kernel, "ufw", tmp_path / "new")
    assert done.stderr == ""
    assert done.returncode == 1
    *left_out, summary, _ = done.stdout.splitlines()
    assert "rules, those of ufw's chains, and the chains' policies; of /etc/ufw nothing is read; " in summary
    assert [line for line in left_out if "--dport 2222 -j ACCEPT: it is another program's; left out, which tightens" in line]
    rules = print_ruleset(load_config(tmp_path / "new/pyfw.yaml").rules)
    assert ":INPUT DROP" in rules
    assert "-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT" in rules
    assert "2222" not in rules
    assert "-A ufw6-user-input" in rules
