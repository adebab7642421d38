"""What the daemon and its service manager tell each other: sd_notify(3), sd_listen_fds(3), the descriptor store.

Without a service manager everything here does nothing.
"""
from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

FIRST_DESCRIPTOR = 3            # SD_LISTEN_FDS_START
SYSTEMCTL_TIMEOUT_S = 5.0


class ServiceManager:
    """The one that started this process, as the environment says; what it says there is taken out of it.

    inherited   descriptors by the names that they were stored under
    watchdog_s  how often it wants to hear WATCHDOG=1, at least; None: not at all
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        self.inherited = _inherited(environment)
        self.watchdog_s = _watchdog_s(environment)

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, *assignments: str, descriptors: Mapping[str, int] | None = None) -> None:
        """Send `NAME=VALUE`s; a manager that does not listen misses them."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.connect(self._address)
                socket.send_fds(channel, ["\n".join(assignments).encode()], list((descriptors or {}).values()))

    def store(self, descriptors: Mapping[str, int]) -> None:
        """Have descriptors kept beyond the end of this process, instead of those that go by the same names.

        FDPOLL=0: a netlink socket that reports an error, such as a full buffer, is to be kept all the same.
        """
        for name, descriptor in descriptors.items():
            known = self.inherited.get(name)
            if known == descriptor:
                continue
            if known is not None:
                self.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
            self.tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors={name: descriptor})

    def is_restarting(self) -> bool:
        """Whether it ends this process in order to start another: then the queue is left to that one."""
        unit = _unit()
        if not self or unit is None:
            return False
        try:
            jobs = subprocess.run(["systemctl", "list-jobs", "--no-legend", "--plain", unit], capture_output=True, text=True,
                                  timeout=SYSTEMCTL_TIMEOUT_S).stdout
        except (OSError, subprocess.SubprocessError):
            return False
        return any(job.split()[1:3] == [unit, "restart"] for job in jobs.splitlines())


def _inherited(environment: MutableMapping[str, str]) -> dict[str, int]:
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return dict(zip(names.split(":"), descriptors))


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
