"""FTP: PORT, PASV (RFC 959), EPRT, EPSV (RFC 2428), over IPv4 and IPv6.

The client's PORT and EPRT, and the server's 227 and 229, announce an address and a port at which the
announcer will wait for a data connection.  Each opens one expectation: from the other end's address, any
port, to the announced place.

**Where lines start.**  TCP promises no line per segment, so a line start is known by sequence number: what
follows a newline.  Two are remembered per direction, since segments may be repeated or overtake each other.
Only a segment that starts at one of them is examined, and only at its start.  Hence the first line of each
direction is never examined, nor is a second line within a segment.  An announcement that is cut off drops its
packet, so that the sender repeats it whole.

`strict=False` does this and no more: it decides as Linux' nf_conntrack_ftp does, down to how numbers wrap and to the whole
lines that it drops because it cannot read them.

**strict (the default; ftp_dialogue.py)** answers CERT VU#328867: an attacker who gets a server to send a line that
begins with "227 " opens any port of that server through a helper that believes every such line.

  * 227 and 229 count only as the final reply to a PASV or an EPSV.  The next command ends the wait.  Either answers
    either: servers behind a translator between IPv4 and IPv6 (464XLAT) do so.
  * PORT and EPRT open nothing by themselves: their expectation is inactive until the server's final reply to
    that command; 2xx activates it, anything else cancels it.
  * Ports below 1024 and octets over 255 open nothing; neither does PORT or 227 over IPv6.
  * A whole line that cannot be read is delivered and opens nothing.  Only what may still become a request or an announcement
    that counts is held back, and not for ever: its sender may be one that never repeats it whole.

Whose reply is it?  Replies come in the order of commands: each command line adds one outstanding, each final reply
takes one.  A final reply is 2xx to 5xx, followed by no "-"; 1xx is none, and within a multi-line reply only the line
that ends it counts, whatever the others look like.

So every byte counts once.  Of a segment, only what is new in its direction is read; one that comes before its
forerunner is dropped, so that both come again in order.  Where the count cannot be known, nothing opens any more: the
connection's beginning was not heard, a gap stays, a line may be two commands to the server or none, replies came in
floods.

What this cannot see: the text of a repeated segment, which may be another than the first was, and a server that
lets its client choose whole lines of a reply: in a listing, "213 end" and then "227 (...)".
"""
import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from pyfw.enums import Direction, Reason, Verdict
from pyfw.helpers import IPPROTO_TCP, Expectation, Finding, Segment
from pyfw.helpers.ftp_dialogue import Awaited, Dialogue, LineStarts, Step

_U16 = 0xFFFF
_U32 = 0xFFFFFFFF
_LOWEST_PORT = 1024             # strict: below are services, not data connections
_NEWLINE = b"\n"

_PARTIAL = Finding(Verdict.DROP, Reason.HELPER_PARTIAL)
_REFUSED = Finding(remark="this connection's beginning was not heard, or its commands and replies could not be counted")
_UNREADABLE = Finding(remark="announcement cannot be read")

# Addresses that cannot be reached from another network: this host, RFC 1918, shared (RFC 6598), loopback, link-local.
_PRIVATE = tuple(map(IPv4Network, ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
                                   "192.168.0.0/16")))


