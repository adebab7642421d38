"""The diversion from a daemon's start to its end: installed, watched, put back when others have changed it, removed.

A thread of its own looks whenever nf_tables announces a change, and every second besides.  A look costs a system call or
two as long as no rule of the namespace has changed; then iptables-save is compared with what was installed.  However often
others change rules, it looks at most every GAP_S, and ever less often, to once in MAX_GAP_S, while they go on; so two
programs that both want to be first do no more than that.
"""
from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyfw.edge.host.divert import Diversion, Installed
from pyfw.edge.host.iptables import DivertError, ip_versions
from pyfw.edge.host.owner_lock import DiversionOwner
from pyfw.edge.host.ruleset_changes import RulesetChanges

INTERVAL_S = 1.0
GAP_S = 0.02
MAX_GAP_S = 1.0
VERIFY_TIMEOUT_S = 30.0
SAY_INTERVAL_S = 5.0            # one line about repairs and one about failures in so many seconds, at most
MAX_FAULTS = 4

UNKNOWN = "it has not been installed yet"


class DiversionKeeper:
    """Keeps one Diversion in place, in the network namespace of the thread that calls install() and start().

    owner   the right to divert there; with the diversion goes its file
    say     takes a line for the administrator, in any thread
    relearn has TCP's windows learnt anew, which is due when the diversion is back; returns of how many connections
    fault   what is wrong with the diversion, as far as is known; None: it is in place
    """

    def __init__(self, diversion: Diversion, owner: DiversionOwner, say: Callable[[str], None],
                 relearn: Callable[[], int]) -> None:
        self._diversion = diversion
        self._relearn_windows = relearn
        self._owner = owner
        self._say_repair, self._say_failure = _Limited(say), _Limited(say)
        self._installed: Installed
        self._changes: RulesetChanges
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._watch, name="pyfw-diversion", daemon=True)
        self._requests: deque[threading.Event] = deque()
        self._looking = threading.Lock()
        self._resting = False
        self._stopping = False
        self._blind: object = None      # the rules' state when they could not be read and the jumps were put first
        self._seen: object = None       # the rules' state when the diversion was last found, or put, in its place
        self.fault: str | None = UNKNOWN
        self.checks = self.repairs = self.failures = self.connections_relearnt = 0

    def install(self) -> None:
        """Install it, or see that it is there.  Raises DivertError; then what was there before is there still."""
        try:
            self._changes = RulesetChanges()
        except OSError as error:
            raise DivertError(f"changes of the kernel's rules cannot be watched: {error.strerror or error}") from None
        self._installed = self._diversion.install()
        if self._installed.faults_before():
            self.relearn()
        self.fault = None

    def install_before(self, step: Callable[[], None]) -> None:
        """install(); if what comes next fails, the rules are again as they were before.  Raises what it raises."""
        self.install()
        try:
            step()
        except BaseException:
            self._installed.roll_back()
            raise

    def start(self) -> None:
        """Watch it from now on."""
        self._thread.start()

    def relearn(self) -> int:
        """Packets may have passed by: let TCP learn its windows anew.  Returns for how many connections."""
        connections = self._relearn_windows()
        self.connections_relearnt += connections
        return connections

    def verify(self) -> None:
        """Look at once, and put right what is wrong.  Any thread but the watching one; returns when it is done."""
        done = threading.Event()
        self._requests.append(done)
        self._rouse()
        deadline_s = time.monotonic() + VERIFY_TIMEOUT_S
        while self._thread.is_alive() and time.monotonic() < deadline_s and not done.wait(INTERVAL_S):
            pass                        # the thread may end before it has seen the request

    def rest(self) -> bool:
        """Look no more, until resume(): the diversion is a successor's to install.  False: a look is under way, ask again."""
        if not self._looking.acquire(blocking=False):
            return False
        self._resting = True
        self._looking.release()
        return True

    def resume(self) -> None:
        """Watch on, beginning with a look."""
        self._resting = False
        self._seen = None
        self._rouse()

    def remove(self) -> None:
        """Watch no more, and take the diversion away.  Raises DivertError."""
        self._stopping = True
        self._rouse()
        if self._thread.is_alive():
            self._thread.join()
        self._diversion.remove()
        self._owner.discard()

    def counters(self) -> dict[str, object]:
        fault = self.fault
        return {"in_place": int(fault is None), "checks": self.checks, "repairs": self.repairs, "failures": self.failures,
                "connections_relearnt": self.connections_relearnt,
                **({"fault": fault} if fault is not None else {})}

    def __str__(self) -> str:
        return str(self._installed)

    # -- the watching thread ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        called, called_or_changed = select.poll(), select.poll()
        called.register(self._wake, select.POLLIN)
        called_or_changed.register(self._wake, select.POLLIN)
        called_or_changed.register(self._changes, select.POLLIN)
        gap_s = GAP_S
        while not self._stopping:
            with self._looking:
                changed = self._look()
            gap_s = next_gap_s(gap_s, changed)
            with suppress(OSError):
                if called_or_changed.poll(INTERVAL_S * 1000) and not called.poll(gap_s * 1000):
                    self._changes.clear()
                os.eventfd_read(self._wake)

    def _look(self) -> bool:
        """Put right what is wrong.  Returns whether the rules had changed since the last look."""
        requests = [self._requests.popleft() for _ in range(len(self._requests))]
        changed = False
        try:
            if not self._resting:
                state = self._state()
                changed = bool(requests) or state != self._seen or self.fault is not None
                if changed:
                    self._compare(state)
        except Exception as error:      # whatever it is: the next look may succeed, and must not be the last
            changed = True
            self.failures += 1
            self.fault = str(error)
            self._say_failure(f"the diversion is not in place: {self.fault}; trying on")
        for request in requests:
            request.set()
        return changed

    def _compare(self, state: object) -> None:
        """`state` is from before: what changes meanwhile is seen the next time."""
        self.checks += 1
        faults = self._faults(state)
        if faults:
            words = _summary(faults)
            self.fault = self.fault or words
            try:
                self._installed = self._diversion.repair()
            except DivertError as error:
                self.relearn()          # of what could be put back
                raise DivertError(f"{words}; {error}") from error
            self.repairs += 1
            self._say_repair(f"the diversion was changed from outside: {words}; put back; "
                             f"{self.relearn()} TCP connections learn their windows anew")
        for version, table in self._installed.nft_tables:
            if self._changes.is_dormant(version, table):
                raise DivertError(f"nf_tables' table is dormant: `nft add table {'ip6' if version == 6 else 'ip'} {table}` wakes it")
        if not faults:
            if self.fault is not None:  # another program has put it right
                self.relearn()
            self._seen = state
        self.fault = None

    def _state(self) -> object:
        return ip_versions(), self._changes.state(self._installed.legacy_tables)

    def _faults(self, state: object) -> list[str]:
        """Where the rules cannot be read, the jumps are put first after each change, in case they are not."""
        try:
            faults = self._installed.faults()
        except DivertError:
            if state != self._blind:
                self._diversion.install_unseen()
                self._blind = self._state()
                self.relearn()
            raise
        self._blind = None
        return faults

    def _rouse(self) -> None:
        os.eventfd_write(self._wake, 1)


def next_gap_s(gap_s: float, changed: bool) -> float:
    """How long the rules are left alone after a change is announced, for what may follow it."""
    return min(gap_s * 2, MAX_GAP_S) if changed else GAP_S


class _Limited:
    """Passes one line in SAY_INTERVAL_S on, at most; the next one tells of those that were kept back."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._kept_back = 0
        self._said_s: float | None = None

    def __call__(self, line: str) -> None:
        now_s = time.monotonic()
        if self._said_s is not None and now_s - self._said_s < SAY_INTERVAL_S:
            self._kept_back += 1
            return
        self._say(f"{line} (and {self._kept_back} times since the last line)" if self._kept_back else line)
        self._kept_back, self._said_s = 0, now_s


def _summary(faults: Sequence[str]) -> str:
    more = f" and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
    return ", ".join(faults[:MAX_FAULTS]) + more
