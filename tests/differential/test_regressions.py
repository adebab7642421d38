"""What once differed, each under its name: regressions/<name>.txt, as recorded.py reads it.

A new one is found with `scripts/differential --shrink FILE`.
"""
from __future__ import annotations

from pathlib import Path

import pytest

from differential import recorded
from differential.examine import examine
from differential.generate_mix import scenario, with_pauses

FILES = sorted((Path(__file__).parent / "regressions").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_once_different(path: Path) -> None:
    examine(recorded.read(path)).must_agree()


def test_there_are_some() -> None:
    assert FILES


@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_is_read(tmp_path: Path, seed: int) -> None:
    original = with_pauses(scenario(seed, 200), 2, 0.5, (("udp", 1), ("tcp_close", 2)))
    (tmp_path / "one.txt").write_text(recorded.write(original, "a title"), encoding="utf-8")
    assert recorded.read(tmp_path / "one.txt") == original


@pytest.mark.parametrize(("text", "complaint"), [
    ("> 45zz", "one.txt:1: non-hexadecimal number found"),
    ("\nwait long", "one.txt:2: could not convert string to float: 'long'"),
    ("settings loose=1", "one.txt:1: unknown setting 'loose=1': write tcp_loose=0|1"),
    ("! 45", "one.txt:1: unknown word '!': write settings, timeouts, wait, > or <"),
])
def test_bad_files_are_told(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.txt") as raised:
        recorded.read(tmp_path / "one.txt")
    assert complaint in str(raised.value)
