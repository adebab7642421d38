"""Rules and connections in step, live: sessions that new rules end, rules that only audit, and rules that are only tried."""
from __future__ import annotations

import json
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from firewall import Firewall
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

PORT = 5001
KNOWN = "-m state --state ESTABLISHED -j ACCEPT"
SSH = "-p tcp -m tcp --dport 22 -m state --state NEW -j ACCEPT"
OTHER = f"-p tcp -m tcp --dport {PORT} -m state --state NEW -j ACCEPT"
ANSWER_S = 10.0
KILLED = "pyfwctl: {} flow entries have been deleted, which these rules would not have accepted.\n"


class Ssh:
    """A session whose far end repeats every line."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        key, host_key, config = directory / "key", directory / "host_key", directory / "sshd.conf"
        for path in (key, host_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, stdin=subprocess.DEVNULL)
        config.write_text(f"HostKey {host_key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
                          "PermitRootLogin yes\n")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.server = lab.start("server", ["/usr/sbin/sshd", "-D", "-f", config], stderr=subprocess.DEVNULL)
        lab.wait_listening("server", 22)
        self.client = lab.start("client", [
            "ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
            "-o", "UserKnownHostsFile=/dev/null", f"root@{SERVER.ipv4}", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(self, text: str) -> None:
        self.client.stdin.write(f"{text}\n")
        self.client.stdin.flush()

    def answers(self, text: str) -> bool:
        self.say(text)
        return bool(select.select([self.client.stdout], [], [], ANSWER_S)[0]) and self.client.stdout.readline() == f"{text}\n"

    def has_answered(self) -> bool:
        return bool(select.select([self.client.stdout], [], [], 0)[0])


class Echo:
    """A TCP connection over IPv6 whose far end repeats every byte."""

    def __init__(self, lab: Lab) -> None:
        with lab.inside("server"):
            self.listener = socket.create_server((SERVER.ipv6, PORT), family=socket.AF_INET6)
        with lab.inside("client"):
            self.client = socket.socket(socket.AF_INET6)
        self.client.settimeout(ANSWER_S)
        threading.Thread(target=self.repeat, daemon=True).start()
        self.client.connect((SERVER.ipv6, PORT))

    def repeat(self) -> None:
        with suppress(OSError):
            self.far, _ = self.listener.accept()
            while data := self.far.recv(100):
                self.far.sendall(data)

    def answers(self, text: str) -> bool:
        self.client.sendall(text.encode())
        return self.client.recv(100) == text.encode()

    def close(self) -> None:
        for end in (self.client, self.far, self.listener):
            end.close()


class Gateway(Firewall):
    """A firewall whose rules can be rewritten."""

    def __init__(self, lab: Lab, directory: Path, *arguments: str) -> None:
        self.config = directory / "pyfw.yaml"
        super().__init__(lab, self.config, directory)
        self.argv += arguments

    def write(self, *rules: str | dict, **policy: object) -> None:
        self.config.write_text(json.dumps({"hooks": ["FORWARD"], "policy": policy, "rules": {
            "filter": {"FORWARD": {"policy": "DROP", "rules": list(rules)}}}}))

    def ports(self) -> set[str]:
        """The destination ports of the connections."""
        return {re.search(r"dport=(\d+)", line)[1] for line in self.connections("-o", "nf")}


@pytest.fixture
def gateway(lab: Lab, tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(lab, tmp_path)
    yield gateway
    assert gateway.stop() in (0, None)
    assert "Traceback" not in gateway.log.read_text()


@pytest.fixture
def sessions(lab: Lab, gateway: Gateway, tmp_path: Path) -> Iterator[tuple[Ssh, Echo]]:
    """One of ssh and one other, both under way."""
    gateway.write(KNOWN, SSH, OTHER)
    gateway.start()
    ssh, echo = Ssh(lab, tmp_path), Echo(lab)
    assert ssh.answers("one")
    assert echo.answers("one")
    yield ssh, echo
    echo.close()


# -- new rules end connections ------------------------------------------------------------------------------------------------

def test_a_reload_ends_exactly_the_session_whose_rule_is_gone(gateway: Gateway, sessions: tuple[Ssh, Echo]) -> None:
    ssh, echo = sessions
    gateway.write(KNOWN, OTHER)
    done = gateway.ctl("reload", check=True)
    assert (done.stdout, done.stderr) == ("", "pyfwctl: 2 rules loaded\n")
    # the control: without being told so, a reload ends nothing
    assert ssh.answers("two")
    assert echo.answers("two")
    [before] = gateway.connections("-o", "nf", "-p", "tcp", "--dport", "22")
    done = gateway.ctl("reload", "--kill-states", check=True)
    assert re.sub(r"\d+ ESTABLISHED", "", done.stdout) == re.sub(r"\d+ ESTABLISHED", "", before) + "\n"
    assert done.stderr == "pyfwctl: 2 rules loaded\n" + KILLED.format(1)
    assert gateway.ports() == {str(PORT)}
    ssh.say("three")
    wait_until(lambda: gateway.rule_packets()["-P FORWARD DROP"] > 0, "the session's next packet to be dropped")
    assert not ssh.has_answered()
    assert echo.answers("three")
    assert gateway.ports() == {str(PORT)}
    assert gateway.ctl("reload", "--kill-states").stderr == "pyfwctl: 2 rules loaded\n" + KILLED.format(0)


def test_the_config_can_say_so_for_every_reload_and_restart(gateway: Gateway, sessions: tuple[Ssh, Echo]) -> None:
    gateway.write(KNOWN, OTHER, kill_states=True)
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "1 flow entries have been deleted" in gateway.log.read_text(), "the reload")
    assert gateway.ports() == {str(PORT)}
    gateway.write(KNOWN, SSH, kill_states=True)
    gateway.stop()
    gateway.start()
    assert gateway.log.read_text().count("1 flow entries have been deleted") == 2
    assert gateway.ports() == set()


def test_a_bad_config_ends_nothing(gateway: Gateway, sessions: tuple[Ssh, Echo]) -> None:
    gateway.write(KNOWN, "-p tcp --dport 70000 -j ACCEPT")
    assert gateway.ctl("reload", "--kill-states").returncode == 1
    assert gateway.ports() == {"22", str(PORT)}


# -- rules that are tried ---------------------------------------------------------------------------------------------------------

def test_a_shadow_tells_what_it_would_have_ended_and_ends_nothing(gateway: Gateway, tmp_path: Path, lab: Lab) -> None:
    shadow = tmp_path / "next.rules"
    shadow.write_text(f"*filter\n:FORWARD DROP\n-A FORWARD {KNOWN}\n-A FORWARD -p tcp -m tcp --dport 22 -j LOG --log-prefix 'ssh: '\n"
                      f"-A FORWARD {OTHER}\nCOMMIT\n")
    gateway.argv += ["--shadow", shadow]
    gateway.write(KNOWN, SSH, OTHER)
    gateway.start()
    assert gateway.ctl("shadow").stderr == "pyfwctl: 0 of 0 packets judged otherwise\n"
    ssh, echo = Ssh(lab, tmp_path), Echo(lab)
    assert ssh.answers("one")
    assert echo.answers("one")
    done = gateway.ctl("shadow", "diff", check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "1 packet, 60 bytes: ACCEPT, the shadow DROP"
    assert lines[1].split(None, 2) == ["real", "filter:FORWARD:rule:2", f"-A FORWARD {SSH}"]
    assert lines[2].split(None, 2) == ["shadow", "filter:FORWARD:policy:4", "-P FORWARD DROP"]
    assert re.fullmatch(rf"  such as {CLIENT.ipv4}:\d+ > {SERVER.ipv4}:22 tcp S; 60 bytes, at FORWARD, in eth1, out eth0, state NEW",
                        lines[3])
    assert len(lines) == 4
    assert re.fullmatch(r"pyfwctl: 1 of \d\d+ packets judged otherwise\n", done.stderr)
    rules = gateway.ctl("shadow", "rules", "FORWARD", check=True).stdout.splitlines()
    assert rules[0].startswith("-P FORWARD DROP -c 1 60")
    assert " -c 1 60 -j LOG" in rules[2]
    assert "-c 1 80 -j ACCEPT" in rules[3]
    wait_until(lambda: "SHADOW: ssh: IN=eth1 OUT=eth0" in gateway.log.read_text(), "the shadow's log line")
    gateway.ctl("shadow", "reset", check=True)
    assert gateway.ctl("shadow", "diff").returncode == 1
    echo.close()


def test_a_reload_reads_the_shadow_again_or_keeps_the_old_one(gateway: Gateway, tmp_path: Path, lab: Lab) -> None:
    ping = ["ping", "-c", "1", "-W", "1", SERVER.ipv4]
    shadow = tmp_path / "next.yaml"
    shadow.write_text("variables: {LAN: eth1}\n"
                      "rules: {filter: {FORWARD: {policy: DROP, rules: [{in: $LAN, proto: icmp, jump: ACCEPT}]}}}\n")
    gateway.write("-p icmp -j ACCEPT", shadow="next.yaml")
    gateway.start()
    assert lab.run("client", ping).returncode == 0
    [reply] = json.loads(f"[{gateway.ctl('shadow', 'diff', '--json').stdout}]")
    assert (reply["packets"], reply["example"]["summary"].split(" id ")[0]) == (1, f"{SERVER.ipv4} > {CLIENT.ipv4} icmp echo reply")
    shadow.write_text("rules: {filter: {FORWARD: {rules: [{jump: nowhere}]}}}\n")
    refused = gateway.ctl("reload")
    assert refused.returncode == 1
    assert f"{shadow}:1:43: there is no target or chain 'nowhere'" in refused.stderr
    assert gateway.ctl("shadow", "rules", "FORWARD").stdout.startswith("-P FORWARD DROP -c 1 84")
    gateway.write("-p icmp -j ACCEPT")
    gateway.ctl("reload", check=True)
    assert "there is no shadow ruleset" in gateway.ctl("shadow").stderr
    assert lab.run("client", ping).returncode == 0


@pytest.mark.parametrize(("text", "reason"), [
    (None, "{shadow}: cannot read the config file: No such file or directory"),
    ("rules: {filter: {FORWARD: {rules: [{jump: nowhere}]}}}\n", "{shadow}:1:43: there is no target or chain 'nowhere'")])
def test_a_shadow_that_cannot_be_read_ends_no_start(gateway: Gateway, tmp_path: Path, lab: Lab, text: str | None, reason: str) -> None:
    shadow = tmp_path / "next.yaml"
    if text is not None:
        shadow.write_text(text)
    gateway.write("-p icmp -j ACCEPT", shadow="next.yaml")
    gateway.start()
    assert lab.run("client", ["ping", "-c", "1", "-W", "1", SERVER.ipv4]).returncode == 0
    degraded = json.loads(gateway.ctl("stats", "--json", check=True).stdout)["degraded"]
    assert degraded.keys() == {"policy.shadow"}
    assert degraded["policy.shadow"].startswith(reason.format(shadow=shadow))
    assert degraded["policy.shadow"] in gateway.ctl("ping", check=True).stderr
    shadow.write_text("rules: {filter: {FORWARD: {policy: DROP}}}\n")
    gateway.ctl("reload", check=True)
    assert gateway.ctl("shadow", "rules", "FORWARD", check=True).stdout.startswith("-P FORWARD DROP")
    assert gateway.ctl("ping", check=True).stderr == ""


def test_a_rule_that_only_audits_counts_and_logs_and_lets_pass(gateway: Gateway, lab: Lab) -> None:
    ping = ["ping", "-c", "1", "-W", "1", SERVER.ipv4]
    gateway.write({"proto": "icmp", "jump": "DROP", "audit": True}, "-p icmp -j ACCEPT")
    gateway.start()
    assert lab.run("client", ping).returncode == 0
    assert gateway.rule_packets()["# audit: -A FORWARD -p icmp -j DROP"] == 2
    wait_until(lambda: gateway.log.read_text().count("AUDIT: filter:FORWARD:rule:1 IN=eth") == 2, "the log")
    saved = gateway.ctl("save", str(gateway.config.with_name("saved.rules")))
    assert saved.returncode == 0
    assert "# audit: -A FORWARD -p icmp -j DROP" in gateway.config.with_name("saved.rules").read_text()
    gateway.write({"proto": "icmp", "jump": "DROP", "audit": False}, "-p icmp -j ACCEPT")
    gateway.ctl("reload", check=True)
    assert lab.run("client", ping).returncode == 1
