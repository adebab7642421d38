"""FTP: what the helper remembers of a control connection, in the 20 bytes that the engine keeps for it.

`LineStarts` is what Linux' nf_conntrack_ftp remembers.  `Dialogue` is what strict needs: which reply answers which
command.  Law: the count is exact, or Step.LOST is the end of it and nothing opens.  One too few takes an earlier reply for
the awaited one, one too many a later.
"""
import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from pyfw.enums import Direction
from pyfw.helpers import MEMORY_SIZE

_U32 = 0xFFFFFFFF
_NEWLINE = b"\n"


def is_after(left: int, right: int) -> bool:
    """Serial number arithmetic, modulo 2**32."""
    return (right - left & _U32) > 0x7FFFFFFF


class LineStarts:
    """Up to two places after a newline, per direction.  Any 20 bytes can be loaded; those of a Dialogue know none.

    Little-endian: four sequence numbers, original direction first; how many of them are known, 4 bits a direction;
    zeros.
    """

    _LAYOUT = struct.Struct("<4IB2xB")
    _MOST = 2                   # per direction

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: tuple[list[int], list[int]] = ([], [])

    @classmethod
    def load(cls, memory: memoryview) -> "LineStarts":
        *places, known, step = cls._LAYOUT.unpack(memory)
        line_starts = cls()
        if step == 0:
            line_starts.places = (places[:min(known & 15, cls._MOST)], places[cls._MOST:][:min(known >> 4, cls._MOST)])
        return line_starts

    def store(self, memory: memoryview) -> None:
        original, reply = self.places
        padded = [(*places, 0, 0)[:self._MOST] for places in self.places]
        self._LAYOUT.pack_into(memory, 0, *padded[0], *padded[1], len(original) | len(reply) << 4, 0)

    def remember(self, direction: Direction, seq: int) -> None:
        """Remember the place after a newline, in place of the older of two, unless it is older still."""
        places = self.places[direction]
        if seq in places:
            return
        if len(places) < self._MOST:
            places.append(seq)
            return
        older = 0 if is_after(places[1], places[0]) else 1
        if is_after(seq, places[older]):
            places[older] = seq


class Awaited(IntEnum):
    """The command whose final reply decides about an expectation."""
    NOTHING = 0
    PASSIVE = 1                 # PASV or EPSV
    PORT = 3                    # or EPRT


class Step(IntEnum):
    """How far the helper has followed; the numbers are unlike what LineStarts keeps in that place."""
    BEGINNING = 0xF1            # the welcome has not ended
    IN_STEP = 0xF2              # every command and every reply was counted
    LOST = 0xF3                 # for good


# By number: asking the enum takes ten times as long.  2 was EPSV in the memory of older versions.
_AWAITED = (Awaited.NOTHING, Awaited.PASSIVE, Awaited.PASSIVE, Awaited.PORT)
_STEPS = {int(step): step for step in Step}

_COUNT_MAX = 0xFFFF
_DROPS_MAX = 7                  # of one line, or in a gap: a sender that waits twice as long each time takes half a minute
_LINE_MAX = 510                 # bytes; of a longer line some servers make two commands (CVE-2008-4247)
_REPLY_LINES_MAX = 64           # looked at in one segment
_REPLY_LINE = re.compile(rb"\n([1-5][0-9][0-9])([ \r-]|(?=\n))")     # fixed width: nothing to backtrack into
_CODE_CUT_OFF = re.compile(rb"\n([1-5][0-9]{0,2})\Z")
_WELCOME = b"220"
_PASSIVE_CODES = (227, 229)


class Reply(NamedTuple):
    """A final reply, at the line that ends it."""
    code: bytes
    first: bool                 # it stands at the start of its segment
    answers: Awaited


