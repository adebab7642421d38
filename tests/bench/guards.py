"""What may stand in the gateway: the contenders."""
from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.network import Network, set_sysctls
from bench.programs import DAEMON_CORE, SOURCES, ProgramError, running

QUEUE = 0
COPY_RANGE = 4096               # bytes of a packet that the C programs ask for
READY_TIMEOUT_S = 20
RULES = SOURCES / "gateway.rules"
KERNEL_CONNTRACK = {            # as gateway.yaml has it
    "net.netfilter.nf_conntrack_acct": "1",
    "net.netfilter.nf_conntrack_udp_timeout": "3600",
}


@dataclass(frozen=True)
class Guard:
    """A firewall on duty in its network."""

    net: Network
    pid: int | None = None      # of its daemon, if it has one
    directory: Path | None = None       # where pyfw has its config, keeps its state and its socket

    def pyfwctl(self, *arguments: str) -> list[str]:
        """The command line that asks this pyfw."""
        return [pyfw_program("pyfwctl"), "--socket", str(self._directory / "control.sock"), *arguments]

    def load_rules(self, rules: str) -> None:
        """Replace the gateway's policy by iptables-save text: pyfw's, or else the kernel's."""
        if self.directory is None:
            subprocess.run(["ip", "netns", "exec", self.net.gateway, "iptables-restore"], input=rules, text=True, check=True)
        else:
            (self.directory / RULES.name).write_text(rules)
            subprocess.run(self.pyfwctl("reload"), check=True, capture_output=True)

    def state_bytes(self) -> int:
        """Bytes that the state directory's files take up, holes not counted."""
        return sum(512 * path.stat().st_blocks for path in self._directory.rglob("*") if path.is_file())

    def own_bytes(self) -> int:
        """Resident memory of the daemon that no file stands behind."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return 1024 * int(fields["RssAnon"].split()[0])

    @property
    def _directory(self) -> Path:
        assert self.directory is not None, "only pyfw has a state directory"
        return self.directory


Installer = Callable[[Network, Path], AbstractContextManager[Guard]]


@dataclass(frozen=True)
class Contender:
    name: str
    description: str
    install: Installer


def pyfw_program(name: str) -> str:
    """The console script that belongs to the interpreter we run in."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def nothing(net: Network, directory: Path) -> Iterator[Guard]:
    yield Guard(net)


@contextmanager
def kernel(net: Network, directory: Path) -> Iterator[Guard]:
    subprocess.run(["ip", "netns", "exec", net.gateway, "iptables-restore", RULES], check=True)
    set_sysctls(net.gateway, KERNEL_CONNTRACK)
    yield Guard(net)


@contextmanager
def accept_all(net: Network, directory: Path, *, options: tuple[str, ...]) -> Iterator[Guard]:
    divert = ["iptables", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", str(QUEUE)]
    subprocess.run(["ip", "netns", "exec", net.gateway, *divert], check=True)
    mode, *rest = options
    command = [directory / "accept_all", QUEUE, mode, COPY_RANGE, *rest]
    with running(DAEMON_CORE, command, net.gateway, until="ready") as process:
        yield Guard(net, process.pid)


@contextmanager
def pyfw(net: Network, directory: Path) -> Iterator[Guard]:
    own = directory / "pyfw"
    own.mkdir()
    for source in (RULES, RULES.with_suffix(".yaml")):
        shutil.copy(source, own)
    command = [
        pyfw_program("pyfw"), "run", "-c", own / "gateway.yaml", "--netns", net.gateway,
        "--socket", own / "control.sock", "--set", f"state.dir={own}",
    ]
    with running(DAEMON_CORE, command) as process:
        guard = Guard(net, process.pid, own)
        _wait_until_ready(process, guard)
        yield guard


def _wait_until_ready(process: subprocess.Popen[str], guard: Guard) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while subprocess.run(guard.pyfwctl("ping"), capture_output=True).returncode:
        if process.poll() is not None:
            raise ProgramError(f"pyfw ended with status {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise ProgramError(f"pyfw did not answer a ping within {READY_TIMEOUT_S} s")
        time.sleep(0.05)


CONTENDERS = (
    Contender("none", "no firewall: the gateway forwards", nothing),
    Contender("kernel", "the kernel's conntrack and iptables, the same rules", kernel),
    Contender("c-each", "C, accepts everything, a system call each way", partial(accept_all, options=("each",))),
    Contender("c-batch", "C, accepts everything, recvmmsg and one send per batch",
              partial(accept_all, options=("batch",))),
    Contender("c-gso", "C, accepts everything, batched, packets as large as the stack makes them",
              partial(accept_all, options=("batch", "gso"))),
    Contender("pyfw", "pyfw with the gateway's policy", pyfw),
)
