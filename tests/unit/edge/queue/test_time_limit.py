"""Programs that hang take no longer together than their caller has."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyfw.edge.host.iptables import DivertError, Family, time_limit


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """iptables-save hangs; the file has a line for each time that it was started."""
    runs, program = tmp_path / "runs", tmp_path / "iptables-save"
    program.write_text(f"#!/bin/sh\necho >>{runs}\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return runs


def test_it_is_for_all_attempts_together(hanging: Path) -> None:
    with time_limit(0.3), pytest.raises(DivertError, match="no time left for iptables-save"):
        Family("iptables", "nft", "mangle", attempts=3).saved()
    assert len(hanging.read_text().splitlines()) == 1


def test_an_undoing_has_a_limit_of_its_own(hanging: Path) -> None:
    with time_limit(0), time_limit(0.3), pytest.raises(DivertError, match="did not end"):
        Family("iptables", "nft", "mangle", attempts=1).saved()
    assert hanging.exists()
