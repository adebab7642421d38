"""What the daemon and its service manager tell each other: sd_notify(3), sd_listen_fds(3), the descriptor store, the journal.

Without a service manager everything here does nothing.
"""
from __future__ import annotations

import os
import socket
import struct
import subprocess
from array import array
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from pyfw.escape import printable

FIRST_DESCRIPTOR = 3            # SD_LISTEN_FDS_START
SYSTEMCTL_TIMEOUT_S = 5.0
SEND_TIMEOUT_MS = 2000
JOURNAL_SOCKET = "/run/systemd/journal/socket"
STANDARD_ERROR = 2
INFORMATION = "6"               # LOG_INFO


class ServiceManager:
    """The one that started this process, as the environment says; what it says there is taken out of it.

    inherited   descriptors by the names that they were stored under
    watchdog_s  how often it wants to hear WATCHDOG=1, at least; None: not at all
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        # For good: where no descriptor is left, it must still hear that we are alive, or that we end.
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._channel is not None:
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(SEND_TIMEOUT_MS * 1000, 1_000_000)))
        self.inherited = _inherited(environment)
        self.watchdog_s = _watchdog_s(environment)

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, *assignments: str, descriptors: Mapping[str, int] | None = None, waits: bool = True) -> None:
        """Send `NAME=VALUE`s; a manager that does not listen misses them, or, if `waits`, has SEND_TIMEOUT_MS to begin to."""
        if self._channel is not None:
            along = array("i", (descriptors or {}).values())
            with suppress(OSError):     # not socket.send_fds(), which forgets the address
                self._channel.sendmsg(["\n".join(map(printable, assignments)).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, along)],
                                      0 if waits else socket.MSG_DONTWAIT, self._address)

    def store(self, descriptors: Mapping[str, int]) -> None:
        """Have descriptors kept beyond the end of this process, instead of those that go by the same names, which end here.

        FDPOLL=0: a netlink socket that reports an error, such as a full buffer, is to be kept all the same.
        """
        for name, descriptor in descriptors.items():
            known = self.inherited.get(name)
            if known == descriptor:
                continue
            if known is not None:
                self.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
                os.close(known)
            self.tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors={name: descriptor})

    def is_restarting(self) -> bool:
        """Whether it ends this process in order to start another: then the queue is left to that one.

        If it does not say, it may be so: what is left diverted is closed, and that is the safe mistake.
        """
        unit = _unit()
        if not self or unit is None:
            return False
        try:
            jobs = subprocess.run(["systemctl", "list-jobs", "--no-legend", "--plain", unit], capture_output=True, text=True,
                                  timeout=SYSTEMCTL_TIMEOUT_S, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return True
        return any(job.split()[1:3] == [unit, "restart"] for job in jobs.splitlines())


class NativeJournal:
    """Lines with their fields to systemd's journal (systemd.io/JOURNAL_NATIVE_PROTOCOL): PYFW_RULE, PYFW_HOOK, PYFW_IN, PYFW_OUT.

    The field `level`, as syslog(3) numbers it, is the line's priority; without it the line is information.
    """

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.connect(path)

    @classmethod
    def if_ours(cls, environment: MutableMapping[str, str] = os.environ) -> NativeJournal | None:
        """None: standard error does not end in the journal, or that cannot be reached."""
        status = os.fstat(STANDARD_ERROR)
        if environment.pop("JOURNAL_STREAM", "") != f"{status.st_dev}:{status.st_ino}":
            return None
        with suppress(OSError):
            return cls()
        return None

    def write(self, lines: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        for text, fields in lines:
            entry = {"MESSAGE": text, "PRIORITY": fields.get("level", INFORMATION), "SYSLOG_IDENTIFIER": "pyfw",
                     **{f"PYFW_{name.upper()}": value for name, value in fields.items() if value and name != "level"}}
            with suppress(OSError):     # the journal is gone
                self._socket.send(b"".join(_journal_field(name, value) for name, value in entry.items()))


def _journal_field(name: str, value: str) -> bytes:
    """A value of several lines, which a LOG prefix can make, goes with its length before it."""
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _inherited(environment: MutableMapping[str, str]) -> dict[str, int]:
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return dict(zip(names.split(":"), descriptors, strict=False))


def _watchdog_s(environment: MutableMapping[str, str]) -> float | None:
    pid, interval_us = environment.pop("WATCHDOG_PID", ""), environment.pop("WATCHDOG_USEC", "")
    return int(interval_us) / 1e6 if interval_us.isdecimal() and pid in ("", str(os.getpid())) else None


def _unit() -> str | None:
    """The service that this process belongs to (systemd's control group)."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            name = line.rpartition("/")[2]
            if name.endswith(".service"):
                return name
    return None
