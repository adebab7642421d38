"""`new_seed`: scenarios that no run before has seen."""
from __future__ import annotations

import os

import pytest

SEEDS = 20                      # from the run's own on: see ../conftest.py


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "new_seed" in metafunc.fixturenames:
        first = int(os.environ["PYFW_TEST_SEED"])
        metafunc.parametrize("new_seed", range(first, first + SEEDS))
