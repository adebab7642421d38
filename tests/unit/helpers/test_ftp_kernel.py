"""strict=False: every decision is that of Linux' nf_conntrack_ftp."""
import pytest

from pyfw.enums import Direction, Reason, Verdict
from pyfw.helpers.ftp import FtpHelper

IPV6 = {"client": "2001:db8::2", "server": "2001:db8:1::2"}
DROP = "drop"


def decision(conversation, line):
    """What one line comes to: DROP, the expectation it opens, or None."""
    finding = conversation.say(line)
    if finding is not None and finding.verdict == Verdict.DROP:
        assert finding.reason == Reason.HELPER_PARTIAL
        assert not finding.expectations
        return DROP
    return conversation.opened


TO_CLIENT = "10.0.1.2 > 10.0.0.2"
TO_SERVER = "10.0.0.2 > 10.0.1.2"


@pytest.mark.parametrize(("line", "expected"), [
    # PORT
    ("> PORT 10,0,0,2,19,137\r\n", f"{TO_CLIENT} 5001"),
    ("> port 10,0,0,2,19,137\r\n", f"{TO_CLIENT} 5001"),
    ("> PoRt 10,0,0,2,19,137\r", f"{TO_CLIENT} 5001"),
    ("> PORTS of call 10,0,0,2,19,137\r\n", DROP),              # the first blank ends the skipping
    ("> PORTSOFCALL 10,0,0,2,19,137\r\n", f"{TO_CLIENT} 5001"),
    ("> PORT  10,0,0,2,19,137\r\n", DROP),
    ("> PORT 10,0,0,2,19,137\n", DROP),                         # LF without CR
    ("> PORT 10,0,0,2,19,137 \r\n", DROP),
    ("> PORT 10,0,0,2,19\r\n", DROP),                           # five numbers
    ("> PORT 10,0,0,2,19,137,1\r\n", DROP),
    ("> PORT 10,0,0,2,19,137,\r\n", DROP),
    ("> PORT 10.0.0.2,19,137\r\n", DROP),
    ("> PORT\r\n", DROP),
    ("> PORT \r\n", DROP),
    ("> PORT 10,0,0,2,19,137", DROP),                           # no terminator
    ("> PORT 10,0,0,2,\x0019,137\r\n", DROP),
    ("> P", DROP), ("> PO", DROP), ("> POR", DROP), ("> PORT", DROP), ("> PORT ", DROP), ("> po", DROP),
    ("> PX", None), ("> PASV\r\n", None), ("> PA", None), ("> PO\r\n", None), ("> \x00", None),
    ("> PORT 10,0,0,3,19,137\r\n", None),                       # another host
    ("> PORT 0010,0,0,000000000000000000000000000000000000002,19,137\r\n", f"{TO_CLIENT} 5001"),
    ("> PORT 10,,,2,,5\r\n", f"{TO_CLIENT} 5"),
    ("> PORT 10,0,0,2,0,0\r\n", f"{TO_CLIENT} 0"),
    ("> PORT 9,256,0,2,19,137\r\n", None),                      # 9 << 24 | 256 << 16: 9 | 1 is 9
    ("> PORT 8,512,0,2,19,137\r\n", f"{TO_CLIENT} 5001"),       # 8 | 2 is 10
    ("> PORT 4294967306,0,0,2,19,137\r\n", f"{TO_CLIENT} 5001"),
    ("> PORT 10,0,0,4294967298,256,5001\r\n", f"{TO_CLIENT} 5001"),
    ("> PORT 10,0,0,2,0,70000\r\n", f"{TO_CLIENT} 4464"),
    ("> PORT 10,0,0,2,0,100000000000000000000000000000000005001\r\n", f"{TO_CLIENT} 5001"),
    # EPRT
    ("> EPRT |1|10.0.0.2|5001|\r\n", f"{TO_CLIENT} 5001"),
    ("> eprt !1!10.0.0.2!5001!", f"{TO_CLIENT} 5001"),
    ("> EPRT a1a10.0.0.2a5001a\r\n", f"{TO_CLIENT} 5001"),
    ("> EPRT ~1~10.0.0.2~5001~\r\n", f"{TO_CLIENT} 5001"),
    ("> EPRT |1|10.0.0.2|5001|junk\r\n", f"{TO_CLIENT} 5001"),
    ("> EPRT |1|10.0.0.2|65537|\r\n", f"{TO_CLIENT} 1"),
    ("> EPRT |1|10.0.0.2|65536|\r\n", DROP),
    ("> EPRT |1|10.0.0.2|0|\r\n", DROP),
    ("> EPRT |1|10.0.0.2||\r\n", DROP),
    ("> EPRT |1|10.0.0.2|5001\r\n", DROP),
    ("> EPRT |1|10.0.0.2|50 01|\r\n", DROP),
    ("> EPRT |1|10.0.0|5001|\r\n", DROP),
    ("> EPRT |1|10.0.0.2.1|5001|\r\n", DROP),
    ("> EPRT |1|10.0.0.3|5001|\r\n", None),
    ("> EPRT .1.10.0.0.2.5001.\r\n", DROP),                     # the delimiter separates the numbers first
    ("> EPRT 111110.0.0.215001\r\n", DROP),
    ("> EPRT  1 10.0.0.2 5001 \r\n", DROP),
    ("> EPRT \x7f1\x7f10.0.0.2\x7f5001\x7f\r\n", DROP),
    ("> EPRT \xe91\xe910.0.0.2\xe95001\xe9\r\n", DROP),
    ("> EPRT |1!10.0.0.2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::2|5001|\r\n", DROP),                  # on IPv4
    ("> EPRT |2|10.0.0.2|5001|\r\n", DROP),
    ("> EPRT |3|10.0.0.2|5001|\r\n", DROP),
    ("> EPRT |1|", DROP), ("> EPRT", DROP), ("> E", DROP), ("> EP", DROP), ("> EPSV\r\n", None),
    # 227
    ("< 227 Entering Passive Mode (10,0,1,2,19,137)\r\n", f"{TO_SERVER} 5001"),
    ("< 227 =10,0,1,2,19,137\r\n", f"{TO_SERVER} 5001"),
    ("< 227 10,0,1,2,19,137.", f"{TO_SERVER} 5001"),
    ("< 227 10,0,1,2,19,137", DROP),
    ("< 227 IPv4 (10,0,1,2,19,137)\r\n", DROP),                 # the first digit is the 4
    ("< 227 Entering Passive Mode\r\n", DROP),
    ("< 227 10,0,1,2,19\r\n", DROP),
    ("< 227 10,0,1,9,19,137\r\n", None),
    ("< 227-Entering Passive Mode (10,0,1,2,19,137)\r\n", None),
    ("< 227-first\r\n227 (10,0,1,2,19,137)\r\n", None),
    ("< 226 10,0,1,2,19,137\r\n", None),
    ("< 2", DROP), ("< 22", DROP), ("< 227", DROP), ("< 227 ", DROP), ("< 229", DROP), ("< 23", None),
    # 229
    ("< 229 Entering Extended Passive Mode (|||5001|)\r\n", f"{TO_SERVER} 5001"),
    ("< 229 (zzz5001z", f"{TO_SERVER} 5001"),
    ("< 229 |||5001|\r\n", DROP),
    ("< 229 (|||5001)\r\n", DROP),
    ("< 229 (||5001|)\r\n", DROP),
    ("< 229 (|||0|)\r\n", DROP),
    ("< 229 (|||70537|)\r\n", f"{TO_SERVER} 5001"),
    ("< 229 (|||", DROP),
    ("< 229 (\r\n", DROP),
    # words of the other side
    ("> 227 10,0,0,2,19,137\r\n", None),
    ("< PORT 10,0,1,2,19,137\r\n", None),
])
def test_one_line_over_ipv4(talk, line, expected):
    assert decision(talk(FtpHelper(strict=False)), line) == expected


