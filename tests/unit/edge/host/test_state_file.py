"""The table's file: one daemon at a time, and what one leaves the next one finds."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyfw.edge.host.state_file import StateFileError, open_state_file, read_boot_id

SIZE = 8192

HOLDER = """
import sys
from pathlib import Path
from pyfw.edge.host.state_file import open_state_file
state = open_state_file(Path(sys.argv[1]), 8192)
state.memory[:5] = b"alive"
print("held", flush=True)
sys.stdin.read()
"""


def test_a_new_file(tmp_path: Path):
    state = open_state_file(tmp_path / "made" / "here", SIZE)
    assert bytes(state.memory) == bytes(SIZE)
    assert state.previous is None
    assert state.path.stat().st_mode & 0o777 == 0o600
    assert state.boot_id == read_boot_id()
    assert len(state.boot_id) == 16
    state.close()


def test_a_successor_finds_what_its_predecessor_wrote(tmp_path: Path):
    first = open_state_file(tmp_path, SIZE)
    first.memory[100:104] = b"conn"
    first.close()
    second = open_state_file(tmp_path, SIZE)
    assert second.memory[100:104] == b"conn"
    assert second.previous is None
    second.close()


@pytest.mark.parametrize("size", [SIZE // 2, SIZE * 2])
def test_a_file_of_another_size_is_replaced_and_can_still_be_read(tmp_path: Path, size: int):
    first = open_state_file(tmp_path, SIZE)
    first.memory[:4] = b"conn"
    first.close()
    second = open_state_file(tmp_path, size)
    assert bytes(second.memory) == bytes(size)
    assert len(second.previous) == SIZE
    assert second.previous[:4] == b"conn"
    second.close()
    assert sorted(os.listdir(tmp_path)) == ["batch", "lock", "table"]


def test_an_empty_file_is_replaced(tmp_path: Path):
    (tmp_path / "table").touch(0o600)
    state = open_state_file(tmp_path, SIZE)
    assert state.previous is None
    assert len(state.memory) == SIZE
    state.close()


def test_two_daemons_never_share_one_and_a_killed_one_gives_it_free(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StateFileError, match=rf"^{tmp_path}: another pyfw \(process {holder.pid}\) keeps its state"):
            open_state_file(tmp_path, SIZE)
        holder.kill()
        holder.wait()
    state = open_state_file(tmp_path, SIZE)
    assert state.memory[:5] == b"alive"
    state.close()


@pytest.mark.parametrize(("place", "named", "complaint"), [
    ("/dev/null/state", "/dev/null", "Not a directory"),
    ("/proc/nowhere", "/proc/nowhere", "No such file or directory"),
])
def test_a_directory_that_cannot_be_used(place: str, named: str, complaint: str):
    with pytest.raises(StateFileError) as caught:
        open_state_file(Path(place), SIZE)
    assert str(caught.value).startswith(f"{named}: {complaint}: the state of connections is kept there; choose another")


def test_more_than_the_file_system_holds(tmp_path: Path):
    with pytest.raises(StateFileError, match=rf"^{tmp_path}/table: .* \({1 << 60} bytes are needed\)"):
        open_state_file(tmp_path, 1 << 60)
    assert os.listdir(tmp_path) == ["lock"]
