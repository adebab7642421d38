"""`pyfwctl set`: ipset's command line on a daemon's sets, its answers and exit statuses."""
from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from pyfw.cli.pyfwctl.client import Refused
from pyfw.cli.pyfwctl.rewrites import pieces, send_in_pieces
from pyfw.edge.control.handlers.sets import run_set_command
from pyfw.edge.control.session import LINE_BYTES
from pyfw.edge.control.table import CommandError, Pause
from pyfw.rules.lexer import Place
from pyfw.rules.sets.store import SetStore, load_sets
from pyfw.rules.sets.text import SetError, parse_create


class Daemon:
    """What the handler needs of one."""

    def __init__(self, *lines: str) -> None:
        self.sets = SetStore()
        self.pauses = 0                 # how often others had their turn
        self.engine = SimpleNamespace(environment=SimpleNamespace(sets=self.sets))
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
                if isinstance(answer, Pause):
                    self.pauses += 1
                    continue
                text += answer.get("text", "") + answer.get("note", "")
        except StopIteration as end:
            return text, end.value.get("status", 0)
        except CommandError as error:
            return text + str(error), error.status


@pytest.fixture
def daemon() -> Daemon:
    return Daemon("create s hash:ip timeout 600 counters", "add s 10.0.0.2", "add s 10.0.0.1 timeout 0", "create n hash:net")


