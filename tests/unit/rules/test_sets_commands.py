"""`pyfwctl set`: ipset's command line on a daemon's sets, its answers and exit statuses."""
from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from pyfw.cli.set_restore import is_restore, restore_requests
from pyfw.edge.commands import CommandError
from pyfw.edge.control import LINE_BYTES
from pyfw.edge.set_commands import run_set_command
from pyfw.rules.set_store import SetStore


class Daemon:
    """What the handler needs of one."""

    def __init__(self, *lines: str) -> None:
        self.sets = SetStore()
        self.engine = SimpleNamespace(surroundings=SimpleNamespace(sets=self.sets))
        for line in lines:
            assert self.ask(line) == ("", 0)

    def now_ns(self) -> int:
        return 0

    def ask(self, line: str, **arguments: object) -> tuple[str, int]:
        """What the user reads, and the exit status."""
        return self.run(words=line.split(), **arguments)

    def run(self, **arguments: object) -> tuple[str, int]:
        text, answers = "", run_set_command(self, arguments)
        try:
            while True:
                answer = next(answers)
                text += answer.get("text", "") + answer.get("note", "")
        except StopIteration as end:
            return text, end.value.get("status", 0)
        except CommandError as error:
            return text + str(error), error.status


@pytest.fixture
def daemon() -> Daemon:
    return Daemon("create s hash:ip timeout 600 counters", "add s 10.0.0.2", "add s 10.0.0.1 timeout 0", "create n hash:net")


@pytest.mark.parametrize("line, text, status", [
    ("test s 10.0.0.1", "10.0.0.1 is in set s.", 0),
    ("test s 10.0.0.9", "10.0.0.9 is NOT in set s.", 1),
    ("test s 10.0.0.9 -q", "", 1),
    ("add s 10.0.0.1", "Element cannot be added to the set: it's already added", 1),
    ("add s 10.0.0.1 -exist", "", 0),
    ("-! add s 10.0.0.1", "", 0),
    ("-q add s 10.0.0.1", "", 1),
    ("-A n 10.0.0.0/8", "", 0),
    ("a n 10.0.0.0/8", "", 0),
    ("list -n", "s\nn\n", 0),
    ("list n", "Name: n\nType: hash:net\nHeader: family inet hashsize 1024 maxelem 65536 bucketsize 12\nSize in memory: ", 0),
    ("save -s s", "create s hash:ip family inet hashsize 1024 maxelem 65536 timeout 600 counters bucketsize 12\n"
                  "add s 10.0.0.1 timeout 0 packets 0 bytes 0\nadd s 10.0.0.2 timeout 600 packets 0 bytes 0\n", 0),
    ("list -o save n", "create n hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12\n", 0),
    ("list -o xml", "Syntax error: the output format is plain or save, not 'xml'", 2),
    ("list nosuch", "The set with the given name does not exist", 1),
    ("list s n", "Unknown argument n", 2),
    ("", "No command specified.", 2),
    ("bogus", "No command specified: unknown argument bogus", 2),
    ("add", "Missing mandatory argument to command add", 2),
    ("list -file x", "-file: use the shell's < and >", 2),
    ("destroy", "", 0),
])
def test_answers(daemon: Daemon, line: str, text: str, status: int) -> None:
    answer = daemon.ask(line)
    assert answer[0].startswith(text) if text else not answer[0]
    assert answer[1] == status


def test_terse_leaves_the_members_out(daemon: Daemon) -> None:
    assert "Members" in daemon.ask("list s")[0]
    assert "Members" not in daemon.ask("list -t s")[0]


def test_a_comment_may_look_like_an_option(daemon: Daemon) -> None:
    daemon.ask("create c hash:ip comment")
    assert daemon.run(words=["add", "c", "1.1.1.1", "comment", "-q"]) == ("", 0)
    assert daemon.ask("save c")[0].endswith('add c 1.1.1.1 comment "-q"\n')


def test_a_file_of_any_size_comes_in_pieces() -> None:
    daemon = Daemon()
    lines = ["create s hash:ip comment maxelem 100000", *(f'add s 10.{i >> 8}.{i & 255}.7 comment "№ {i}"' for i in range(20_000)),
             "add s 10.0.0.7"]
    request = {"command": "set", "words": ["restore"]}
    assert is_restore(request) and is_restore(request | {"words": ["-!", "-R"]}) and not is_restore(request | {"words": ["list"]})
    answers = []
    for piece in restore_requests(request, io.BytesIO("\n".join(lines).encode())):
        assert len(json.dumps(piece)) < LINE_BYTES
        answers.append(daemon.run(**{name: value for name, value in piece.items() if name != "command"}))
    assert answers[:-1] == [("", 0)] * (len(answers) - 1) and len(answers) > 10
    assert answers[-1] == ("Error in line 20002: Element cannot be added to the set: it's already added", 1)
    assert len(daemon.sets.find("s").contents) == 20_000
