"""`pyfwctl set …`: ipset's commands on the running daemon's sets, in ipset's words and with its exit statuses.  ipset(8).

One entry for the table of commands; its handler takes the words as they were written.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfw.edge.control.table import DONE, NOTHING_MATCHED, USAGE, Answers, CommandError, Pause, Services
from pyfw.rules.sets.store import EXIST, SetStore, command_named, take_arguments
from pyfw.rules.sets.text import SetError

FLAGS = {
    "-q": "quiet", "-quiet": "quiet", "-s": "ordered", "-sorted": "ordered", "-n": "names", "-name": "names",
    "-t": "terse", "-terse": "terse", **dict.fromkeys(EXIST, "exist"),
}
NOT_DONE = {"-r": "names of hosts are not looked up", "-resolve": "names of hosts are not looked up",
            "-f": "use the shell's < and >", "-file": "use the shell's < and >"}


@dataclass(frozen=True)
class SetRequest:
    """A command line of ipset's: its command, the words that are no options, and the options."""

    command: str
    words: list[str]
    flags: frozenset[str]

    @classmethod
    def read(cls, words: Sequence[str]) -> SetRequest:
        """Raises SetError."""
        plain, flags, rest = [], set(), iter(words)
        for word in rest:
            if word in NOT_DONE:
                raise SetError(f"{word}: {NOT_DONE[word]}", USAGE)
            if word in ("-o", "-output"):
                flags.add(output_format(next(rest, "")))
            elif word in FLAGS:
                flags.add(FLAGS[word])
            elif word == "comment":
                plain += [word, *([text] if (text := next(rest, None)) is not None else [])]
            else:
                plain.append(word)
        if not plain:
            raise SetError("No command specified.", USAGE)
        return cls(command_named(plain[0]), plain[1:], frozenset(flags))


def output_format(name: str) -> str:
    if name not in ("plain", "save"):
        raise SetError(f"Syntax error: the output format is plain or save, not '{name}'", USAGE)
    return name


def run_set_command(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`words`: the command line.  `text`, of which the first line is number `line`: what `restore` reads."""
    store = services.engine.environment.sets
    if store is None:
        raise CommandError("this daemon keeps no sets")
    quiet = False
    try:
        request = SetRequest.read(arguments.get("words", ()))
        quiet = "quiet" in request.flags
        if request.command == "restore":
            text = arguments.get("text", "").encode("utf-8", "surrogatepass")     # what is not UTF-8 is refused where it stands
            yield from _with_pauses(store.restoring(text, services.now_ns(), first_line=arguments.get("line", 1),
                                                    exist="exist" in request.flags))
            return {}
        if request.command == "test":
            return (yield from _test(store, request, services.now_ns()))
        if request.command in ("list", "save"):
            exact = request.command == "save" or "save" in request.flags
            yield from ({"text": piece, "exact": exact} for piece in _printed(store, request, services.now_ns()) if not quiet)
            return {}
        yield from _with_pauses(store.changing(request.command, request.words, services.now_ns(), "exist" in request.flags))
    except SetError as error:
        if quiet:
            return {"status": error.status}
        raise CommandError(str(error), error.status, reason="set") from error
    return {}


def _with_pauses(parts: Iterator[None]) -> Iterator[Pause]:
    """Other clients are served between the parts.  Not for the worker: at low priority, it could stop while it holds the engine's lock."""
    for _ in parts:
        yield Pause(0)


def _test(store: SetStore, request: SetRequest, now_ns: int) -> Answers:
    name, *words = take_arguments("test", request.words)
    found = store.test(name, words, now_ns)
    if "quiet" not in request.flags:
        yield {"note": f"{words[0]} is {'in' if found else 'NOT in'} set {name}."}
    return {"status": DONE if found else NOTHING_MATCHED}


def _printed(store: SetStore, request: SetRequest, now_ns: int) -> Iterator[str]:
    name = next(iter(take_arguments(request.command, request.words)), None)
    ordered = "ordered" in request.flags
    if "names" in request.flags:
        return iter([f"{known}\n" for known in ([store.find(name).name] if name is not None else store.names)])
    if request.command == "save" or "save" in request.flags:
        return store.saved(name, now_ns, ordered)
    return store.listed(name, now_ns, ordered, "terse" in request.flags)