class FtpHelper:
    """The `ftp` helper; see the module for what it decides.

    strict: believe announcements only where the dialogue calls for them.  loose: an announcement may name
    another host than the announcer (transfers between two servers); a way into other hosts, hence off.
    assume_announcer: a private address in a 227 means the server's own, as most clients take it: the server stands behind
    NAT.  It is never a way into another host.
    """

    name = "ftp"
    protocol = IPPROTO_TCP
    max_expected = 1
    timeout_s = 300

    def __init__(self, *, strict: bool = True, loose: bool = False, assume_announcer: bool = False) -> None:
        for option, value in (("strict", strict), ("loose", loose), ("assume_announcer", assume_announcer)):
            if not isinstance(value, bool):
                raise TypeError(f"{option}: must be true or false, not {value!r}")
        self.strict = strict
        self.loose = loose
        self.assume_announcer = assume_announcer

    def inspect(self, segment: Segment, memory: memoryview) -> Finding | None:
        """Examine one segment.  One that is dropped for what it says leaves no trace but a count: it will come again."""
        return self._inspect_strictly(segment, memory) if self.strict else self._inspect_as_the_kernel(segment, memory)

    def _inspect_as_the_kernel(self, segment: Segment, memory: memoryview) -> Finding | None:
        line_starts = LineStarts.load(memory)
        found = find_announcement(segment) if segment.seq in line_starts.places[segment.direction] else None
        if found and not found.announcement:
            return _PARTIAL
        finding = self._open(segment, found.announcement) if found else None
        if segment.payload.endswith(_NEWLINE):
            line_starts.remember(segment.direction, _end(segment))
        line_starts.store(memory)
        return finding

    def _inspect_strictly(self, segment: Segment, memory: memoryview) -> Finding | None:
        dialogue = Dialogue.load(memory)
        if dialogue.step is Step.LOST:
            return _REFUSED if find_announcement(segment) else None
        new = dialogue.unheard(segment.direction, segment.seq, segment.payload)
        finding = None
        if new:
            follow = self._follow_commands if segment.direction == Direction.ORIGINAL else self._follow_replies
            finding = follow(segment._replace(payload=new), dialogue)
        if finding is _PARTIAL:
            dialogue = Dialogue.load(memory)
            held = dialogue.hold_line()
        else:
            held = new is None and dialogue.meet_gap()
        if new and not held:
            dialogue.advance(segment.direction, _end(segment), new.endswith(_NEWLINE))
        dialogue.store(memory)
        if held:
            return _PARTIAL
        return Finding(cancel=True) if dialogue.step is Step.LOST else finding

    def _follow_commands(self, segment: Segment, dialogue: Dialogue) -> Finding | None:
        payload, starts_line = segment.payload, dialogue.at_line_start[Direction.ORIGINAL]
        *lines, rest = payload.rsplit(_NEWLINE, 2)
        if dialogue.step is Step.IN_STEP and (lines or starts_line) and _REQUEST_CUT_OFF.match(rest):
            return _PARTIAL
        finding = None
        found = scan_announcement(segment) if starts_line else None
        if found:
            if not lines and not found.announcement:
                return _PARTIAL
            finding = self._open(segment, found.announcement)
        before = dialogue.outstanding
        commands = dialogue.add_commands(payload)
        if lines and (starts_line or len(lines) > 1) and _REQUEST.match(lines[-1]):
            outdated = dialogue.awaited is Awaited.PORT
            dialogue.await_answer(Awaited.PASSIVE, ahead=before + commands - 1)
            finding = Finding(cancel=True) if outdated else None
        elif finding and finding.expectations:
            dialogue.await_answer(Awaited.PORT, ahead=before)
        elif commands and dialogue.awaited is not Awaited.PORT:
            dialogue.awaited = Awaited.NOTHING
        return finding

    def _follow_replies(self, segment: Segment, dialogue: Dialogue) -> Finding | None:
        found = scan_announcement(segment) if dialogue.at_line_start[Direction.REPLY] else None
        if found and not found.announcement and _NEWLINE not in segment.payload:
            if dialogue.awaits_passive_reply():
                return _PARTIAL
            found = None
        finding = Finding(remark=f"{found.word.decode()}answers no command that asked for it") if found else None
        for reply in dialogue.final_replies(segment.payload):
            if reply.answers is Awaited.PORT:
                finding = Finding(activate=True) if reply.code[:1] == b"2" else Finding(cancel=True)
            elif found and reply.first and reply.answers is Awaited.PASSIVE and reply.code == found.word[:3]:
                finding = self._open(segment, found.announcement)
        return finding

    def _open(self, segment: Segment, announcement: "Announcement | None") -> Finding:
        """The expectation for an announcement, or the remark why there is none."""
        if announcement is None:
            return _UNREADABLE
        if self.strict and not announcement.well_formed:
            return Finding(remark="announced numbers do not make an address and a port")
        if self.strict and announcement.port < _LOWEST_PORT:
            return Finding(remark=f"announced port {announcement.port} is below {_LOWEST_PORT}")
        address = announcement.address
        if self.assume_announcer and segment.direction == Direction.REPLY and _is_private(address):
            address = segment.sender
        if address != segment.sender and not self.loose:
            return Finding(remark="announced address is not the announcer's own")
        active = not self.strict or segment.direction == Direction.REPLY
        return Finding(expectations=(Expectation(source=segment.receiver, destination=address,
                                                 port=announcement.port, active=active),))