V6_CLIENT = "2001:db8:1::2 > 2001:db8::2"
V6_SERVER = "2001:db8::2 > 2001:db8:1::2"


@pytest.mark.parametrize(("line", "expected"), [
    ("> EPRT |2|2001:db8::2|5001|\r\n", f"{V6_CLIENT} 5001"),
    ("> EPRT |2|2001:DB8:0:0:0:0:0:2|5001|\r\n", f"{V6_CLIENT} 5001"),
    ("> EPRT |2|002001:000000db8::02|5001|\r\n", f"{V6_CLIENT} 5001"),
    ("> EPRT |2|2001:db8::0.0.0.2|5001|\r\n", f"{V6_CLIENT} 5001"),
    ("> EPRT |2|2001:db8:0:0:0:0:0.0.0.2|5001|\r\n", f"{V6_CLIENT} 5001"),
    ("> EPRT |2|2001:db8::000.0.0.0002|5001|\r\n", f"{V6_CLIENT} 5001"),
    ("> EPRT |2|2001:db8::2\x005001|\r\n", f"{V6_CLIENT} 5001"),        # NUL ends an address too
    ("> EPRT |2|2001:db8::0.0.0.2:5001|\r\n", f"{V6_CLIENT} 5001"),     # and so does this
    ("> EPRT |2|2001:db8::0.0.0.256|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::0.0.2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::a.0.0.2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::.0.0.2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8:0.0.0.2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8:0:0:0:0:0:0.0.0.2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::0::2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8:::2|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8:0:0::0:0:0:2|5001|\r\n", DROP),                # "::" of no group
    ("> EPRT |2|2001:db8|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::2:|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::10002|5001|\r\n", DROP),
    ("> EPRT |2|2001:db8::2%eth0|5001|\r\n", DROP),
    ("> EPRT |2||5001|\r\n", DROP),
    ("> EPRT :2:2001:db8::2:5001:\r\n", DROP),
    ("> EPRT |2|2001:db8::2", DROP),
    ("> EPRT |2|::|5001|\r\n", None),
    ("> EPRT |2|1:2:3:4:5:6:7::|5001|\r\n", None),
    ("> EPRT |2|2001:db8::3|5001|\r\n", None),
    ("> EPRT |1|10.0.0.2|5001|\r\n", DROP),                             # on IPv6
    ("> PORT 10,0,0,2,19,137\r\n", None),
    ("> PORT 32,1,13,184,19,137\r\n", f"{V6_CLIENT} 5001"),             # over the first word of 2001:db8::2
    ("< 227 (32,1,13,184,19,137)\r\n", f"{V6_SERVER} 5001"),
    ("< 229 (|||5001|)\r\n", f"{V6_SERVER} 5001"),
])
def test_one_line_over_ipv6(talk, line, expected):
    assert decision(talk(FtpHelper(strict=False), **IPV6), line) == expected


