"""What a daemon's end costs: under load, no connection, and no packet but those in a dead daemon's hands."""
from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from bench.programs import CFLAGS, SOURCES
from firewall import Firewall
from lab.keeper import KeptFirewall

from pyfw.edge.state_file import read_boot_id
from pyfw.engine import Engine
from pyfw.helpers import bind
from pyfw.edge.queue_stats import PATH, parse_queue_counters
from pyfw.lab import SERVER, Lab

CONFIG = """
hooks: [FORWARD]
queue: {length: 65535}      # a slow machine may need long to start a daemon; what overflows is no subject here
conntrack: {tcp: {loose: false}}
rules:
  filter:
    FORWARD:
      policy: DROP
      rules:
        - -m conntrack --ctstate ESTABLISHED -j ACCEPT
        - -p udp --dport 7 -m conntrack --ctstate NEW -j ACCEPT
        - -p tcp --syn -m conntrack --ctstate NEW -j ACCEPT
"""
RATE = 10_000                   # UDP packets a second, each echoed
SECONDS = 4
EVENTS = 3                      # restarts in that time
TALKS = 50                      # TCP connections that were there before
BATCH = 64                      # packets in hand at most (nfqueue.pxd)


@pytest.fixture(scope="module")
def echo_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("bin") / "echo_load"
    subprocess.run(["gcc", *CFLAGS, "-o", program, SOURCES / "echo_load.c"], check=True)
    return program


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pyfw.yaml"
    path.write_text(CONFIG)
    return path


@contextmanager
def talks(lab: Lab) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """TCP connections through the gateway, (client's end, server's end), that are sound when the block ends."""
    with ExitStack() as stack:
        with lab.inside("server"):
            listener = stack.enter_context(socket.create_server((SERVER.ipv4, 5001), backlog=TALKS))
        pairs = []
        for _ in range(TALKS):
            with lab.inside("client"):
                client = stack.enter_context(socket.create_connection((SERVER.ipv4, 5001), timeout=10))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(10)
            pairs.append((client, server))
        yield pairs
        for number, (client, server) in enumerate(pairs):
            said = b"connection %d" % number
            client.sendall(said)
            assert server.recv(64) == said
            server.sendall(said[::-1])
            assert client.recv(64) == said[::-1]


def be_a_successor(handed: dict[str, int]) -> None:
    """Take the table into use, as `pyfw run --takeover` does, and fail then."""
    size = os.fstat(handed["table"]).st_size
    with mmap.mmap(handed["table"], size) as memory:
        helpers = [bind(name, (port,)) for name, port in (("ftp", 2121),)]
        engine = Engine(max_entries=64, memory=memory, boot_id=read_boot_id(), helpers=helpers)
        assert engine.adopted == TALKS
        del engine
    for descriptor in handed.values():
        os.close(descriptor)


def queued(lab: Lab) -> int:
    """Packets in the kernel's queue."""
    with lab.inside("gateway"):
        return parse_queue_counters(Path(PATH).read_text())[0].queued


def under_load(lab: Lab, echo_load: Path, event) -> dict:
    """Have `event` happen while UDP echoes and a TCP transfer go on; what echo_load says, with "tcp_bytes"."""
    with ExitStack() as stack:
        iperf = lab.start("server", ["iperf3", "-s", "-1", "-p", "5201"], stdout=subprocess.DEVNULL)
        stack.callback(iperf.kill)
        lab.wait_listening("server", 5201)
        transfer = lab.start("client", ["iperf3", "-c", SERVER.ipv4, "-t", str(SECONDS), "-b", "50M", "-J"],
                             stdout=subprocess.PIPE, text=True)
        load = subprocess.Popen([echo_load, lab.namespace("client"), lab.namespace("server"), SERVER.ipv4, str(RATE), str(SECONDS)],
                                stdout=subprocess.PIPE, text=True)
        stack.callback(load.kill)
        stack.enter_context(talks(lab))
        for _ in range(EVENTS):
            time.sleep(SECONDS / (EVENTS + 2))
            event()
        said = json.loads(load.communicate(timeout=60)[0].splitlines()[-1])
        received = json.loads(transfer.communicate(timeout=60)[0])["end"]["sum_received"]
        return said | {"tcp_bytes": received["bytes"]}


