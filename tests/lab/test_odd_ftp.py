"""FTP servers that announce oddly, real clients, and a default-deny gateway between them; each with a control that must fail."""
from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from firewall import Firewall
from kit import odd_ftp_server
from pyfw.lab import SERVER, Lab

Guard = Callable[..., Firewall]

TEXT = "Hello from a server of its own kind."
RULES = ["-m state --state ESTABLISHED -j ACCEPT", "-m state --state RELATED -j ACCEPT", "-p tcp --dport 21 -m state --state NEW -j ACCEPT"]
BLANKS = "227 Entering Passive Mode ( {spaced} ).\r\n"

# With a time limit, in seconds, to be filled in.
CURL = f"curl -sS -m %d --disable-epsv ftp://{SERVER.ipv4}/file"
LFTP = f"lftp -c 'set ftp:passive-mode on; set net:timeout %d; set net:max-retries 1; {{}} open {SERVER.ipv4}; cat file'"
LFTP_EPSV = LFTP.format("set ftp:prefer-epsv yes;")
LONG, SHORT = 10, 2             # to succeed on a slow machine; to fail
# No client of this machine takes the other reply than it asked for: this one does.
CONNECTS = """
import re, socket
control = socket.create_connection(("{host}", 21), %d)
lines = control.makefile("rw", newline="")
lines.readline()
for command in ("USER a", "PASS b", "{request}"):
    lines.write(command + "\\r\\n"), lines.flush()
    reply = lines.readline()
numbers = [int(number) for number in re.findall("[0-9]+", reply[4:])]
data = socket.create_connection(("{host}", numbers[-2] * 256 + numbers[-1] if len(numbers) > 1 else numbers[0]), %d)
lines.write("RETR file\\r\\n"), lines.flush()
print(data.makefile().read(), end="")
"""


def connects(request: str) -> str:
    return shlex.join(["python3", "-c", CONNECTS.format(host=SERVER.ipv4, request=request)])


@dataclass(frozen=True)
class Odd:
    words: dict[str, list[str]]
    command: str
    options: dict[str, bool] | None = None
    control: dict[str, bool] | None = None      # the helper's options with which it must fail; None: without the helper

    def argv(self, limit_s: int) -> list[str]:
        return shlex.split(self.command.replace("%d", str(limit_s)))


NUMBERS = "227 Entering Passive Mode ({numbers}).\r\n"
KERNEL = {"strict": False}
ODD = {
    "PASV without brackets": Odd({"PASV": ["227 {numbers}\r\n"]}, CURL),
    "PASV behind a digit, curl": Odd({"PASV": ["227 IPv4 ({numbers})\r\n"]}, CURL, control=KERNEL),
    "PASV behind a digit, lftp": Odd({"PASV": ["227 IPv4 ({numbers})\r\n"]}, LFTP.format(""), control=KERNEL),
    "EPSV without a bracket": Odd({"EPSV": ["229 |||{port}|\r\n"]}, LFTP_EPSV, control=KERNEL),
    "EPSV without the last delimiter": Odd({"EPSV": ["229 passive (|||{port})\r\n"]}, LFTP_EPSV, control=KERNEL),
    "PASV answered by 229": Odd({"PASV": ["229 passive (|||{port}|)\r\n"]}, connects("PASV")),
    "EPSV answered by 227": Odd({"EPSV": [NUMBERS]}, connects("EPSV")),
    "in two segments": Odd({"PASV": ["227 Entering Passive Mode (", "{numbers}).\r\n"]}, CURL),
    "the newline by itself": Odd({"PASV": [NUMBERS.strip(), "\r\n"]}, CURL),
    "in five segments": Odd({"PASV": ["2", "27 ", "Entering Passive Mode (", "{numbers}", ").\r\n"]}, CURL),
    "a private address": Odd({"PASV": ["227 (192,168,9,9,{numbers_of_port})\r\n"]}, CURL, {"assume_announcer": True}, {}),
}


@pytest.fixture
def serve(lab: Lab) -> Callable[[dict], None]:
    def start(words: dict[str, list[str]]) -> None:
        lab.start("server", [sys.executable, Path(odd_ftp_server.__file__), "21", TEXT, json.dumps(words)])
        lab.wait_listening("server", 21)
    return start


@pytest.mark.parametrize("name", ODD)
def test_what_some_client_reads_is_related(name: str, lab: Lab, guard: Guard, serve) -> None:
    odd = ODD[name]
    serve(odd.words)
    firewall = guard(FORWARD=RULES, helpers={"ftp": odd.options or {}})
    result = lab.run("client", odd.argv(LONG))
    assert result.stdout == TEXT, result.stderr
    assert firewall.rule_packets()["-A FORWARD -m state --state RELATED -j ACCEPT"] == 1


@pytest.mark.parametrize("name", ODD)
def test_without_what_reads_it_nothing_is_transferred(name: str, lab: Lab, guard: Guard, serve) -> None:
    odd = ODD[name]
    serve(odd.words)
    firewall = guard(FORWARD=RULES, helpers={} if odd.control is None else {"ftp": odd.control})
    assert TEXT not in lab.run("client", odd.argv(SHORT)).stdout
    assert firewall.rule_packets()["-A FORWARD -m state --state RELATED -j ACCEPT"] == 0


@pytest.mark.parametrize(("options", "delivered"), [({}, True), (KERNEL, False)])
def test_a_whole_line_that_cannot_be_read_is_delivered(options: dict, delivered: bool, lab: Lab, guard: Guard, serve) -> None:
    serve({"PASV": [BLANKS]})
    firewall = guard(FORWARD=RULES, helpers={"ftp": options})
    result = lab.run("client", [*shlex.split(CURL % SHORT), "-v"])
    assert ("< 227 Entering Passive Mode ( " in result.stderr) is delivered
    assert result.stdout != TEXT
    assert firewall.rule_packets()["-A FORWARD -m state --state RELATED -j ACCEPT"] == 0
