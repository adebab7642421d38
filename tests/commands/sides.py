"""The two who are asked: the system's iptables in a namespace of its own, and pyfw's commands against a control server in this process."""
from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from pyroute2 import netns

from kit.control import StillDaemon, running
from pyfw.cli.pyfwctl import iptables
from pyfw.rules.model import Ruleset
from pyfw.rules.program.program import Program

PROGRAMS = {4: "iptables", 6: "ip6tables"}
OF_THEIRS = "PYFW_TEST_IPTABLES"    # -nft or -legacy; default: what the system's own name stands for


@dataclass(frozen=True)
class Outcome:
    status: int
    output: str
    error: str


def undated(text: str) -> str:
    return "".join(f"{line}\n" for line in text.split("\n")[:-1] if not line.startswith("#"))


class Theirs:
    """The kernel's iptables, as a context manager."""

    def __init__(self) -> None:
        self.name = f"pfc-{os.getpid()}"
        self.variant = os.environ.get(OF_THEIRS, "")

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.inside = ThreadPoolExecutor(1, initializer=netns.setns, initargs=[self.name])    # what it starts is in the namespace
        return self

    def __exit__(self, *exception: object) -> None:
        self.inside.shutdown()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def run(self, program: str, words: Sequence[str | bytes], text: bytes = b"") -> Outcome:
        def start() -> subprocess.CompletedProcess[bytes]:
            return subprocess.run([program, *words], input=text, capture_output=True, check=False)
        done = self.inside.submit(start).result()
        return Outcome(done.returncode, undated_bytes(done.stdout), done.stderr.decode(errors="surrogateescape"))

    def command(self, words: Sequence[str], family: int = 4) -> Outcome:
        return self.run(PROGRAMS[family] + self.variant, words)

    def restore(self, text: bytes, *options: str, family: int = 4) -> Outcome:
        return self.run(f"{PROGRAMS[family]}{self.variant}-restore", options, text)

    def save(self, family: int = 4) -> str:
        """The tables that pyfw has, with counters."""
        return "".join(self.run(f"{PROGRAMS[family]}{self.variant}-save", ["-c", "-t", table]).output for table in ("raw", "filter"))

    def clear(self) -> None:
        for family in (4, 6):
            self.restore(b"*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"
                         b"*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n", family=family)


def undated_bytes(text: bytes) -> str:
    return undated(text.decode(errors="surrogateescape"))


class Editable(StillDaemon):
    """A daemon whose rules are changed, and nothing else."""

    def serve_rules(self, ruleset: Ruleset) -> Program:
        program = self.compile_rules(ruleset)
        self.engine.load(program)
        return program

    def compile_rules(self, ruleset: Ruleset) -> Program:
        return Program(ruleset, self.engine.environment, previous=self.engine.program)


class Ours:
    """pyfw-iptables and its kin, as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "c"
        self.services = Editable(flows=0)

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        self.stack.enter_context(running(self.path, self.services))
        os.environ[iptables.SOCKET_VARIABLE] = str(self.path)
        return self

    def __exit__(self, *exception: object) -> None:
        del os.environ[iptables.SOCKET_VARIABLE]
        self.stack.close()

    def command(self, words: Sequence[str], family: int = 4) -> Outcome:
        return said(lambda: iptables.run_command(PROGRAMS[family], family, words))

    def restore(self, text: bytes, *options: str, family: int = 4) -> Outcome:
        return said(lambda: iptables.run_restore(f"{PROGRAMS[family]}-restore", family, options), text)

    def save(self, family: int = 4) -> str:
        return "".join(said(partial(iptables.run_save, f"{PROGRAMS[family]}-save", family, ["-c", "-t", table])).output
                       for table in ("raw", "filter"))

    def clear(self) -> None:
        self.services.engine.load(None)


def said(run: Callable[[], int], text: bytes = b"") -> Outcome:
    """What a command line comes to that runs in this process."""
    before = sys.stdin, sys.stdout, sys.stderr
    streams = [io.TextIOWrapper(io.BytesIO(given), "utf-8", "surrogateescape", write_through=True) for given in (text, b"", b"")]
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        status = run()
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    output, error = (stream.buffer.getvalue().decode(errors="surrogateescape") for stream in streams[1:])
    return Outcome(status, undated(output), error)
