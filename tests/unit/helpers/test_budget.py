"""Helpers take a bounded part of the packets' time, and who asks for little of it gets it."""
from __future__ import annotations

import pytest

from kit.packets import CLIENT, SERVER, SYN, tcp
from kit.traffic import TcpConversation, Watch
from pyfw.enums import Verdict
from pyfw.helpers import Expectation, Finding, HelperBinding

PORT = 6100
ALL_AT_ONCE, ALL_PER_S = 1000, 3000


class Counting:
    """Announces what the test tells it to, and counts what it is shown, by the client's port."""

    name, protocol, max_expected, timeout_s = "counting", 6, 2, 300

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.finding: Finding | None = None

    def inspect(self, segment, memory) -> Finding | None:
        port = next(port for port in (segment.sender_port, segment.receiver_port) if port != PORT)
        self.seen[port] = self.seen.get(port, 0) + 1
        return self.finding


@pytest.fixture
def helper() -> Counting:
    return Counting()


@pytest.fixture
def watch(helper: Counting) -> Watch:
    return Watch(helpers=[HelperBinding(helper, (PORT,))])


def opened(watch: Watch, sport: int) -> TcpConversation:
    return TcpConversation(watch, sport=sport, dport=PORT).open()


def say(conversation: TcpConversation, count: int = 1) -> set[str]:
    """So many segments of a client whom nobody has to answer; the reasons that they were judged for."""
    reasons = set()
    for _ in range(count):
        judgement = conversation.client.data(1)
        assert judgement.verdict is Verdict.ACCEPT
        reasons.add(judgement.reason.name)
        conversation.server.ack()
    return reasons


def test_two_hostile_ends_do_not_fill_the_thread(watch: Watch, helper: Counting) -> None:
    hostile = [opened(watch, 40001), opened(watch, 40002)]
    honest = opened(watch, 40003)
    for _ in range(20):
        for conversation in hostile:
            say(conversation, 400)
        say(honest)
        watch.wait(0.05)                            # 16,000 segments a second
    assert helper.seen[40003] == 20
    assert helper.seen[40001] + helper.seen[40002] < ALL_AT_ONCE + ALL_PER_S
    assert watch.reasons()["HELPER_BUSY"] == 2      # said once of each
    assert watch.engine.helpers.budget.refused == 2


def test_many_greedy_ends_leave_half_to_the_modest(watch: Watch, helper: Counting) -> None:
    greedy = [opened(watch, port) for port in range(41000, 41010)]
    for conversation in greedy:
        say(conversation, 300)
    honest = opened(watch, 40003)
    assert say(honest, 5) == {"NONE"}
    assert helper.seen[40003] == 5


def test_one_fast_connection_has_what_the_others_leave(watch: Watch, helper: Counting) -> None:
    fast = opened(watch, 40001)
    for _ in range(20):
        say(fast, 50)
        watch.wait(0.05)                            # 1,000 segments a second: ten times its own share
    assert helper.seen[40001] == 1000
    assert "HELPER_BUSY" not in watch.reasons()


def test_a_connection_without_its_helper_stays_without(watch: Watch, helper: Counting) -> None:
    conversation = opened(watch, 40001)
    assert say(conversation, 1000) == {"NONE", "HELPER_BUSY"}
    seen = helper.seen[40001]
    watch.wait(60)
    assert say(conversation, 10) == {"NONE"}
    assert helper.seen[40001] == seen
    assert say(opened(watch, 40002), 10) == {"NONE"}
    assert helper.seen[40002] == 10


def test_large_segments_cost_more(watch: Watch, helper: Counting) -> None:
    conversation = opened(watch, 40001)
    for _ in range(200):
        conversation.client.data(40_000)
        conversation.server.ack()
    assert helper.seen[40001] < 100


def test_what_was_announced_before_is_still_related(watch: Watch, helper: Counting) -> None:
    conversation = opened(watch, 40001)
    helper.finding = Finding(expectations=(Expectation(bytes([*map(int, SERVER.split("."))]),
                                                       bytes([*map(int, CLIENT.split("."))]), 7000),))
    say(conversation)
    helper.finding = None
    say(conversation, 1000)
    assert watch.send(tcp(SERVER, CLIENT, 20, 7000, SYN)).state.name == "RELATED"


def test_another_clock_is_no_reason_to_refuse(watch: Watch, helper: Counting) -> None:
    say(opened(watch, 40001), 400)
    watch.now_s = 5.0
    assert say(opened(watch, 40002), 10) == {"NONE"}


def test_where_the_clock_stands_still_nothing_is_refused(watch: Watch, helper: Counting) -> None:
    watch.engine.helpers.budget.unlimited = True            # as `replay --at-once` has it
    assert say(opened(watch, 40001), 1500) == {"NONE"}
    assert helper.seen[40001] == 1500
