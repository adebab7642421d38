"""Kernel rules that divert packets to the queue, in chains of pyfw's own.

In the table mangle, of iptables and of ip6tables:

    INPUT, FORWARD, OUTPUT -> PYFW-INPUT, PYFW-FORWARD, PYFW-OUTPUT     one jump each, for the configured hooks
    PYFW-*      RETURN what pyfw itself sent (mark) and what crosses an exempt interface; the rest to NFQUEUE
    PYFW-DEFRAG has the kernel put fragments together before the hooks see them

The `socket` match turns defragmentation on in the namespace for as long as a rule with it exists.  No packet need
ever meet that rule: nothing jumps to PYFW-DEFRAG.

All of a family's rules change in one transaction of iptables-restore.  Base chains are never taken away: the kernel
drops every queued packet of the namespace when one goes.
"""
from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HOOKS = ("INPUT", "FORWARD", "OUTPUT")
OWN_MARK = 0x40000000       # one bit, also the mask: pyfw sets it on the packets it makes itself
TIMEOUT_S = 30

_DEFRAG_CHAIN = "PYFW-DEFRAG"
_DEFRAG_RULE = "-p 253 -m socket -j RETURN"     # a protocol number for experiments (RFC 3692)
_OWNER_SOCKET = "\0pyfw-divert"


class DivertError(Exception):
    """The rules cannot be installed or removed: one line that says why and what to do."""


@dataclass(frozen=True)
class Diversion:
    """What is diverted, in the calling thread's network namespace.

    hooks       of INPUT, FORWARD, OUTPUT
    exempt      interfaces whose packets are left alone
    bypass      without a daemon packets pass (when_down: accept); else the kernel drops them
    """

    queue: int
    hooks: Sequence[str] = HOOKS
    exempt: Sequence[str] = ("lo",)
    bypass: bool = False
    mark: int = OWN_MARK

    def __post_init__(self) -> None:
        unknown = [hook for hook in self.hooks if hook not in HOOKS]
        if unknown:
            raise ValueError(f"hook {unknown[0]!r} cannot be diverted: choose from {', '.join(HOOKS)}")
        for name in self.exempt:
            if not re.fullmatch(r"[^\s/]{1,15}", name):
                raise ValueError(f"{name!r} cannot be an interface's name")

    def install(self) -> None:
        """Install the rules, whatever a predecessor left; changes nothing else.  Raises DivertError."""
        for family in _families():
            family.restore(self.transaction(family.saved()))

    def remove(self) -> None:
        """Remove the rules, as far as they are there.  Raises DivertError."""
        for family in _families():
            family.restore(removal(family.saved()))

    def transaction(self, saved: str) -> str:
        """The iptables-restore input that leads from `saved` (iptables-save -t mangle) to these rules."""
        wanted = [hook for hook in HOOKS if hook in self.hooks]
        lines = ["*mangle", *(f":{chain} - [0:0]" for chain in (_DEFRAG_CHAIN, *map(_chain, wanted)))]
        lines.append(f"-A {_DEFRAG_CHAIN} {_DEFRAG_RULE}")
        for hook in wanted:
            lines += [f"-A {_chain(hook)} {rule}" for rule in self._rules(hook)]
            jumps = _count_jumps(saved, hook)
            lines += [f"-I {hook} {_jump(hook)}"] if jumps == 0 else [f"-D {hook} {_jump(hook)}"] * (jumps - 1)
        for hook in HOOKS:
            if hook not in wanted:
                lines += _removal_of(hook, saved)
        return "\n".join([*lines, "COMMIT", ""])

    def _rules(self, hook: str) -> list[str]:
        own = f"-m mark --mark {self.mark:#x}/{self.mark:#x} -j RETURN"
        rules = [] if hook == "FORWARD" else [own]     # what pyfw sends is not forwarded
        for interface in self.exempt:
            if hook in ("INPUT", "FORWARD"):
                rules.append(f"-i {interface} -j RETURN")
            if hook in ("OUTPUT", "FORWARD"):
                rules.append(f"-o {interface} -j RETURN")
        bypass = " --queue-bypass" if self.bypass else ""
        return [*rules, f"-j NFQUEUE --queue-num {self.queue}{bypass}"]


def removal(saved: str) -> str:
    """The iptables-restore input that takes pyfw's chains out of `saved`; empty where there are none."""
    lines = [line for hook in HOOKS for line in _removal_of(hook, saved)] + _chain_removal(_DEFRAG_CHAIN, saved)
    return "\n".join(["*mangle", *lines, "COMMIT", ""]) if lines else ""


def _removal_of(hook: str, saved: str) -> list[str]:
    return [f"-D {hook} {_jump(hook)}"] * _count_jumps(saved, hook) + _chain_removal(_chain(hook), saved)


def _chain_removal(chain: str, saved: str) -> list[str]:
    return [f"-F {chain}", f"-X {chain}"] if re.search(rf"^:{chain} ", saved, re.MULTILINE) else []


def _count_jumps(saved: str, hook: str) -> int:
    return saved.splitlines().count(f"-A {hook} {_jump(hook)}")


def _jump(hook: str) -> str:
    return f"-j {_chain(hook)}"


def _chain(hook: str) -> str:
    return f"PYFW-{hook}"


class DiversionOwner:
    """Held by the one daemon of a network namespace that diverts; gone with its process.

    An abstract Unix socket belongs to a network namespace, and the kernel closes it when its process dies.
    """

    def __init__(self, handed: int | None = None) -> None:
        """handed: a predecessor's, which stays held."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, fileno=handed)
        if handed is not None:
            return
        try:
            self._socket.bind(_OWNER_SOCKET)
        except OSError:
            self._socket.close()
            raise DivertError("another pyfw diverts the packets of this network namespace: "
                              "stop it, or run this one with --no-divert") from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class _Family:
    """iptables or ip6tables."""

    program: str

    def saved(self) -> str:
        return self._run([f"{self.program}-save", "-t", "mangle"])

    def restore(self, transaction: str) -> None:
        if transaction:
            self._run([f"{self.program}-restore", "--noflush", "-w", str(TIMEOUT_S)], transaction)

    def _run(self, argv: list[str], stdin: str = "") -> str:
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S + 5,
                                  env=_with_sbin())
        except FileNotFoundError:
            raise DivertError(f"{argv[0]} is missing: install iptables, or run with --no-divert") from None
        except subprocess.TimeoutExpired:
            raise DivertError(f"{argv[0]} did not end within {TIMEOUT_S} s") from None
        if done.returncode:
            raise DivertError(f"{argv[0]} failed: {_failure(done.stderr, stdin)}")
        return done.stdout


def _families() -> list[_Family]:
    ipv6 = [_Family("ip6tables")] if Path("/proc/sys/net/ipv6").is_dir() else []
    return [_Family("iptables"), *ipv6]


def _with_sbin() -> dict[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}


def _failure(stderr: str, transaction: str) -> str:
    """iptables-restore's complaint in one line, with the rule that it counts to."""
    complaint = " ".join(line for line in stderr.split("\n") if line and not line.startswith("Try `")) or "no message"
    number = re.search(r"line:? (\d+)", complaint)
    lines = transaction.splitlines()
    if number and int(number[1]) <= len(lines):
        complaint += f" ({lines[int(number[1]) - 1]})"
    if "Permission denied" in complaint or "must be root" in complaint:
        complaint += ": run as root (CAP_NET_ADMIN)"
    return complaint
