"""For all tests: property tests are the same in every run, and no machine is too slow for them; the longest hold of the lock is told."""
import atexit
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("pyfw", derandomize=True, deadline=None, database=None)
settings.load_profile("pyfw")

# Before pyfw is imported: its lock looks once whether its holds are to be timed.
if "PYFW_LOCK_TIMES" not in os.environ:
    os.environ["PYFW_LOCK_TIMES"] = tempfile.mkstemp(prefix="pyfw-lock-")[1]

PACKET_PATH = ("pyfw.edge.queue.loop.serve_batch", "pyfw.engine.engine.Engine.judge")    # hold it for a batch of packets; the others for 100 microseconds at most
SHOWN = 5


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from pyfw.lock import write_holds
    write_holds()
    atexit.unregister(write_holds)
    path = Path(os.environ["PYFW_LOCK_TIMES"])
    holds = sorted(set(longest_holds(path.read_text())), reverse=True)
    for title, chosen in (("others", [hold for hold in holds if hold[1] not in PACKET_PATH]),
                          ("the packet path", [hold for hold in holds if hold[1] in PACKET_PATH])):
        shown = ", ".join(f"{held_ns // 1000} us by {function}" for held_ns, function in chosen[:SHOWN])
        terminalreporter.write_line(f"longest holds of the lock, {title}: {shown or 'none'}")
    path.unlink()


def longest_holds(text: str) -> Iterator[tuple[int, str]]:
    """(longest in ns, name of the function that took the lock) for each place that did, of the lines that processes wrote."""
    longest: dict[tuple[str, str], int] = {}
    for line in text.splitlines():
        held_ns, module, offset = line.split()
        longest[module, offset] = max(int(held_ns), longest.get((module, offset), 0))
    for (module, offset), held_ns in longest.items():
        found = subprocess.run(["addr2line", "-f", "-e", module, offset], capture_output=True, text=True, check=False)
        yield held_ns, plain_name(found.stdout.partition("\n")[0])


def plain_name(compiled: str) -> str:
    """`pyfw.observe.dump.collect` for `__pyx_f_4pyfw_7listing_collect`."""
    parts, rest = [], compiled.partition("f_")[2] or compiled
    while digits := re.match("[0-9]+", rest):
        end = digits.end() + int(digits[0])
        parts.append(rest[digits.end():end])
        rest = rest[end:].removeprefix("_")
    return ".".join(part for part in (*parts, rest) if part)
