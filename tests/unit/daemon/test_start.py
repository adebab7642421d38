"""What a start loads before packets are judged."""
from __future__ import annotations

import subprocess
import sys


def test_the_modules_of_what_comes_after_judging_are_not_loaded_before():
    """Packets may wait already; what these take to load would be added to their delay."""
    later = {"asyncio", "pyroute2", "concurrent", "pyfw.daemon.daemon", "pyfw.edge.control.server", "pyfw.edge.host.diversion_keeper"}
    program = "import sys, pyfw.cli.pyfw.main, pyfw.cli.pyfw.run, pyfw.daemon.start; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert later.intersection(loaded) == set()
    assert "pyfw.edge.queue.loop" in loaded
