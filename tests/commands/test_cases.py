"""pyfw-iptables and its kin mean what iptables means: cases that once differed, or may."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.differences import DIFFERENCES
from commands.play import difference
from commands.sides import Ours, Theirs

CASES = [line for line in Path(__file__).with_name("cases.txt").read_text().splitlines() if line and not line.startswith("#")]
Sides = tuple[Ours, Theirs]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with Theirs() as theirs, Ours(tmp_path_factory.mktemp("control")) as ours:
        yield ours, theirs


@pytest.mark.parametrize("part", range(10))
def test_both_do_the_same(sides: Sides, part: int) -> None:
    found = [str(known) for case in CASES[part::10] if (known := difference(*sides, case))]
    assert found == [], "\n\n".join(found[:5])


@pytest.mark.parametrize("reason", list(DIFFERENCES))
def test_a_difference_that_has_a_reason_is_there(sides: Sides, reason: str) -> None:
    assert [case for case in DIFFERENCES[reason] if difference(*sides, case) is None] == []
