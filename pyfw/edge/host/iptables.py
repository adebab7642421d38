"""iptables' programs: what they print, what they are given, which of their two backends and which tables have the rules.

May know: processes.  Must not know: what pyfw's rules are.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from pyfw.edge.host.iptables_rules import HOOKS, SavedTable

LOCK_WAIT_S = 5                 # for others that change the rules
TIMEOUT_S = 10
ATTEMPTS = 3
PAUSE_S = 0.2                   # before the second attempt; each further pause is twice as long
BACKENDS = ("legacy", "nft")
LATE, EARLY = "security", "mangle"      # behind mangle, filter and OUTPUT's DNAT, where the kernel has it; and before them
LATE_HOOKS = ("FORWARD", "OUTPUT")
_end_s: ContextVar[float] = ContextVar("end_s", default=float("inf"))      # of time.monotonic(): when the last program is to end
VERSION_OF = {"iptables": 4, "ip6tables": 6}


class DivertError(Exception):
    """The rules cannot be installed or removed: one line that says why and what to do."""


class _Hopeless(DivertError):
    """A failure that trying again does not mend."""


@dataclass(frozen=True)
class Family:
    """One table of iptables or ip6tables, over one of the two backends.

    hooks       that are diverted in this table
    suffix      "-legacy" or "-nft"; empty: the backend that the system has chosen
    attempts    how often is tried what fails: another program may hold the lock, or have changed the rules meanwhile
    """

    program: str
    backend: str
    table: str
    hooks: tuple[str, ...] = ()
    suffix: str = ""
    attempts: int = ATTEMPTS

    @property
    def version(self) -> int:
        return VERSION_OF[self.program]

    @property
    def is_chosen(self) -> bool:
        return not self.suffix

    @property
    def restore_program(self) -> str:
        return f"{self.program}{self.suffix}-restore"

    def printed(self, table: str) -> str:
        return _run([f"{self.program}{self.suffix}-save", "-t", table], self.attempts)

    def saved(self) -> SavedTable:
        text = self.printed(self.table)
        if re.search(r"^# Table .* incompatible", text, re.MULTILINE):
            raise DivertError(f"{self.program}{self.suffix}-save cannot print the table {self.table}: another program has put "
                              "rules into it that only nft has; they belong in a table of their own")
        return SavedTable.parse(self.table, text)

    def saved_text(self) -> str:
        """All tables, as iptables-save prints them."""
        return _run([f"{self.program}{self.suffix}-save"], self.attempts)

    def restore(self, transaction: str) -> None:
        if transaction:
            _run([self.restore_program, "--noflush", "-w", str(LOCK_WAIT_S)], self.attempts, transaction)


def current_families(attempts: int = ATTEMPTS) -> list[Family]:
    """The tables of `iptables` and, where there is IPv6, of `ip6tables`; the late one before the early one.

    INPUT is diverted early: nft's late table comes behind nat's SNAT there, which turns back what OUTPUT's DNAT has done,
    so that an answer would not fit its question.
    """
    families = []
    for program, version in VERSION_OF.items():
        if version not in ip_versions():
            continue
        backend = _backend(program)
        late = LATE_HOOKS if _has_late_table(program, backend) else ()
        families += [Family(program, backend, LATE, late, attempts=attempts)] if late else []
        families.append(Family(program, backend, EARLY, tuple(hook for hook in HOOKS if hook not in late), attempts=attempts))
    return families


def saved_sets() -> str:
    return _run(["ipset", "save"], ATTEMPTS)


def ip_versions() -> tuple[int, ...]:
    return (4, 6) if Path("/proc/sys/net/ipv6").is_dir() else (4,)


def other_families(current: Sequence[Family]) -> list[Family]:
    """The same over the backend that is not the chosen one, where there is such a program and such a table."""
    return [Family(program, backend, table, suffix=f"-{backend}", attempts=attempts)
            for program, chosen, attempts in dict.fromkeys((family.program, family.backend, family.attempts) for family in current)
            for backend in BACKENDS for table in (LATE, EARLY)
            if backend != chosen and shutil.which(f"{program}-{backend}-save", path=_path())
            and (backend == "nft" or _has_legacy_table(VERSION_OF[program], table))]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Whatever this thread has programs do inside fails with DivertError once it has taken so long, all in all."""
    token = _end_s.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _end_s.reset(token)


def _backend(program: str) -> str:
    return "nft" if "(nf_tables)" in _run([f"{program}-save", "-V"], 1) else "legacy"


def _has_late_table(program: str, backend: str) -> bool:
    """nf_tables makes every table out of nothing; a legacy one is a module that the kernel may lack."""
    if backend == "nft" or _has_legacy_table(VERSION_OF[program], LATE):
        return True
    try:
        _run([f"{program}-save", "-t", LATE], 1)
        return True
    except DivertError:
        return False


def _has_legacy_table(version: int, table: str) -> bool:
    """To list a legacy table is to make it: hence this question before."""
    names = Path(f"/proc/thread-self/net/ip{'6' if version == 6 else ''}_tables_names")
    try:
        return table in names.read_text().split()
    except FileNotFoundError:
        return False
    except PermissionError:     # it is root's, whatever capabilities this process has
        return Path(f"/sys/module/ip{'6' if version == 6 else ''}table_{table}").is_dir()


def _run(argv: list[str], attempts: int, stdin: str = "") -> str:
    for attempt in range(attempts - 1):
        try:
            return _run_once(argv, stdin)
        except _Hopeless:
            raise
        except DivertError:
            time.sleep(PAUSE_S * 2**attempt)
    return _run_once(argv, stdin)


def _run_once(argv: list[str], stdin: str) -> str:
    timeout_s = min(TIMEOUT_S, _end_s.get() - time.monotonic())
    if timeout_s <= 0:
        raise _Hopeless(f"there was no time left for {argv[0]}: programs before it took too long")
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, errors="surrogateescape", timeout=timeout_s,
                              env={**os.environ, "PATH": _path(), "LC_ALL": "C"})
    except FileNotFoundError:
        raise _Hopeless(f"{argv[0]} is missing: install {'ipset' if argv[0] == 'ipset' else 'iptables, or run with --no-divert'}") from None
    except OSError as error:
        raise DivertError(f"{argv[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise DivertError(f"{argv[0]} did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        complaint = _complaint(done.stderr, stdin)
        if "Permission denied" in complaint or "must be root" in complaint:
            raise _Hopeless(f"{argv[0]} failed: {complaint}: run as root (CAP_NET_ADMIN)")
        raise DivertError(f"{argv[0]} failed: {complaint}")
    return done.stdout


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _complaint(stderr: str, transaction: str) -> str:
    """iptables-restore's complaint in one line, with the rule that it counts to."""
    complaint = " ".join(line for line in stderr.split("\n") if line and not line.startswith("Try `")) or "no message"
    number = re.search(r"line:? (\d+)", complaint)
    lines = transaction.splitlines()
    if number and int(number[1]) <= len(lines):
        complaint += f" ({lines[int(number[1]) - 1]})"
    return complaint
