"""The daemon's life: start, refusals to start, reload, crash and restart, stop."""
from __future__ import annotations

import fcntl
import grp
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from kit.control import as_user
from pyfw.cli.pyfwctl.client import Refused, ask
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

ALLOW_PING = "-p icmp -j ACCEPT"
ALLOW_NEW_TCP = "-p tcp --dport 5001 --syn -m state --state NEW -j ACCEPT"
ALLOW_KNOWN = "-m state --state ESTABLISHED,RELATED -j ACCEPT"


def ping_passes(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c", "1", "-W", "1", SERVER.ipv4]).returncode == 0


def send_udp(lab: Lab, count: int) -> None:
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(count):
            sender.sendto(b"x", (SERVER.ipv4, 9))


def diversion(lab: Lab, role: str = "gateway") -> list[str]:
    """Whatever of pyfw is in the kernel's rules there."""
    return [line for program in ("iptables-save", "ip6tables-save")
            for line in lab.run(role, [program]).stdout.splitlines()
            if "PYFW" in line or "NFQUEUE" in line]


def pyfw(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "pyfw", *map(str, arguments)], capture_output=True, text=True, timeout=30, **options)


def run_to_its_end(lab: Lab, config: Path, *arguments: object, role: str = "gateway") -> tuple[int, str]:
    """A daemon that is expected not to start: its exit status and what it said."""
    done = pyfw("run", "-c", config, "--netns", lab.namespace(role), *arguments)
    assert done.stdout == ""
    return done.returncode, done.stderr


def config_of(firewall: Firewall) -> Path:
    return Path(firewall.argv[firewall.argv.index("-c") + 1])


# -- start and stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_guards_from_start_to_stop_and_leaves_nothing(lab: Lab, guard: Guard, number: int):
    assert ping_passes(lab)
    firewall = guard(FORWARD=[])
    assert diversion(lab)
    assert not ping_passes(lab)
    firewall.process.send_signal(number)
    assert firewall.process.wait(10) == 0
    assert diversion(lab) == []
    assert not firewall.socket.exists()
    assert ping_passes(lab)


def test_without_divert_the_kernels_rules_are_left_alone(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[])
    firewall.stop()
    firewall.argv.append("--no-divert")
    firewall.start()
    assert diversion(lab) == []
    assert ping_passes(lab)
    lab.run("gateway", ["iptables", "-A", "FORWARD", "-p", "icmp", "-j", "NFQUEUE", "--queue-num", "0"], check=True)
    try:
        assert not ping_passes(lab)
    finally:
        lab.run("gateway", ["iptables", "-F", "FORWARD"], check=True)


@pytest.mark.parametrize(("when_down", "passes"), [("drop", False), ("accept", True)])
def test_after_a_crash_the_kernel_does_what_when_down_says(lab: Lab, guard: Guard, when_down: str, passes: bool):
    firewall = guard(FORWARD=[])
    firewall.stop()
    firewall.argv += ["--set", f"queue.when_down={when_down}"]
    firewall.start()
    assert not ping_passes(lab)
    firewall.kill()
    assert ping_passes(lab) == passes
    firewall.start()
    assert not ping_passes(lab)


# -- refusals to start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "message"), [
    ("hooks: [FORWARD]\nqueue: {nummer: 1}", "{path}:2:9: unknown key 'nummer' in queue, did you mean 'number'?"),
    ("conntrack: {timeouts: {udp: soon}}",
     "{path}:1:29: conntrack.timeouts.udp must be a duration such as 30s, 2m, 1h, 5d or plain seconds, not 'soon'"),
    ("queue: {number: 70000}", "{path}:1:17: queue.number must be from 0 to 65535, not 70000"),
    ("queue: [", "{path}:1:9: not valid YAML: while parsing a flow node expected the node content, "
                 "but found '<stream end>'"),
])
def test_a_bad_config_is_named_by_run_and_check_alike_and_installs_nothing(lab: Lab, tmp_path: Path, config: str,
                                                                           message: str):
    path = tmp_path / "pyfw.yaml"
    path.write_text(config)
    expected = f"pyfw: {message.format(path=path)}\n"
    assert run_to_its_end(lab, path) == (2, expected)
    checked = pyfw("check", "-c", path)
    assert (checked.returncode, checked.stderr) == (2, expected)
    assert diversion(lab) == []


