"""pyfw as a service of a booted Debian: it judges, is reloaded, comes back, and obeys only who may command it."""
from __future__ import annotations

import json
import re
import subprocess

import pytest

from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, wait_until
from service.container import RULES, Container, connects, edit

PORT = 8080
LISTEN = f"import socket; s = socket.create_server(('', {PORT})); [s.accept()[0].close() for _ in iter(int, 1)]"
MOST_EXPOSURE = 1.8


@pytest.fixture(scope="module")
def listener(guarding: Container) -> None:
    """Whoever connects to PORT gets through to somebody, if pyfw lets it."""
    guarding.start("python3", "-c", LISTEN)
    guarding.lab.wait_listening("gateway", PORT)


def pings(container: Container, address: str) -> bool:
    return container.lab.run("client", ["ping", "-c1", "-W2", address]).returncode == 0


def counted(container: Container, rule: str) -> int:
    """Packets that a rule has decided about."""
    container.run("pyfwctl", "ping", check=True)
    listing = container.run("pyfwctl", "list-rules", "-v", check=True).stdout
    [line] = [line for line in listing.splitlines() if rule in line]
    return int(re.search(r" -c (\d+) ", line)[1])


def test_what_comes_in_is_judged(guarding: Container, listener: None) -> None:
    pinged, logged = counted(guarding, "--icmp-type 8"), counted(guarding, "-j LOG")
    assert pings(guarding, GATEWAY_INSIDE.ipv4)
    assert counted(guarding, "--icmp-type 8") == pinged + 1
    assert connects(guarding, 22)
    assert not connects(guarding, PORT)
    assert counted(guarding, "-j LOG") > logged
    assert re.search(rf"pyfw input: IN=eth1 .*SRC={CLIENT.ipv4} .*DPT={PORT} ", guarding.journal("pyfw"))
    [about] = {json.dumps({name: entry[name] for name in ("PRIORITY", "PYFW_HOOK", "PYFW_IN")}) for entry in map(
        json.loads, guarding.journal("pyfw", "--output=json", "PYFW_IN=eth1").splitlines())}
    assert json.loads(about) == {"PRIORITY": "4", "PYFW_HOOK": "INPUT", "PYFW_IN": "eth1"}
    assert "PYFW_RULE=filter:INPUT:rule:" in guarding.journal("pyfw", "--output=export", "PYFW_IN=eth1")
    assert pings(guarding, SERVER.ipv4)         # forwarded: this config does not divert that


def test_a_reload_lets_other_rules_serve(guarding: Container, listener: None) -> None:
    assert not connects(guarding, PORT)
    edit(guarding, "--dport 22 ", f"--dport {PORT} ")
    assert guarding.run("systemctl", "reload", "pyfw").returncode == 0
    assert connects(guarding, PORT)
    assert not connects(guarding, 22)
    edit(guarding, f"--dport {PORT} ", "--dport 22 ")
    assert guarding.run("systemctl", "reload", "pyfw").returncode == 0
    assert connects(guarding, 22)


def test_a_bad_reload_fails_and_says_why_and_the_old_rules_serve(guarding: Container, listener: None) -> None:
    pid = guarding.property("pyfw", "MainPID")
    edit(guarding, "--dport 22 ", "--dport 70000 ")
    try:
        assert guarding.run("systemctl", "reload", "pyfw").returncode != 0
    finally:
        edit(guarding, "--dport 70000 ", "--dport 22 ")
    assert re.search(rf"^pyfwctl: {RULES}:\d+:\d+: .*port 70000 is out of range: 0 to 65535; the old rules stay in force$",
                     guarding.journal("pyfw"), re.MULTILINE)
    assert guarding.run("systemctl", "is-active", "pyfw").stdout == "active\n"
    assert guarding.property("pyfw", "MainPID") == pid
    assert connects(guarding, 22)
    assert not connects(guarding, PORT)


def test_the_rules_are_saved_where_the_config_reads_them(guarding: Container) -> None:
    guarding.run("pyfw-iptables", "-I", "INPUT", "-s", "203.0.113.9", "-j", "DROP", check=True)
    guarding.run("pyfwctl", "save", check=True)
    assert "-A INPUT -s 203.0.113.9/32 -j DROP\n" in guarding.run("cat", RULES).stdout
    guarding.run("pyfw-iptables", "-D", "INPUT", "-s", "203.0.113.9", "-j", "DROP", check=True)
    guarding.run("pyfwctl", "save", check=True)
    assert "203.0.113.9" not in guarding.run("cat", RULES).stdout


def test_a_daemon_that_is_killed_comes_back_with_its_connections(guarding: Container, listener: None) -> None:
    hold = f"import socket; s = socket.create_connection(('{GATEWAY_INSIDE.ipv4}', 22)); print(s.getsockname()[1], flush=True); input()"
    holder = guarding.lab.start("client", ["python3", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held = ("list-conntrack", "--state", "ESTABLISHED", "--sport", holder.stdout.readline().strip())
    guarding.run("pyfwctl", "ping", check=True)
    guarding.run("pyfwctl", *held, check=True)
    pid, restarts = guarding.property("pyfw", "MainPID"), int(guarding.property("pyfw", "NRestarts"))
    guarding.run("kill", "-KILL", pid, check=True)
    wait_until(lambda: guarding.property("pyfw", "ActiveState") == "active"
               and guarding.property("pyfw", "MainPID") not in (pid, "0"), "the successor")
    assert int(guarding.property("pyfw", "NRestarts")) == restarts + 1
    guarding.run("pyfwctl", *held, check=True)
    guarding.lab.stop(holder)
    assert connects(guarding, 22)
    assert not connects(guarding, PORT)


def test_its_unit_and_the_pages_that_it_names_are_in_order(guarding: Container) -> None:
    done = guarding.run("systemd-analyze", "verify", "pyfw.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_may_do_little_besides(guarding: Container) -> None:
    report = guarding.run("systemd-analyze", "security", "--no-pager", "pyfw.service").stdout
    [exposure] = re.findall(r"Overall exposure level for pyfw.service: ([\d.]+)", report)
    assert float(exposure) <= MOST_EXPOSURE, report
    [other] = re.findall(r"exposure level for ssh.service: ([\d.]+)",
                         guarding.run("systemd-analyze", "security", "--no-pager", "ssh.service").stdout)
    assert float(other) > MOST_EXPOSURE         # what a service has that nobody has hardened


def test_only_members_of_the_group_may_look_and_only_root_may_change(guarding: Container) -> None:
    guarding.run("useradd", "outsider", check=True)
    guarding.run("useradd", "--groups", "pyfw", "member", check=True)

    def as_user(user: str, *argv: str) -> tuple[int, str]:
        done = guarding.run("runuser", "-u", user, "--", "pyfwctl", *argv)
        return done.returncode, done.stderr

    assert as_user("root", "list-conntrack") == (0, "")
    assert as_user("member", "list-conntrack") == (0, "")
    assert as_user("member", "list-rules") == (0, "")
    status, complaint = as_user("outsider", "list-conntrack")
    assert status == 1
    assert "permission denied" in complaint
    for command in (["delete", "-p", "tcp"], ["flush"], ["reload"], ["set", "create", "mine", "hash:ip"]):
        assert as_user("member", *command) == (1, f"pyfwctl: only root may {command[0]}; members of group pyfw may read\n")
    refused = json.loads(guarding.run("pyfwctl", "stats", "--json").stdout)["control"]["refusals"]
    assert refused["permission"] >= 4
