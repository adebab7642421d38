"""The kernel's own counters of its queues: /proc/net/netfilter/nfnetlink_queue."""
from __future__ import annotations

import os
from typing import NamedTuple

PATH = "/proc/thread-self/net/netfilter/nfnetlink_queue"


class QueueCounters(NamedTuple):
    """One line of the file (nfnetlink_queue.c, seq_show)."""

    queue: int
    portid: int             # netlink port of the owner, as a rule its process id
    queued: int             # packets waiting for a verdict
    copy_mode: int
    copy_range: int         # bytes
    queue_dropped: int      # the queue was full
    user_dropped: int       # the socket's receive buffer was full
    id_sequence: int        # number of the last packet queued; wraps at 2^32


def parse_queue_counters(text: str) -> dict[int, QueueCounters]:
    """{queue number: counters}; lines of another shape are passed over."""
    counters = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 8 and all(field.isdecimal() for field in fields[:8]):
            entry = QueueCounters(*map(int, fields[:8]))
            counters[entry.queue] = entry
    return counters


class QueueStats:
    """Counters of the network namespace in which this was made, wherever it is read from later.

    Raises OSError where the kernel has no nfnetlink_queue.
    """

    def __init__(self) -> None:
        self._descriptor = os.open(PATH, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, number: int) -> QueueCounters | None:
        """The counters of one queue; None: no process has bound it."""
        return parse_queue_counters(_read_all(self._descriptor)).get(number)

    def close(self) -> None:
        os.close(self._descriptor)


def read_kernel_counters(number: int) -> QueueCounters | None:
    """The counters of one queue of the calling thread's namespace; None: not bound, or no such file.

    Raises PermissionError: root's group may read them, or whom root has given the file.
    """
    try:
        stats = QueueStats()
    except FileNotFoundError:
        return None
    try:
        return stats.read(number)
    finally:
        stats.close()


def queue_owner(number: int) -> int | None:
    """Netlink port of the program that has bound the queue."""
    counters = read_kernel_counters(number)
    return counters.portid if counters else None


def _read_all(descriptor: int) -> str:
    pieces = []
    offset = 0
    while piece := os.pread(descriptor, 65536, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces).decode("ascii", "replace")