@pytest.mark.parametrize(("line", "text", "status"), [
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


@pytest.mark.parametrize("comment", ["del\x7f", "c1\x9b31m", "line\u2028two", "half\ud800", "latin\udce4"])
def test_a_comment_has_no_control_characters(daemon: Daemon, comment: str) -> None:
    daemon.ask("create c hash:ip comment")
    assert daemon.run(words=["add", "c", "1.1.1.1", "comment", comment]) == (
        "Syntax error: a comment is text in UTF-8 of at most 255 bytes on one line", 1)


@pytest.mark.parametrize("text", ["half \ud800", "latin \udce4"])
def test_a_text_that_is_none_is_refused_where_it_is(daemon: Daemon, text: str) -> None:
    daemon.ask("create c hash:ip comment")
    text = f'add c 1.1.1.1\nadd c 1.1.1.2 comment "{text}"\n'
    assert daemon.ask("restore", text=text) == (
        "Error in line 2: Syntax error: a comment is text in UTF-8 of at most 255 bytes on one line", 1)


def test_a_file_of_any_size_comes_in_pieces() -> None:
    daemon = Daemon()
    lines = ["create s hash:ip comment maxelem 100000", *(f'add s 10.{i >> 8}.{i & 255}.7 comment "№ {i}"' for i in range(20_000)),
             "add s 10.0.0.7"]
    request = {"command": "set", "words": ["restore"]}
    assert send_in_pieces("", request | {"words": ["list"]}) == [request | {"words": ["list"]}]
    assert not isinstance(send_in_pieces("", request | {"words": ["-!", "-R"]}), list)
    answers = []
    for piece in pieces(request, io.BytesIO("\n".join(lines).encode())):
        assert len(json.dumps(piece)) < LINE_BYTES
        answers.append(daemon.run(**{name: value for name, value in piece.items() if name != "command"}))
    assert answers[:-1] == [("", 0)] * (len(answers) - 1)
    assert len(answers) > 10
    assert answers[-1] == ("Error in line 20002: Element cannot be added to the set: it's already added", 1)
    assert len(daemon.sets.find("s").contents) == 20_000


def test_a_line_without_end_is_not_read_to_its_end() -> None:
    endless = io.BytesIO(b"create s hash:ip\n" + b"x" * 1_000_000)
    with pytest.raises(Refused, match=r"^Error in line 2: it has more than 2048 bytes$"):
        list(pieces({"command": "set", "words": ["restore"]}, endless))
    assert endless.tell() < 10_000


# -- what one line may ask for ------------------------------------------------------------------------------------------------

HUGE = "1.0.0.0-255.255.255.255"


def test_a_range_that_cannot_fit_is_refused_before_its_first_element(daemon: Daemon) -> None:
    assert daemon.ask(f"add s {HUGE}") == ("Hash is full, cannot add more elements", 1)
    daemon.ask("create ports hash:ip,port")
    assert daemon.ask("add ports 10.0.0.0/24,tcp:1-65535") == ("Hash is full, cannot add more elements", 1)
    assert len(daemon.sets.find("s").contents) == 2
    assert len(daemon.sets.find("ports").contents) == 0


def test_61_bytes_take_no_gigabytes() -> None:
    """A set says how much it may take; how much one line may ask for, it does not say."""
    text = f"create x hash:ip maxelem 4294967295\nadd x {HUGE}\n".encode()
    assert len(text) == 66
    with pytest.raises(SetError, match=r"^lists/x:2:7: The range is too large: it stands for 4278190080 elements, and one command "
                                       r"adds at most 1048576$"):
        load_sets([(Place("lists/x"), text)], 0)


@pytest.mark.parametrize("options", ["hashsize 2147483648", "maxelem 4294967295", "bucketsize 14 hashsize 2147483648 maxelem 4000000000"])
def test_memory_comes_with_the_elements(options: str) -> None:
    store = SetStore()
    store.restore(f"create x hash:ip {options}\nadd x 10.0.0.1\n".encode(), 0)
    assert store.find("x").contents.memory < 100_000


def test_a_network_of_networks_is_few_elements(daemon: Daemon) -> None:
    assert daemon.ask(f"add n {HUGE}") == ("", 0)
    assert len(daemon.sets.find("n").contents) == 8


def test_others_are_served_while_a_long_line_is_done(daemon: Daemon) -> None:
    daemon.ask("create big hash:ip maxelem 300000")
    for line in ("add big 10.0.0.0-10.3.255.255", "add big 10.0.0.0-10.3.255.255 -exist", "list -s big"):
        daemon.pauses = 0
        text, status = daemon.ask(line)
        assert status == 0
        assert (daemon.pauses >= 20 or text.count("\n") > 262144)
    assert daemon.ask("del big 10.0.0.0-10.3.255.255") == ("", 0)
    assert len(daemon.sets.find("big").contents) == 0


def test_a_range_is_deleted_in_as_many_steps_as_there_are_elements(daemon: Daemon) -> None:
    daemon.ask("create c hash:ip,port comment")
    for element in ("10.0.0.1,tcp:80", "10.0.0.2,tcp:81", "10.0.0.2,udp:80", "10.0.0.3,tcp:79", "9.9.9.9,tcp:80"):
        assert daemon.run(words=["add", "c", element, "comment", "why"]) == ("", 0)
    assert daemon.ask(f"del s {HUGE}") == ("Element cannot be deleted from the set: it's not added", 1)
    assert daemon.ask("del s 10.0.0.1-10.255.255.255") == ("Element cannot be deleted from the set: it's not added", 1)
    assert daemon.ask("save s")[0].count("add") == 0        # which begins where the range does
    assert daemon.ask("del c 10.0.0.0-255.255.255.255,tcp:80-65535 -exist") == ("", 0)
    assert sorted(line.split()[2] for line in daemon.ask("save c")[0].splitlines()[1:]) == ["10.0.0.2,udp:80", "10.0.0.3,tcp:79",
                                                                                           "9.9.9.9,tcp:80"]
    assert daemon.ask("add c 10.0.0.1,tcp:80") == ("", 0)
    assert "add c 10.0.0.1,tcp:80\n" in daemon.ask("save c")[0]


def test_a_range_is_deleted_while_others_change_the_set() -> None:
    store = SetStore()
    store.restore(b"create s hash:ip maxelem 100000\nadd s 10.0.0.0-10.0.255.255\n", 0)
    deleting = store.deleting("s", ["9.0.0.0-255.255.255.255"], 0, exist=True)
    next(deleting)
    store.flush("s")
    store.restore(b"add s 10.0.0.0-10.0.1.255\n", 0)         # fewer than have been gone through
    assert list(deleting) == []
    assert len(store.find("s").contents) == 512
    store.delete("s", ["9.0.0.0-255.255.255.255"], 0, exist=True)
    assert len(store.find("s").contents) == 0


def test_all_sets_together_have_a_bound() -> None:
    """An empty set has room for 1024 elements."""
    store = SetStore()
    options = parse_create(["hash:ip", "maxelem", "4000000"])
    for number in range(16384):
        store.create(f"s{number}", options)
    with pytest.raises(SetError, match="there is no room for it: all sets together have memory for 16777216 elements"):
        store.create("s16384", options)
    with pytest.raises(SetError, match=r"^Element cannot be added to the set: there is no room for it"):
        store.add("s0", ["10.0.0.0/21"], 0)
    store.flush("s0")
    store.add("s0", ["10.0.0.0/22"], 0)
