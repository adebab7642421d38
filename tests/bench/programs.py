"""The benchmark's C programs and its processes: built, started on their core, ended by their process id."""
from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent
NAMES = ("accept_all", "udp_flood", "round_trip", "connections", "echo_load")
CFLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")

TRAFFIC_CORE = 0        # senders, receivers, and the kernel's work for what they send
DAEMON_CORE = 1         # the firewall's process, and the kernel's work that its verdicts set going

STOP_TIMEOUT_S = 10


class ProgramError(RuntimeError):
    """A process that the benchmark needs did not do what it should; the text says which and why."""


def build(directory: Path) -> None:
    """Compiles every C program into `directory`."""
    for name in NAMES:
        subprocess.run(["gcc", *CFLAGS, "-o", directory / name, SOURCES / f"{name}.c"], check=True)


def on_core(core: int, command: Sequence[object], namespace: str | None = None) -> list[str]:
    """The command line that runs `command` on one core, in a namespace, and that ends when we do."""
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    return [*inside, "taskset", "-c", str(core), "setpriv", "--pdeathsig", "TERM", *map(str, command)]


def output(core: int, command: Sequence[object], namespace: str | None = None, timeout_s: float = 120) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(on_core(core, command, namespace), capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise ProgramError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout


@contextmanager
def running(core: int, command: Sequence[object], namespace: str | None = None,
            until: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process for as long as the block lasts, entered once it has printed a line beginning with `until`."""
    process = subprocess.Popen(on_core(core, command, namespace), stdout=subprocess.PIPE if until else None, text=True)
    try:
        if until:
            _wait_for_line(process, until, str(command[0]))
        yield process
    finally:
        stop(process)
        if process.stdout:
            process.stdout.close()


def _wait_for_line(process: subprocess.Popen[str], beginning: str, name: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise ProgramError(f"{name} ended with status {process.wait()} before it was ready")


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and SIGKILL for one that does not heed it."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_ns(pid: int) -> int:
    """CPU time of a process and all its threads since it began, user and kernel, in nanoseconds."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProgramError(f"process {pid} has no CPU clock: it has ended")
    return time.clock_gettime_ns(clock.value)
