"""Servers as they are: other words, other forms, private addresses, and segments that end anywhere."""
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfw.enums import Direction, Verdict
from pyfw.helpers.ftp import FtpHelper

CLIENT, SERVER = Direction.ORIGINAL, Direction.REPLY
SERVER_OPEN = "10.0.0.2 > 10.0.1.2 5001"
CLIENT_OPEN = "10.0.1.2 > 10.0.0.2 5001"
DONE = "< 200 done\r\n"
UNREADABLE = "announcement cannot be read"


# -- forms --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("asked", ["> PASV\r\n", "> EPSV\r\n"])
@pytest.mark.parametrize("reply", [
    "227 Entering Passive Mode (10,0,1,2,19,137).",
    "227 Entering Passive Mode( 10,0,1,2,19,137).",
    "227 Entering passive mode. 10,0,1,2,19,137",
    "227 =10,0,1,2,19,137",
    "227 10,0,1,2,19,137",
    "227 (IPv4) (10,0,1,2,19,137)",                     # the kernel takes the 4 for the address
    "227 1 of 9,9: 10,0,1,2,19,137",
    "227 Entering Passive Mode [10,0,1,2,019,0137]",
    "229 Entering Extended Passive Mode (|||5001|)",
    "229 Entering Extended Passive Mode (!!!5001!)",
    "229 (|||5001)",
    "229 |||5001|",
    "229 |||5001",
])
def test_passive_replies_that_some_client_reads(talk, asked, reply):
    conversation = talk(FtpHelper())
    conversation.say_all(asked, f"< {reply}\r\n")
    assert conversation.opened == SERVER_OPEN


@pytest.mark.parametrize("reply", [
    "227 Entering Passive Mode",
    "227 Entering Passive Mode ( 10, 0, 1, 2, 19, 137 ).",
    "227 (10,0,1,2,19)",
    "227 (10,0,1,2,19,137,1)",
    "227 (1,10,0,1,2,19,137)",
    "227 (10,0,1,2,19,137,)",
    "227 (10,0,1,,19,137)",
    "227 (10.0.1.2,19,137)",
    "229 (5001)",
    "229 5001",
    "229 (||5001|)",
    "229 ( |||5001| )",
    "229 (|||)",
    "229 Entering Extended Passive Mode",
    "229 Entering |||5001|",                            # behind words, without a bracket
])
def test_a_whole_reply_that_cannot_be_read_is_delivered_and_opens_nothing(talk, reply):
    conversation = talk(FtpHelper())
    conversation.say("> PASV\r\n")
    finding = conversation.say(f"< {reply}\r\n")
    assert (finding.verdict, finding.remark) == (Verdict.ACCEPT, UNREADABLE)
    assert conversation.expectation is None
    conversation.say_all("> PASV\r\n", "< 227 (10,0,1,2,19,137)\r\n")
    assert conversation.opened == SERVER_OPEN, "what it answered is answered, and the count goes on"


