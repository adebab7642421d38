"""pyfw-iptables and its kin mean what iptables means: cases at random, new ones in each run.

A difference is shown as the shortest case that has it.  Its line belongs in cases.txt, or with a reason in differences.py.
One that new cases have shown fails no run, since it is not the change's; its line is added to cases.txt, and fails from then on.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands.generate import case
from commands.play import Difference, shortest
from commands.sides import Ours, Theirs
from differential.examine import NEW_DIFFERENCE

CASES = Path(__file__).with_name("cases.txt")
COUNT = 120
FIXED_SEEDS = range(40)
Sides = tuple[Ours, Theirs]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with Theirs() as theirs, Ours(tmp_path_factory.mktemp("control")) as ours:
        yield ours, theirs


def test_fixed_seeds(sides: Sides) -> None:
    found = differences(sides, FIXED_SEEDS)
    assert found == [], "\n\n".join(map(str, found[:5]))


def test_new_seeds(sides: Sides, record_property: Callable[[str, object], None]) -> None:
    begin = int(os.environ["PYFW_TEST_SEED"])
    for found in differences(sides, range(begin, begin + COUNT)):
        record_property(NEW_DIFFERENCE, keep(found, CASES))


def differences(sides: Sides, seeds: range) -> list[Difference]:
    return [found for seed in seeds if (found := shortest(*sides, case(seed)))]


def keep(found: Difference, path: Path) -> str:
    """Add the case to those that must agree; returns what there is to tell."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{found.case}\n")
    return f"{found}\nits case was added to {path}"


def test_the_control_a_case_that_differs_is_shortened(sides: Sides) -> None:
    found = shortest(*sides, "-N a ;; -A INPUT -j DROP ;; -A INPUT --in lo ;; -L")
    assert found is not None
    assert found.case == "-A INPUT --in lo"


def test_the_control_a_new_difference_is_told_and_kept(sides: Sides, tmp_path: Path) -> None:
    found = shortest(*sides, "-A INPUT --in lo")
    assert found is not None
    assert found.case in keep(found, tmp_path / "cases.txt")
    assert (tmp_path / "cases.txt").read_text() == "-A INPUT --in lo\n"
