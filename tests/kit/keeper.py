"""Keeps a daemon's descriptors and starts the next one with them, as systemd's descriptor store does."""
from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from firewall import Firewall
from pyfw.lab import Lab

FIRST = 3                       # SD_LISTEN_FDS_START
ABOVE_ALL = 100
ANSWER_S = 20.0
WATCHDOG_US = 400_000


class KeptFirewall(Firewall):
    """A pyfw whose NOTIFY_SOCKET is ours: READY is waited for, what it stores is given to its successor."""

    def __init__(self, lab: Lab, config: Path, directory: Path, *, settings: Iterable[str] = ()) -> None:
        super().__init__(lab, config, directory, settings=settings)
        self.path = directory / "notify.sock"
        self.kept: dict[str, int] = {}
        self.said: list[str] = []
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(self.path))
        self._channel.settimeout(ANSWER_S)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            preexec_fn=self._as_systemd_would,
                                            pass_fds=range(FIRST, FIRST + len(self.kept)))
        self.read_until("READY=1")

    def read_until(self, wanted: str) -> None:
        """Take in what the daemon says, up to and with this assignment."""
        while wanted not in self._read():
            pass

    def kill(self) -> None:
        super().kill()
        self.catch_up()

    def catch_up(self) -> None:
        """Take in what was said and not waited for: after a reload a daemon says READY, too."""
        while select.select([self._channel], [], [], 0)[0]:
            self._read()

    def _read(self) -> list[str]:
        """The assignments of one message; descriptors that came along are kept, or let go of."""
        data, descriptors, _, _ = socket.recv_fds(self._channel, 65536, 16)
        assignments = data.decode().splitlines()
        self.said += assignments
        named = dict(assignment.partition("=")[::2] for assignment in assignments)
        if "FDSTOREREMOVE" in named:
            os.close(self.kept.pop(named["FDNAME"]))
        if "FDSTORE" in named:
            self.kept[named["FDNAME"]] = descriptors[0]
        return assignments

    def skip(self) -> None:
        """Leave out what it has said so far."""
        self._channel.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._channel.recv(65536)
        self._channel.settimeout(ANSWER_S)

    def forget(self) -> None:
        """Close what is kept, as systemd does when a service is stopped for good."""
        for descriptor in self.kept.values():
            os.close(descriptor)
        self.kept.clear()

    def stop(self) -> int | None:
        status = super().stop()
        self.forget()
        self._channel.close()
        return status

    def _as_systemd_would(self) -> None:
        """In the child, before it becomes the daemon."""
        copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, ABOVE_ALL) for descriptor in self.kept.values()]
        for position, copy in enumerate(copies):
            os.dup2(copy, FIRST + position)
        os.environ.update(NOTIFY_SOCKET=str(self.path), WATCHDOG_USEC=str(WATCHDOG_US), LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(copies)),
                          LISTEN_FDNAMES=":".join(self.kept))
