"""A running control server for the tests that need nothing special of it."""
import pytest

from unit.control.harness import StillDaemon, running


@pytest.fixture
def control(tmp_path):
    with running(tmp_path / "control.sock", StillDaemon()) as server:
        yield server
