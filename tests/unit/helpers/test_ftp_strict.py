"""strict=True: an announcement opens something only where the dialogue calls for it (CERT VU#328867)."""
import pytest

from pyfw.enums import Direction, Verdict
from pyfw.helpers.ftp import FtpHelper

IPV6 = {"client": "2001:db8::2", "server": "2001:db8:1::2"}
PASV = "< 227 Entering Passive Mode (10,0,1,2,19,137)\r\n"
EPSV = "< 229 Entering Extended Passive Mode (|||5001|)\r\n"
PORT = "> PORT 10,0,0,2,19,137\r\n"
EPRT = "> EPRT |1|10.0.0.2|5001|\r\n"
DONE = "< 200 done\r\n"

REFUSED = "this connection's beginning was not heard, or its commands and replies could not be counted"
CLIENT, SERVER = Direction.ORIGINAL, Direction.REPLY
SERVER_OPEN = "10.0.0.2 > 10.0.1.2 5001"
CLIENT_OPEN = "10.0.1.2 > 10.0.0.2 5001"


@pytest.mark.parametrize(("lines", "opened"), [
    # asked and answered
    (["> PASV\r\n", PASV], SERVER_OPEN),
    (["> pasv\r\n", PASV], SERVER_OPEN),
    (["> PASV \r\n", PASV], SERVER_OPEN),
    (["> PASV\n", PASV], SERVER_OPEN),
    (["> EPSV\r\n", EPSV], SERVER_OPEN),
    (["> EPSV 1\r\n", EPSV], SERVER_OPEN),
    (["> PASV\r\n", "< 227-passive\r\n", PASV], SERVER_OPEN),
    # refused first, asked another way
    (["> EPSV\r\n", "< 500 what?\r\n", "> PASV\r\n", PASV], SERVER_OPEN),
    # not asked
    ([PASV], None),
    ([EPSV], None),
    (["> NOOP\r\n", PASV], None),
    (["> PASVX\r\n", PASV], None),
    (["> XPASV\r\n", PASV], None),
    # the other passive reply than was asked for
    (["> PASV\r\n", EPSV], SERVER_OPEN),
    (["> EPSV\r\n", PASV], SERVER_OPEN),
    # asked once, answered twice
    (["> PASV\r\n", "< 500 no\r\n", PASV], None),
    (["> PASV\r\n", "< 227 (10,0,1,9,19,137)\r\n", PASV], None),
    # the next command ends the wait
    (["> PASV\r\n", "> NOOP\r\n", PASV], None),
    (["> PASV\r\n", "> EPSV\r\n", PASV], None),
    # a preliminary reply is no answer
    (["> PASV\r\n", "< 120 soon\r\n", PASV], SERVER_OPEN),
    # without waiting: as many replies go by first
    (["> TYPE I\r\n", "> PASV\r\n", "< 200 binary\r\n", PASV], SERVER_OPEN),
    (["> TYPE I\r\nPASV\r\n", "< 200 binary\r\n", PASV], SERVER_OPEN),
    (["> SIZE a\r\n", "> MDTM a\r\n", "> PASV\r\n", "< 550 no\r\n", "< 550 no\r\n", PASV], SERVER_OPEN),
    (["> STAT a\r\n", "> PASV\r\n", PASV], None),
    (["> RETR a\r\n", "< 150 here\r\n", "> PASV\r\n", "< 226 sent\r\n", PASV], SERVER_OPEN),
    # lines within another reply are not replies, whatever they look like
    (["> STAT a\r\n", "> PASV\r\n", "< 213-status\r\n", PASV], None),
    (["> STAT a\r\n", "> PASV\r\n", "< 213-status\r\n", PASV, "< 213 end\r\n", PASV], SERVER_OPEN),
    (["> PASV\r\n", "< 500-no, but:\r\n", PASV, "< 500 end\r\n"], None),
    (["> PASV\r\n", "< 500-no, but:\r\n 227 (10,0,1,2,19,137)\r\n", PASV], None),
    # only at the start of a segment, as ever
    (["> SIZE a\r\n", "> PASV\r\n", "< 213 5\r\n227 (10,0,1,2,19,137)\r\n"], None),
])
def test_passive(talk, lines, opened):
    conversation = talk(FtpHelper())
    assert all(finding is None or finding.verdict == Verdict.ACCEPT for finding in conversation.say_all(*lines))
    assert conversation.opened == opened


