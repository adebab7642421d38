"""The kernel as witness: raw IP packets go through a namespace that the kernel tracks, and what
its connection tracking thinks of each is written down.

        side 0                     namespace                      side 1
      (tun pfd0) --> PREROUTING: defrag, conntrack --> FORWARD --> (tun pfd1)
                          |  NFLOG "state/direction"     |  NFLOG "forwarded"
                          |  log_invalid "why"           |
                          +--------- group 0 ------------+

Whatever enters on one side is routed out of the other, whoever it is from and to.  A write to a
tun device returns when the packet has taken its whole way, so everything that can be read then
belongs to that packet: no guessing which log line is whose.  Time is the kernel's own; the moment
of each injection is recorded, so that an engine can be given the same.

Knows nothing of pyfw.
"""
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kit.packed_packets import is_fragment

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK, NFNL_SUBSYS_CTNETLINK_EXP, NFNL_SUBSYS_ULOG = 1, 2, 4
IPCTNL_MSG_CT_DELETE = IPCTNL_MSG_EXP_DELETE = 2
NFULNL_MSG_CONFIG = 1
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH, NFULNL_CFG_CMD_BIND = 1, 2, 5, 1
NFULNL_COPY_PACKET = 2
NFULA_PAYLOAD, NFULA_PREFIX = 9, 10
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLMSG_ERROR = 2

_LOG_HEADER = 28            # nlmsghdr 16, nfgenmsg 4, NFULA_PACKET_HDR 8: then comes NFULA_PREFIX
_LOG_BYTES = 192            # enough of a log message to hold the longest prefix (NF_LOG_PREFIXLEN, 128)
_LOG_ALL = 1 << 17          # a log message with the largest packet
_LOG_GROUP = 0              # the kernel logs invalid packets to group 0
_BUFFER = 8 << 20

