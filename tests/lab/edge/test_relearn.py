"""TCP connections that are in use live through a time in which packets pass by the daemon."""
from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from firewall import Firewall
from lab.edge.wrapper import QUEUE
from pyfw.cli.pyfwctl.client import ask
from pyfw.edge.host.divert import Diversion
from pyfw.engine.engine import Engine
from pyfw.engine.relearn import relearn_windows
from pyfw.lab import SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

PORT = 7001
DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}
STRICT = ["-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-p tcp --syn -m conntrack --ctstate NEW -j ACCEPT",
          "-p ipv6-icmp -j ACCEPT"]
BULK = 300_000                  # bytes: more than a window
ANSWER_S = 20.0                 # TCP repeats what was dropped, ever less often


class Held:
    """Both ends of a connection through the gateway."""

    def __init__(self, lab: Lab, family: int, stack: ExitStack) -> None:
        with lab.inside("server"):
            listener = stack.enter_context(socket.create_server(("", PORT), family=DOMAIN[family]))
        with lab.inside("client"):
            self.near = stack.enter_context(socket.create_connection((SERVER.address(family), PORT), timeout=ANSWER_S))
        self.far = stack.enter_context(listener.accept()[0])
        self.say(b"begun")
        self.settle(ANSWER_S)
        self.exchange()

    def say(self, data: bytes) -> None:
        self._left = {self.near: data, self.far: data}
        self.near.sendall(data)
        self.far.sendall(data)

    def settle(self, timeout_s: float) -> None:
        """Both ends get what was said.  Raises TimeoutError."""
        for end in (self.near, self.far):
            end.settimeout(timeout_s)
            while self._left[end]:
                data = end.recv(len(self._left[end]))
                assert data
                assert self._left[end].startswith(data)
                self._left[end] = self._left[end][len(data):]

    def exchange(self, data: bytes = b"and so on") -> None:
        self.say(data)
        self.settle(ANSWER_S)


@pytest.fixture
def hold(lab: Lab) -> Iterator[Callable[[int], Held]]:
    with ExitStack() as stack:
        yield lambda family: Held(lab, family, stack)


def relearnt(firewall: Firewall) -> int:
    [answer, _] = ask(str(firewall.socket), {"command": "stats", "json": True})
    return answer["records"][0]["diversion"]["connections_relearnt"]


@pytest.mark.parametrize("family", [4, 6])
def test_the_control_without_relearning_it_stands_still(lab: Lab, serve, hold, family: int):
    engine = Engine(max_entries=64)
    serve(":FORWARD DROP [0:0]\n" + "".join(f"-A FORWARD {rule}\n" for rule in STRICT), engine=engine)
    held = hold(family)
    with lab.inside("gateway"):
        Diversion.remove()
    held.exchange()
    with lab.inside("gateway"):
        Diversion(QUEUE, hooks=["FORWARD"]).install()
    held.say(b"is dropped")
    wait_until(lambda: engine.counters()["drops"].get("TCP_ACK_OVER", 0) >= 4, "repetitions to be dropped, too")
    with pytest.raises(TimeoutError):
        held.settle(0.01)
    assert relearn_windows(engine) == 1
    held.settle(ANSWER_S)
    held.exchange(bytes(BULK))


def test_connections_live_through_a_foreign_flush(lab: Lab, guard: Guard, hold):
    firewall = guard(FORWARD=STRICT)
    connections = [hold(4), hold(6)]
    firewall.process.send_signal(signal.SIGSTOP)
    for program in ("iptables", "ip6tables"):
        lab.run("gateway", [program, "-t", "security", "-F"], check=True)
    for held in connections:
        held.exchange()
    firewall.process.send_signal(signal.SIGCONT)
    firewall.ctl("reload", check=True)
    assert relearnt(firewall) >= 2
    wait_until(lambda: "; put back; 2 TCP connections learn their windows anew" in firewall.log.read_text(), "the line about it")
    for held in connections:
        held.exchange(bytes(BULK))


@pytest.mark.parametrize("why", ["flush", "when_down: accept"])
def test_connections_live_through_a_time_without_a_daemon(lab: Lab, guard: Guard, hold, why: str):
    firewall = guard(FORWARD=STRICT, settings=[] if why == "flush" else ["queue.when_down=accept"])
    held = hold(4)
    firewall.kill()
    if why == "flush":
        lab.run("gateway", ["iptables", "-t", "security", "-F"], check=True)
    held.exchange()
    firewall.start()
    held.exchange(bytes(BULK))
    assert relearnt(firewall) == 1


def test_where_nothing_passed_by_windows_stay(lab: Lab, guard: Guard, hold):
    firewall = guard(FORWARD=STRICT)
    hold(4)
    firewall.kill()
    firewall.start()
    firewall.ctl("reload", check=True)
    assert relearnt(firewall) == 0
