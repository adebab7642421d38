"""What most unit tests begin with."""
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.control import RunningServer, StillDaemon, running
from kit.traffic import TcpConversation, Watch


@pytest.fixture
def watch() -> Watch:
    """An engine without rules: it tracks, and accepts everything."""
    return Watch()


@pytest.fixture
def tcp(watch: Watch) -> TcpConversation:
    return TcpConversation(watch)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[RunningServer]:
    """A running control server for the tests that need nothing special of it."""
    with running(tmp_path / "control.sock", StillDaemon()) as server:
        yield server
