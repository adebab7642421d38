"""SCTP associations: handshake, shutdown, verification tags, heartbeats on secondary paths."""

import pytest

from kit.association import (
    ABORT,
    COOKIE_ACK,
    COOKIE_ECHO,
    DATA,
    ERROR,
    HEARTBEAT,
    HEARTBEAT_ACK,
    INIT,
    INIT_ACK,
    OF_CLIENT,
    OF_SERVER,
    SHUTDOWN,
    SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
    T_FLAG,
    Association,
    init,
)
from kit.packets import chunk
from pyfw.enums import CtState, Direction, Reason, Verdict

NEW, ESTABLISHED, INVALID = CtState.NEW, CtState.ESTABLISHED, CtState.INVALID


# Each end chooses the tag that the other must send.


@pytest.fixture
def association(watch):
    return Association(watch)


def test_a_life_from_init_to_shutdown_complete(association):
    client, server = association.client, association.server
    life = [
        (lambda: client(init(INIT, OF_CLIENT), tag=0), NEW, ("CLOSED", 10, False)),
        (lambda: server(init(INIT_ACK, OF_SERVER)), ESTABLISHED, ("COOKIE_WAIT", 3, False)),
        (lambda: client(COOKIE_ECHO), ESTABLISHED, ("COOKIE_ECHOED", 3, False)),
        (lambda: server(COOKIE_ACK), ESTABLISHED, ("ESTABLISHED", 210, True)),
        (lambda: client(DATA), ESTABLISHED, ("ESTABLISHED", 210, True)),
        (lambda: server(HEARTBEAT), ESTABLISHED, ("ESTABLISHED", 210, True)),
        (lambda: client(HEARTBEAT_ACK), ESTABLISHED, ("ESTABLISHED", 210, True)),
        (lambda: client(SHUTDOWN), ESTABLISHED, ("SHUTDOWN_SENT", 3, True)),
        (lambda: server(SHUTDOWN_ACK), ESTABLISHED, ("SHUTDOWN_ACK_SENT", 3, True)),
        (lambda: client(SHUTDOWN_COMPLETE), ESTABLISHED, ("CLOSED", 10, True)),
    ]
    for step, (say, state, entry) in enumerate(life):
        judgement = say()
        assert (judgement.state, judgement.reason, judgement.verdict) == (state, Reason.NONE, Verdict.ACCEPT), step
        assert association.entry == entry, step


@pytest.mark.parametrize("who", ["client", "server"])
def test_abort_closes(association, who):
    association.open()
    assert getattr(association, who)(ABORT).state is ESTABLISHED
    assert association.entry[0] == "CLOSED"


def test_an_abort_with_a_reflected_tag_closes_too(association):
    """RFC 9260, 8.4: who has no association answers with the tag it was sent, and says so by the T bit."""
    association.open()
    assert association.server(chunk(ABORT, flags=T_FLAG), tag=OF_CLIENT).reason is Reason.SCTP_VTAG
    assert association.server(chunk(ABORT, flags=T_FLAG), tag=OF_SERVER).state is ESTABLISHED
    assert association.entry[0] == "CLOSED"


@pytest.mark.parametrize("said", [DATA, SHUTDOWN, ERROR, COOKIE_ECHO, ABORT, SHUTDOWN_COMPLETE, init(INIT, 5)])
def test_a_foreign_tag_is_invalid_and_moves_nothing(association, said):
    association.open()
    before = association.entry
    judgement = association.client(said, tag=0xBAD)
    assert (judgement.state, judgement.reason) == (INVALID, Reason.SCTP_VTAG)
    assert association.entry == before


@pytest.mark.parametrize("said", [SHUTDOWN_COMPLETE, COOKIE_ACK, ABORT, DATA, 130, 192, b"\1\0\0\x14" + bytes(4)])
def test_chunks_that_begin_nothing(association, said):
    judgement = association.client(said)
    assert (judgement.state, judgement.reason) == (INVALID, Reason.SCTP_NEW)


