"""What `conntrack -E` prints in a namespace, and where pyfw's events differ from it."""
from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from differential.compare import TIMEOUT_TOLERANCE_S
from kit.witness import NETLINK_NETFILTER, Sent
from pyfw.lab import wait_until

CONNTRACK_GROUPS = 0b111        # NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY
BURST = 40                      # packets

# Who deleted an entry is told behind it, by name if that process is still there.
_EVENT = re.compile(r"(?P<kind> *\[\w+\]) (?P<protocol>\S+ +\d+) (?:(?P<seconds>\d+) )?(?P<rest>.*?)"
                    r"(?: \[USERSPACE\] portid=\d+(?: progname=\S+)?)?")


class NetlinkSocket(NamedTuple):
    """A line of /proc/net/netlink."""

    protocol: int
    groups: int
    waiting_bytes: int
    drops: int


class KernelEvents:
    """A running `conntrack -E`, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process = process
        self._output = output

    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    def until(self, what: str) -> list[str]:
        """The lines up to the first with `what` in it, waiting for that; it is left out."""
        wait_until(lambda: any(what in line for line in self.lines()), f"conntrack -E to print a line with {what!r}")
        lines = self.lines()
        assert self.socket().drops == 0
        return lines[:next(position for position, line in enumerate(lines) if what in line)]

    def keeping_up(self, packets: Iterable[Sent]) -> Iterator[Sent]:
        """The packets, no faster than conntrack reads of them: its socket holds some 200 events, whatever -b says."""
        for number, packet in enumerate(packets):
            if number % BURST == 0:
                wait_until(lambda: self.socket().waiting_bytes == 0, "conntrack -E to read")
            yield packet

    def socket(self) -> NetlinkSocket | None:
        """The one of its namespace that has joined connection tracking's groups; None: there is none yet."""
        rows = [line.split() for line in Path(f"/proc/{self._process.pid}/net/netlink").read_text().splitlines()[1:]]
        sockets = [NetlinkSocket(int(row[1]), int(row[3], 16), int(row[4]), int(row[8])) for row in rows]
        return next((each for each in sockets if each.protocol == NETLINK_NETFILTER and each.groups & CONNTRACK_GROUPS), None)


@contextmanager
def kernel_events(namespace: str, output: Path, *options: str) -> Iterator[KernelEvents]:
    """Inside, the kernel tells what happens to the connections of that namespace."""
    command = ["nsenter", f"--net=/run/netns/{namespace}", "conntrack", "-E", *options]
    with output.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL, text=True)
    try:
        events = KernelEvents(process, output)
        wait_until(events.socket, "conntrack -E to listen")
        yield events
    finally:
        process.terminate()
        process.wait()


def event_differences(kernel: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Events of which one side has none like it in the same place; seconds may differ a little."""
    return [f"event {position}:\n  kernel {theirs!r}\n  pyfw   {our!r}"
            for position, (theirs, our) in enumerate(zip_longest(kernel, ours, fillvalue="")) if not _alike(theirs, our)]


def _alike(kernel: str, ours: str) -> bool:
    their_parts, our_parts = _EVENT.fullmatch(kernel), _EVENT.fullmatch(ours)
    if their_parts is None or our_parts is None:
        return False
    seconds = [int(parts["seconds"] or 0) for parts in (their_parts, our_parts)]
    return (all(their_parts[name] == our_parts[name] for name in ("kind", "protocol", "rest"))
            and abs(seconds[0] - seconds[1]) <= TIMEOUT_TOLERANCE_S)


def run_inside(namespace: str, *command: str) -> None:
    subprocess.run(["nsenter", f"--net=/run/netns/{namespace}", *command], check=True, capture_output=True, stdin=subprocess.DEVNULL)
