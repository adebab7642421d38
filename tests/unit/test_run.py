"""What a run of the tests says at its end."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@pytest.mark.parametrize("test", ["record_property('new difference', 'packet 7: kept in seed_5.txt')", "pass"])
def test_a_difference_that_new_seeds_found_is_told_and_fails_nothing(tmp_path: Path, test: str) -> None:
    folder = tmp_path / "tests/unit"
    folder.mkdir(parents=True)
    shutil.copy(CONFTEST, folder.parent)
    (folder / "test_one.py").write_text(f"def test_new_seed(record_property):\n    {test}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYFW_")}
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path,
                          folder], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    told = "packet 7: kept in seed_5.txt" in run.stdout and "not by this change" in run.stdout
    assert told == ("record_property('" in test)
