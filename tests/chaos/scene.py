"""The lab, the firewall on its gateway, traffic, and what happens to them, in an order that a seed decides."""
from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

from chaos.actions import ACTIONS, Action
from chaos.probe import Probe
from kit.keeper import KeptFirewall
from pyfw.lab import SERVER, Lab

STATE_BYTES = 2 << 20           # of the file system that keeps the state
ENTRIES = 2000
OPEN_S = 10.0                   # after this the diversion is back, if another program took it away: the watch needs a second
GRACE_S = 30.0                  # after this new connections come through again, on a machine that has other work
SILENCE_S = 60.0                # no held connection may wait for longer
CLOSED_S = 1.5                  # so long nothing may come through before it counts as closed
CLONE_NEWTIME, CLOCK_MONOTONIC = 0x80, 1

PLAIN = """
hooks: [INPUT, FORWARD, OUTPUT]
queue: {length: 8192}
conntrack: {max_entries: %(entries)d}
rules:
  filter:
    FORWARD:
      policy: DROP
      rules:
%(more)s
        - -m conntrack --ctstate INVALID -j DROP
        - -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
        - -i eth1 -p tcp --dport 7001 -m conntrack --ctstate NEW -j ACCEPT
        - -i eth1 -p udp --dport 7001 -m conntrack --ctstate NEW -j ACCEPT
        - -i eth1 -p icmp -j ACCEPT
        - -i eth1 -p icmpv6 -j ACCEPT
    INPUT:
      policy: DROP
      rules:
        - -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
        - -p icmpv6 -j ACCEPT
    OUTPUT:
      policy: DROP
      rules:
        - -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
        - -p icmpv6 -j ACCEPT
        - -p icmp -j ACCEPT
"""


class ChaosFailure(AssertionError):
    """What must hold did not: with the seed and all that had happened."""


class TimedFirewall(KeptFirewall):
    """A daemon whose monotonic clock may be ahead of the machine's, in a time namespace of its own."""

    clock_offset_s = 0

    def _as_systemd_would(self) -> None:
        super()._as_systemd_would()
        if self.clock_offset_s:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWTIME):
                raise OSError(ctypes.get_errno(), "unshare")
            Path("/proc/self/timens_offsets").write_text(f"monotonic {self.clock_offset_s} 0\n")


class Scene:
    """Up inside the context; `log` has a line for everything that happened."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.log: list[str] = []
        self.happened = 0
        self.state = directory / "state"
        self.config = directory / "pyfw.yaml"
        self._directory = directory
        self._stack = ExitStack()
        self._begun = time.monotonic()

    def __enter__(self) -> Scene:
        try:
            self.state.mkdir(mode=0o700)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STATE_BYTES},mode=700", "chaos", self.state], check=True)
            self._stack.callback(subprocess.run, ["umount", "-l", self.state])
            self.lab = self._stack.enter_context(Lab(f"pyfw-chaos-{os.getpid()}"))
            self.write_config("plain")
            self.firewall = TimedFirewall(self.lab, self.config, self._directory)
            self._stack.callback(self._stop)
            self.start()
            self.probe = self._stack.enter_context(Probe(self.lab))
            self.probe.hold()
            self._stack.enter_context(Load(self.lab))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    # -- for actions ----------------------------------------------------------------------------------------------

    def write_config(self, kind: str) -> None:
        """`plain`, or `long`: with rules before the others that match nothing."""
        more = "\n".join(f"        - -s 203.0.113.{number} -j DROP" for number in range(1, 250 if kind == "long" else 2))
        self.config.write_text(PLAIN % {"entries": ENTRIES, "more": more})

    def ctl(self, *words: str) -> subprocess.CompletedProcess:
        try:
            return self.firewall.ctl(*words)
        except subprocess.TimeoutExpired:
            self.note(f"pyfwctl {' '.join(words)} has not ended")
            return subprocess.CompletedProcess(words, 1)

    def gateway(self, *argv: str) -> None:
        """Run something on the gateway, as another program there would; tables that are not there are nobody's fault."""
        self.lab.run("gateway", argv)

    def start(self) -> None:
        self.firewall.start()

    def take_over(self, environment: dict[str, str] | None = None) -> None:
        before = self.firewall.process
        with self.firewall.log.open("ab") as log:
            self.firewall.process = subprocess.Popen([*self.firewall.argv, "--takeover"], stdin=subprocess.DEVNULL, stdout=log,
                                                     stderr=log, env=environment)
        if before.wait(60) != 0:
            raise ChaosFailure(f"the predecessor ended with status {before.returncode}")

    # -- what happens, and what must hold --------------------------------------------------------------------------

    def run(self, seconds: float, actions: tuple[Action, ...] = ACTIONS) -> None:
        """One action after another.  Raises ChaosFailure."""
        end = time.monotonic() + seconds
        try:
            self.check()
            while time.monotonic() < end:
                action = self.random.choices(actions, [action.weight for action in actions])[0]
                self.note(action.name)
                action.run(self)
                self.happened += 1
                if action.may_open:
                    self._close_again()
                self.check()
                time.sleep(self.random.random())
        except Exception as error:
            raise ChaosFailure(f"{error!r}\nseed {self.seed}\n" + "\n".join(self.log) + "\n" + self.daemon_log()) from error

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._begun:8.2f}  {text}")

    def check(self) -> None:
        """Nothing that is forbidden has come through; held connections live; new ones come through."""
        end = time.monotonic() + GRACE_S
        while not self.probe.allowed():
            if self.firewall.process.poll() is not None:
                raise ChaosFailure(f"the daemon ended with status {self.firewall.process.returncode}")
            if time.monotonic() > end:
                raise ChaosFailure(f"new connections do not come through {GRACE_S} s later")
        while self.probe.silent_s() > 1.0 and not self.probe.broken():
            if self.probe.silent_s() > SILENCE_S:
                raise ChaosFailure(f"a held connection is silent for {SILENCE_S} s")
            time.sleep(0.05)
        if broken := self.probe.broken():
            raise ChaosFailure(f"broken: {broken}")
        if leaks := self.probe.leaks():
            raise ChaosFailure(f"forbidden, and came through: {len(leaks)}, such as {leaks[0].what}")

    def _close_again(self) -> None:
        """Wait until nothing forbidden comes through any longer.  What is held lives through it."""
        end = time.monotonic() + OPEN_S
        time.sleep(CLOSED_S)
        while self.probe.leaks():
            if time.monotonic() > end:
                raise ChaosFailure(f"forbidden packets come through {OPEN_S} s later")
            time.sleep(CLOSED_S)

    def daemon_log(self) -> str:
        return "\n".join(self.firewall.log.read_text().splitlines()[-40:])

    def _stop(self) -> None:
        with suppress(Exception):
            self.firewall.stop()


class Load:
    """Datagrams from the inside, each from a port of its own and each answered, so that the table is never at rest."""

    PER_SECOND = 200

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._lab.inside("client"):
            while not self._stop.wait(1 / self.PER_SECOND):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, suppress(OSError):
                    sender.sendto(b"load", (SERVER.ipv4, 7001))
