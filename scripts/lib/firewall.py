"""A live pyfw on the lab's gateway, and what pyfwctl says about it."""
from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pyfw.lab import Lab, LabError, wait_until

BIN = Path(sys.executable).parent           # where this environment's console scripts are
START_TIMEOUT_S = 20.0

COUNTERS = re.compile(r" -c (?P<packets>\d+) (?P<bytes>\d+)")


class Firewall:
    """`pyfw run` guarding one host of the lab, from entering the context to leaving it."""

    def __init__(self, lab: Lab, config: Path, directory: Path, *, role: str = "gateway",
                 settings: Iterable[str] = ()) -> None:
        """`directory` takes the state, the socket and the log; `settings` go to --set."""
        self.lab = lab
        self.role = role
        self.socket = directory / "control.sock"
        self.log = directory / "pyfw.log"
        self.argv = [BIN / "pyfw", "run", "-c", config, "--netns", lab.namespace(role), "--socket", self.socket]
        for setting in (f"state.dir={directory / 'state'}", *settings):
            self.argv += ["--set", setting]
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Firewall:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; returns when it judges packets.  LabError with its own words when it does not."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._answers_or_ended, "pyfw to start", START_TIMEOUT_S)
            if self.process.poll() is not None:
                raise LabError(f"pyfw ended with status {self.process.returncode}")
        except LabError as error:
            self.stop()
            raise LabError(f"{error}\n{self.log.read_text()}") from None

    def stop(self) -> int | None:
        """End it politely.  Returns its exit status; None: it was not running."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self) -> None:
        """As a crash would: no chance to clean up."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def _answers_or_ended(self) -> bool:
        return self.process.poll() is not None or (self.socket.exists() and self.ctl("ping").returncode == 0)

    # -- what an administrator sees ---------------------------------------------------------------

    def ctl(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess:
        return subprocess.run([BIN / "pyfwctl", "--socket", self.socket, *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30, check=check)

    def settle(self) -> None:
        """Return once every packet that is queued now has its verdict."""
        self.ctl("ping", check=True)

    def connections(self, *arguments: str) -> list[str]:
        """The lines of `pyfwctl list-conntrack`."""
        self.settle()
        return self.ctl("list-conntrack", *arguments).stdout.splitlines()

    def rule_packets(self, table: str = "filter") -> dict[str, int]:
        """Packets that each rule and policy of the table has decided, by its iptables text."""
        self.settle()
        listing = self.ctl("list-rules", "-v", "-t", table, check=True).stdout
        packets: dict[str, int] = {}
        for line in listing.splitlines():
            if found := COUNTERS.search(line):
                rule = line[:found.start()] + line[found.end():]
                packets[rule] = packets.get(rule, 0) + int(found["packets"])
        return packets

    def wait_for(self, what: str, condition, timeout_s: float = 10.0) -> None:
        """Wait until `condition(self.connections())` holds."""
        with suppress(LabError):
            wait_until(lambda: condition(self.connections()), what, timeout_s)
            return
        raise LabError(f"waited {timeout_s:g} s in vain: {what}; the table:\n" + "\n".join(self.connections()))
