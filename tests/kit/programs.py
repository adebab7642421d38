"""The commands as programs."""
from __future__ import annotations

import os
import subprocess
import sys


def pyfwctl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pyfw.cli.pyfwctl.main", *arguments], capture_output=True, text=True,
                          timeout=30, env={**os.environ, **environment})
