"""The transition tables are total: every pair of direction, packet and state has one result, and a known one."""
from collections import Counter

import pytest

from pyfw.conntrack import sctp_states, tcp_states, timeouts
from pyfw.enums import TcpState

TCP_BEFORE = [state.name for state in TcpState if state <= TcpState.SYN_SENT2]

# linux/net/netfilter/nf_conntrack_proto_tcp.c; columns NO SS SR ES FW CW LA TW CL S2
TCP_EXPECTED = {
    "ORIGINAL": {
        "SYN": "SS SS IG IG IG IG IG SS SS S2", "SYNACK": "IV IV SR IV IV IV IV IV IV SR",
        "FIN": "IV IV FW FW LA LA LA TW CL IV", "ACK": "ES IV ES ES CW CW TW TW CL IV",
        "RST": "IV CL CL CL CL CL CL CL CL CL", "NONE": "IV IV IV IV IV IV IV IV IV IV",
    },
    "REPLY": {
        "SYN": "IV S2 IV IV IV IV IV SS IV S2", "SYNACK": "IV SR IG IG IG IG IG IG IG SR",
        "FIN": "IV IV FW FW LA LA LA TW CL IV", "ACK": "IV IG SR ES CW CW TW TW CL IG",
        "RST": "IV CL CL CL CL CL CL CL CL CL", "NONE": "IV IV IV IV IV IV IV IV IV IV",
    },
}


def tcp_cells(direction: str) -> list[tuple[str, str, str, str]]:
    return list(tcp_states.cells(getattr(tcp_states, direction)))


@pytest.mark.parametrize("direction", ["ORIGINAL", "REPLY"])
def test_every_cell_of_the_tcp_table_stands_in_it_once(direction):
    found = Counter((packet_class, before) for packet_class, before, _, _ in tcp_cells(direction))
    assert found == {(packet_class, before): 1 for packet_class in tcp_states.CLASSES for before in TCP_BEFORE}


@pytest.mark.parametrize("direction", ["ORIGINAL", "REPLY"])
def test_every_result_of_the_tcp_table_has_a_number_and_a_reason(direction):
    for packet_class, before, result, why in tcp_cells(direction):
        assert result in TcpState.__members__, (packet_class, before)
        assert why, (packet_class, before)


@pytest.mark.parametrize("direction", ["ORIGINAL", "REPLY"])
@pytest.mark.parametrize("packet_class", tcp_states.CLASSES)
def test_the_tcp_table_is_that_of_linux(direction, packet_class):
    results = {before: result for kind, before, result, _ in tcp_cells(direction) if kind == packet_class}
    expected = [tcp_states.CODES[code] for code in TCP_EXPECTED[direction][packet_class].split()]
    assert [results[before] for before in TCP_BEFORE] == expected


@pytest.mark.parametrize("table", [sctp_states.ORIGINAL, sctp_states.REPLY], ids=["original", "reply"])
def test_the_sctp_table_has_a_row_per_chunk_and_a_column_per_state(table):
    assert set(table) == set(sctp_states.CHUNKS)
    assert len(table) == 11
    assert len(sctp_states.STATES) == 9
    for chunk, row in table.items():
        results = row.split()
        assert len(results) == len(sctp_states.STATES), chunk
        assert set(results) <= {*sctp_states.STATES, "IV"}, chunk


def test_sctp_states_have_names_and_timeouts_in_one_order():
    assert len(sctp_states.NAMES) == len(sctp_states.STATES)
    with_timeout = [name for name in timeouts.DEFAULTS if name.startswith("sctp_")]
    assert with_timeout == [f"sctp_{name.lower()}" for name in sctp_states.NAMES[1:]]


def test_a_reply_never_begins_an_association():
    for chunk, row in sctp_states.REPLY.items():
        assert row.split()[0] == "IV", chunk
