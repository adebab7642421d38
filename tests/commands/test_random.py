"""pyfw-iptables and its kin mean what iptables means: cases at random, new ones in each run.

A difference is shown as the shortest case that has it.  Its line belongs in cases.txt, or with a reason in differences.py.
"""
from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from commands.generate import case
from commands.play import shortest
from commands.sides import Ours, Theirs

COUNT = 120
FIXED_SEEDS = range(40)
Sides = tuple[Ours, Theirs]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with Theirs() as theirs, Ours(tmp_path_factory.mktemp("control")) as ours:
        yield ours, theirs


def test_fixed_seeds(sides: Sides) -> None:
    must_agree(sides, FIXED_SEEDS)


def test_new_seeds(sides: Sides) -> None:
    begin = int(os.environ["PYFW_TEST_SEED"])
    must_agree(sides, range(begin, begin + COUNT))


def must_agree(sides: Sides, seeds: range) -> None:
    found = [str(known) for seed in seeds if (known := shortest(*sides, case(seed)))]
    assert found == [], "\n\n".join(found[:5])


def test_the_control_a_case_that_differs_is_shortened(sides: Sides) -> None:
    found = shortest(*sides, "-N a ;; -A INPUT -j DROP ;; -A INPUT --in lo ;; -L")
    assert found is not None
    assert found.case == "-A INPUT --in lo"