def test_a_killed_daemon_loses_what_it_had_in_hand(lab: Lab, config: Path, tmp_path: Path, echo_load: Path) -> None:
    with KeptFirewall(lab, config, tmp_path) as firewall:
        def killed() -> None:
            firewall.kill()
            firewall.start()

        seen = under_load(lab, echo_load, killed)
        firewall.settle()
        counters = json.loads(firewall.ctl("stats", "--json").stdout)["queue"]
        assert seen["lost"] <= EVENTS * BATCH
        assert seen["tcp_bytes"] > 1_000_000
        assert "connections taken over" in firewall.log.read_text()
        assert queued(lab) == 0
        assert counters["orphans_dropped"] <= BATCH
        assert firewall.said.count("READY=1") == EVENTS + 1
        print(f"killed: {seen}")


def test_without_the_descriptors_a_kill_loses_the_queue(lab: Lab, config: Path, tmp_path: Path, echo_load: Path) -> None:
    """The control: what is kept is what makes the difference."""
    with KeptFirewall(lab, config, tmp_path) as firewall:
        def killed() -> None:
            firewall.kill()
            firewall.forget()
            firewall.start()

        assert under_load(lab, echo_load, killed)["lost"] > EVENTS * BATCH


def test_a_batch_that_was_in_hand_gets_its_verdicts(lab: Lab, config: Path, tmp_path: Path) -> None:
    """A daemon that is stopped in the middle of anything, killed then: none of its packets stays in the kernel's queue."""
    with KeptFirewall(lab, config, tmp_path) as firewall, lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect((SERVER.ipv4, 7))
        for _ in range(10):
            for _ in range(300):
                sender.send(b"x")
            firewall.kill()
            firewall.start()
            firewall.settle()
            assert queued(lab) == 0
        sender.close()


def test_a_takeover_loses_nothing(lab: Lab, config: Path, tmp_path: Path, echo_load: Path) -> None:
    with Firewall(lab, config, tmp_path) as firewall:
        def taken_over() -> None:
            before = firewall.process
            firewall.argv = [*firewall.argv[:2], "--takeover", *[word for word in firewall.argv[2:] if word != "--takeover"]]
            with firewall.log.open("ab") as log:
                firewall.process = subprocess.Popen(firewall.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            assert before.wait(20) == 0

        seen = under_load(lab, echo_load, taken_over)
        firewall.settle()
        assert (seen["lost"], queued(lab)) == (0, 0)
        assert firewall.log.read_text().count("guarding") == EVENTS + 1
        print(f"takeover: {seen}")


@pytest.mark.parametrize("how", ["--set nonsense=1", "--set conntrack.max_entries=0", "kill"])
def test_a_successor_that_fails_leaves_the_predecessor_at_work(lab: Lab, config: Path, tmp_path: Path, how: str) -> None:
    # A table so small that connections share hash chains.
    with Firewall(lab, config, tmp_path, settings=["conntrack.max_entries=64"]) as firewall, talks(lab):
        if how == "kill":
            with socket.socket(socket.AF_UNIX) as successor:
                successor.connect(str(firewall.socket))
                successor.sendall(b'{"command": "hand-over"}\n')
                line, descriptors, _, _ = socket.recv_fds(successor, 65536, 16)
                assert set(json.loads(line)["descriptors"]) == {"queue", "table", "batch", "lock", "control", "diversion"}
                assert "a successor is taking over" in firewall.ctl("flush").stderr
                be_a_successor(dict(zip(json.loads(line)["descriptors"], descriptors, strict=True)))
        else:
            done = subprocess.run([*firewall.argv, "--takeover", *how.split()], capture_output=True, text=True, timeout=20)
            assert done.returncode == 2
        firewall.wait_for("the predecessor to go on", lambda lines: len(lines) >= TALKS)
        assert firewall.process.poll() is None


def test_there_must_be_somebody_to_take_over_from(lab: Lab, config: Path, tmp_path: Path) -> None:
    firewall = Firewall(lab, config, tmp_path)
    done = subprocess.run([*firewall.argv, "--takeover"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (
        1, f"pyfw: no daemon at {firewall.socket} hands over: [Errno 2] No such file or directory\n")


def test_a_stop_takes_the_diversion_down_and_what_is_kept_does_not_hinder_the_next(lab: Lab, config: Path, tmp_path: Path) -> None:
    firewall = KeptFirewall(lab, config, tmp_path)
    firewall.start()
    assert set(firewall.kept) == {"queue", "table", "batch"}
    assert firewall.stop() == 0
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
    with Firewall(lab, config, tmp_path) as next_one:
        assert next_one.ctl("ping").returncode == 0
