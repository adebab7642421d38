"""The named sets of a daemon and ipset's commands on them.  ipset(8).

Knows the language by text.py, the contents by sets.pyx; no file, no socket, no clock.  One thread calls it.
"""
from __future__ import annotations

import heapq
import itertools
import operator
import os
from collections import deque
from collections.abc import Iterator, Sequence

from pyfw.lock import Lock
from pyfw.rules.lexer import Place
from pyfw.rules.sets.lists import ListContents
from pyfw.rules.sets.reader import read_plain_lines
from pyfw.rules.sets.sets import ADDED, EXCLUDED, EXISTS, FOUND, FULL, MAX_COMMENTED, MAX_STORE, Allowance, Contents, NamedSet
from pyfw.rules.sets.text import (
    USAGE,
    ListEntry,
    SetError,
    SetOptions,
    check_name,
    parse_create,
    parse_elements,
    parse_list_entry,
    show_member,
    show_row,
    split_words,
)

NO_SUCH_SET = "The set with the given name does not exist"
IN_USE = "it is in use by a rule or a list"
ALREADY_ADDED = "Element cannot be added to the set: it's already added"
NOT_ADDED = "Element cannot be deleted from the set: it's not added"
HASH_FULL = "Hash is full, cannot add more elements"
NO_ROOM = (f"there is no room for it: all sets together have memory for {MAX_STORE} elements, "
           f"{MAX_COMMENTED} of them with a comment")
MAX_RANGE = 1 << 20             # elements that one `add` may stand for: some 70 MB
ROWS_AT_ONCE = 128
LINES_AT_ONCE = 64              # of those that are read word by word, before others have their turn
NO_NEIGHBOUR = "The set to which you referred with 'before' or 'after' is not added to the set."
COMMANDS = ("create", "add", "del", "test", "destroy", "list", "save", "restore", "flush", "rename", "swap")
SHORT_COMMANDS = {
    "n": "create", "x": "destroy", "e": "rename", "w": "swap", "-N": "create", "-A": "add", "-D": "del", "-T": "test", "-X": "destroy",
    "-L": "list", "-S": "save", "-R": "restore", "-F": "flush", "-E": "rename", "-W": "swap", "--create": "create", "--add": "add",
    "--del": "del", "--test": "test", "--destroy": "destroy", "--list": "list", "--save": "save", "--restore": "restore",
    "--flush": "flush", "--rename": "rename", "--swap": "swap",
}
EXIST = {"-exist", "-!", "--exist"}

_order = operator.itemgetter(0, 1, 2, 3)


def command_named(word: str) -> str:
    """A command by its name, an old option of ipset's, or as many letters as tell it from those before it."""
    for command in COMMANDS if word else ():
        if command.startswith(word):
            return command
    if word not in SHORT_COMMANDS:
        raise SetError(f"No command specified: unknown argument {word}", USAGE)
    return SHORT_COMMANDS[word]


