"""A text of any size is restored: it comes in pieces, each when the daemon asks for it, and counts as a whole."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.sides import Editable, Ours
from kit.control import RunningServer, running


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    with Ours(tmp_path) as ours:
        yield ours


def text(count: int, end: str = "COMMIT\n") -> bytes:
    rules = "".join(f"-A INPUT -s 10.0.{number // 256}.{number % 256}/32 -p tcp -m tcp --dport 22 -j DROP\n" for number in range(count))
    return f"*filter\n:INPUT ACCEPT [0:0]\n{rules}{end}".encode()


@pytest.mark.parametrize("count", [3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_more_than_a_request_holds(ours: Ours, count: int) -> None:
    assert ours.restore(text(count)).status == 0
    assert ours.save().count("\n[0:0] -A INPUT -s 10.0.") == count


def test_a_mistake_in_the_last_piece_changes_nothing(ours: Ours) -> None:
    before = ours.save()
    failed = ours.restore(text(2000, "-A INPUT --nonsense\nCOMMIT\n"))
    assert failed.status == 2
    assert "Error occurred at line: 2003\n" in failed.error
    assert ours.save() == before


def test_a_line_is_as_long_as_iptables_restore_takes_it(ours: Ours) -> None:
    failed = ours.restore(b"*filter\n-A INPUT -m comment --comment " + b"x" * 11_000 + b"\nCOMMIT\n")
    assert failed.status == 1
    assert "a line has more than 10240 bytes" in failed.error


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running(tmp_path / "c", Editable(flows=0)) as server:
        yield server


@pytest.mark.parametrize("piece", [b"[]\n", b'{"text": 5}\n'])
def test_a_piece_that_is_none_ends_the_command(server: RunningServer, piece: bytes) -> None:
    with server.connect() as client:
        client.send(b'{"command": "iptables-restore"}\n')
        assert client.answer() == {"next": True}
        client.send(piece)
        assert client.answer() == {"error": "a piece of the text is expected", "status": 2}
        assert client.ask(command="version")[-1]["done"]


def test_rules_that_changed_meanwhile_are_not_lost(server: RunningServer) -> None:
    with server.connect() as client, server.connect() as other:
        client.send(b'{"command": "iptables-restore"}\n')
        assert client.answer() == {"next": True}
        assert other.ask(command="iptables", words=["-A", "INPUT", "-j", "DROP"])[-1]["done"]
        client.send(b'{"text": "*filter\\nCOMMIT\\n"}\n')
        assert client.answer() == {"next": True}
        client.send(b"{}\n")
        assert client.answer() == {"error": "the rules were changed meanwhile: try again", "status": 4}