# -- lines --------------------------------------------------------------------------------------------------

def _end(segment: Segment) -> int:
    return segment.seq + len(segment.payload) & _U32


# A request for passive mode, without its newline: one that is whole, and one whose newline may follow.
_REQUEST = re.compile(rb"(?:PASV|EPSV)(?:[ \r]|\Z)", re.IGNORECASE)
_REQUEST_CUT_OFF = re.compile(rb"(?:P(?:AS?)?|E(?:PS?)?)\Z|" + _REQUEST.pattern, re.IGNORECASE)


# -- announcements ------------------------------------------------------------------------------------------

class Announcement(NamedTuple):
    """Where the announcer will wait, read as the kernel reads it."""
    address: bytes              # packed
    port: int
    well_formed: bool           # False: the kernel's reading is not what was written


class Found(NamedTuple):
    """A segment that begins as an announcement does."""
    word: bytes
    announcement: Announcement | None   # None: cut off or malformed


def find_announcement(segment: Segment) -> Found | None:
    """Look at the start of a segment; None: no announcement begins there."""
    for form in _FORMS[segment.direction]:
        payload = segment.payload
        head = payload[:len(form.word)].upper()
        if len(payload) <= len(form.word):
            if form.word.startswith(head):
                return Found(form.word, None)
        elif head == form.word:
            start = payload.find(form.skip_to, len(head)) + len(form.skip_to) if form.skip_to else len(head)
            if start < len(head):
                return Found(form.word, None)
            return Found(form.word, form.read(payload[start:], segment.sender))
    return None


def _read_port(text: bytes, sender: bytes) -> Announcement | None:
    """`h1,h2,h3,h4,p1,p2` and CR."""
    return _read_six_numbers(text, sender, terminator=b"\r")


def _read_227(text: bytes, sender: bytes) -> Announcement | None:
    """Any words, six numbers from the first digit on, and any character."""
    digit = _DIGIT.search(text)
    return _read_six_numbers(text[digit.start():], sender, terminator=None) if digit else None


def _read_eprt(text: bytes, sender: bytes) -> Announcement | None:
    """`|1|10.0.0.2|5282|` or `|2|2001:db8::2|5282|`, with any delimiter."""
    family = b"1" if len(sender) == 4 else b"2"
    delimiter = text[:1]
    if len(text) <= 3 or not _is_delimiter(delimiter) or text[1:3] != family + delimiter:
        return None
    place = text[3:]
    read_address = _read_quad if family == b"1" else _read_ipv6
    address = read_address(place, delimiter)
    if address is None:
        return None
    port = _read_port_number(place[address.length + 1:], delimiter)
    return port and Announcement(address.packed, port.value, address.well_formed and port.well_formed)


def _read_229(text: bytes, sender: bytes) -> Announcement | None:
    """`(|||5282|)`: the server's own address, as RFC 2428 has it."""
    delimiter = text[:1]
    if len(text) <= 3 or not _is_delimiter(delimiter) or text[1:3] != delimiter * 2:
        return None
    port = _read_port_number(text[3:], delimiter)
    return port and Announcement(sender, port.value, port.well_formed)