class SetStore:
    """Sets by name.  `lock` is the engine's; elements expire by the `now_ns` that is handed in."""

    def __init__(self, lock: Lock | None = None) -> None:
        self.lock = lock or Lock()
        self.allowance = Allowance()
        self.names: dict[str, NamedSet] = {}
        self._coming: dict[str, NamedSet] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> NamedSet:
        if name not in self.names:
            raise SetError(NO_SUCH_SET)
        return self.names[name]

    def refer(self, name: str, user: object) -> NamedSet:
        """The set for a rule, which is noted as its user as long as it lives.  Raises ValueError, in iptables' words."""
        coming = self.names if self._coming is None else self._coming
        named = self.names.get(name, coming[name]) if name in coming else None
        if named is None:
            raise ValueError(f"Set {name} doesn't exist.")
        named.users.add(user)
        return named

    # -- sets ----------------------------------------------------------------------------------------------------------

    def create(self, name: str, options: SetOptions, exist: bool = False) -> None:
        check_name(name)
        if name in self.names and exist and self.names[name].contents.options.same(options):
            return
        if name in self.names or name in (self._coming or ()):
            raise SetError("Set cannot be created: set with the same name already exists")
        self.names[name] = NamedSet(name, self._contents(options))

    def _contents(self, options: SetOptions) -> Contents:
        try:
            kind = ListContents if options.type == "list:set" else Contents
            return kind(options, self.lock, self.allowance, os.urandom(16))
        except MemoryError:
            raise SetError(f"Set cannot be created: {NO_ROOM}") from None

    def destroy(self, name: str | None = None, *, exist: bool = False) -> None:
        """One set, or all; none of them if one is in use."""
        if name is not None and name not in self.names and exist:
            return
        doomed = [self.find(name)] if name is not None else list(self.names.values())
        if any(named.references for named in doomed):
            raise SetError(f"Set cannot be destroyed: {IN_USE}")
        for named in doomed:
            named.contents.flush()          # a list lets its members go
            del self.names[named.name]

    def flush(self, name: str | None = None) -> None:
        for named in [self.find(name)] if name is not None else self.names.values():
            named.contents.flush()

    def rename(self, old: str, new: str) -> None:
        named = self.find(old)
        if check_name(new) in self.names or new in (self._coming or ()):
            raise SetError("Set cannot be renamed: a set with the new name already exists")
        if named.references:
            raise SetError(f"Set cannot be renamed: {IN_USE}")
        named.rename(new)
        self.names = {known.name: known for known in self.names.values()}

    def swap(self, one: str, other: str) -> None:
        first = self.find(one)
        if other not in self.names:
            raise SetError("Sets cannot be swapped: the second set does not exist")
        second = self.names[other]
        mine, theirs = first.contents.options, second.contents.options
        if (mine.type, mine.family) != (theirs.type, theirs.family):
            raise SetError("The sets cannot be swapped: their type does not match")
        first.swap(second)

    def announce(self, fresh: SetStore | None) -> None:
        """Let rules refer to the sets of `fresh`, and to no others, before replace() takes them in; None: they do not come."""
        self._coming = None if fresh is None else fresh.names

    def replace(self, fresh: SetStore) -> None:
        """Take the sets of `fresh` in, each in the place of the one with its name: rules go on with the new contents.

        Raises SetError, and then has changed nothing: they and those of other names are too many.
        """
        self.announce(None)
        if not self.allowance.fits(fresh.allowance, [self.names[name].contents for name in fresh.names if name in self.names]):
            raise SetError(f"with those that stay, {NO_ROOM}")
        renewed = {}
        for named in fresh.names.values():
            named.contents.share(self.lock, self.allowance)
            if named.name in self.names:
                self.names[named.name].swap(named)
                named.contents.count_in(fresh.allowance)
                renewed[named] = self.names[named.name]
            else:
                self.names[named.name] = named
        for name in fresh.names:
            contents = self.names[name].contents
            if isinstance(contents, ListContents):
                contents.point_members(renewed)

    def sweep(self, now_ns: int) -> None:
        """Called from time to time: frees some of what has expired, and makes room for what packets will add."""
        for named in self.names.values():
            named.contents.sweep(now_ns)
            named.make_room()

    # -- elements ------------------------------------------------------------------------------------------------------

    def add(self, name: str, words: Sequence[str], now_ns: int, exist: bool = False) -> None:
        at_once(self.adding(name, words, now_ns, exist))

    def adding(self, name: str, words: Sequence[str], now_ns: int, exist: bool = False) -> Iterator[None]:
        """Adds while it is iterated over, in parts: one line may stand for a million elements."""
        contents = self.find(name).contents
        if isinstance(contents, ListContents):
            self._add_member(contents, parse_list_entry(words, contents.options), now_ns, exist)
            return
        wanted = parse_elements(words, contents.options)
        check_size(sum(elements.count for elements in wanted), contents.options)
        for elements in wanted:
            outcome, done = contents.add_some(elements, 0, now_ns, exist)
            while outcome == ADDED and done < elements.count:
                yield
                outcome, done = contents.add_some(elements, done, now_ns, exist)
            if outcome != ADDED:
                raise SetError({EXISTS: ALREADY_ADDED, FULL: HASH_FULL}.get(outcome, f"Element cannot be added to the set: {NO_ROOM}"))

    def delete(self, name: str, words: Sequence[str], now_ns: int, exist: bool = False) -> None:
        at_once(self.deleting(name, words, now_ns, exist))

    def deleting(self, name: str, words: Sequence[str], now_ns: int, exist: bool = False) -> Iterator[None]:
        """Deletes while it is iterated over, in parts."""
        contents = self.find(name).contents
        if isinstance(contents, ListContents):
            self._delete_member(contents, parse_list_entry(words, contents.options, "del"), now_ns, exist)
            return
        for elements in parse_elements(words, contents.options, "del"):
            found, cursor = contents.delete_some(elements, 0, now_ns, exist)
            while found and cursor != elements.count:
                yield
                found, cursor = contents.delete_some(elements, cursor, now_ns, exist)
            if not found:
                raise SetError(NOT_ADDED)

    def test(self, name: str, words: Sequence[str], now_ns: int) -> bool:
        contents = self.find(name).contents
        if isinstance(contents, ListContents):
            return self._test_member(contents, parse_list_entry(words, contents.options, "test"), now_ns)
        elements, = parse_elements(words, contents.options, "test")
        return contents.test(elements, now_ns) == (EXCLUDED if elements.nomatch else FOUND)

    # -- lists ---------------------------------------------------------------------------------------------------------

    def _member(self, name: str) -> NamedSet:
        if name not in self.names:
            raise SetError("Set to be added/deleted/tested as element does not exist.")
        return self.names[name]

    def _neighbour(self, contents: ListContents, name: str) -> int:
        if name not in self.names:
            raise SetError("The set to which you referred with 'before' or 'after' does not exist.")
        if self.names[name] not in contents.members:
            raise SetError(NO_NEIGHBOUR)
        return contents.members.index(self.names[name])

    def _add_member(self, contents: ListContents, entry: ListEntry, now_ns: int, exist: bool) -> None:
        member = self._member(entry.name)
        if isinstance(member.contents, ListContents):
            raise SetError("Sets with list:set type cannot be added to the set.")
        contents.drop_expired_members(now_ns)
        neighbour = entry.before or entry.after
        place = self._neighbour(contents, neighbour) + bool(entry.after) if neighbour else len(contents.members)
        if member not in contents.members:
            contents.insert_member(member, place, entry, now_ns)
        elif exist:
            contents.update_member(contents.members.index(member), entry, now_ns)
        else:
            raise SetError(ALREADY_ADDED)

    def _delete_member(self, contents: ListContents, entry: ListEntry, now_ns: int, exist: bool) -> None:
        member = self._member(entry.name)
        contents.drop_expired_members(now_ns)
        if self._stands(contents, member, entry):
            contents.remove_member(contents.members.index(member))
        elif member in contents.members:
            raise SetError(NO_NEIGHBOUR)
        elif not exist:
            raise SetError(NOT_ADDED)

    def _test_member(self, contents: ListContents, entry: ListEntry, now_ns: int) -> bool:
        contents.drop_expired_members(now_ns)
        return entry.name in self.names and self._stands(contents, self.names[entry.name], entry)

    def _stands(self, contents: ListContents, member: NamedSet, entry: ListEntry) -> bool:
        """Whether the set is a member, directly before or after the one that `entry` tells."""
        if member not in contents.members:
            return False
        place = contents.members.index(member)
        if entry.before:
            return [named.name for named in contents.members[place + 1:place + 2]] == [entry.before]
        return not entry.after or (place > 0 and contents.members[place - 1].name == entry.after)

    # -- text ----------------------------------------------------------------------------------------------------------

    def saved(self, name: str | None, now_ns: int, ordered: bool = False) -> Iterator[str]:
        """Pieces of what `ipset save` prints: lists come last, for their members must be there before them."""
        chosen = [self.find(name)] if name is not None else sorted(
            self.names.values(), key=lambda named: named.contents.options.type == "list:set")
        for named in chosen:
            yield f"create {named.name} {named.contents.options}\n"
            for rows in self._rows(named.contents, now_ns, ordered):
                yield "".join(f"add {named.name} {row}\n" for row in rows)

    def listed(self, name: str | None, now_ns: int, ordered: bool = False, terse: bool = False) -> Iterator[str]:
        """Pieces of what `ipset list` prints."""
        chosen = [self.find(name)] if name is not None else list(self.names.values())
        for position, named in enumerate(chosen):
            contents = named.contents
            kind, _, header = str(contents.options).partition(" ")
            yield (f"{'' if position == 0 else chr(10)}Name: {named.name}\nType: {kind}\nHeader: {header}\n"
                   f"Size in memory: {contents.memory}\nReferences: {named.references}\nNumber of entries: {len(contents)}\n")
            if not terse:
                yield "Members:\n"
                for rows in self._rows(contents, now_ns, ordered):
                    yield "".join(f"{row}\n" for row in rows)

    def _rows(self, contents: Contents, now_ns: int, ordered: bool) -> Iterator[list[str]]:
        options = contents.options
        if isinstance(contents, ListContents):
            yield [show_member(row, options) for row in contents.member_rows(now_ns)]
        elif ordered:
            runs = []
            for rows in contents.walk(now_ns):
                runs.append(sorted(rows, key=_order))
                yield []                # others have their turn while a large set is gone through
            merged = heapq.merge(*runs, key=_order)
            while rows := list(itertools.islice(merged, ROWS_AT_ONCE)):
                yield [show_row(row, options) for row in rows]
        else:
            for rows in contents.walk(now_ns):
                yield [show_row(row, options) for row in rows]

    def restore(self, text: bytes, now_ns: int, place: Place | None = None, first_line: int = 1, exist: bool = False) -> None:
        """Do what lines in `ipset save` syntax say.

        Raises SetError for the first that cannot be done, with its place: `file:line:column`, or ipset's `Error in line N` if no place
        is given.  The lines before it are done then.
        """
        at_once(self.restoring(text, now_ns, place, first_line, exist))

    def restoring(self, text: bytes, now_ns: int, place: Place | None = None, first_line: int = 1,
                  exist: bool = False) -> Iterator[None]:
        """Restores while it is iterated over, in parts."""
        offset, row = 0, first_line
        while offset < len(text):
            end = text.find(b"\n", offset) + 1 or len(text)
            line = text[offset:end]
            reached = self._read_plain(line, text, offset, now_ns, exist)
            if reached > offset:
                row += text.count(b"\n", offset, reached)
                offset = reached
                continue
            yield from self._restore_line(line, now_ns, exist, place, row)
            offset, row = end, row + 1
            if row % LINES_AT_ONCE == 0:
                yield

    def _read_plain(self, line: bytes, text: bytes, offset: int, now_ns: int, exist: bool) -> int:
        words = line.split(b" ", 2)
        name = words[1].decode("ascii", "replace") if len(words) == 3 and words[0] == b"add" else ""
        if name not in self.names:
            return offset
        return read_plain_lines(self.names[name].contents, name, text, offset, now_ns, exist)

    def _restore_line(self, line: bytes, now_ns: int, exist: bool, place: Place | None, row: int) -> Iterator[None]:
        column = 1
        try:
            words = split_words(line.decode("utf-8", "surrogateescape").rstrip("\r\n"))
            if not words or words[0][0].startswith("#"):
                return
            column = words[min(2, len(words) - 1)][1]
            yield from self._run([word for word, _ in words], now_ns, exist)
        except SetError as error:
            where = place.at(row, column) if place else f"Error in line {row}"
            raise SetError(f"{where}: {error}", error.status) from None

    def _run(self, words: Sequence[str], now_ns: int, exist: bool) -> Iterator[None]:
        rest = [word for word in words if word not in EXIST]
        command = command_named(rest[0] if rest else "")
        if command in ("list", "save", "restore"):
            raise SetError(f"Command `{command}' is invalid in restore mode", USAGE)
        if command == "test":
            name, *element = take_arguments(command, rest[1:])
            if not self.test(name, element, now_ns):
                raise SetError(f"{element[0]} is NOT in set {name}.")
        else:
            yield from self.changing(command, rest[1:], now_ns, exist or len(rest) < len(words))

    def change(self, command: str, words: Sequence[str], now_ns: int, exist: bool = False) -> None:
        """Do a command that answers nothing: any but test, list, save and restore."""
        at_once(self.changing(command, words, now_ns, exist))

    def changing(self, command: str, words: Sequence[str], now_ns: int, exist: bool = False) -> Iterator[None]:
        """As change(), while it is iterated over: between its parts others may use the sets."""
        match command, *take_arguments(command, words):
            case "create", name, *rest:
                self.create(name, parse_create(rest), exist)
            case "add", name, *rest:
                yield from self.adding(name, rest, now_ns, exist)
            case "del", name, *rest:
                yield from self.deleting(name, rest, now_ns, exist)
            case "flush", *names:
                self.flush(*names)
            case "destroy", *names:
                self.destroy(*names, exist=exist)
            case "rename", old, new:
                self.rename(old, new)
            case "swap", one, other:
                self.swap(one, other)


