"""Every control command with arguments of every type, asked of a live daemon: it answers, judges, and nothing fails inside."""
from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from firewall import Firewall
from pyfw.edge.control.table import COMMANDS, FILTERS, FINISH_HANDOVER, HAND_OVER, Argument
from pyfw.lab import SERVER, Lab

Guard = Callable[..., Firewall]

STREAMS = {"events", "top", "trace", "stats"}           # some of whose answers come until the peer leaves
HUGE = 10**400
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 4, 6, 2**31, 2**32, 2**63, 2**64, -2**63, HUGE, -HUGE, 0.0, -0.0, 0.1, 1.5, 1e308, float("nan"),
    float("inf"), float("-inf"), "", " ", "a", "-1", "\0", "\ud800", "\udcff", "\n", "\x1b[2J", "x" * 20_000, "%s%n", "10.0.0.1", "::1",
    "0/0", "::/129", "9" * 5000, "0x" + "f" * 5000, "1e9", "NEW,,NEW", "json,json,id", "ASSURED," * 1000, "é",
    [], [[]], [None], ["a", 1], [""], ["\0"], ["\ud800"], ["-"], ["--"], ["x" * 20_000], ["a"] * 5000, {}, {"command": "flush"},
    [[[[[[[[[["deep"]]]]]]]]]], ["--json"], ["--help", "\0"])
WORDS = ("-A", "-D", "-I", "-R", "-L", "-S", "-F", "-N", "-X", "-E", "-P", "-Z", "-C", "INPUT", "FORWARD", "x", "0", "1", "-1", "99999999999",
         "-p", "tcp", "udp", "icmp", "--dport", "--in", "--out", "--json", "--count", "--hook", "--flags", "SYN,ACK", "--mark", "0x1/0x",
         "hex", "4500", "45" * 200, "pcap", "/etc/passwd", "10.0.0.1:1", "[::1]:2", "10.0.0.1", "::1", "--length", "65535", "--ttl", "-j", "DROP",
         "-m", "set", "--match-set", "create", "add", "del", "test", "list", "save", "restore", "hash:ip", "hash:net", "timeout", "\0", "\ud800",
         "\n", "", "--quote", "!", "-s", "-d", "0/0", "comment", "--frame", "--chunk", "INIT", "sctp", "--comment", "é" * 300)


def arguments_for(argument: Argument, dice: random.Random) -> Iterator[Any]:
    yield from VALUES
    if argument.kind is list:
        for _ in range(80):
            yield dice.choices(WORDS, k=dice.randrange(1, 9))


def is_of_kind(argument: Argument, value: Any) -> bool:
    if argument.kind is float and type(value) in (int, float):
        return -1e9 <= value <= 1e9
    return type(value) is argument.kind and (argument.kind is not list or all(type(word) is str for word in value))


def requests(dice: random.Random) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each with whether its arguments are of the wrong type."""
    for name, command in COMMANDS.items():
        base: dict[str, Any] = {"command": name}
        if name == "top":
            base |= {"interval": 0.1}
        if name not in (HAND_OVER, FINISH_HANDOVER):        # which would do what they are for
            yield base, False
        yield {**base, "nonsense": 1}, True
        yield {**base, "\ud800\0": [], "": None}, True
        # A `top` takes a tenth of a second, and its filters are list-conntrack's.
        for argument in (argument for argument in command.arguments if name != "top" or argument not in FILTERS):
            for value in arguments_for(argument, dice):
                yield {**base, argument.name: value}, value is not None and not is_of_kind(argument, value)
    for value in VALUES:
        yield {"command": value}, True


class Asker:
    """Asks over a connection that is made anew where an answer has no end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(self._path))
        self._lines = self.socket.makefile("rb")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The last answer, or the first of a stream."""
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while line := self._lines.readline():
            answer = json.loads(line)
            if answer.keys() & {"done", "error"}:
                return answer
            if "next" in answer:
                self.socket.sendall(b"{}\n")        # a text that comes in pieces ends here
            if request["command"] in STREAMS and not request.get("once"):
                self.close()
                self._connect()
                return answer
        raise AssertionError(f"no answer to {str(request)[:200]}")

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def ping_passes(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c", "1", "-W", "5", SERVER.ipv4]).returncode == 0


def test_no_request_makes_a_handler_fail(lab: Lab, guard: Guard, tmp_path: Path) -> None:
    sets = tmp_path / "sets.ipset"
    sets.write_text("create seen hash:ip timeout 60\n")
    firewall = guard(FORWARD=["-p icmp -j ACCEPT", "-p udp -j LOG", "-m set --match-set seen src -j DROP"],
                     settings=[f"sets=[{sets}]", "limits.per_source={max_states: 1000}"])
    firewall.stop()
    firewall.argv = ["env", "-C", tmp_path, *firewall.argv]     # `save` writes what it is told to
    firewall.start()
    assert ping_passes(lab)
    asker = Asker(firewall.socket)
    asked, failed = 0, []
    for request, is_wrong in requests(random.Random(10)):
        answer = asker.ask(request)
        asked += 1
        allowed = {2} if is_wrong else {1, 2, 3, 4}
        if answer.get("error", "").startswith("internal error") or ("error" in answer and answer["status"] not in allowed) or (
                is_wrong and "error" not in answer):
            failed.append((str(request)[:200], str(answer)[:200]))
    asker.close()
    assert failed == []
    assert asked > 3500
    control = json.loads(firewall.ctl("stats", "--json", check=True).stdout)["control"]
    assert "internal_error" not in control["refusals"]
    assert control["defects"] == 0
    assert firewall.ctl("reload").returncode in (0, 1)
    firewall.ctl("confirm")
    firewall.ctl("reload", check=True)                          # the rules of the file serve again
    assert ping_passes(lab)
