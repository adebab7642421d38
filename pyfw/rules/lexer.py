"""Text -> lines of words, as a shell would split them, each word with its place.

Knows quotes, comments, continued lines and variables; knows no rule.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyfw.bounded_text import MAX_EXPANSION
from pyfw.rules.model import Location, RulesError
from pyfw.rules.values import suggestion

MAX_WORD = 1 << 16              # characters
MAX_LINE_WORDS = 1024           # iptables-restore takes 255
MAX_WORDS = 2_000_000           # of a text: 150,000 rules or so
_PLAIN = re.compile(r"[^\s\"'\\]+")
_QUOTED = {"'": re.compile(r"[^'\n]+"), '"': re.compile(r'[^"\\\n]+')}
_EMPTY_LINES = re.compile(r"(?:[^\S\n]*+(?:#[^\n]*+)?+\n)++")
_BLANKS = re.compile(r"[^\S\n]+")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


@dataclass(frozen=True, slots=True)
class Word:
    """One word; `quoted`: some of it stood in quotes or behind a backslash, so it is a value and never an option."""

    text: str
    location: Location
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text begins in its source: its first line, and how many columns stand before each of its lines."""

    source: str
    line: int = 1
    indent: int = 0

    def at(self, line: int, column: int) -> Location:
        return Location(self.source, self.line + line - 1, self.indent + column)


def substitute(text: str, variables: Mapping[str, str], location: Location | None) -> str:
    """`text` with every $NAME and ${NAME} replaced; RulesError for a name without a value."""
    expanded = 0

    def value(found: re.Match[str]) -> str:
        nonlocal expanded
        name = found[1] or found[2]
        if name not in variables:
            raise RulesError(f"undefined variable ${name}{suggestion(name, variables)}; "
                             f"variables are defined under `variables:`", location)
        text = str(variables[name])
        expanded += len(text)
        if expanded > MAX_EXPANSION:
            raise RulesError(f"the variables here come to more than {MAX_EXPANSION} characters", location)
        return text
    return _VARIABLE.sub(value, text)


def split_lines(text: str, place: Place, variables: Mapping[str, str] | None = None) -> Iterator[list[Word]]:
    """The words of each line that has any.  A backslash at a line's end joins the next; `#` begins a comment.

    With `variables` None a `$` is a character as any other.
    """
    reader, count = _Reader(text.replace("\r\n", "\n"), place, variables), 0
    while not reader.at_end():
        if words := reader.line():
            count += len(words)
            if count > MAX_WORDS:
                raise RulesError(f"this text has more than {MAX_WORDS} words", words[0].location)
            yield words


class _Reader:
    def __init__(self, text: str, place: Place, variables: Mapping[str, str] | None) -> None:
        self.text = text
        self.place = place
        self.variables = variables
        self.offset = 0
        self.row = 1
        self.row_start = 0
        self.word_length = 0            # so far, its variables expanded

    def at_end(self) -> bool:
        return self.offset >= len(self.text)

    def here(self) -> Location:
        return self.place.at(self.row, self.offset - self.row_start + 1)

    def peek(self) -> str:
        return self.text[self.offset:self.offset + 1]

    def newline(self) -> None:
        self.offset += 1
        self.row += 1
        self.row_start = self.offset

    def line(self) -> list[Word]:
        """Words up to the end of the line, past continuations; the end itself is consumed."""
        words: list[Word] = []
        if empty := _EMPTY_LINES.match(self.text, self.offset):
            self.row += self.text.count("\n", self.offset, empty.end())
            self.row_start = self.offset = empty.end()
        while not self.at_end():
            if self.peek() == "\n":
                self.newline()
                break
            if self.peek() == "#":
                end = self.text.find("\n", self.offset)
                self.offset = len(self.text) if end < 0 else end
            elif self.peek().isspace():
                self.offset = _BLANKS.match(self.text, self.offset).end()     # type: ignore[union-attr]  # a blank is there
            elif not self.skip_continuation():
                words.append(self.word())
                if len(words) > MAX_LINE_WORDS:
                    raise RulesError(f"a line has at most {MAX_LINE_WORDS} words", words[-1].location)
        return words

    def skip_continuation(self) -> bool:
        if self.text.startswith("\\\n", self.offset):
            self.offset += 1
            self.newline()
            return True
        return False

    def word(self) -> Word:
        start, begin, quoted = self.here(), self.offset, False
        parts: list[str] = []
        self.word_length = 0
        while not self.at_end() and not self.peek().isspace():
            if self.skip_continuation():
                continue
            if self.peek() in "\"'\\":
                quoted = True
            parts.append(self.piece(start))
            if self.offset - begin > MAX_WORD:
                raise RulesError(f"a word has at most {MAX_WORD} characters", start)
        return Word("".join(parts), start, quoted)

    def piece(self, start: Location) -> str:
        """The next part of a word: in quotes, behind a backslash, or plain."""
        match self.peek():
            case "'":
                return self.quoted_text("'", start)
            case '"':
                return self.quoted_text('"', start)
            case "\\":
                self.offset += 2
                return self.text[self.offset - 1:self.offset]
        plain = _PLAIN.match(self.text, self.offset)[0]     # type: ignore[index]  # what is not plain was met above
        self.offset += len(plain)
        return self.substituted(plain, start)

    def quoted_text(self, mark: str, start: Location) -> str:
        opened = self.here()
        self.offset += 1
        parts: list[str] = []
        plain = ""
        while self.peek() != mark:
            if self.at_end() or self.peek() == "\n":
                raise RulesError(f"the quote {mark} is not closed on this line", opened)
            if self.peek() == "\\" and mark == '"' and self.offset + 1 < len(self.text):
                parts.append(self.substituted(plain, start))
                parts.append(self.text[self.offset + 1])
                plain = ""
                self.offset += 2
                continue
            run = "\\" if self.peek() == "\\" else _QUOTED[mark].match(self.text, self.offset)[0]    # type: ignore[index]  # likewise
            plain += run
            self.offset += len(run)
        self.offset += 1
        parts.append(self.substituted(plain, start) if mark == '"' else plain)
        return "".join(parts)

    def substituted(self, plain: str, location: Location) -> str:
        text = plain if self.variables is None else substitute(plain, self.variables, location)
        self.word_length += len(text)
        if self.word_length > MAX_WORD:
            raise RulesError(f"a word has at most {MAX_WORD} characters", location)
        return text