def scan_announcement(segment: Segment) -> Found | None:
    """As find_announcement(), read as clients and servers read who do not insist on a form.

    RFC 1123, 4.1.2.6: brackets cannot be relied on, a client scans for the digits.  It is safe, since what opens is the same as
    for a well-formed line: a port of the announcer's own, for the other end alone, where a command asked for it or its reply
    agreed to it.  What is read depends on no byte behind it: a line that is cut off opens what the whole one opens, or nothing.

        227   the first run of digits and commas that makes six numbers; so do curl and lftp, behind "IPv4 " and without brackets,
              where the kernel takes the first digit for the address.  With blanks between the numbers it is nothing: RFC 959
              has none there, and neither the kernel nor curl 8.11 reads them; lftp and curl 7.88 do, by way of scanf().
        229   three delimiters and a number, behind the first "(" or behind the code, as lftp has it; curl and the kernel
              insist on "(" and a fourth delimiter.  None of them reads a port without delimiters, nor does this.
        PORT  six numbers as in 227.  The kernel refuses two blanks, a blank behind the numbers, and LF without CR.
    """
    found = find_announcement(segment)
    scan = _SCANS.get(found.word) if found else None
    if not found or not scan:
        return found
    line = segment.payload[:segment.payload.find(_NEWLINE) + 1 or None]
    return found._replace(announcement=scan(line, segment.sender))


def _scan_six_numbers(line: bytes, sender: bytes) -> Announcement | None:
    written = _SIX_NUMBERS.search(line)
    return written and _announce_six(written.groups(), sender)


def _scan_229(line: bytes, sender: bytes) -> Announcement | None:
    written = _DELIMITED_PORT.match(line)
    return written and Announcement(sender, _wrapped(written[2]) & _U16, _fits(written[2], _U16))


_SCANS = {b"PORT": _scan_six_numbers, b"227 ": _scan_six_numbers, b"229 ": _scan_229}


class _Form(NamedTuple):
    word: bytes
    skip_to: bytes              # the numbers come after the first of these; empty: at once
    read: Callable[[bytes, bytes], Announcement | None]


_FORMS = {
    Direction.ORIGINAL: (_Form(b"PORT", b" ", _read_port), _Form(b"EPRT", b" ", _read_eprt)),
    Direction.REPLY: (_Form(b"227 ", b"", _read_227), _Form(b"229 ", b"(", _read_229)),
}


# -- numbers and addresses ------------------------------------------------------------------------------------

_DIGIT = re.compile(rb"[0-9]")
_DIGITS = re.compile(rb"[0-9]*")
_NUMBERS = {b",": re.compile(rb"[0-9,]*"), b".": re.compile(rb"[0-9.]*")}
_IPV6_TEXT = re.compile(rb"[0-9A-Fa-f:.]*")
_SIX_NUMBERS = re.compile(rb"(?<![0-9,])" + rb",".join([rb"([0-9]+)"] * 6) + rb"(?=[^0-9,])")    # each run is tried once
_DELIMITED_PORT = re.compile(rb"229 (?:[^(\n]*\()??([!-/:-~])\1\1([0-9]+)(?=[^0-9])")
_SIGNIFICANT_DIGITS = 32        # 10**32 is a multiple of 2**32: digits further left do not show modulo 2**32


class _Address(NamedTuple):
    packed: bytes
    length: int                 # bytes of text it takes, without the terminator
    well_formed: bool


class _Port(NamedTuple):
    value: int
    well_formed: bool


def _is_delimiter(character: bytes) -> bool:
    return b"!" <= character <= b"~" and not character.isdigit()


def _wrapped(digits: bytes) -> int:
    """A number congruent, modulo 2**32, to the one written; no digits are zero."""
    return int(digits[-_SIGNIFICANT_DIGITS:] or b"0")


def _fits(digits: bytes, largest: int) -> bool:
    """Whether a number is written there, and no larger than this."""
    significant = digits.lstrip(b"0")
    return bool(digits) and len(significant) <= len(str(largest)) and int(significant or b"0") <= largest