@pytest.mark.parametrize(("line", "expected"), [
    ("> PORT 10,0,0,99,19,137\r\n", "10.0.1.2 > 10.0.0.99 5001"),
    ("< 227 (192,0,2,1,19,137)\r\n", "10.0.0.2 > 192.0.2.1 5001"),
    ("> EPRT |1|10.0.0.99|5001|\r\n", "10.0.1.2 > 10.0.0.99 5001"),
])
def test_loose_believes_another_hosts_address(talk, line, expected):
    assert decision(talk(FtpHelper(strict=False, loose=True)), line) == expected
    assert decision(talk(FtpHelper(strict=False)), line) is None


@pytest.mark.parametrize(("lines", "expected"), [
    # the first line of each direction is never examined
    (["> PORT 10,0,0,2,19,137\r\n"], None),
    (["< 227 (10,0,1,2,19,137)\r\n"], None),
    (["> PO"], None),
    (["> NOOP\r\n", "> PORT 10,0,0,2,19,137\r\n"], f"{TO_CLIENT} 5001"),
    (["< 220 hello\r\n", "> PORT 10,0,0,2,19,137\r\n"], None),
    # only the start of a segment
    (["> NOOP\r\n", "> TYPE I\r\nPORT 10,0,0,2,19,137\r\n"], None),
    (["> NOOP\r\n", "> PORT 10,0,0,2,19,137\r\nPORT 10,0,0,2,19,138\r\n"], f"{TO_CLIENT} 5001"),
    (["< 220 hello\r\n", "< 227-\r\n227 (10,0,1,2,19,137)\r\n"], None),
    (["< 220 hello\r\n", "< 227-passive\r\n", "< 227 (10,0,1,2,19,137)\r\n"], f"{TO_SERVER} 5001"),
    # and only after a newline
    (["> NOOP\r\n", "> NO", "> PORT 10,0,0,2,19,137\r\n"], None),
    (["> NOOP\r\n", "> NO", "> OP\r\n", "> PORT 10,0,0,2,19,137\r\n"], f"{TO_CLIENT} 5001"),
    (["> NOOP\r\n", "> PORT 10,0,0,2,19,137\r", "> \n", "> PORT 10,0,0,2,19,138\r\n"], f"{TO_CLIENT} 5002"),
    # a second announcement replaces the first
    (["> NOOP\r\n", "> PORT 10,0,0,2,19,137\r\n", "> PORT 10,0,0,2,19,138\r\n"], f"{TO_CLIENT} 5002"),
    # another host's address opens nothing, and the next line is examined
    (["> NOOP\r\n", "> PORT 10,0,0,9,19,137\r\n", "> PORT 10,0,0,2,19,138\r\n"], f"{TO_CLIENT} 5002"),
])
def test_where_lines_start(connect, lines, expected):
    conversation = connect(FtpHelper(strict=False))
    findings = conversation.say_all(*lines)
    assert all(finding is None or finding.verdict == Verdict.ACCEPT for finding in findings)
    assert conversation.opened == expected


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("cut", "whole"), [
    ("> PO", "> PORT 10,0,0,2,19,137\r\n"),
    ("> PORT 10,0,0,2,19,1", "> PORT 10,0,0,2,19,137\r\n"),
    ("> EPRT |1|10.0.", "> EPRT |1|10.0.0.2|5001|\r\n"),
])
def test_a_line_cut_in_two_is_dropped_and_works_when_sent_whole(talk, strict, cut, whole):
    conversation = talk(FtpHelper(strict=strict))
    before = bytes(conversation.memory)
    assert decision(conversation, cut) == DROP
    assert strict or conversation.memory == before          # strict counts how often
    conversation.say_all(whole, "< 200 done\r\n")
    assert conversation.opened == f"{TO_CLIENT} 5001"