@pytest.mark.parametrize("announce", [PORT, EPRT])
@pytest.mark.parametrize(("before", "after", "opened"), [
    ([], [DONE], CLIENT_OPEN),
    ([], ["< 250 done\r\n"], CLIENT_OPEN),
    ([], ["< 200-done\r\n", "< 200 indeed\r\n"], CLIENT_OPEN),
    ([], ["< 200-done\r\n"], None),
    ([], ["< 200\r\n"], CLIENT_OPEN),
    ([], [], None),
    ([], ["< 500 illegal\r\n"], None),
    ([], ["< 500 illegal\r\n", DONE], None),
    ([], ["< 425 no\r\n"], None),
    ([], ["< 331 no\r\n"], None),
    ([], ["< 150 soon\r\n"], None),
    ([], ["< 150 soon\r\n", DONE], CLIENT_OPEN),
    ([], ["< PORT 200 done\r\n"], None),
    ([], ["< 20", DONE], None),                     # the code is cut in two: no reply is seen
    # the command that needs the data connection may follow at once
    ([], ["> RETR a\r\n", DONE], CLIENT_OPEN),
    ([], ["> RETR a\r\n", "< 500 illegal\r\n", "< 150 here\r\n", "< 226 sent\r\n"], None),
    ([], ["> RETR a\r\n", "< 200 done\r\n150 here\r\n"], CLIENT_OPEN),
    # a reply to what was said before does not count, for or against
    (["> TYPE I\r\n"], [DONE], None),
    (["> TYPE I\r\n"], [DONE, DONE], CLIENT_OPEN),
    (["> TYPE I\r\n"], ["< 200 binary\r\n200 done\r\n"], CLIENT_OPEN),
    (["> SIZE a\r\n"], ["< 550 no\r\n", DONE], CLIENT_OPEN),
    (["> TYPE I\r\nSIZE a\r\n"], [DONE, "< 213 5\r\n"], None),
    (["> TYPE I\r\nSIZE a\r\n"], [DONE, "< 213 5\r\n", DONE], CLIENT_OPEN),
    (["> STAT\r\n"], ["< 211-status\r\n", "< 200 is a line of it\r\n", "< 211 end\r\n"], None),
    (["> STAT\r\n"], ["< 211-status\r\n", "< 200 is a line of it\r\n", "< 211 end\r\n", DONE], CLIENT_OPEN),
    # asking for passive mode gives it up
    ([], ["> PASV\r\n", DONE, "< 502 no\r\n"], None),
])
def test_active(talk, announce, before, after, opened):
    conversation = talk(FtpHelper())
    conversation.say_all(*before, announce)
    assert conversation.opened is None
    assert conversation.held == CLIENT_OPEN
    conversation.say_all(*after)
    assert conversation.opened == opened


@pytest.mark.parametrize(("line", "remark"), [
    ("> PORT 10,0,0,2,0,22\r\n", "announced port 22 is below 1024"),
    ("> PORT 10,0,0,2,3,255\r\n", "announced port 1023 is below 1024"),
    ("> PORT 10,0,0,2,0,0\r\n", "announced port 0 is below 1024"),
    ("> PORT 10,0,0,2,19,256\r\n", "announced numbers do not make an address and a port"),
    ("> PORT 8,512,0,2,19,137\r\n", "announced numbers do not make an address and a port"),
    ("> PORT 4294967306,0,0,2,19,137\r\n", "announced numbers do not make an address and a port"),
    ("> PORT 10,,,2,19,137\r\n", "announcement cannot be read"),
    ("> PORT 10,0,0,9,19,137\r\n", "announced address is not the announcer's own"),
    ("> EPRT |1|10.0.0.2|80|\r\n", "announced port 80 is below 1024"),
    ("> EPRT |1|10.0.0.2|70537|\r\n", "announced numbers do not make an address and a port"),
    ("> EPRT |1|10.0.0.258|5001|\r\n", "announced numbers do not make an address and a port"),
    (PASV, "227 answers no command that asked for it"),
])
def test_refused_announcements_pass_and_open_nothing(talk, line, remark):
    conversation = talk(FtpHelper())
    finding = conversation.say(line)
    assert (finding.verdict, finding.expectations, finding.remark) == (Verdict.ACCEPT, (), remark)
    conversation.say_all(DONE, DONE)
    assert conversation.expectation is None


