"""Completion as a user has it: bash and zsh in a terminal, and the TAB key."""
from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfw.cli.pyfwctl.completion import BASH, PROGRAMS, script

TIMEOUT_S = 30
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], """
        . /usr/share/bash-completion/bash_completion
        . {directory}/pyfw.bash; . {directory}/pyfwctl.bash
        bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
        """),
    "zsh": (["zsh", "-f", "-i"], """
        fpath=({directory}/functions $fpath); autoload -Uz compinit; compinit -D -u
        unset zle_bracketed_paste; setopt no_beep
        """),
}


class Terminal:
    """A shell in a terminal in which the two programs only say what they were given."""

    def __init__(self, shell: str, directory: Path) -> None:
        argv, setup = START[shell]
        self._main, terminal = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "TERM": "dumb", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
        self._shell = subprocess.Popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=directory,
                                       start_new_session=True)
        os.close(terminal)
        functions = "\n".join(f'{name}() {{ echo "<$*>"; }}' for name in PROGRAMS)
        (directory / f"setup.{shell}").write_text(setup.format(directory=directory) + functions)
        self._type(f". {directory}/setup.{shell}; echo r''eady\r")
        self._read_to("ready")

    def completed(self, typed: str) -> str:
        """The arguments that the program gets when `typed` is entered, in which each TAB is the key."""
        self._type(f"{typed}\r")
        return re.findall(r"<(.*)>", self._read_to(">"))[-1].strip()

    def close(self) -> None:
        os.close(self._main)
        self._shell.wait(TIMEOUT_S)

    def _type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def _read_to(self, end: str) -> str:
        text, deadline = "", time.monotonic() + TIMEOUT_S
        while not re.search(rf"{end}\r?\n", text):
            assert select.select([self._main], [], [], deadline - time.monotonic())[0], f"no {end!r} in {text!r}"
            text += os.read(self._main, 65536).decode()
        return text


@pytest.fixture(scope="module", params=sorted(START))
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    directory = tmp_path_factory.mktemp("completion")
    (directory / "functions").mkdir()
    (directory / "capture.pcap").touch()
    for name in PROGRAMS:
        (directory / f"{name}.bash").write_text(script("bash", name))
        (directory / f"functions/_{name}").write_text(script("zsh", name))
    terminal = Terminal(request.param, directory)
    yield terminal
    terminal.close()


@pytest.mark.parametrize(("typed", "given"), [
    ("pyfwctl list-con\t", "list-conntrack"),
    ("pyfwctl li\tr\t", "list-rules"),
    ("pyfwctl --soc\t/tmp/x vers\t", "--socket /tmp/x version"),
    ("pyfwctl list-conntrack --protoc\ttc\t", "list-conntrack --protocol tcp"),
    ("pyfwctl delete --state ESTAB\t", "delete --state ESTABLISHED"),
    ("pyfwctl list-conntrack -u UNREP\t", "list-conntrack -u UNREPLIED"),
    ("pyfwctl list-rules -t r\t", "list-rules -t raw"),
    ("pyfwctl set cr\t", "set create"),
    ("pyfwctl set create a lis\t", "set create a list:set"),
    ("pyfwctl set add nothing ad\t", "set add nothing ad"),
    ("pyfwctl nonsen\t", "nonsen"),
    ("pyfw che\t", "check"),
    ("pyfw run --no\t", "run --no-divert"),
    ("pyfw run --skip\t--config\tcapt\t", "run --skip-unsupported --config capture.pcap"),
    ("pyfw test --output capt\t", "test --output capture.pcap"),
    ("pyfw replay capt\t", "replay capture.pcap"),
    ("pyfw replay --hook OU\t", "replay --hook OUTPUT"),
    ("pyfw run --shadow capt\t", "run --shadow capture.pcap"),
    ("pyfw lab u\t", "lab up"),
    ("pyfw lab exec gat\t", "lab exec gateway"),
])
def test_tab_completes(terminal: Terminal, typed: str, given: str) -> None:
    assert terminal.completed(typed) == given


def test_names_of_others_run_nothing(tmp_path: Path) -> None:
    """A set's name comes with a list; nobody has read it before TAB is pressed."""
    (tmp_path / "pyfwctl").write_text("#!/bin/sh\ncat <<'END'\n-P INPUT ACCEPT\n-N $(touch$IFS$1hurt)\n-N `touch$IFS$1hurt`\n-N plain\nEND\n")
    (tmp_path / "pyfwctl").chmod(0o755)
    done = subprocess.run(["bash", "-c", BASH + "_pyfw_complete_chains ''"], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, timeout=TIMEOUT_S)
    assert (done.stdout, done.stderr) == ("INPUT\nplain\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["pyfwctl"]