def test_a_malformed_line_that_ends_in_newline_is_not_remembered(talk):
    conversation = talk(FtpHelper(strict=False))
    assert decision(conversation, "> PORT 10,0,0,2,19\r\n") == DROP
    conversation.seq[Direction.ORIGINAL] += len("PORT 10,0,0,2,19\r\n")
    assert decision(conversation, "> PORT 10,0,0,2,19,137\r\n") is None


def test_a_repeated_announcement_opens_again(talk):
    conversation = talk(FtpHelper(strict=False))
    conversation.say("> PORT 10,0,0,2,19,137\r\n")
    conversation.expectation = None
    conversation.repeat("> PORT 10,0,0,2,19,137\r\n")
    assert conversation.opened == f"{TO_CLIENT} 5001"


def test_two_line_starts_are_known_and_the_older_gives_way(connect):
    helper = FtpHelper(strict=False)
    port = b"PORT 10,0,0,2,19,137\r\n"
    conversation = connect(helper)
    for seq in (100, 200, 300):                             # newlines before 105, 205 and 305
        conversation.send(Direction.ORIGINAL, seq, b"NOOP\n")
    for seq, opens in ((105, False), (205, True), (305, True), (106, False)):
        conversation.expectation = None
        known = bytes(conversation.memory)
        conversation.send(Direction.ORIGINAL, seq, port)
        conversation.memory[:] = known
        assert bool(conversation.opened) is opens


def test_a_line_start_older_than_both_is_not_remembered(connect):
    conversation = connect(FtpHelper(strict=False))
    for seq in (200, 300, 100):
        conversation.send(Direction.ORIGINAL, seq, b"NOOP\n")
    conversation.send(Direction.ORIGINAL, 105, b"PORT 10,0,0,2,19,137\r\n")
    assert conversation.opened is None


def test_sequence_numbers_wrap(talk):
    conversation = talk(FtpHelper(strict=False), seq=(0xFFFFFFF0, 0xFFFFFFFA))
    conversation.say("> PORT 10,0,0,2,19,137\r\n")
    assert conversation.opened == f"{TO_CLIENT} 5001"
