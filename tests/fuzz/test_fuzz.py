"""Each target for a few seconds, after all inputs that the project keeps for it; `scripts/fuzz` goes on for longer."""
from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.build import build
from fuzz.packets import everything
from fuzz.run import TARGETS, drive, run, unpack
from pyfw.rules.language import matches
from pyfw.rules.language.iptables import parse_save

SECONDS = 4
SEED = 1                        # what another would find is for `scripts/fuzz` to find, and no fault of the change under test


@pytest.fixture(scope="session")
def driver() -> None:
    build()


# The first run compiles every module.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("fault", "said"), [("planted", "heap-buffer-overflow"), ("raised", "KeyError: b'!'")])
def test_a_fault_is_found(driver: None, tmp_path: Path, fault: str, said: str) -> None:
    """The control, in C and in Python."""
    (tmp_path / "input").write_bytes(b"!")
    done = drive(fault, [f"-artifact_prefix={tmp_path}/", str(tmp_path / "input")])
    assert done.returncode != 0
    assert said in done.stderr
    (tmp_path / "input").write_bytes(b"?")
    assert drive(fault, [str(tmp_path / "input")]).returncode == 0


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(driver: None, tmp_path: Path, target: str) -> None:
    outcome = run(target, SECONDS, SEED, corpus=tmp_path / "grown")
    print(f"{target}: {outcome.executions} executions, {outcome.packets} packets, {outcome.edges} edges")
    assert not outcome.findings, outcome.last_words
    unpack(target, tmp_path / "given")
    assert outcome.executions > len(list((tmp_path / "given").iterdir())), "all that is kept was run, and more"


def test_the_packet_path_meets_every_match_and_target() -> None:
    rules = [rule for table in parse_save(everything()).tables for chain in table.chains for rule in chain.rules]
    assert {match.name for rule in rules for match in rule.matches} == set(matches.MATCHES)
    assert {rule.target.name for rule in rules if rule.target} >= set(matches.TARGETS)