class Dialogue:
    """Commands and replies, in order.  Any 20 bytes can be loaded; those of LineStarts, and damaged ones, as LOST.

    A new connection's memory is zero.  One that was taken over from the kernel, all ones: how it began
    is not known, and it counts as having nothing outstanding.

    Little-endian: two sequence numbers; `outstanding`; `ahead`; `unfinished` (10 bits), `awaited` (2), `held` (3); `code_so_far`;
    `line_bytes`; five flags, `gaps` (3 bits); `step`.
    """

    _LAYOUT = struct.Struct("<2I5HBB")

    __slots__ = ("step", "expected", "at_line_start", "outstanding", "ahead", "awaited", "unfinished", "code_so_far",
                 "line_bytes", "after_return", "gaps", "held")

    def __init__(self, step: Step = Step.BEGINNING) -> None:
        self.step = step
        self.expected: list[int | None] = [None, None]  # sequence number of what has not been heard, per direction
        self.at_line_start = [False, False]             # whether a line starts there
        self.outstanding = 0                # commands without a final reply
        self.ahead = 0                      # final replies to come before the awaited one
        self.awaited = Awaited.NOTHING
        self.unfinished = 0                 # code of the multi-line reply that has not ended; 0: none
        self.code_so_far = 0                # what a segment's end has left of a reply line, if digits alone; 0: none
        self.line_bytes = 0                 # of the command line that has not ended
        self.after_return = False           # the client's last byte was a CR
        self.gaps = 0                       # segments dropped that came too early, since the last one that was taken
        self.held = 0                       # those that were dropped since because their line was cut off

    @classmethod
    def load(cls, memory: memoryview) -> "Dialogue":
        first, second, outstanding, ahead, reply, code, line_bytes, flags, step = cls._LAYOUT.unpack(memory)
        if step not in _STEPS:
            raw = bytes(memory)
            new, taken_over = raw == bytes(MEMORY_SIZE), raw == b"\xff" * MEMORY_SIZE
            return cls(Step.BEGINNING if new else Step.IN_STEP if taken_over else Step.LOST)
        dialogue = cls(_STEPS[step])
        if dialogue.step is Step.LOST:
            return dialogue
        dialogue.expected = [first if flags & 1 else None, second if flags & 2 else None]
        dialogue.at_line_start = [bool(flags & 4), bool(flags & 8)]
        dialogue.after_return, dialogue.gaps = bool(flags & 16), flags >> 5
        dialogue.outstanding, dialogue.ahead = outstanding, ahead
        dialogue.unfinished, dialogue.awaited = reply & 1023, _AWAITED[reply >> 10 & 3]
        dialogue.held = reply >> 12 & 7
        dialogue.code_so_far, dialogue.line_bytes = code, min(line_bytes, _LINE_MAX)
        return dialogue

    def store(self, memory: memoryview) -> None:
        """Of a lost dialogue nothing but that is kept: its counts may have no room."""
        if self.step is Step.LOST:
            memory[:] = bytes(MEMORY_SIZE - 1) + bytes([self.step])
            return
        first, second = self.expected
        flags = ((first is not None) | (second is not None) << 1 | self.at_line_start[0] << 2 | self.at_line_start[1] << 3
                 | self.after_return << 4 | self.gaps << 5)
        reply = self.unfinished | self.awaited << 10 | self.held << 12
        self._LAYOUT.pack_into(memory, 0, first or 0, second or 0, self.outstanding, self.ahead, reply, self.code_so_far,
                               self.line_bytes, flags, self.step)

    # -- segments ------------------------------------------------------------------------------------------

    def unheard(self, direction: Direction, seq: int, payload: bytes) -> bytes | None:
        """The part of a segment that has not been heard; None: something before it has not."""
        expected = self.expected[direction]
        if expected is None:
            return payload
        return None if is_after(seq, expected) else payload[expected - seq & _U32:]

    def meet_gap(self) -> bool:
        """Whether to drop a segment that came too early; else its forerunner is believed never to come again.

        What follows a line that is held back comes too early however often it is cut: the line's own count is the bound.
        """
        if not self.held:
            self.gaps = self._count_drop(self.gaps)
        return self.step is not Step.LOST

    def hold_line(self) -> bool:
        """Whether to drop a segment that ends within its line; else its sender is believed never to repeat the line whole."""
        self.held = self._count_drop(self.held)
        return self.step is not Step.LOST

    def _count_drop(self, dropped: int) -> int:
        if dropped == _DROPS_MAX:
            self.step = Step.LOST
        return min(dropped + 1, _DROPS_MAX)

    def advance(self, direction: Direction, end: int, at_line_start: bool) -> None:
        self.expected[direction] = end
        self.at_line_start[direction] = at_line_start
        self.gaps = self.held = 0

    # -- commands ------------------------------------------------------------------------------------------

    def add_commands(self, payload: bytes) -> int:
        """Count the commands that end in this payload."""
        if self.step is Step.BEGINNING:
            self.step = Step.LOST           # the middle of a connection, or a browser led to post "PORT ..." here
        commands = payload.count(_NEWLINE)
        self.outstanding += commands
        if self.outstanding > _COUNT_MAX or self._is_ambiguous(payload):
            self.step = Step.LOST
        self.after_return = payload.endswith(b"\r")
        self._measure_lines(payload)
        return commands

    def _is_ambiguous(self, payload: bytes) -> bool:
        """Whether servers differ in how many commands this is: a CR alone ends a line to some, an empty line is none."""
        before = b"\r" if self.after_return else b""
        text = (_NEWLINE if self.line_bytes == len(before) else b"") + before + payload
        lone_returns = text.count(b"\r") - text.count(b"\r\n") - text.endswith(b"\r")
        return lone_returns > 0 or b"\n\n" in text or b"\n\r\n" in text

    def _measure_lines(self, payload: bytes) -> None:
        """In strides of a longest line each: a payload of newlines alone costs no more than another."""
        start = -self.line_bytes
        while len(payload) - start > _LINE_MAX:
            newline = payload.rfind(_NEWLINE, max(start, 0), start + _LINE_MAX + 1)
            if newline < 0:
                self.step = Step.LOST
                return
            start = newline + 1
        self.line_bytes = len(payload) - max(start, payload.rfind(_NEWLINE) + 1 or start)

    def await_answer(self, command: Awaited, ahead: int) -> None:
        self.awaited = command
        self.ahead = ahead

    def awaits_passive_reply(self) -> bool:
        """Whether the next final reply answers PASV or EPSV; one that has begun must not be another's multi-line reply."""
        return self.awaited is Awaited.PASSIVE and not self.ahead and self.unfinished in (0, *_PASSIVE_CODES)

    # -- replies -------------------------------------------------------------------------------------------

    def final_replies(self, payload: bytes) -> Iterator[Reply]:
        """The final replies that end in this payload; keeps track of multi-line replies (RFC 959, 4.2).

        A flood of replies is not read to its end: then it is not known to which command the next one belongs.
        """
        whole = self.at_line_start[Direction.REPLY] or self.expected[Direction.REPLY] is None
        head = _NEWLINE if whole else b"\n%d" % self.code_so_far if self.code_so_far else b""
        text = head + payload
        cut_off = _CODE_CUT_OFF.search(text, max(len(text) - 4, 0))
        self.code_so_far = int(cut_off[1]) if cut_off else 0
        position = 0
        for _ in range(_REPLY_LINES_MAX):
            line = self._next_line(text, position)
            if line is None:
                return
            position = line.end()
            code, mark = line.groups()
            self.unfinished = int(code) if mark == b"-" else 0
            if mark != b"-" and code >= b"200":
                yield Reply(code, whole and line.start() == 0, self._take(code))
        self.step = Step.LOST

    def _next_line(self, text: bytes, position: int) -> re.Match[bytes] | None:
        """The next line that begins or ends a reply: within a multi-line one, only that which ends it."""
        if self.unfinished:
            return re.compile(rb"\n(%03d)([ \r]|(?=\n))" % self.unfinished).search(text, position)
        return _REPLY_LINE.search(text, position)

    def _take(self, code: bytes) -> Awaited:
        """Count one final reply; returns the awaited command if this is what answers it."""
        if self.step is Step.BEGINNING:
            self.step = Step.IN_STEP if code == _WELCOME else Step.LOST
            return Awaited.NOTHING
        if self.outstanding == 0:           # answers nothing: 421, before the server hangs up
            if self.line_bytes:
                self.step = Step.LOST       # or what is no whole line yet, but is to the server
            return Awaited.NOTHING
        self.outstanding -= 1
        if self.awaited is Awaited.NOTHING:
            return Awaited.NOTHING
        if self.ahead:
            self.ahead -= 1
            return Awaited.NOTHING
        answered, self.awaited = self.awaited, Awaited.NOTHING
        return answered