@pytest.mark.parametrize("rules", [
    "filter: {FORWARD: {rules: [{jump: nowhere}]}}",
    "filter: {FORWARD: {rules: [{jump: a}]}, a: {rules: [{jump: b}]}, b: {rules: [{jump: a}]}}",
    "filter: {FORWARD: {rules: [{proto: tcp, dport: 70000, jump: DROP}]}}",
    "filter: {FORWARD: {rules: [{src: 10.0.0.0/33, jump: DROP}]}}",
    "filter: {FORWARD: {rules: ['-s $LAN -j DROP']}}",
    "filter: {FORWARD: {policy: DROP}, FORWARD: {policy: ACCEPT}}",
    "filter: {FORWARD: {policy: MAYBE}}",
])
def test_bad_rules_are_named_with_their_place(lab: Lab, tmp_path: Path, rules: str):
    path = tmp_path / "pyfw.yaml"
    path.write_text(f"hooks: [FORWARD]\nrules:\n  {rules}\n")
    status, text = run_to_its_end(lab, path)
    assert status == 2
    assert re.fullmatch(rf"pyfw: {re.escape(str(path))}:3:\d+: .+\n", text)
    assert pyfw("check", "-c", path).stderr == text
    assert diversion(lab) == []


def test_a_second_daemon_on_the_same_queue_says_so(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=[ALLOW_PING])
    status, text = run_to_its_end(lab, config_of(firewall), "--socket", tmp_path / "other.sock",
                                  "--set", f"state.dir={tmp_path / 'other'}")
    assert status == 1
    assert re.fullmatch(r"pyfw: NFQUEUE 0 .*belongs to another program.*\n", text)
    assert ping_passes(lab), "the first one goes on"


def test_a_second_daemon_in_the_same_state_directory_says_so(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=[ALLOW_PING])
    state = tmp_path / "0" / "state"
    status, text = run_to_its_end(lab, config_of(firewall), "--socket", tmp_path / "other.sock",
                                  "--set", f"state.dir={state}", role="server")
    assert status == 1
    assert text.count("\n") == 1
    assert str(state) in text
    assert str(firewall.process.pid) in text
    assert diversion(lab, "server") == []
    assert ping_passes(lab)


def test_a_second_daemon_on_the_same_socket_says_so(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=[ALLOW_PING])
    status, text = run_to_its_end(lab, config_of(firewall), "--socket", firewall.socket,
                                  "--set", f"state.dir={tmp_path / 'other'}", role="server")
    assert (status, text) == (1, f"pyfw: {firewall.socket}: a running daemon listens here\n")
    assert diversion(lab, "server") == []
    assert firewall.ctl("count").returncode == 0


def test_daemons_in_different_namespaces_live_side_by_side(lab: Lab, guard: Guard):
    on_gateway, on_server = guard(FORWARD=[ALLOW_PING]), guard(role="server", INPUT=[])
    assert not ping_passes(lab)
    assert [len(firewall.connections()) for firewall in (on_gateway, on_server)] == [1, 0]


def test_a_namespace_that_is_not_there(tmp_path: Path):
    path = tmp_path / "pyfw.yaml"
    path.write_text("hooks: [FORWARD]")
    done = pyfw("run", "-c", path, "--netns", "pyfw-no-such")
    assert done.returncode == 1
    assert re.fullmatch(r"pyfw: there is no network namespace 'pyfw-no-such' .*`ip netns add pyfw-no-such`\n",
                        done.stderr)


AS_NOBODY = """
import os, sys
# Loaded now: nobody may not be allowed to where the interpreter's files are.
import pyfw.cli.pyfw.check, pyfw.cli.pyfw.run, pyfw.daemon.start, pyfw.rules.language.yaml_rules
from pyfw.cli.pyfw.main import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main())
"""


@pytest.mark.parametrize(("command", "status", "text"), [
    ("run", 1, "pyfw: CAP_NET_ADMIN is needed to take packets from the kernel: run as root (sudo), "
               "or give the service that capability\n"),
    ("check", 0, ""),
])
def test_without_root_it_says_to_use_sudo(command: str, status: int, text: str):
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        path = Path(directory) / "pyfw.yaml"
        path.write_text("hooks: [FORWARD]")
        Path(directory).chmod(0o755)
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, command, "-c", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, text)


# -- reload --------------------------------------------------------------------------------------------------


def reload_by_command(firewall: Firewall) -> str:
    done = firewall.ctl("reload")
    return f"{done.returncode} {done.stderr}"


