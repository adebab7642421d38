"""How often the diversion is looked at, and how often something is said about it."""
from __future__ import annotations

import pytest

from pyfw.edge.host import diversion_keeper
from pyfw.edge.host.diversion_keeper import GAP_S, MAX_GAP_S, _Limited, _summary, next_gap_s


def test_the_longer_others_change_rules_the_less_often_it_looks():
    gaps = [GAP_S]
    while len(gaps) < 100:
        gaps.append(next_gap_s(gaps[-1], changed=True))
    assert sorted(gaps) == gaps
    assert gaps[1] > GAP_S
    assert gaps[-1] == MAX_GAP_S
    assert sum(gaps) > 0.9 * len(gaps) * MAX_GAP_S
    assert next_gap_s(gaps[-1], changed=False) == GAP_S


def test_what_is_said_too_often_is_counted_instead(monkeypatch: pytest.MonkeyPatch):
    now_s, said = [100.0], []
    monkeypatch.setattr(diversion_keeper.time, "monotonic", lambda: now_s[0])
    say = _Limited(said.append)
    for _ in range(10):
        say("put back")
    now_s[0] += diversion_keeper.SAY_INTERVAL_S
    say("put back")
    assert said == ["put back", "put back (and 9 times since the last line)"]


def test_a_line_has_an_end():
    assert _summary(["a", "b"]) == "a, b"
    assert _summary(list("abcdefg")) == "a, b, c, d and 3 more"
