"""For all tests: property tests are the same in every run, and no machine is too slow for them.

A run has a seed, new each time and told at the end, so that a failure can be had again.  The longest holds of the lock are told.
Both are for all processes that share the run's tests.
"""
import atexit
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

import pytest
from hypothesis import settings

settings.register_profile("pyfw", derandomize=True, deadline=None, database=None)
settings.load_profile("pyfw")

# Before pyfw is imported: its lock looks once whether its holds are to be timed.
if "PYFW_LOCK_TIMES" not in os.environ:
    os.environ["PYFW_LOCK_TIMES"] = tempfile.mkstemp(prefix="pyfw-lock-")[1]

os.environ.setdefault("PYFW_TEST_SEED", str(SystemRandom().randrange(1 << 31)))

PACKET_PATH = ("pyfw.edge.queue.loop.serve_batch", "pyfw.engine.engine.Engine.judge")    # hold it for a batch of packets; the others for 100 microseconds at most
SHOWN = 5
NEW_DIFFERENCE = "new difference"       # as differential.examine has it, which loads the engine
UNPRIVILEGED = ("unit",)                # folders whose tests need no root, but for those that say so
FIRST = ("service", "chaos", "lab")     # the longest to begin with; they wait more than they compute
TOGETHER = ("service",)                 # its tests share what is made for them; and process numbers inside a container are told by /proc


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if is_one_of_several(terminalreporter.config):
        return
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
    reports = [report for reports in terminalreporter.stats.values() for report in reports if isinstance(report, pytest.TestReport)]
    for told in (value for report in reports for name, value in report.user_properties if name == NEW_DIFFERENCE):
        terminalreporter.section("a difference that new seeds have found, not by this change", sep="!", red=True)
        terminalreporter.write_line(told)
    seed = os.environ["PYFW_TEST_SEED"]
    if any("::test_new_seeds" in report.nodeid for report in reports):
        terminalreporter.write_line(f"commands: this run's new cases began at {seed}: scripts/commands --seed {seed} plays the same")
    if any("::test_new_seed[" in report.nodeid for report in reports):
        terminalreporter.write_line(f"differential: this run's new seeds began at {seed}: "
                                    f"scripts/differential --seed {seed} sends the same packets")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of the other folders need root.  Processes that share the tests take them in this order."""
    for item in items:
        if folder(item.nodeid) not in UNPRIVILEGED:
            item.add_marker(pytest.mark.root)
    if is_one_of_several(config):
        items.sort(key=lambda item: (*FIRST, folder(item.nodeid)).index(folder(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Between processes that share the tests: a file's go to one of them, and so do those of a folder that is TOGETHER."""
    from xdist.scheduler import LoadFileScheduling

    class FolderScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return folder(nodeid) if folder(nodeid) in TOGETHER else super()._split_scope(nodeid)

    return FolderScheduling(config, log)


def is_one_of_several(config: pytest.Config) -> bool:
    """Whether this process was started for a share of the tests."""
    return hasattr(config, "workerinput")


def folder(nodeid: str) -> str:
    """`lab` for `tests/lab/...`"""
    return nodeid.split("/")[1]


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
    """`pyfw.observe.dump.collect` for `__pyx_f_4pyfw_7observe_4dump_collect`."""
    parts, rest = [], compiled.partition("f_")[2] or compiled
    while digits := re.match("[0-9]+", rest):
        end = digits.end() + int(digits[0])
        parts.append(rest[digits.end():end])
        rest = rest[end:].removeprefix("_")
    return ".".join(part for part in (*parts, rest) if part)
