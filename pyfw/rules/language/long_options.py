"""A command line's words as getopt_long() has them: joined ones taken apart, long names whole again, values told from options.

As iptables' own: the options that may be shortened are those of the matches and targets named so far, and a match of the
protocol that `-p` named is loaded when none of these fits.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyfw.rules.language.extensions.header import IP
from pyfw.rules.language.kinds import Option
from pyfw.rules.language.matches import TARGETS, match_for_protocol, match_kind
from pyfw.rules.lexer import Word
from pyfw.rules.values import parse_protocol

FLAG, VALUE, JOINED = 0, 1, 2       # without value; the next word, or joined to it; only joined to it
SHORT: dict[str, int] = {
    **dict.fromkeys(("-A", "-C", "-D", "-E", "-I", "-M", "-N", "-P", "-R"), VALUE),
    **dict.fromkeys(("-c", "-d", "-g", "-i", "-j", "-m", "-o", "-p", "-s", "-t"), VALUE),
    **dict.fromkeys(("-F", "-L", "-S", "-W", "-X", "-Z", "-w"), JOINED),
    **dict.fromkeys(("-V", "-f", "-h", "-n", "-v", "-x", "-4", "-6"), FLAG),
}
LONG: dict[str, str] = {
    "--append": "-A", "--check": "-C", "--delete": "-D", "--rename-chain": "-E", "--flush": "-F", "--insert": "-I", "--list": "-L",
    "--new-chain": "-N", "--policy": "-P", "--replace": "-R", "--list-rules": "-S", "--delete-chain": "-X", "--zero": "-Z",
    "--set-counters": "-c", "--destination": "-d", "--dst": "-d", "--goto": "-g", "--in-interface": "-i", "--jump": "-j",
    "--match": "-m", "--out-interface": "-o", "--protocol": "-p", "--source": "-s", "--src": "-s", "--table": "-t",
    "--modprobe": "-M", "--wait": "-w", "--wait-interval": "-W", "--version": "-V", "--fragments": "-f", "--help": "-h",
    "--numeric": "-n", "--verbose": "-v", "--exact": "-x", "--ipv4": "-4", "--ipv6": "-6", "--line-numbers": "--line-numbers",
}
WHOLE = LONG | {alias: option.name for option in IP.options for alias in option.aliases}
"""`--in` is the beginning of two names; as a name of its own it is -i."""


def take_apart(words: Sequence[Word]) -> list[Word]:
    """What an option takes is quoted, and stands behind it; all else is not."""
    return list(_Getopt(words).words())


class _Getopt:
    def __init__(self, words: Sequence[Word]) -> None:
        self.queue = list(reversed(words))
        self.loaded: list[tuple[Option, ...]] = []
        self.protocol = 0

    def words(self) -> Iterator[Word]:
        while self.queue:
            word = self.queue.pop()
            if word.text.startswith("--") and len(word.text) > 2:
                yield from self.long(word)
            elif word.text.startswith("-") and len(word.text) > 1:
                yield from self.cluster(word)
            else:
                yield Word(word.text, word.location)

    def cluster(self, word: Word) -> Iterator[Word]:
        """`-nvL`, `-w5`, `-AINPUT`: flags up to the one that takes the rest."""
        for at, letter in enumerate(word.text[1:], 1):
            option, rest = f"-{letter}", word.text[at + 1:]
            if option not in SHORT:
                yield Word(option, word.location)
                return
            takes = SHORT[option]
            yield Word(option, word.location)
            if takes != FLAG:
                yield from self.value(option, word, rest or None, takes)
                return

    def long(self, word: Word) -> Iterator[Word]:
        name, equals, joined = word.text.partition("=")
        known = self.known(name)
        if known is None:
            yield Word(word.text, word.location)
            return
        full, takes, more = known
        if equals and takes == FLAG:
            yield Word(word.text, word.location)
            return
        yield Word(full, word.location)
        if takes != FLAG:
            yield from self.value(full, word, joined if equals else None, takes)
        for _ in range(more):
            if self.queue and not self.queue[-1].text.startswith(("-", "!")):
                yield Word(self.queue[-1].text, self.queue.pop().location, quoted=True)

    def value(self, option: str, word: Word, joined: str | None, takes: int) -> Iterator[Word]:
        if joined is not None:
            value = Word(joined, word.location, quoted=True)
        elif takes == VALUE and self.queue:
            if self.queue[-1].text == "!" and len(self.queue) > 1 and not self.queue[-2].text.startswith("-"):
                yield Word("!", self.queue.pop().location)      # `-s ! 10.0.0.1`, as it once was written
            value = Word(self.queue[-1].text, self.queue.pop().location, quoted=True)
        else:
            return
        yield value
        self.load(option, value.text)

    def load(self, option: str, value: str) -> None:
        option = LONG.get(option, option)
        kind = match_kind(value) if option == "-m" else TARGETS.get(value) if option in ("-j", "-g") else None
        if kind is not None:
            self.loaded.append(kind.options)
        elif option == "-p":
            try:
                self.protocol = parse_protocol(value)
            except ValueError:
                self.protocol = 0

    def known(self, name: str) -> tuple[str, int, int] | None:
        """The whole name of a long option, whether it takes a value, and how many words more."""
        if found := self.fitting(name):
            return found
        implied = match_for_protocol(self.protocol)
        if implied is None or implied.options in self.loaded:
            return None
        self.loaded.append(implied.options)
        return self.fitting(name)

    def fitting(self, name: str) -> tuple[str, int, int] | None:
        """A name that is exact, or can be the beginning of one option only."""
        known = [spellings(options) for options in self.loaded]
        for names in (*reversed(known), WHOLE_NAMES):
            if name in names:
                return names[name][1]
        fitting = [found for names in (OWN_NAMES, *known) for spelling, found in names.items() if spelling.startswith(name)]
        return fitting[0][1] if len({option for option, _ in fitting}) == 1 else None


Spellings = dict[str, tuple[str, tuple[str, int, int]]]
"""Name -> the option that it means; how it is written whole, whether it takes a value, and how many words more."""

OF_RULES = ("-d", "-f", "-g", "-i", "-j", "-m", "-o", "-p", "-s")       # keep their long names, by which complaints call them


def whole(names: dict[str, str]) -> Spellings:
    return {long: (short, (long if short in OF_RULES else short, SHORT.get(short, FLAG), 0)) for long, short in names.items()}


OWN_NAMES, WHOLE_NAMES = whole(LONG), whole(WHOLE)


def spellings(options: tuple[Option, ...]) -> Spellings:
    """Of a match's or target's options, which live as long as the program."""
    if (known := _SPELLINGS.get(id(options))) is not None:
        return known
    return _SPELLINGS.setdefault(id(options), {
        spelling: (option.name, (spelling, min(option.words, VALUE), max(option.words - 1, 0)))
        for option in options for spelling in (option.name, *option.aliases) if spelling.startswith("--")})


_SPELLINGS: dict[int, Spellings] = {}

