"""What a daemon asks of its process: rights, a network namespace, and low-priority threads."""
from __future__ import annotations

import os
import threading

from pyfw.edge.host.capabilities import PURPOSES, missing_capability

WORKER_NICE = 19


class ProcessError(Exception):
    """The process cannot be a daemon's: one line that says why and what to do."""


def check_capabilities(*, enters_namespace: bool, diverts: bool) -> None:
    """Raises ProcessError."""
    names = ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    missing = missing_capability([*names, "CAP_SYS_ADMIN"] if enters_namespace else names) or (
        missing_capability(names, for_children=True) if diverts else None)
    if missing:
        raise ProcessError(f"{missing} is needed to {PURPOSES[missing]}: run as root (sudo), or give the service that capability")


def enter_namespace(name: str) -> None:
    """Move this process to a network namespace; threads started later are in it, too.  Raises ProcessError."""
    from pyroute2 import netns as namespaces
    try:
        namespaces.setns(name, flags=0)
    except FileNotFoundError as error:
        known = ", ".join(sorted(namespaces.listnetns())) or "none"
        raise ProcessError(f"there is no network namespace '{name}' (there are: {known}); "
                           f"make it with `ip netns add {name}`") from error
    except OSError as error:
        raise ProcessError(f"network namespace '{name}' cannot be entered: {error.strerror}") from error


def lower_priority() -> None:
    """The calling thread gets the processor when no other thread wants it: rules are compiled while packets are judged."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICE)