@pytest.mark.parametrize(("reply", "remark"), [
    ("< 227 (10,0,1,2,0,22)\r\n", "announced port 22 is below 1024"),
    ("< 227 (10,0,1,258,19,137)\r\n", "announced numbers do not make an address and a port"),
    ("< 227 (10,0,0,2,19,137)\r\n", "announced address is not the announcer's own"),
])
def test_refused_answers(talk, reply, remark):
    conversation = talk(FtpHelper())
    conversation.say_all("> PASV\r\n", reply)
    assert conversation.expectation is None
    assert conversation.remark == remark


@pytest.mark.parametrize(("lines", "opened"), [
    (["> EPSV\r\n", EPSV], "2001:db8::2 > 2001:db8:1::2 5001"),
    (["> EPRT |2|2001:db8::2|5001|\r\n", DONE], "2001:db8:1::2 > 2001:db8::2 5001"),
    (["> EPRT |2|2001:db8::3|5001|\r\n", DONE], None),
    (["> PORT 32,1,13,184,19,137\r\n", DONE], None),
    (["> PASV\r\n", "< 227 (32,1,13,184,19,137)\r\n"], None),
])
def test_over_ipv6(talk, lines, opened):
    conversation = talk(FtpHelper(), **IPV6)
    conversation.say_all(*lines)
    assert conversation.opened == opened


@pytest.mark.parametrize("line", ["> P", "> PA", "> PASV", "> PASV\r", "> eps", "> EPSV", "> EPSV\r"])
def test_a_request_cut_in_two_is_dropped(talk, line):
    assert talk(FtpHelper()).say(line).verdict == Verdict.DROP


def test_nothing_is_held_back_before_the_welcome(connect):
    assert connect(FtpHelper()).say("> POST / HTTP/1.1\r\nP").verdict == Verdict.ACCEPT


@pytest.mark.parametrize("line", ["< 2", "< 22", "< 227", "< 227 ", "< 227 Entering", "< 229 (|||50"])
@pytest.mark.parametrize(("before", "dropped"), [
    (["> PASV\r\n"], True), (["> EPSV\r\n"], True), (["> PASV\r\n", "< 227-passive\r\n"], True),
    ([], False), (["> NOOP\r\n"], False), (["> PASV\r\n", "< 500-no, but:\r\n"], False), (["> NOOP\r\nPASV\r\n"], False)])
def test_a_reply_cut_in_two_is_dropped_where_it_may_be_the_awaited_one(talk, line, before, dropped):
    conversation = talk(FtpHelper())
    conversation.say_all(*before)
    finding = conversation.say(line)
    assert (finding is not None and finding.verdict == Verdict.DROP) is dropped


