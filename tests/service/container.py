"""A Debian that is booted for real, by systemd-nspawn, in the place of a lab's gateway.

      {lab}-client                 the container, in {lab}-gateway                  {lab}-server
    ┌──────────────┐              ┌────────────────────────────────┐              ┌──────────────┐
    │         eth0 ●──────────────● eth1     systemd as PID 1      ● eth0 ────────● eth0         │
    └──────────────┘              └────────────────────────────────┘              └──────────────┘

Its file system is the cached tree under an overlay in memory: what happens in it is gone with it.  It has no way out of the
lab.  A copy of the source tree, in which nothing is built, is /usr/src/pyfw in it, read-only; the wheels are /usr/src/wheels.
"""
from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pyfw.lab import GATEWAY_INSIDE, NAMESPACE_DIR, Lab, LabError, wait_until

SOURCE = "/usr/src/pyfw"
WHEELS = "/usr/src/wheels"
RULES = "/etc/pyfw/host.rules"
BOOT_TIMEOUT_S = 90.0
OFF_TIMEOUT_S = 60.0
CGROUPS = tuple(path for path in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"))
                if (path / "cgroup.procs").exists())
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
               "HOME": "/root", "TERM": "dumb"}


class Container:
    """As a context manager it exists inside, not yet booted, and is gone after, whatever happens."""

    def __init__(self, lab: Lab, layers: Sequence[Path], binds: dict[Path, str]) -> None:
        """`layers`: what its file system begins with, the uppermost first.

        `binds`: directories of this machine -> where they are seen in the container, read-only.
        """
        self.lab = lab
        self._layers = layers
        self._binds = binds
        self._directory: Path
        self._process: subprocess.Popen | None = None
        self._started: list[subprocess.Popen] = []
        self.leader = 0                 # the process id, on this machine, of its PID 1

    @property
    def root(self) -> Path:
        """Its file system, seen from outside (without what it mounts, such as /run)."""
        return self._directory / "root"

    def __enter__(self) -> Container:
        self._directory = Path(tempfile.mkdtemp(prefix="pyfw-test-", dir="/run"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "pyfw-test", self._directory], check=True)
        for name in ("root", "changed", "work"):
            (self._directory / name).mkdir()
        layers = f"lowerdir={':'.join(map(str, self._layers))},upperdir={self._directory}/changed,workdir={self._directory}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "pyfw-test", self.root], check=True)
        # With an id it has booted before: systemd's presets would else enable what Debian does not.
        (self.root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (self.root / "etc/hostname").write_text("gateway\n")
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.power_off()
        finally:
            for path in (self.root, self._directory):
                subprocess.run(["umount", path], check=False)
            self._directory.rmdir()

    # -- power ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Returns when all its units have started; LabError with its console if they do not."""
        self._enter_cgroups()
        binds = [f"--bind-ro={path}:{place}" for path, place in self._binds.items()]
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe",
                 f"--machine={self.lab.name}", f"--directory={self.root}", "--link-journal=no", "--resolv-conf=off",
                 f"--network-namespace-path={NAMESPACE_DIR / self.lab.namespace('gateway')}", "--capability=CAP_NET_ADMIN",
                 *binds], stdin=subprocess.DEVNULL, stdout=console, stderr=console, preexec_fn=self._join_cgroups)
        try:
            wait_until(self._has_init, "the container's PID 1", BOOT_TIMEOUT_S)
            wait_until(lambda: self.root_of_leader("run/systemd/private").exists(), "its systemd", BOOT_TIMEOUT_S)
            state = self.run("systemctl", "is-system-running", "--wait", timeout_s=BOOT_TIMEOUT_S).stdout.strip()
            if state not in ("running", "degraded"):
                raise LabError(f"the container is {state or 'not there'} instead of running")
        except (LabError, subprocess.TimeoutExpired) as error:
            text = self._console.read_text(errors="replace")[-4000:]
            self.power_off()
            raise LabError(f"{error}\n{text}") from None

    def power_off(self) -> None:
        """As `systemctl poweroff` does; what it has written stays for the next boot()."""
        process, self._process = self._process, None
        if process is None:
            return
        for started in self._started:   # systemd would wait for them in vain: nsenter is the one to reap them
            for child in _children(started.pid):
                os.kill(child, signal.SIGKILL)
            started.wait()
        self._started.clear()
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        try:
            process.wait(OFF_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._leave_cgroups()

    def reboot(self) -> None:
        self.power_off()
        self.boot()

    def keep(self, layer: Path) -> None:
        """Copy what is different from the layers below: another container can begin with it.  It must be off."""
        subprocess.run(["cp", "-a", f"{self._directory}/changed/.", layer], check=True)

    @property
    def _console(self) -> Path:
        return self._directory / "console"

    def _has_init(self) -> bool:
        """nspawn's child is its PID 1 once it has become systemd."""
        if self._process.poll() is not None:
            raise LabError(f"systemd-nspawn ended with {self._process.returncode}")
        for child in _children(self._process.pid):
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    self.leader = child
                    return True
        return False

    # A control group of its own, so that several containers do not meet in nspawn's.

    def _cgroups(self) -> Iterator[Path]:
        return (path / self.lab.name for path in CGROUPS)

    def _enter_cgroups(self) -> None:
        for path in self._cgroups():
            path.mkdir(exist_ok=True)

    def _join_cgroups(self) -> None:
        for path in self._cgroups():
            (path / "cgroup.procs").write_text("0")

    def _leave_cgroups(self) -> None:
        """The last processes may still be on their way out."""
        wait_until(lambda: not [path for path in self._cgroups() if not _removed(path)], "the container's control groups to empty")

    # -- what runs in it --------------------------------------------------------------------------

    def command(self, *argv: str | os.PathLike) -> list[str]:
        """The argv, of this machine, that runs `argv` in the container, as root, in /root."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/root",
                "--", "env", "--ignore-environment", *variables, *map(os.fspath, argv)]

    def run(self, *argv: str | os.PathLike, check: bool = False, timeout_s: float = 60.0,
            input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run to the end; its output is captured as text.  With `check` a status other than 0 is an AssertionError."""
        done = subprocess.run(self.command(*argv), input=input or "", capture_output=True, text=True, timeout=timeout_s)
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def start(self, *argv: str | os.PathLike, **options) -> subprocess.Popen:
        """Start something that stays; it ends with the container at the latest."""
        process = subprocess.Popen(self.command(*argv), **{"stdin": subprocess.DEVNULL, "text": True} | options)
        self._started.append(process)
        return process

    def root_of_leader(self, path: str) -> Path:
        """A path of the container as its processes see it, with what it mounts."""
        return Path(f"/proc/{self.leader}/root") / path

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` prints it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit, check=True).stdout.strip()

    def journal(self, unit: str, *arguments: str) -> str:
        """The unit's messages since this boot, without times."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--boot", "--output=cat", f"--unit={unit}", *arguments, check=True).stdout


@contextmanager
def booted(layers: Sequence[Path], binds: dict[Path, str]) -> Iterator[Container]:
    """A container of its own, in a lab of its own."""
    with Lab(f"pyfw-service-{os.getpid()}") as lab, Container(lab, layers, binds) as container:
        container.boot()
        yield container


def _removed(cgroup: Path) -> bool:
    for directory, _, _ in os.walk(cgroup, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
    return not cgroup.exists()


def _children(pid: int) -> list[int]:
    """None, if the process has ended."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def connects(container: Container, port: int) -> bool:
    """Whether a client can open a connection to the container."""
    probe = f"import socket; socket.create_connection(('{GATEWAY_INSIDE.ipv4}', {port}), 1.5)"
    return container.lab.run("client", ["python3", "-c", probe]).returncode == 0


def answers(session: subprocess.Popen[str], line: str) -> bool:
    """Whether an ssh_session lives."""
    session.stdin.write(f"{line}\n")
    session.stdin.flush()
    return session.stdout.readline() == f"{line}\n"


def edit(container: Container, old: str, new: str) -> None:
    text = container.run("cat", RULES, check=True).stdout
    assert old in text
    container.run("tee", RULES, input=text.replace(old, new), check=True)


def at_us(container: Container, unit: str, moment: str) -> int:
    time_us = int(container.property(unit, f"{moment}TimestampMonotonic"))
    assert time_us, f"{unit} has no {moment}"
    return time_us


NewContainer = Callable[..., AbstractContextManager[Container]]