def test_an_init_bears_no_tag(association):
    assert association.client(init(INIT, OF_CLIENT), tag=1).reason is Reason.SCTP_NEW


@pytest.mark.parametrize("chunks", [
    (init(INIT, 1), DATA), (DATA, init(INIT_ACK, 1)), (DATA, SHUTDOWN_COMPLETE), (DATA, COOKIE_ECHO),
    (DATA, COOKIE_ACK), (b"\0\0\0\0",), (DATA, b"\0\0\0\0", DATA),
])
def test_chunks_that_may_not_stand_together_or_have_no_length(association, chunks):
    association.open()
    assert association.client(*chunks).reason is Reason.SCTP_CHUNK


@pytest.mark.parametrize("chunks", [(), (b"\0",), (b"\0\0\0",)])
def test_no_chunk_at_all(association, chunks):
    association.open()
    assert association.client(*chunks).reason is Reason.SCTP_EMPTY


def test_the_words_are_the_kernels(association):
    """The kernel logs tags as the bytes of the wire."""
    association.open()
    assert association.client(DATA, COOKIE_ECHO).reason_text == (
        "do_basic_checks failed. chunk num 1, type 10, len 4 flag 0")
    assert association.client(DATA, tag=1).reason_text == (
        "verification tag check failed 1000000 vs 175e0000 for dir 0")


@pytest.mark.parametrize("chunks", [(COOKIE_ECHO, DATA), (COOKIE_ECHO, DATA, DATA), (ERROR, DATA)])
def test_chunks_that_may(association, chunks):
    association.client(init(INIT, OF_CLIENT), tag=0)
    association.server(init(INIT_ACK, OF_SERVER))
    assert association.client(*chunks).state is ESTABLISHED


def test_the_answer_to_an_init_must_bear_its_tag(association):
    association.client(init(INIT, OF_CLIENT), tag=0)
    assert association.server(init(INIT_ACK, OF_SERVER), tag=OF_CLIENT + 1).reason is Reason.SCTP_VTAG


def test_a_cookie_that_grew_stale_begins_anew(association):
    association.client(init(INIT, OF_CLIENT), tag=0)
    association.server(init(INIT_ACK, OF_SERVER))
    association.client(COOKIE_ECHO)
    association.server(ERROR)
    assert association.entry[0] == "CLOSED"


def test_a_repeated_init_does_not_keep_the_entry_alive(association):
    association.client(init(INIT, OF_CLIENT), tag=0)
    association.watch.wait(4)
    assert association.client(init(INIT, OF_CLIENT), tag=0).state is NEW
    assert association.entry == ("CLOSED", 6, False)


# -- secondary paths -----------------------------------------------------------------------------------------------

def test_a_heartbeat_opens_a_secondary_path(association):
    assert association.client(HEARTBEAT).state is NEW
    assert association.entry == ("HEARTBEAT_SENT", 30, False)
    answered = association.server(HEARTBEAT_ACK)
    assert (answered.state, answered.direction) == (ESTABLISHED, Direction.REPLY)
    assert association.entry == ("ESTABLISHED", 210, True)


def test_a_heartbeat_with_a_new_tag_is_believed_once_it_is_acknowledged(association):
    """The host behind may have restarted."""
    association.open()
    association.watch.wait(10)
    assert association.client(HEARTBEAT, tag=0xBEEF).state is ESTABLISHED
    assert association.entry[1] == 200, "no renewal before that"
    assert association.client(DATA, tag=0xBEEF).reason is Reason.SCTP_VTAG
    assert association.server(HEARTBEAT_ACK, tag=0xF00D).state is ESTABLISHED
    assert association.server(DATA, tag=0xF00D).state is ESTABLISHED


def test_a_heartbeat_is_not_acknowledged_by_its_sender(association):
    association.open()
    association.client(HEARTBEAT, tag=0xBEEF)
    assert association.client(HEARTBEAT_ACK, tag=0xBEEF).reason is Reason.SCTP_VTAG