def reload_by_signal(firewall: Firewall) -> str:
    before = len(firewall.log.read_text())
    firewall.process.send_signal(signal.SIGHUP)
    wait_until(lambda: firewall.log.read_text()[before:].endswith("\n"), "a word about the reload")
    text = firewall.log.read_text()[before:]
    return f"{1 if 'stay in force' in text else 0} {text}"


@pytest.mark.parametrize("reload", [reload_by_command, reload_by_signal])
def test_a_reload_changes_the_rules_and_a_bad_one_changes_nothing(lab: Lab, guard: Guard, reload):
    firewall = guard(FORWARD=[])
    config = config_of(firewall)
    denying = config.read_text()
    assert not ping_passes(lab)

    config.write_text(denying.replace('"rules": []', f'"rules": ["{ALLOW_PING}"]'))
    assert reload(firewall).startswith("0 ")
    assert ping_passes(lab)

    config.write_text(denying.replace('"rules": []', '"rules": [{"jump": "nowhere"}]'))
    outcome = reload(firewall)
    assert outcome.startswith("1 ")
    assert re.search(rf"{re.escape(str(config))}:\d+:\d+: .*nowhere.*; the old rules stay in force", outcome)
    assert ping_passes(lab)


def test_a_reload_names_what_only_a_restart_changes(guard: Guard):
    firewall = guard(FORWARD=[])
    config = config_of(firewall)
    config.write_text(config.read_text().replace('"hooks"', '"queue": {"length": 10}, "hooks"'))
    assert "read only at start: queue.length" in firewall.ctl("reload").stderr


def test_connections_outlive_a_reload(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[ALLOW_PING])
    assert ping_passes(lab)
    before = firewall.connections()
    assert firewall.ctl("reload").returncode == 0
    assert len(before) == 1
    assert len(firewall.connections()) == 1


# -- crash and restart under traffic -------------------------------------------------------------------------


class Transfer(threading.Thread):
    """One TCP stream from the server to the client, PIECES pieces, one every PAUSE_S."""

    PIECES, PIECE, PAUSE_S, PORT = 60, b"x" * 65536, 0.02, 5001

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        with lab.inside("server"):
            self.listener = socket.create_server((SERVER.ipv4, self.PORT))
        with lab.inside("client"):
            self.client = socket.socket()
        self.client.settimeout(10)
        self.client.connect((SERVER.ipv4, self.PORT))
        self.sender, _ = self.listener.accept()
        self.received = 0

    def send(self) -> None:
        with suppress(OSError):         # the test is over
            for _ in range(self.PIECES):
                self.sender.sendall(self.PIECE)
                time.sleep(self.PAUSE_S)
            self.sender.shutdown(socket.SHUT_WR)

    def run(self) -> None:
        threading.Thread(target=self.send, daemon=True).start()
        with suppress(OSError):         # it stalled, or the test is over
            while data := self.client.recv(1 << 20):
                self.received += len(data)

    @property
    def complete(self) -> bool:
        return self.received == self.PIECES * len(self.PIECE)

    def close(self) -> None:
        for end in (self.client, self.sender, self.listener):
            end.close()


@contextmanager
def transfer(lab: Lab) -> Iterator[Transfer]:
    running = Transfer(lab)
    running.start()
    wait_until(lambda: running.received > 5 * len(Transfer.PIECE), "the transfer to get going")
    try:
        yield running
    finally:
        running.close()


def strict_guard(guard: Guard) -> Firewall:
    """One that does not take up connections which its table does not know."""
    firewall = guard(FORWARD=[ALLOW_KNOWN, ALLOW_NEW_TCP])
    firewall.stop()
    firewall.argv += ["--set", "conntrack.tcp.loose=false"]
    firewall.start()
    return firewall


def test_a_transfer_outlives_kill_and_restart(lab: Lab, guard: Guard):
    firewall = strict_guard(guard)
    with transfer(lab) as running:
        firewall.kill()
        assert not running.complete
        firewall.start()
        running.join(15)
        assert running.complete
    assert "1 connections taken over" in firewall.log.read_text()
    assert [line.split()[3] for line in firewall.connections("-p", "tcp")] != []


def test_a_transfer_does_not_outlive_the_loss_of_the_table(lab: Lab, guard: Guard, tmp_path: Path):
    """The control: without the table's file the same restart ends the transfer."""
    firewall = strict_guard(guard)
    with transfer(lab) as running:
        firewall.kill()
        (tmp_path / "0" / "state" / "table").unlink()
        firewall.start()
        running.join(3)
        assert not running.complete