def _split_numbers(text: bytes, count: int, separator: bytes, terminator: bytes | None) -> list[bytes] | None:
    """The digits of exactly that many numbers, any of them possibly empty, if the terminator (None: any) follows."""
    run = _NUMBERS[separator].match(text).group()    # type: ignore[union-attr]  # it matches "", too
    after = text[len(run):len(run) + 1]
    if not after or run.count(separator) != count - 1 or terminator not in (None, after):
        return None
    return run.split(separator)


def _is_private(address: bytes) -> bool:
    return len(address) == 4 and any(IPv4Address(address) in network for network in _PRIVATE)


def _pack_quad(numbers: Sequence[bytes]) -> bytes:
    first, second, third, fourth = map(_wrapped, numbers)
    return ((first << 24 | second << 16 | third << 8 | fourth) & _U32).to_bytes(4)


def _read_six_numbers(text: bytes, sender: bytes, terminator: bytes | None) -> Announcement | None:
    """RFC 959's host and port."""
    numbers = _split_numbers(text, 6, b",", terminator)
    return _announce_six(numbers, sender) if numbers else None


def _announce_six(numbers: Sequence[bytes], sender: bytes) -> Announcement:
    """Over IPv6 the kernel puts the four numbers over the sender's first word."""
    port = (_wrapped(numbers[4]) << 8 | _wrapped(numbers[5])) & _U16
    well_formed = len(sender) == 4 and all(_fits(number, 255) for number in numbers)
    return Announcement(_pack_quad(numbers[:4]) + sender[4:], port, well_formed)


def _read_quad(text: bytes, delimiter: bytes) -> _Address | None:
    numbers = _split_numbers(text, 4, b".", delimiter)
    if numbers is None:
        return None
    length = sum(map(len, numbers)) + len(numbers) - 1
    return _Address(_pack_quad(numbers), length, all(_fits(number, 255) for number in numbers))


def _read_port_number(text: bytes, delimiter: bytes) -> _Port | None:
    """Digits up to the delimiter, modulo 2**16; zero is no port."""
    digits = _DIGITS.match(text).group()    # type: ignore[union-attr]  # it matches "", too
    value = _wrapped(digits) & _U16
    if text[len(digits):len(digits) + 1] != delimiter or not value:
        return None
    return _Port(value, _fits(digits, _U16))


def _read_ipv6(text: bytes, delimiter: bytes) -> _Address | None:
    """An IPv6 address (RFC 4291, 2.2) up to the delimiter, or a NUL, or a ":" after a dotted quad."""
    run = _IPV6_TEXT.match(text).group().partition(delimiter)[0]    # type: ignore[union-attr]  # it matches "", too
    dot = run.find(b".")
    if dot >= 0 and (colon := run.find(b":", dot)) >= 0:
        run = run[:colon]
    elif text[len(run):len(run) + 1] not in (delimiter, b"\0"):
        return None
    packed = _pack_ipv6(run)
    return None if packed is None else _Address(packed, len(run), well_formed=True)


def _pack_ipv6(text: bytes) -> bytes | None:
    """Text of hexadecimal digits, ":" and "."; "::" stands for one group of zeros at least."""
    if text.count(b":") > 8:
        return None
    before, gap, after = text.partition(b"::")
    head = _pack_groups(before, may_end_in_quad=not gap)
    tail = _pack_groups(after, may_end_in_quad=True)
    if head is None or tail is None:
        return None
    missing = 16 - len(head) - len(tail)
    if missing < 0 or bool(gap) != bool(missing):
        return None
    return head + bytes(missing) + tail


def _pack_groups(text: bytes, may_end_in_quad: bool) -> bytes | None:
    packed = b""
    groups = text.split(b":") if text else []
    for position, group in enumerate(groups):
        if b"." in group:
            numbers = group.split(b".", 4)
            if not may_end_in_quad or position + 1 != len(groups) or len(numbers) != 4 \
                    or not all(number.isdigit() and _fits(number, 255) for number in numbers):
                return None
            packed += bytes(map(_wrapped, numbers))
        elif group and len(group.lstrip(b"0")) <= 4:
            packed += int(group[-4:], 16).to_bytes(2)
        else:
            return None
    return packed
