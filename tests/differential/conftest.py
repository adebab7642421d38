"""The seed of this run: new each time, told at the end, so that a failure can be had again."""
from __future__ import annotations

from random import SystemRandom

import pytest

NEW_SEED = SystemRandom().randrange(1 << 31)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`new_seed`: scenarios that no run before has seen."""
    if "new_seed" in metafunc.fixturenames:
        metafunc.parametrize("new_seed", range(NEW_SEED, NEW_SEED + 20))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"differential: this run's new seeds began at {NEW_SEED}: "
                                f"scripts/differential --seed {NEW_SEED} sends the same packets")