# -- pyfwctl on a live daemon --------------------------------------------------------------------------------


def test_after_ping_every_packet_sent_before_is_counted(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=["-p udp -j ACCEPT"])
    for burst in range(1, 6):
        send_udp(lab, 400)
        assert firewall.ctl("ping").returncode == 0
        counted = re.search(r"-p udp -c (\d+) ", firewall.ctl("list-rules", "-v").stdout)
        assert int(counted[1]) == 400 * burst


def test_logged_packets_come_to_standard_error_and_the_others_are_counted(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=["-p udp -j LOG --log-prefix 'seen '"])
    send_udp(lab, 500)
    assert firewall.ctl("ping").returncode == 0
    wait_until(lambda: "log lines suppressed" in firewall.log.read_text(), "the note about suppressed lines")
    lines = [line for line in firewall.log.read_text().splitlines() if line.startswith("seen ")]
    assert lines[0].startswith(f"seen IN=eth1 OUT=eth0 MAC= SRC={CLIENT.ipv4} DST={SERVER.ipv4} LEN=29 ")
    log = json.loads(firewall.ctl("stats", "--json").stdout)["log"]
    assert log["lines"] == len(lines)
    assert log["lines"] + log["suppressed"] == 500


def test_nobody_waits_for_a_reader_of_standard_error(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[f"-p udp -j LOG --log-prefix {'x' * 29}", ALLOW_PING])
    firewall.stop()
    unread, written = os.pipe()
    fcntl.fcntl(written, fcntl.F_SETPIPE_SZ, 4096)
    os.write(written, b"x" * 4000)
    firewall.process = subprocess.Popen(firewall.argv, stdout=written, stderr=written)
    wait_until(lambda: firewall.ctl("ping").returncode == 0, "pyfw to start")
    send_udp(lab, 100)
    firewall.process.send_signal(signal.SIGHUP)
    assert ping_passes(lab)
    assert firewall.ctl("count").stdout == "1\n"
    assert firewall.stop() == 0
    os.close(unread)
    os.close(written)
    firewall.start()


def test_stats_show_both_counters_of_dropped_packets(guard: Guard):
    text = guard(FORWARD=[]).ctl("stats").stdout
    for counter in ("queue_dropped", "user_dropped", "uptime_s", "max_entries", "id_gaps"):
        assert re.search(rf"^  {counter} +\d+$", text, re.MULTILINE), counter


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="pyfw-test-", dir="/run") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def answer_to(user: int, group: int, path: Path, command: str) -> str:
    """The last line of the answer, or the refusal."""
    def act() -> str:
        try:
            return str(list(ask(str(path), {"command": command}))[-1])
        except Refused as refusal:
            return str(refusal)
    return as_user(user, group, [], act)


def test_a_member_of_the_group_may_look_but_not_touch(lab: Lab, open_directory: Path):
    """Also where the socket lies in the state directory, as it does by default."""
    config = open_directory / "pyfw.yaml"
    config.write_text("hooks: [FORWARD]")
    state = open_directory / "made by pyfw"
    firewall = Firewall(lab, config, open_directory, settings=[f"state.dir={state}", "control.group=games"])
    firewall.socket = state / "control.sock"
    firewall.argv += ["--socket", firewall.socket]
    nobody, games = 65534, grp.getgrnam("games").gr_gid
    with firewall:
        assert answer_to(nobody, games, firewall.socket, "count") == "{'done': True, 'count': 0}"
        assert answer_to(nobody, games, firewall.socket, "flush") \
            == "only root may flush; members of group games may read"
        assert answer_to(nobody, nobody, firewall.socket, "count") \
            == f"permission denied on {firewall.socket}: be root or a member of the control group"
        assert (state / "table").stat().st_mode & 0o777 == 0o600


def test_a_thousand_open_control_connections_leave_packets_and_commands_alone(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=[ALLOW_PING])
    connections = []
    try:
        for _ in range(1000):
            connections.append(socket.socket(socket.AF_UNIX))
            connections[-1].connect(str(firewall.socket))
        assert ping_passes(lab)
        assert firewall.ctl("count").stdout == "1\n"
    finally:
        for connection in connections:
            connection.close()


def test_a_stopped_daemon_is_no_daemon(guard: Guard):
    firewall = guard(FORWARD=[])
    assert firewall.ctl("count").returncode == 0
    firewall.stop()
    assert firewall.ctl("count").returncode == 3
    firewall.start()
    assert firewall.ctl("count").returncode == 0
