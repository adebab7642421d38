"""From outside: what is forbidden must never come through, what is allowed must live.

    forbidden   UDP and TCP to port 9, both families: into the inside, out of it, and to the gateway from both sides.  Somebody
                listens at every end: the firewall alone keeps them apart.
    held        a TCP connection of each family through the gateway: every number that is sent comes back
    allowed     a new TCP connection and a datagram of each family, when asked for
"""
from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pyfw.lab import CLIENT, GATEWAY_INSIDE, GATEWAY_OUTSIDE, SERVER, Lab

FORBIDDEN_PORT, ECHO_PORT = 9, 7001
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
WAYS = ((SERVER, CLIENT), (CLIENT, SERVER), (SERVER, GATEWAY_OUTSIDE), (CLIENT, GATEWAY_INSIDE))
TICK_S = 0.02
CONNECT_EVERY = 10              # ticks
ATTEMPT_S = 1.0


@dataclass(frozen=True)
class Leak:
    """Something forbidden came through."""
    time: float                 # time.monotonic() when it arrived
    what: str


@dataclass
class Held:
    """A connection that is there all the time."""
    family: int
    near: socket.socket
    number: int = 0
    waiting: bool = False
    last_s: float = field(default_factory=time.monotonic)      # when the last number came back


class Probe:
    """Runs in a thread of its own from entering the context to leaving it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._leaks: list[Leak] = []
        self._broken: list[str] = []
        self._held: list[Held] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe")
        self._senders: list[tuple[socket.socket, str]] = []
        self._attempts: list[tuple[float, socket.socket]] = []
        self.sent = 0                   # forbidden datagrams and SYNs

    def __enter__(self) -> Probe:
        for role in ("client", "gateway", "server"):
            with self._lab.inside(role):
                for family in FAMILIES:
                    self._listen(role, family)
        for near, far in WAYS:
            with self._lab.inside(near.role):
                for family, domain in FAMILIES.items():
                    sender = socket.socket(domain, socket.SOCK_DGRAM)
                    sender.setblocking(False)
                    sender.connect((far.address(family), FORBIDDEN_PORT))
                    self._senders.append((sender, f"{near.role} -> {far.role} IPv{family}"))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()
        for sender, _ in self._senders:
            sender.close()
        for _, attempt in self._attempts:
            attempt.close()
        for held in self._held:
            held.near.close()

    # -- what is asked --------------------------------------------------------------------------------------------

    def leaks(self) -> list[Leak]:
        """What came through since this was asked last."""
        with self._lock:
            leaks, self._leaks = self._leaks, []
        return leaks

    def broken(self) -> list[str]:
        """Held connections that ended, or that bring wrong bytes."""
        with self._lock:
            return list(self._broken)

    def silent_s(self) -> float:
        """For how long the held connection that is worst off has waited for its answer."""
        with self._lock:
            return max((time.monotonic() - held.last_s for held in self._held), default=0.0)

    def hold(self) -> None:
        """Begin the connections that are held from now on."""
        for family in FAMILIES:
            near = self.connect(family, 10.0)
            near.setblocking(False)
            held = Held(family, near)
            with self._lock:
                self._held.append(held)
            self._selector.register(near, selectors.EVENT_READ, lambda _, held=held: self._answered(held))

    def connect(self, family: int, timeout_s: float) -> socket.socket:
        with self._lab.inside("client"):
            return socket.create_connection((SERVER.address(family), ECHO_PORT), timeout=timeout_s)

    def allowed(self, timeout_s: float = 2.0) -> bool:
        """Whether new TCP connections and datagrams of both families come through, and back."""
        return all(self._talks(family, timeout_s) and self._echoes(family, timeout_s) for family in FAMILIES)

    def _talks(self, family: int, timeout_s: float) -> bool:
        with suppress(OSError), self.connect(family, timeout_s) as new:
            new.sendall(b"new\n")
            return new.recv(4) == b"new\n"
        return False

    def _echoes(self, family: int, timeout_s: float) -> bool:
        with self._lab.inside("client"):
            new = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
        with suppress(OSError), new:
            new.settimeout(timeout_s)
            new.connect((SERVER.address(family), ECHO_PORT))
            new.send(b"new")
            return new.recv(3) == b"new"
        return False

    # -- what goes on all the time --------------------------------------------------------------------------------

    def _listen(self, role: str, family: int) -> None:
        domain = FAMILIES[family]
        where = f"{role} IPv{family}"
        self._serve(socket.create_server(("", FORBIDDEN_PORT), family=domain), lambda ours: self._accepted(ours, where))
        self._serve(bound_datagrams(domain, FORBIDDEN_PORT), lambda ours: self._received(ours, where))
        if role == "server":
            self._serve(socket.create_server(("", ECHO_PORT), family=domain), self._accept_echo)
            self._serve(bound_datagrams(domain, ECHO_PORT), echo_datagrams)

    def _serve(self, ours: socket.socket, react: Callable[[socket.socket], None]) -> None:
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, react)

    def _run(self) -> None:
        tick = 0
        while not self._stop.is_set():
            for key, _ in self._selector.select(TICK_S):
                with suppress(BlockingIOError):
                    key.data(key.fileobj)
            self._send_forbidden(begin=tick % CONNECT_EVERY == 0)
            for held in list(self._held):
                self._say(held)
            tick += 1
            self._stop.wait(TICK_S)

    def _send_forbidden(self, begin: bool) -> None:
        for sender, way in self._senders:
            with suppress(OSError):             # an ICMP error about the last one, or no route for a moment
                sender.send(way.encode())
                self.sent += 1
        now = time.monotonic()
        while self._attempts and now - self._attempts[0][0] > ATTEMPT_S:
            self._attempts.pop(0)[1].close()
        for near, far in WAYS if begin else ():
            for family, domain in FAMILIES.items():
                with self._lab.inside(near.role):
                    attempt = socket.socket(domain, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                with suppress(OSError):
                    attempt.connect((far.address(family), FORBIDDEN_PORT))
                self._attempts.append((now, attempt))
                self.sent += 1

    def _leaked(self, what: str) -> None:
        with self._lock:
            self._leaks.append(Leak(time.monotonic(), what))

    def _accepted(self, ours: socket.socket, where: str) -> None:
        connection, _ = ours.accept()
        connection.close()
        self._leaked(f"TCP to {where}")

    def _received(self, ours: socket.socket, where: str) -> None:
        self._leaked(f"UDP {ours.recv(100).decode()}, at {where}")

    def _accept_echo(self, ours: socket.socket) -> None:
        connection, _ = ours.accept()
        self._serve(connection, self._echo)

    def _echo(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
            if data:
                connection.sendall(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(connection)
        connection.close()

    def _say(self, held: Held) -> None:
        if not held.waiting:
            with self._noting(held):
                held.near.sendall(held.number.to_bytes(8))
                held.waiting = True

    def _answered(self, held: Held) -> None:
        with self._noting(held):
            data = held.near.recv(8)
            if data != held.number.to_bytes(8):
                raise ConnectionAbortedError(f"{data!r} came for number {held.number}")
            with self._lock:
                held.number, held.waiting, held.last_s = held.number + 1, False, time.monotonic()

    @contextmanager
    def _noting(self, held: Held) -> Iterator[None]:
        """What ends a held connection within is noted."""
        try:
            yield
        except BlockingIOError:
            pass
        except OSError as error:
            with self._lock:
                self._broken.append(f"the held IPv{held.family} connection after {held.number} numbers: {error}")
                self._held.remove(held)
            self._selector.unregister(held.near)
            held.near.close()


def bound_datagrams(domain: int, port: int) -> socket.socket:
    ours = socket.socket(domain, socket.SOCK_DGRAM)
    if domain == socket.AF_INET6:
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    ours.bind(("", port))
    return ours


def echo_datagrams(ours: socket.socket) -> None:
    """All that are there: more come in a tick than one."""
    while True:
        data, sender = ours.recvfrom(2048)
        with suppress(OSError):
            ours.sendto(data, sender)
