"""A small internet in network namespaces, for the demo, the tests and the benchmarks.

      {name}-client                    {name}-gateway                     {name}-server
    ┌────────────────┐           ┌─────────────────────────┐           ┌─────────────────┐
    │           eth0 ●───────────● eth1               eth0 ●───────────● eth0            │
    └────────────────┘           └─────────────────────────┘           └─────────────────┘
        192.0.2.2/24         192.0.2.1/24         198.51.100.1/24        198.51.100.2/24
     2001:db8:1::2/64     2001:db8:1::1/64       2001:db8:2::1/64       2001:db8:2::2/64

           the inside (LAN)                             the outside (WAN)

The gateway forwards.  Neighbours are entered for good; address resolution, duplicate address detection
and multicast are off: a lab is usable at once, and no packet is in it that nobody sent on purpose.
ICMP errors are not rate-limited.  Several labs exist side by side under different names; each touches only its own.

Knows nothing of the firewall.  Needs root.
"""
from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns

ROLES = ("client", "gateway", "server")

NAMESPACE_DIR = Path("/run/netns")
STOP_TIMEOUT_S = 5.0
WAIT_TIMEOUT_S = 10.0
POLL_INTERVAL_S = 0.005

IFF_UP = 0x1                    # linux/if.h
IFF_NOARP = 0x80
IFF_MULTICAST = 0x1000
IFA_F_NODAD = 0x02              # linux/if_addr.h
NUD_PERMANENT = 0x80            # linux/neighbour.h
TCP_LISTEN = "0A"               # include/net/tcp_states.h, as /proc/net/tcp prints it


class LabError(Exception):
    """The lab cannot be built or used: one line that says what to do."""


@dataclass(frozen=True)
class Port:
    """One end of a cable."""

    role: str
    interface: str
    ipv4: str
    ipv6: str
    mac: str

    def address(self, family: int) -> str:
        return self.ipv4 if family == 4 else self.ipv6


CLIENT = Port("client", "eth0", "192.0.2.2", "2001:db8:1::2", "02:00:00:00:01:02")
GATEWAY_INSIDE = Port("gateway", "eth1", "192.0.2.1", "2001:db8:1::1", "02:00:00:00:01:01")
GATEWAY_OUTSIDE = Port("gateway", "eth0", "198.51.100.1", "2001:db8:2::1", "02:00:00:00:02:01")
SERVER = Port("server", "eth0", "198.51.100.2", "2001:db8:2::2", "02:00:00:00:02:02")

CABLES = ((CLIENT, GATEWAY_INSIDE), (SERVER, GATEWAY_OUTSIDE))
PREFIX_LENGTH = {4: 24, 6: 64}

SYSCTLS = {
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv6/conf/all/addr_gen_mode": "1",         # no link-local addresses: no discovery on its own
    "net/ipv6/conf/default/addr_gen_mode": "1",
}
GATEWAY_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Return as soon as `condition()` is true; LabError naming `what` when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(POLL_INTERVAL_S)


