"""/proc/net/netfilter/nfnetlink_queue, read."""
from __future__ import annotations

import pytest

from pyfw.edge.queue_counters import QueueCounters, parse_queue_counters

TWO_QUEUES = ("    0   4242     3 2 65531     7     9     1234  1\n"
              "   12 4294963117     0 2  4016     0     0 4294967295  1\n")


def test_every_column():
    assert parse_queue_counters(TWO_QUEUES) == {
        0: QueueCounters(queue=0, portid=4242, queued=3, copy_mode=2, copy_range=65531, queue_dropped=7,
                         user_dropped=9, id_sequence=1234),
        12: QueueCounters(12, 4294963117, 0, 2, 4016, 0, 0, 4294967295)}


@pytest.mark.parametrize("text", ["", "\n", "0 1 2\n", "a b c d e f g h\n"])
def test_what_holds_no_counters(text: str):
    assert parse_queue_counters(text) == {}
