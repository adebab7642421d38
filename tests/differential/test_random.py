"""Random traffic through the kernel's tracking and pyfw's: no packet and no table line may differ."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from differential import generate_datagrams, generate_ftp, recorded
from differential.examine import NEW_DIFFERENCE, examine, keep
from differential.generate_mix import FLOWS, PACKETS, TIMEOUTS, Scenario, scenario, with_pauses
from kit.witness import Settings

FIXED_SEEDS = range(1, 21)
REGRESSIONS = Path(__file__).parent / "regressions"


@pytest.mark.parametrize("seed", FIXED_SEEDS)
def test_fixed_seed(seed: int) -> None:
    examine(scenario(seed, PACKETS)).must_agree()


def test_new_seed(new_seed: int, record_property: Callable[[str, object], None]) -> None:
    """A difference here is not the change's: nobody has sent these packets before.  It is told, and kept as a regression
    that fails from the next run on."""
    found = examine(scenario(new_seed, PACKETS))
    if found.found:
        record_property(NEW_DIFFERENCE, keep(found, REGRESSIONS / f"seed_{new_seed}.txt"))


def test_the_control_a_difference_is_told_and_kept(tmp_path: Path) -> None:
    strict = examine(scenario(1, 2000), engine_settings=Settings(tcp_loose=False))
    told = keep(strict, tmp_path / "seed_1.txt")
    assert told.startswith(str(strict.found[0]).splitlines()[0])
    kept = recorded.read(tmp_path / "seed_1.txt")
    assert 0 < len(kept.packets) < 10
    assert examine(kept, engine_settings=Settings(tcp_loose=False)).found


def test_udp_becomes_a_stream_after_two_seconds_of_traffic_both_ways() -> None:
    ends = [((bytes((10, 1, 0, 2)), 1024 + number), (bytes((10, 2, 0, 2)), 53)) for number in range(600)]
    found = examine(Scenario(Settings(), generate_datagrams.udp_streams(Random(1), ends)))
    found.must_agree()
    assured = sum("[ASSURED]" in line for line in found.kernel.table)
    assert 100 < assured < 500                  # otherwise the rule was not tried both ways


@pytest.mark.parametrize("seed", range(4))
def test_expired_connections_are_forgotten(seed: int) -> None:
    """Every timeout is 1 s, and three times nothing comes for longer than that.  Without FTP: when a dead
    control connection takes its expectations along is up to the kernel's garbage collection."""
    flows = tuple((generator, weight) for generator, weight in FLOWS if generator is not generate_ftp.session)
    short = with_pauses(scenario(seed, 4000, flows), 3, 1.3, tuple((name, 1) for name in TIMEOUTS))
    examine(short).must_agree()