def test_a_dropped_answer_is_still_awaited(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> PASV\r\n", "< 227 Entering Passive Mode (10,0,1", PASV)
    assert conversation.opened == SERVER_OPEN


def test_repeated_segments_change_nothing(talk):
    conversation = talk(FtpHelper())
    conversation.say_all(PORT, DONE)
    assert conversation.repeat(PORT) is None                # else the open one would give way to a held one
    assert conversation.repeat(DONE) is None
    assert conversation.opened == CLIENT_OPEN


def test_a_repeated_pasv_asks_for_nothing(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> PASV\r\n", PASV)
    conversation.expectation = None
    conversation.repeat("> PASV\r\n")
    conversation.say(PASV)
    assert conversation.opened is None


def test_a_repeated_reply_answers_nothing(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> TYPE I\r\n", DONE, PORT)
    conversation.repeat(DONE)
    assert conversation.opened is None
    conversation.say(DONE)
    assert conversation.opened == CLIENT_OPEN


def test_the_first_pasv_of_a_connection_is_not_seen(connect):
    conversation = connect(FtpHelper())
    conversation.say_all("< 220 ready\r\n", "> PASV\r\n", PASV)
    assert conversation.opened is None


def test_a_welcome_of_many_segments_that_end_anywhere(connect):
    conversation = connect(FtpHelper())
    conversation.say_all("< 220-a\r\n220-b", "< c\r\n220 ready\r\n", "> USER a\r\n", "< 230-hello\r\n 23", "< 0 no\r\n",
                         "< 230 welcome\r\n", PORT, DONE)
    assert conversation.opened == CLIENT_OPEN


def test_more_commands_without_waiting_than_can_be_counted(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> " + "NOOP\r\n" * 100, PORT, *[DONE] * 14)
    assert conversation.opened is None
    conversation.say_all(*[DONE] * 200, PORT, DONE)
    assert conversation.opened == CLIENT_OPEN


def test_asking_for_passive_mode_cancels_what_is_held(talk):
    conversation = talk(FtpHelper())
    conversation.say_all(PORT, "> PASV\r\n")
    assert conversation.held is None


def test_a_flood_of_replies_ends_the_wait(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> TYPE I\r\n" * 15, PORT, "< " + "200 done\r\n" * 16)
    assert conversation.opened == CLIENT_OPEN
    conversation.say_all(PORT, "< " + "150 soon\r\n" * 100, DONE)
    assert conversation.opened is None


def test_a_long_multi_line_reply_in_one_segment_is_one_reply(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> STAT\r\n", PORT, "< " + "211-status\r\n200 not\r\n" * 1000 + "211 end\r\n200 done\r\n")
    assert conversation.opened == CLIENT_OPEN


@pytest.mark.parametrize(("option", "value"), [("strict", "no"), ("loose", 1), ("strict", None), ("assume_announcer", 0)])
def test_options_are_true_or_false(option, value):
    with pytest.raises(TypeError, match=f"{option}: must be true or false, not {value!r}"):
        FtpHelper(**{option: value})


def test_both_directions_are_apart(talk):
    conversation = talk(FtpHelper(), seq=(7000, 7000))
    conversation.say("> PASV\r\n")
    assert conversation.send(Direction.REPLY, conversation.seq[0], b"227 (10,0,1,2,19,137)\r\n") is None


# -- whose reply is it? ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("lines", "opened"), [
    # a reply to what was sent before the request, though other replies went by
    (["> STAT a\r\n", "> NOOP\r\n", "< 213 a\r\n", "> PASV\r\n", PASV], None),
    (["> STAT a\r\n", "> NOOP\r\n", "< 213 a\r\n", "> PASV\r\n", PASV, PASV], SERVER_OPEN),
    (["> STAT a\r\n", "> NOOP\r\n", "< 213 a\r\n", "> EPSV\r\n", EPSV], None),
    (["> STAT a\r\n", "> NOOP\r\n", "< 213 a\r\n", "> EPSV\r\n", EPSV, EPSV], SERVER_OPEN),
    (["> STAT a\r\n", "> NOOP\r\n", "< 213 a\r\n", PORT, DONE], None),
    (["> STAT a\r\n", "> NOOP\r\n", "< 213 a\r\n", PORT, DONE, DONE], CLIENT_OPEN),
    # more outstanding than four bits count
    (["> " + "NOOP\r\n" * 20, "> PASV\r\n", *[DONE] * 19, PASV], None),
    (["> " + "NOOP\r\n" * 20, "> PASV\r\n", *[DONE] * 20, PASV], SERVER_OPEN),
    (["> " + "NOOP\r\n" * 20, PORT, *[DONE] * 20], None),
    (["> " + "NOOP\r\n" * 20, PORT, *[DONE] * 21], CLIENT_OPEN),
    # a CR alone, which is a line's end to some servers
    (["> NOOP\rSTAT a\r\n", "> PASV\r\n", DONE, PASV, PASV], None),
    (["> NOOP\r", "> STAT a\r\n", "> PASV\r\n", DONE, PASV, PASV], None),
    (["> NOOP\rSTAT a\r\n", PORT, "> STAT b\r\n", DONE, "< 500 illegal\r\n", DONE, DONE], None),
    (["> NOOP\r", "> \n", "> PASV\r\n", DONE, PASV], SERVER_OPEN),
    # an empty line, which some servers answer
    (["> \r\n", PORT, "> NOOP\r\n", "< 500 illegal\r\n", DONE, DONE], None),
    (["> \r", "> \n", PORT, "> NOOP\r\n", "< 500 illegal\r\n", DONE, DONE], None),
    (["> NOOP\n\n", PORT, "> NOOP\r\n", DONE, "< 500 illegal\r\n", DONE, DONE], None),
    # a reply of a code alone
    ([PORT, "> NOOP\n", "< 500\n200 done\n"], None),
    ([PORT, "> NOOP\n", "< 500", "< \n200 done\n"], None),
    (["> NOOP\r", DONE, "> \n", "> PASV\r\n", "> NOOP\r", PASV, PASV], None),
    ([PORT, "> NOOP\r\n", "> NOOP\r", "< 500 illegal\r\n", DONE, DONE], None),
    # a line that is two to some servers
    (["> " + "A" * 600 + "\r\n", DONE, "> PASV\r\n", PASV], None),
    (["> " + "A" * 300, "> " + "A" * 300 + "\r\n", DONE, "> PASV\r\n", PASV], None),
    (["> " + "A" * 300 + "\r\n" + "A" * 511 + "\n", DONE, DONE, "> PASV\r\n", PASV], None),
    (["> " + "A" * 509 + "\r\n", DONE, "> PASV\r\n", PASV], SERVER_OPEN),
    (["> " + "A" * 9, "> " + "A" * 500 + "\r\n" + "A" * 500, "> " + "A" * 10 + "\n", DONE, DONE, "> PASV\r\n", PASV],
     SERVER_OPEN),
    # the code of a final reply is cut in two
    (["> NOOP\r\n", "< 200 ok\r\n", "> NOOP\r\n", "> PASV\r\n", "< 20", "< 0 ok\r\n", PASV], SERVER_OPEN),
    (["> STAT\r\n", "> PASV\r\n", "< 211-status\r\n21", "< 1 end\r\n", PASV], SERVER_OPEN),
    # a reply that answers nothing lets none go by later
    (["< 421 tired\r\n", "> NOOP\r\n", "> PASV\r\n", PASV], None),
    # clients that do not wait, and that interrupt
    (["> PASV\r\nRETR a\r\n", PASV, "< 425 no\r\n", "> PASV\r\n", PASV], SERVER_OPEN),
    (["> PASV\r\n", "> RETR a\r\n", PASV, "< 425 no\r\n", "> PASV\r\n", PASV], SERVER_OPEN),
    (["> RETR a\r\n", "< 150 here\r\n", b"> \xff\xf4\xff", b"> \xf2ABOR\r\n", "< 426 aborted\r\n", "< 226 done\r\n",
      "> PASV\r\n", PASV], SERVER_OPEN),
    (["> RETR a\r\n", "< 150 here\r\n", b"> \xff\xf4\xff", b"> \xf2ABOR\r\n", "< 426 aborted\r\n", "> PASV\r\n", PASV],
     None),
])
def test_replies_are_matched_in_order(talk, lines, opened):
    conversation = talk(FtpHelper())
    assert all(finding is None or finding.verdict == Verdict.ACCEPT for finding in conversation.say_all(*lines))
    assert conversation.opened == opened


def test_more_outstanding_than_can_be_counted_open_nothing_any_more(talk):
    conversation = talk(FtpHelper())
    conversation.say_all(*["> " + "NOOP\r\n" * 10000] * 7)
    conversation.say_all(*["< " + "200 ok\r\n" * 50] * 1400, "> PASV\r\n", PASV)
    assert conversation.opened is None
    assert conversation.remark == REFUSED


def test_a_command_that_hides_behind_a_repeated_one_counts(talk):
    conversation = talk(FtpHelper())
    start = conversation.seq[CLIENT]
    conversation.say("> NOOP\r\n")
    conversation.send(CLIENT, start, b"NOOP\r\nSTAT a\r\n")
    conversation.seq[CLIENT] = start + len("NOOP\r\nSTAT a\r\n")
    conversation.say_all("> PASV\r\n", DONE, PASV)
    assert conversation.opened is None
    conversation.say(PASV)
    assert conversation.opened == SERVER_OPEN


@pytest.mark.parametrize("again", [b"TYPE I\r\nPASV\r\n", b"PE I\r\nPASV\r\n"])
def test_a_request_behind_a_repeated_command_is_one(talk, again):
    conversation = talk(FtpHelper())
    conversation.say("> TYPE I\r\n")
    conversation.send(CLIENT, conversation.seq[CLIENT] + len("PASV\r\n") - len(again), again)
    conversation.say_all(DONE, PASV)
    assert conversation.opened == SERVER_OPEN


@pytest.mark.parametrize("cut", ["", "2", "20", "200 th"])
def test_a_repeated_reply_counts_once_wherever_it_is_cut(talk, cut):
    conversation = talk(FtpHelper())
    conversation.say_all("> NOOP\r\n", "> NOOP\r\n", "> PASV\r\n")
    first = "< 200 one\r\n" + cut
    conversation.say(first)
    conversation.repeat(first)
    conversation.say_all("< " + "200 the other\r\n".removeprefix(cut) if cut else "< 150 soon\r\n", PASV)
    assert conversation.opened == (SERVER_OPEN if cut else None)


def test_a_segment_before_its_forerunner_is_dropped_and_both_count_in_order(talk):
    conversation = talk(FtpHelper())
    conversation.say_all("> RETR a\r\n", "< 150 here\r\n", "> PASV\r\n")
    start = conversation.seq[SERVER]
    ahead = start + len("226 sent\r\n")
    for _ in range(2):
        assert conversation.send(SERVER, ahead, PASV[2:].encode()).verdict == Verdict.DROP
    conversation.say_all("< 226 sent\r\n", PASV)
    assert conversation.opened == SERVER_OPEN


def test_commands_do_not_hide_in_a_gap(talk):
    conversation = talk(FtpHelper())
    start = conversation.seq[CLIENT]
    hidden = b"STAT a\r\nSTAT b\r\n"
    assert conversation.send(CLIENT, start + len(hidden), b"NOOP\r\nPASV\r\n").verdict == Verdict.DROP
    conversation.send(CLIENT, start, hidden)
    conversation.send(CLIENT, start + len(hidden), b"NOOP\r\nPASV\r\n")
    conversation.say_all(DONE, PASV)
    assert conversation.opened is None


def test_a_gap_that_stays_stops_no_connection_and_opens_nothing(talk):
    conversation = talk(FtpHelper())
    conversation.say(PORT)
    start = conversation.seq[SERVER] + 100
    findings = [conversation.send(SERVER, start, b"200 done\r\n") for _ in range(9)]
    assert [finding and finding.verdict for finding in findings] == [Verdict.DROP] * 7 + [Verdict.ACCEPT, None]
    assert conversation.expectation is None
    conversation.seq[SERVER] = start
    conversation.say_all(DONE, "> PASV\r\n", PASV)
    assert conversation.opened is None


# -- connections whose beginning was not heard ----------------------------------------------------------------

@pytest.mark.parametrize("lines", [
    ["> NOOP\r\n", "< 220 done\r\n"],                      # the client speaks first
    ["> POST / HTTP/1.1\r\n\r\n", "< 220 yes\r\n", PORT, *[DONE] * 4],     # a browser, led by a page
    ["< 200 done\r\n", "> NOOP\r\n", "< 200 done\r\n"],   # no welcome
    ["< hello\r\n", "> NOOP\r\n", "< 220 done\r\n"],
])
def test_what_begins_in_the_middle_opens_nothing(connect, lines):
    """A client may have left commands unanswered, and let the entry of its connection expire."""
    conversation = connect(FtpHelper())
    conversation.say_all(*lines, "> NOOP\r\n", DONE, "> PASV\r\n", PASV)
    assert (conversation.opened, conversation.remark) == (None, REFUSED)
    conversation.say_all(PORT, DONE)
    assert (conversation.opened, conversation.held) == (None, None)


@pytest.mark.parametrize("welcome", [
    ["< 220 ready\r\n"], ["< 120 soon\r\n", "< 220 ready\r\n"], ["< 220-a\r\n", "< 220 ready\r\n"],
    ["< 22", "< 0 ready\r\n"]])
def test_a_welcome_begins_a_dialogue(connect, welcome):
    conversation = connect(FtpHelper())
    conversation.say_all(*welcome, "> USER a\r\n", "< 230 hello\r\n", "> PASV\r\n", PASV)
    assert conversation.opened == SERVER_OPEN


def test_a_connection_of_the_kernels_table_goes_on(connect):
    conversation = connect(FtpHelper())
    conversation.memory[:] = b"\xff" * len(conversation.memory)
    conversation.say_all("> NOOP\r\n", DONE, "> PASV\r\n", PASV)
    assert conversation.opened == SERVER_OPEN
