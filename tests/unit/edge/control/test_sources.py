"""`pyfwctl sources`, over the socket."""
from __future__ import annotations

import pytest

from kit.control import LATER_NS, StillDaemon, running, udp_packet
from kit.packets import SERVER, udp
from pyfw.conntrack.sources import Sources
from pyfw.engine.engine import Engine
from pyfw.engine.source_limits import SourceLimits
from pyfw.enums import Hook

SOURCES = 1500


@pytest.fixture
def control(tmp_path):
    """Many sources with a connection, and two with more."""
    services = StillDaemon()
    services.engine = Engine(max_entries=2 * SOURCES)
    services.engine.limit_sources(SourceLimits(Sources(2 * SOURCES, 32, 64, 10 * 10**9, bytes(16)), max_new=100))
    for number in range(SOURCES):
        services.engine.judge(udp_packet(number), Hook.FORWARD, now=LATER_NS)
    for source, count in (("192.0.2.7", 3), ("2001:db8:0:5::1", 5)):
        for sport in range(count):
            services.engine.judge(udp(source, SERVER if "." in source else "2001:db8:9::1", sport + 1, 53), Hook.FORWARD, now=LATER_NS)
    with running(tmp_path / "socket", services) as running_server:
        yield running_server


def test_those_with_the_most(control):
    with control.connect() as client:
        answers = client.ask(command="sources", number=3)
    lines = "".join(answer.get("text", "") for answer in answers).splitlines()
    assert lines[:2] == ["2001:db8:0:5::/64 ( states 5, connections 0, rate 5/10s )",
                         "192.0.2.7 ( states 3, connections 0, rate 3/10s )"]
    assert len(lines) == 3
    assert lines[2].endswith("( states 1, connections 0, rate 1/10s )")


def test_all_of_them_as_objects(control):
    with control.connect() as client:
        answers = client.ask(command="sources", json=True)
    records = [record for answer in answers for record in answer.get("records", ())]
    assert len(records) == SOURCES + 2 == len({record["source"] for record in records}) == answers[-1]["count"]
    assert {"source": "192.0.2.7", "states": 3, "connections": 0, "new": 3} in records
    assert len(answers) > 2, "a slice at a time"


def test_a_number_that_cannot_be(control):
    with control.connect() as client:
        assert client.ask(command="sources", number=0)[-1]["error"] == "argument 'number' must be 1 to 10000"


def test_without_limits_nobody_counts(tmp_path):
    with running(tmp_path / "socket", StillDaemon()) as server, server.connect() as client:
        assert client.ask(command="sources")[-1]["error"] == (
            "nobody counts sources: set limits.per_source in the config, and restart")