NEEDED = {"create": 2, "add": 2, "del": 2, "test": 2, "rename": 2, "swap": 2}
ONE_SET = {"rename": 2, "swap": 2, "flush": 1, "destroy": 1, "list": 1, "save": 1}


def take_arguments(command: str, words: Sequence[str]) -> Sequence[str]:
    """What follows a command, if it is neither too little nor too much: a set, or for some commands none for all, and more."""
    needed = NEEDED.get(command, 0)
    if len(words) < needed:
        which = "second mandatory" if words else "mandatory"
        raise SetError(f"Missing {which} argument to command {command}", USAGE)
    if len(words) > ONE_SET.get(command, len(words)):
        raise SetError(f"Unknown argument {words[ONE_SET[command]]}", USAGE)
    return words


def at_once(parts: Iterator[None]) -> None:
    """All parts of something, without a pause."""
    deque(parts, maxlen=0)


def check_size(count: int, options: SetOptions) -> None:
    """Whether a set may be asked to take so many elements at once, before the first of them is."""
    if count > options.maxelem:
        raise SetError(HASH_FULL)
    if count > MAX_RANGE:
        raise SetError(f"The range is too large: it stands for {count} elements, and one command adds at most {MAX_RANGE}")


def load_sets(sources: Sequence[tuple[Place, bytes]], now_ns: int) -> SetStore:
    """A store with the sets of several texts in `ipset save` syntax; a Place says where one begins.

    It has a lock of its own, so that the packets' is left alone until another store takes its sets in.
    Raises SetError, `file:line:column: what`.
    """
    store = SetStore()
    for place, text in sources:
        store.restore(text, now_ns, place)
    return store