def test_an_announcement_is_not_looked_for_in_the_next_line(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> PASV\r\n", "< 227 passive\r\n150 10,0,1,2,19,137\r\n")
    assert (conversation.expectation, conversation.remark) == (None, UNREADABLE)


@pytest.mark.parametrize("line", ["PORT 10,0,0,2,19,137\n", "PORT  10,0,0,2,19,137\r\n", "port 10,0,0,2,19,137 \r\n"])
def test_commands_that_some_server_reads(talk, line):
    conversation = talk(FtpHelper())
    conversation.say(f"> {line}")
    assert (conversation.opened, conversation.held) == (None, CLIENT_OPEN)
    conversation.say(DONE)
    assert conversation.opened == CLIENT_OPEN


@pytest.mark.parametrize("line", ["PORT\r\n", "PORT 10,0,0,2,19\r\n", "PORT 10, 0, 0, 2, 19, 137\r\n", "EPRT\r\n",
                                  "EPRT |1|10.0.0.2|5001\r\n", "EPRT |2|10.0.0.2|5001|\r\n"])
def test_a_whole_command_that_cannot_be_read_is_delivered_and_opens_nothing(talk, line):
    conversation = talk(FtpHelper())
    finding = conversation.say(f"> {line}")
    assert (finding.verdict, finding.remark) == (Verdict.ACCEPT, UNREADABLE)
    conversation.say(DONE)
    assert conversation.expectation is None
    conversation.say_all("> PORT 10,0,0,2,19,137\r\n", DONE)
    assert conversation.opened == CLIENT_OPEN, "the command counted"


# -- assume_announcer -----------------------------------------------------------------------------------------

PUBLIC = {"client": "192.0.2.2", "server": "198.51.100.2"}
PUBLIC_OPEN = "192.0.2.2 > 198.51.100.2 5001"


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("loose", [True, False])
@pytest.mark.parametrize("address", ["10.9.9.9", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1",
                                     "0.0.0.0"])
def test_a_private_address_is_taken_for_the_announcers_where_that_is_said(talk, address, loose, strict):
    reply = f"< 227 ({address.replace('.', ',')},19,137)\r\n"
    assuming = talk(FtpHelper(strict=strict, loose=loose, assume_announcer=True), **PUBLIC)
    assuming.say_all("> PASV\r\n", reply)
    assert assuming.opened == PUBLIC_OPEN
    conversation = talk(FtpHelper(strict=strict), **PUBLIC)
    conversation.say_all("> PASV\r\n", reply)
    assert (conversation.opened, conversation.remark) == (None, "announced address is not the announcer's own")


@pytest.mark.parametrize("lines", [
    ["> PASV\r\n", "< 227 (203,0,113,9,19,137)\r\n"],       # another host's, which can be reached
    ["> PASV\r\n", "< 227 (172,32,0,1,19,137)\r\n"],
    ["> PASV\r\n", "< 227 (10,9,9,9,0,22)\r\n"],
    ["> PASV\r\n", "< 227 (10,9,9,256,19,137)\r\n"],
    ["< 227 (10,9,9,9,19,137)\r\n"],                        # not asked
    ["> PORT 10,9,9,9,19,137\r\n", DONE],                   # of a client: NAT would have to say where it waits
])
def test_nothing_else_is_assumed(talk, lines):
    conversation = talk(FtpHelper(assume_announcer=True), **PUBLIC)
    conversation.say_all(*lines)
    assert conversation.expectation is None


def test_over_ipv6_nothing_is_assumed(talk):
    conversation = talk(FtpHelper(assume_announcer=True), client="2001:db8::2", server="2001:db8:1::2")
    conversation.say_all("> PASV\r\n", "< 227 (10,9,9,9,19,137)\r\n")
    assert conversation.expectation is None


# -- segments that end anywhere -------------------------------------------------------------------------------

ANSWERED = ["< 227 (10,0,1,2,19,137)\r\n"]

# What was said before; the line that is cut, and whose it is; what is said then; what is open in the end.
LINES = [
    (["> PASV\r\n"], SERVER, b"227 Entering Passive Mode (10,0,1,2,19,137)\r\n", [], SERVER_OPEN),
    (["> PASV\r\n"], SERVER, b"227 (IPv4) 10,0,1,2,19,137\r\n", [], SERVER_OPEN),
    (["> PASV\r\n"], SERVER, b"227 1,2 (10,0,1,2,19,137) 10,0,1,2,19,138\r\n", [], SERVER_OPEN),
    (["> EPSV\r\n"], SERVER, b"229 Entering Extended Passive Mode (|||5001|)\r\n", [], SERVER_OPEN),
    (["> EPSV\r\n"], SERVER, b"229 |||5001|\r\n", [], SERVER_OPEN),
    (["> PASV\r\n"], SERVER, b"227-passive\r\n", ANSWERED, SERVER_OPEN),
    (["> PASV\r\n"], SERVER, b"500 no: 227 (10,0,1,2,19,137)\r\n", [], None),
    ([], CLIENT, b"PASV\r\n", ANSWERED, SERVER_OPEN),
    ([], CLIENT, b"EPSV 1 \r\n", ANSWERED, SERVER_OPEN),
    ([], CLIENT, b"TYPE I\r\nPASV\r\n", [DONE, *ANSWERED], SERVER_OPEN),
    ([], CLIENT, b"PORT 10,0,0,2,19,137\r\n", [DONE], CLIENT_OPEN),
    ([], CLIENT, b"EPRT |1|10.0.0.2|5001|\r\n", [DONE], CLIENT_OPEN),
    ([], CLIENT, b"PASVX\r\n", ANSWERED, None),
]
EACH_LINE = pytest.mark.parametrize(("before", "sender", "line", "after", "whole"), LINES, ids=[case[2].decode().strip() for case in LINES])


def deliver(conversation, sender, cuts, line, *, merges: bool) -> bool:
    """Send a line in pieces as TCP does: in order, what did not arrive again.  Returns whether every byte arrived.

    merges: what is sent again is one segment (Linux); else the same first piece, until that arrives.
    """
    pieces = list(pairwise((0, *sorted(cuts), len(line))))
    start, arrived = conversation.seq[sender], 0
    for _ in range(20):
        for begin, end in pieces:
            finding = conversation.send(sender, start + begin, line[begin:end])
            if begin <= arrived and (finding is None or finding.verdict == Verdict.ACCEPT):
                arrived = max(arrived, end)
        if arrived == len(line):
            break
        waiting = [piece for piece in pieces if piece[1] > arrived]
        pieces = [(arrived, len(line))] if merges else waiting
    conversation.seq[sender] = start + arrived
    return arrived == len(line)


def opened(talk, before, sender, line, after, cuts, *, merges=True):
    conversation = talk(FtpHelper())
    conversation.say_all(*before)
    assert deliver(conversation, sender, cuts, line, merges=merges)
    conversation.say_all(*after)
    return conversation.opened


@EACH_LINE
def test_cut_at_every_byte_a_line_opens_what_the_whole_one_does(talk, before, sender, line, after, whole):
    cuts = [(), *((cut,) for cut in range(1, len(line))), range(1, len(line))]
    assert [opened(talk, before, sender, line, after, each) for each in cuts] == [whole] * len(cuts)


@EACH_LINE
@given(data=st.data())
def test_cut_anywhere_a_line_opens_what_the_whole_one_does_and_stops_nobody(talk, before, sender, line, after, whole, data):
    cuts = data.draw(st.sets(st.integers(1, len(line) - 1)))
    assert opened(talk, before, sender, line, after, cuts) == whole
    assert opened(talk, before, sender, line, after, cuts, merges=False) in (None, whole)


def test_a_line_that_grows_is_held_back_seven_times_and_then_opens_nothing(talk):
    conversation = talk(FtpHelper())
    conversation.say("> PASV\r\n")
    verdicts = []
    for length in range(9):
        finding = conversation.send(SERVER, conversation.seq[SERVER], b"227 passive" + b"." * length)
        verdicts.append(finding and finding.verdict)
    assert verdicts == [Verdict.DROP] * 7 + [Verdict.ACCEPT] * 2
    conversation.send(SERVER, conversation.seq[SERVER], b"227 (10,0,1,2,19,137)\r\n")
    assert conversation.expectation is None


def test_what_follows_a_line_that_is_held_back_costs_it_no_chance(talk):
    conversation = talk(FtpHelper())
    conversation.say("> PASV\r\n")
    start, line = conversation.seq[SERVER], b"227 Entering Passive Mode (10,0,1,2,19,137)\r\n"
    for place in range(len(line)):
        assert conversation.send(SERVER, start + place, line[place:place + 1]).verdict == Verdict.DROP
    conversation.send(SERVER, start, line)
    assert conversation.opened == SERVER_OPEN
