"""Text of others, fit to be shown: what would steer a terminal, or show a line as another one, stands there as an escape.

Names of interfaces, chains and sets, comments, LOG prefixes and what messages quote come from whoever wrote a rule, a list or a
capture.  They are kept as they are, and escaped where they are printed: here and nowhere else.  `\\xNN`, `\\uNNNN` and `\\UNNNNNNNN`
stand for control characters (C0, DEL, C1), characters that change the direction of writing or have no width, separators of
lines, tags and lone surrogates.
"""
from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_HARMFUL = ("\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
            "\ud800-\udfff\U000e0000-\U000e007f")
MAX_MESSAGE_LENGTH = 1000       # characters
_IN_TEXT = re.compile(f"[{_HARMFUL}]")
_IN_LINE = re.compile(f"[\t\n{_HARMFUL}]")


def printable(text: str) -> str:
    """`text` as a part of one line."""
    return text if text.isprintable() else _IN_LINE.sub(_escape, text)


def printable_text(text: str) -> str:
    """`text` of several lines, perhaps with tabs."""
    return text if text.replace("\n", "").isprintable() else _IN_TEXT.sub(_escape, text)


def printable_values(value: Any) -> Any:
    """What JSON can hold, with every text in it as a part of one line."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): printable_values(member) for name, member in value.items()}
    return [printable_values(member) for member in value] if isinstance(value, list) else value


def shortened(message: str) -> str:
    """A message that may quote words of any length."""
    return message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[:MAX_MESSAGE_LENGTH]} ..."


def json_line(value: Any) -> str:
    """One line of JSON, in ASCII that can be printed."""
    return json.dumps(value).replace("\x7f", r"\u007f") + "\n"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class EscapingStream:
    """A stream of text that shows what can be shown, and escapes of the rest."""

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        encoding = self.unescaped.encoding or "utf-8"
        self.unescaped.write(printable_text(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def write_exactly(self, text: str) -> None:
        """Text that is to be read back: to a terminal as all text, else as it is."""
        if self.unescaped.isatty():
            self.write(text)
        else:
            self.unescaped.flush()
            self.unescaped.buffer.write(text.encode("utf-8", "backslashreplace"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


@contextmanager
def escaping_output() -> Iterator[None]:
    """Standard output and standard error are EscapingStreams meanwhile: for a whole program, as the decorator of its main()."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = EscapingStream(sys.stdout), EscapingStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