class Lab:
    """Three namespaces `{name}-client`, `{name}-gateway`, `{name}-server`.

    As a context manager it is up inside and gone after, whatever happens.
    """

    def __init__(self, name: str = "pyfw") -> None:
        if not name or "/" in name or len(name) > 32:
            raise LabError(f"{name!r} cannot name a lab: 1 to 32 characters without a slash")
        self.name = name
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *exception: object) -> None:
        self.down()

    # -- the network ------------------------------------------------------------------------------

    def namespace(self, role: str) -> str:
        """The name of a role's namespace, as `ip netns` shows it."""
        if role not in ROLES:
            raise LabError(f"no host {role!r} in the lab: one of {', '.join(ROLES)}")
        return f"{self.name}-{role}"

    def exists(self, role: str) -> bool:
        return (NAMESPACE_DIR / self.namespace(role)).exists()

    def up(self) -> None:
        """Build everything, or nothing: LabError if part of it is there already."""
        if os.geteuid() != 0:
            raise LabError("network namespaces need root")
        if standing := [self.namespace(role) for role in ROLES if self.exists(role)]:
            raise LabError(f"{', '.join(standing)} is up already: pyfw lab down --name {self.name}")
        try:
            for role in ROLES:
                _create_namespace(self.namespace(role))
                with self.inside(role):
                    _write_sysctls(SYSCTLS)
            for end, gateway_end in CABLES:
                self._connect(end, gateway_end)
            with self.inside("gateway"):
                _write_sysctls(GATEWAY_SYSCTLS)     # not before: a router's link would join the routers' groups
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End what runs in the lab and remove its namespaces; their links go with them."""
        for role in ROLES:
            if self.exists(role):
                _end_processes(self.processes(role))
                netns.remove(self.namespace(role))
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def _connect(self, end: Port, gateway_end: Port) -> None:
        with self._netlink(end.role) as host, self._netlink("gateway") as gateway:
            host.link("add", kind="veth", ifname=end.interface, address=end.mac,
                      peer={"ifname": gateway_end.interface, "address": gateway_end.mac,
                            "net_ns_fd": self.namespace("gateway")})
            for here, there, handle in ((end, gateway_end, host), (gateway_end, end, gateway)):
                _bring_up(handle, here, there)
            for family, destination in ((4, "0.0.0.0/0"), (6, "::/0")):
                host.route("add", dst=destination, gateway=gateway_end.address(family))

    def _netlink(self, role: str) -> IPRoute:
        """Not pyroute2's NetNS: it forks for its socket and ends the fork with SIGTERM, upon which a program's
        own handler would run there, and clean up here.  So would netns.create()."""
        with self.inside(role):
            return IPRoute()

    # -- what runs in it --------------------------------------------------------------------------

    def command(self, role: str, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The argv that runs `argv` on that host."""
        if not self.exists(role):
            raise LabError(f"{self.namespace(role)} is not up: pyfw lab up --name {self.name}")
        return ["nsenter", f"--net={NAMESPACE_DIR / self.namespace(role)}", "--", *(os.fspath(word) for word in argv)]

    def run(self, role: str, argv: Sequence[str | os.PathLike[str]], *, timeout_s: float = 30.0,
            **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end; its output is captured as text.  Options are those of subprocess.run."""
        defaults: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
        if "input" in options:
            del defaults["stdin"]
        return subprocess.run(self.command(role, argv), timeout=timeout_s, **defaults | options)

    def start(self, role: str, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[str]:
        """Start something that stays; it ends with stop() or down().  Options are those of Popen."""
        defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "text": True}
        process = subprocess.Popen(self.command(role, argv), **defaults | options)
        self._processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> int:
        """End a process of start(): politely, then not.  Returns its exit status."""
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._processes.remove(process)
        return process.returncode

    @contextmanager
    def inside(self, role: str) -> Iterator[None]:
        """This thread is on that host: sockets made here belong to it, also afterwards."""
        namespace = self.namespace(role)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            netns.setns(namespace, flags=0)
            try:
                yield
            finally:
                netns.setns(home)
        finally:
            os.close(home)

    def processes(self, role: str) -> list[int]:
        """The ids of the processes on that host."""
        here = (NAMESPACE_DIR / self.namespace(role)).stat().st_ino
        return [pid for pid in _all_processes() if pid != os.getpid() and _namespace_inode(pid) == here]

    def listens(self, role: str, port: int, protocol: str = "tcp") -> bool:
        """Whether a socket on that host is open on the port; asks without sending a packet."""
        with self.inside(role):
            sockets = [line.split() for family in ("", "6")
                       for line in Path(f"/proc/thread-self/net/{protocol}{family}").read_text().splitlines()[1:]]
        return any(int(fields[1].rpartition(":")[2], 16) == port
                   and (protocol != "tcp" or fields[3] == TCP_LISTEN) for fields in sockets)

    def wait_listening(self, role: str, port: int, protocol: str = "tcp") -> None:
        wait_until(lambda: self.listens(role, port, protocol), f"a listener on {role} {protocol} port {port}")

    def status(self) -> list[str]:
        """One line for each host: its namespace, its addresses, its processes."""
        ports = [port for cable in CABLES for port in cable]
        lines = []
        for role in ROLES:
            if not self.exists(role):
                lines.append(f"{self.namespace(role):<20} down")
                continue
            addresses = ", ".join(f"{port.interface} {port.ipv4} {port.ipv6}" for port in ports if port.role == role)
            lines.append(f"{self.namespace(role):<20} up: {addresses}; processes: {len(self.processes(role))}")
        return lines


def _create_namespace(name: str) -> None:
    result = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise LabError(f"ip netns add {name}: {result.stderr.strip()}")


def _bring_up(handle: IPRoute, here: Port, there: Port) -> None:
    [loopback] = handle.link_lookup(ifname="lo")
    [link] = handle.link_lookup(ifname=here.interface)
    handle.link("set", index=loopback, state="up")
    handle.link("set", index=link, flags=IFF_UP | IFF_NOARP, change=IFF_UP | IFF_NOARP | IFF_MULTICAST)
    for family in (4, 6):
        handle.addr("add", index=link, address=here.address(family), prefixlen=PREFIX_LENGTH[family],
                    flags=IFA_F_NODAD if family == 6 else 0)
        handle.neigh("add", ifindex=link, dst=there.address(family), lladdr=there.mac, state=NUD_PERMANENT)


def _write_sysctls(values: dict[str, str]) -> None:
    for name, value in values.items():
        (Path("/proc/sys") / name).write_text(value)


def _all_processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _namespace_inode(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:             # gone, or a zombie
        return None


def _end_processes(pids: Sequence[int]) -> None:
    """Ask them to end; kill those that are still there after STOP_TIMEOUT_S."""
    with ExitStack() as open_handles:
        handles = []
        for pid in pids:
            with suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
                open_handles.callback(os.close, handles[-1])
        for number in (signal.SIGTERM, signal.SIGKILL):
            for handle in handles:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            with suppress(LabError):
                wait_until(lambda: not any(map(_runs, handles)), "processes to end", STOP_TIMEOUT_S)
                return


def _runs(handle: int) -> bool:
    """A pidfd becomes readable when its process has ended, reaped or not."""
    return not select.select([handle], [], [], 0)[0]