OPINION, FORWARDED = "opinion ", "forwarded"
STATES = ("INVALID", "UNTRACKED", "NEW", "ESTABLISHED", "RELATED")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Sent:
    """One packet on its way: the side it comes from (0 or 1), its bytes from the IP header on, and
    how many seconds to wait before it."""

    side: int
    data: bytes
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the kernel made of one packet.

    state      NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED; None: connection tracking never saw
               it (dropped by the IP stack, or a fragment that completes nothing)
    direction  ORIGINAL, REPLY; None where the state has none
    forwarded  reached the FORWARD hook
    out        came out of the other side
    reasons    the kernel's words: why it is INVALID, or why it was passed but not believed
    whole      of the fragment that completes a datagram: the datagram, as the kernel put it together
    time_ns    CLOCK_MONOTONIC just before it was injected
    """

    time_ns: int
    state: str | None
    direction: str | None
    forwarded: bool
    out: bool
    reasons: tuple[str, ...]
    whole: bytes | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How strictly to track: the kernel's sysctls of the same names, and which helper is bound."""

    tcp_loose: bool = True
    tcp_be_liberal: bool = False
    ftp: bool = False
    timeouts: tuple[tuple[str, int], ...] = ()      # ("udp", 30): nf_conntrack_<protocol>_timeout[_<state>]

    def sysctls(self) -> dict[str, int]:
        names = {"tcp_loose": int(self.tcp_loose), "tcp_be_liberal": int(self.tcp_be_liberal)}
        for name, seconds in self.timeouts:
            protocol, _, state = name.partition("_")
            names[f"{protocol}_timeout_{state}" if state else f"{protocol}_timeout"] = seconds
        return names


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the kernel said about one list of packets.  Table lines are as in /proc/net, read at
    `read_ns`; `seconds`: what the injections took."""

    opinions: list[Opinion]
    table: list[str]
    expectations: list[str]
    read_ns: int
    seconds: float = field(compare=False, default=0.0)


class WitnessError(RuntimeError):
    """The kernel cannot be asked: no root, or something is missing from it."""


class Witness:
    """A namespace of its own with two tun devices.  Use as a context manager; as root.

    `testify` may be called any number of times: each starts with an empty table.
    """

    def __init__(self, settings: Settings = Settings(), name: str | None = None) -> None:
        self.settings = settings
        self.name = name or f"pfd-{os.getpid()}-{id(self) & 0xFFFF:x}"
        self._tuns: list[int] = []
        self._log: socket.socket | None = None
        self._control: socket.socket | None = None
        self._sequence = 0

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Witness:
        if os.geteuid() != 0:
            raise WitnessError("the kernel can only be asked by root: run as root")
        _run("ip", "netns", "add", self.name)
        try:
            self._furnish()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for tun in self._tuns:
            os.close(tun)
        self._tuns.clear()
        for link in (self._log, self._control):
            if link is not None:
                link.close()
        self._log = self._control = None
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def _furnish(self) -> None:
        with self._inside():
            self._tuns = [_open_tun("pfd0"), _open_tun("pfd1")]
            self._log = _netlink()
            self._control = _netlink()
            _run("sh", "-ec", _ROUTES)
            self._write_sysctls()
            for tool in ("iptables", "ip6tables"):
                _run(f"{tool}-restore", input=self._rules())
        self._bind_log()
        self._log.setblocking(False)

    def _write_sysctls(self) -> None:
        fixed = {
            "net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1,
            "net/netfilter/nf_conntrack_acct": 1, "net/netfilter/nf_conntrack_log_invalid": 255,
            "net/netfilter/nf_log/2": "nfnetlink_log", "net/netfilter/nf_log/10": "nfnetlink_log",
        }
        for device in ("all", "default", "pfd0", "pfd1"):
            fixed[f"net/ipv4/conf/{device}/rp_filter"] = 0
            fixed[f"net/ipv4/conf/{device}/accept_local"] = 1
        tracking = {f"net/netfilter/nf_conntrack_{name}": value for name, value in self.settings.sysctls().items()}
        for name, value in (fixed | tracking).items():
            Path("/proc/sys", name).write_text(f"{value}\n", encoding="ascii")

    def _rules(self) -> str:
        """One line per opinion.  What the namespace itself would say (ICMP errors) is kept quiet,
        before tracking hears of it."""
        log = f"-j NFLOG --nflog-group {_LOG_GROUP} --nflog-prefix"
        opinions = [f'-A PREROUTING -m conntrack --ctstate {state} {log} "{OPINION}{state} -"'
                    for state in ("INVALID", "UNTRACKED")]
        opinions += [
            f'-A PREROUTING -m conntrack --ctstate {state} --ctdir {direction} {log} "{OPINION}{state} {direction}"'
            for state in ("NEW", "ESTABLISHED", "RELATED") for direction in ("ORIGINAL", "REPLY")]
        helper = ["-A PREROUTING -p tcp --dport 21 -j CT --helper ftp"] if self.settings.ftp else []
        return "\n".join([
            "*raw", *helper, "-A OUTPUT -j DROP", "COMMIT",
            "*mangle", *opinions, f'-A FORWARD {log} "{FORWARDED}"', "COMMIT", ""])

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """This thread, in the namespace, until the end of the block."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{self.name}", "rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    # -- asking ----------------------------------------------------------------------------------

    def testify(self, packets: Iterable[Sent]) -> Evidence:
        """Injects the packets in order into an empty table; what the kernel said of each, and
        what it remembers at the end."""
        self.flush()
        self._drain()
        started = time.monotonic()
        opinions = [self._inject(packet) for packet in packets]
        seconds = time.monotonic() - started
        before = time.monotonic_ns()
        table, expectations = self.table(), self.expectations()
        return Evidence(opinions, table, expectations, (before + time.monotonic_ns()) // 2, seconds)

    def table(self) -> list[str]:
        """The lines of /proc/net/nf_conntrack."""
        return self._read_proc("nf_conntrack")

    def expectations(self) -> list[str]:
        """The lines of /proc/net/nf_conntrack_expect."""
        return self._read_proc("nf_conntrack_expect")

    def flush(self) -> None:
        """Empties the table, of connections and of expectations."""
        self._request(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE)
        self._request(NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_DELETE)

    def _inject(self, packet: Sent) -> Opinion:
        if packet.pause_s:
            time.sleep(packet.pause_s)
        now = time.monotonic_ns()
        try:
            os.write(self._tuns[packet.side], packet.data)
        except OSError:                 # not even the device takes it: neither IPv4 nor IPv6
            return Opinion(now, None, None, False, False, ())
        fragment = is_fragment(packet.data)
        state = direction = whole = None
        forwarded = False
        reasons: list[str] = []
        for message in self._messages(_LOG_ALL if fragment else _LOG_BYTES):
            prefix = _prefix(message)
            if prefix.startswith(OPINION):
                _, state, direction = prefix.split(" ")
                whole = _payload(message) if fragment else None
            elif prefix == FORWARDED:
                forwarded = True
            else:
                reasons.append(prefix)
        return Opinion(now, state, None if direction == "-" else direction, forwarded,
                       self._came_out(1 - packet.side), tuple(reasons), whole)

    def _messages(self, size: int) -> Iterator[bytes]:
        receive = self._log.recv
        with contextlib.suppress(BlockingIOError):
            while True:
                yield receive(size)

    def _came_out(self, side: int) -> bool:
        came = False
        while True:
            try:
                os.read(self._tuns[side], 1)        # the device discards what one read leaves
            except BlockingIOError:
                return came
            came = True

    def _drain(self) -> None:
        for _ in self._messages(_LOG_BYTES):
            pass
        for side in (0, 1):
            self._came_out(side)

    def _read_proc(self, name: str) -> list[str]:
        with self._inside():
            return Path("/proc/thread-self/net", name).read_text(encoding="ascii").splitlines()

    # -- netlink ---------------------------------------------------------------------------------

    def _bind_log(self) -> None:
        def configure(attribute: int, value: bytes) -> None:
            padded = value.ljust(-(-len(value) // 4) * 4, b"\0")
            self._request(NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG,
                          struct.pack("=HH", 4 + len(value), attribute) + padded,
                          group=_LOG_GROUP, link=self._log)

        configure(NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_BIND]))
        configure(NFULA_CFG_MODE, struct.pack("!IBx", 0xFFFF, NFULNL_COPY_PACKET))
        configure(NFULA_CFG_QTHRESH, struct.pack("!I", 1))

    def _request(self, kind: int, attributes: bytes = b"", *, group: int = 0,
                 link: socket.socket | None = None) -> None:
        """One nfnetlink request for all families; returns when the kernel has done it."""
        link = link or self._control
        self._sequence += 1
        message = struct.pack("!BBH", socket.AF_UNSPEC, 0, group) + attributes
        link.send(struct.pack("=IHHII", 16 + len(message), kind, NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0)
                  + message)
        while True:
            answer = link.recv(4096)
            _, answer_kind, _, sequence = struct.unpack_from("=IHHI", answer)
            if answer_kind == NLMSG_ERROR and sequence == self._sequence:
                error = -struct.unpack_from("=i", answer, 16)[0]
                if error:
                    raise WitnessError(f"nfnetlink request {kind:#x}: {os.strerror(error)}")
                return


_ROUTES = """
for side in 0 1; do
    echo 1 > /proc/sys/net/ipv6/conf/pfd$side/addr_gen_mode
    ip link set pfd$side mtu 65535 up
done
for family in -4 -6; do
    for side in 0 1; do
        ip $family route add default dev pfd$((1 - side)) table 10$side
        ip $family rule add iif pfd$side lookup 10$side
    done
done
"""


def _prefix(message: bytes) -> str:
    length, kind = struct.unpack_from("=HH", message, _LOG_HEADER)
    if kind != NFULA_PREFIX:
        raise WitnessError("an nfnetlink_log message without a prefix: not one of ours")
    return message[_LOG_HEADER + 4:_LOG_HEADER + length - 1].decode("ascii", "replace").rstrip()


def _payload(message: bytes) -> bytes:
    at = _LOG_HEADER
    while at < len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == NFULA_PAYLOAD:
            return message[at + 4:at + length]
        at += -(-length // 4) * 4
    raise WitnessError("an nfnetlink_log message without the packet")


def _open_tun(name: str) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def _netlink() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    link.bind((0, 0))
    return link


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise WitnessError(f"setns: {os.strerror(ctypes.get_errno())}")


def _run(*command: str, input: str | None = None) -> None:
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WitnessError(f"{' '.join(command[:2])}: {done.stderr.strip() or done.returncode}")
