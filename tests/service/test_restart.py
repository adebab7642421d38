"""The service is restarted, killed and stuck, as systemd sees it, while packets and connections pass through it."""
from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kit.restart_load import BATCH, CONFIG, EVENTS, build_echo_load, queued, under_load
from pyfw.lab import SERVER, wait_until
from service.container import Container

pytestmark = pytest.mark.alone

RECVMMSG = "299"                # its number on x86-64
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
WALL = 0x40000000               # of waitpid(2): threads, too
WATCHDOG = "[Service]\nWatchdogSec=2s\n"


@pytest.fixture(scope="module")
def echo_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_echo_load(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def gateway(guarding: Container) -> Container:
    """Forwards, by rules that a connection without its entry does not pass."""
    guarding.run("tee", "/etc/pyfw/pyfw.yaml", input=CONFIG, check=True)
    guarding.run("systemctl", "restart", "pyfw", check=True)
    return guarding


def main_pid(container: Container) -> str:
    return container.property("pyfw", "MainPID")


def is_up_again(container: Container, former: str) -> bool:
    return container.property("pyfw", "ActiveState") == "active" and main_pid(container) not in (former, "0")


def settled(container: Container) -> int:
    container.run("pyfwctl", "ping", check=True)
    return queued(container.lab)


def test_a_restart_loses_nothing(gateway: Container, echo_load: Path) -> None:
    seen = under_load(gateway.lab, echo_load, lambda: gateway.run("systemctl", "restart", "pyfw", check=True))
    assert (seen["lost"], settled(gateway)) == (0, 0)
    assert "connections taken over" in gateway.journal("pyfw")
    print(f"systemctl restart: {seen}")


def test_a_reload_loses_nothing(gateway: Container, echo_load: Path) -> None:
    seen = under_load(gateway.lab, echo_load, lambda: gateway.run("systemctl", "reload", "pyfw", check=True))
    assert (seen["lost"], settled(gateway)) == (0, 0)
    print(f"systemctl reload: {seen}")


def test_a_kill_loses_what_was_in_hand(gateway: Container, echo_load: Path) -> None:
    def killed() -> None:
        former = main_pid(gateway)
        gateway.run("kill", "-KILL", former, check=True)
        wait_until(lambda: is_up_again(gateway, former), "the successor")

    seen = under_load(gateway.lab, echo_load, killed)
    assert settled(gateway) == 0
    assert seen["lost"] <= EVENTS * BATCH
    print(f"kill -9: {seen}")


def test_a_stop_opens_the_gateway_and_a_start_guards_it(gateway: Container) -> None:
    """The control: what is told from a restart by systemd's job."""
    gateway.run("systemctl", "stop", "pyfw", check=True)
    assert "PYFW" not in gateway.run("iptables-save").stdout
    assert gateway.lab.run("client", ["ping", "-c1", "-W2", SERVER.ipv4]).returncode == 0
    gateway.run("systemctl", "start", "pyfw", check=True)
    assert gateway.lab.run("client", ["ping", "-c1", "-W2", SERVER.ipv4]).returncode == 1


@contextmanager
def stuck(thread: int) -> Iterator[None]:
    """Only this thread does not go on: we trace it and have stopped it."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_ATTACH, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, thread, None, None)
        with suppress(ChildProcessError):       # it lives on, and is not ours any more
            os.waitpid(thread, WALL)            # else its process would wait for us to take note of its end


def data_thread(container: Container) -> int:
    """The thread that waits for packets, by its number on this machine."""
    inside = main_pid(container)
    for process in Path("/proc").glob("[0-9]*/status"):
        numbers = next((line.split()[1:] for line in process.read_text().splitlines() if line.startswith("NSpid:")), [])
        if numbers[1:] == [inside] and "pyfw" in (process.parent / "cmdline").read_text():
            tasks = [task for task in (process.parent / "task").iterdir()
                     if (task / "syscall").read_text().split()[0] == RECVMMSG]
            return int(tasks[0].name)
    raise AssertionError(f"no process {inside} of the container")


def test_the_watchdog_restarts_a_daemon_whose_queue_thread_is_stuck(gateway: Container) -> None:
    gateway.run("mkdir", "-p", "/etc/systemd/system/pyfw.service.d", check=True)
    gateway.run("tee", "/etc/systemd/system/pyfw.service.d/watchdog.conf", input=WATCHDOG, check=True)
    gateway.run("systemctl", "daemon-reload", check=True)
    gateway.run("systemctl", "restart", "pyfw", check=True)
    former = main_pid(gateway)
    gateway.run("sleep", "4")
    assert main_pid(gateway) == former          # the control: one that makes progress is left alone
    assert "connections, " in gateway.property("pyfw", "StatusText")
    with stuck(data_thread(gateway)):
        wait_until(lambda: "Watchdog timeout" in gateway.journal("pyfw"), "the watchdog", 20)
    wait_until(lambda: is_up_again(gateway, former), "the successor", 30)
    gateway.run("pyfwctl", "ping", check=True)
