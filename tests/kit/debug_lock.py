"""The debug build of pyfw, which asserts that the lock is held wherever it must be.

It stands in build/debug-lock, is brought up to date in place, and is loaded by processes of its own.  By hand:
`.venv/bin/python tests/kit/debug_lock.py ARGUMENT…` builds it, and runs pytest with these arguments in it.
"""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "debug-lock"
# Other modules find in pyfw.lock the function that asserts.
LOADED = """
import os, sys
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
import pyfw.lock
sys.setdlopenflags(os.RTLD_NOW)
"""
PYTEST = LOADED + """
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def build() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", "from setuptools import setup; setup()", "--quiet",
                    "build", "--build-base", PLACE, "--build-lib", PLACE / "lib"],
                   cwd=ROOT, env={**os.environ, "PYFW_DEBUG_LOCK": "1"}, check=True)


def command(program: str, *arguments: str) -> list[str]:
    """Runs `program` from ROOT with the debug build in place of pyfw; -P: what stands in ROOT is not found."""
    return ["env", f"PYTHONPATH={PLACE / 'lib'}", sys.executable, "-P", "-c", program, *arguments]


if __name__ == "__main__":
    build()
    sys.exit(subprocess.run(command(PYTEST, *sys.argv[1:]), cwd=ROOT, check=False).returncode)
