"""The table of control commands: what each is called, takes, needs and does.

pyfwctl's command line and help, and the server's checks, are made from this table alone.  A handler is a
generator: it yields answers, Pauses and Listens, and returns what the last line says besides `"done": true`.
An answer is a dict, sent as one line of JSON, with one of the keys
  text      for the user's standard output; with `exact` set, it is to be read back, and nothing in it is escaped
  records   a list of objects, each for one line of JSON there
  note      one line for standard error
A `status` in the last line is the exit status; left out it is 0.
Knows what the daemon offers (Services), no socket.
"""
from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from pyfw.edge.control.handover import Offer
from pyfw.edge.queue_counters import QueueCounters

if TYPE_CHECKING:
    from pyfw.rules.model import Ruleset
    from pyfw.rules.program.program import Program

T = TypeVar("T")

HAND_OVER, FINISH_HANDOVER = "hand-over", "hand-over-done"
DONE, NOTHING_MATCHED, USAGE, NO_DAEMON = 0, 1, 2, 3    # exit statuses; a refusal counts as nothing matched
MAX_TRIAL_S = 86400
MAX_NUMBER = 1e9                # of those that may have a fraction


class CommandError(Exception):
    """A command that cannot be done; `status` is the exit status of pyfwctl."""

    def __init__(self, message: str, status: int = NOTHING_MATCHED, reason: str = "failed") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason        # the name under which the server counts it


class Pause(NamedTuple):
    """Yielded by a handler that waits for something: ask it again after so many seconds."""

    seconds: float


class Listen(NamedTuple):
    """As a Pause, but what the peer says meanwhile ends it: the yield returns the line, parsed; None: nothing was said."""

    seconds: float


class ConnectionReview(Protocol):
    """A walk that ends connections, part by part; each part is the text of those that it has ended."""

    killed: int
    unknown: int

    def __iter__(self) -> Iterator[str]: ...
    def finish(self) -> None: ...
    @property
    def result(self) -> str: ...


class Services(Protocol):
    """What the daemon offers to the handlers."""

    engine: Any

    def now_ns(self) -> int: ...
    def in_background(self, work: Callable[..., T], *arguments: Any) -> Future[T]: ...
    def reload(self, confirm_s: int = 0) -> Reload: ...
    def confirm(self) -> bool: ...
    def connection_review(self) -> ConnectionReview: ...
    @property
    def config_path(self) -> Path: ...
    def keep_saved_rules(self) -> None: ...
    def serve_rules(self, ruleset: Ruleset) -> Program: ...
    def compile_rules(self, ruleset: Ruleset) -> Program: ...
    @property
    def other_tables(self) -> str: ...
    def hand_over_tables(self, tables: Mapping[int, Mapping[str, Sequence[str]]], keep: bool) -> None: ...
    def statistics(self) -> dict[str, Any]: ...
    def queue_counters(self) -> QueueCounters | None: ...
    def has_judged(self, packet_id: int) -> bool: ...
    @property
    def handing_over(self) -> bool: ...
    @property
    def degraded(self) -> Mapping[str, str]: ...
    @property
    def diversion_fault(self) -> str | None: ...
    @property
    def is_judging(self) -> bool: ...
    def begin_handover(self) -> bool: ...
    def what_is_handed_over(self) -> dict[str, int]: ...
    def take_back(self) -> None: ...
    def finish_handover(self) -> None: ...


class Reload(NamedTuple):
    """What came of a reload."""

    rules: int                  # now in force
    needs_restart: list[str]    # options that changed and are read only at start
    kill_states: bool = False   # connections that these rules would not have accepted are to end
    confirm_s: int = 0          # seconds after which the rules are taken back; 0: they stay

    def text(self) -> str:
        rest = f"; changed, but read only at start: {', '.join(self.needs_restart)}" if self.needs_restart else ""
        trial = f"; taken back in {self.confirm_s} s, unless `pyfwctl confirm` comes before" if self.confirm_s else ""
        return f"{self.rules} rules loaded{rest}{trial}"


Answers = Generator[dict[str, Any] | Pause | Listen | Offer, Any, dict[str, Any]]


@dataclass(frozen=True)
class Argument:
    """One argument of a command: its key in the request, and how pyfwctl spells it."""

    name: str
    help: str
    flags: tuple[str, ...] = ()         # none: it is positional and may be left out
    kind: type = str                    # str, int, float, bool, or list: all words that follow
    choices: tuple[str, ...] = ()
    is_path: bool = False               # pyfwctl makes it absolute: the daemon has a working directory of its own
    typed: bool = True                  # False: nothing a user types; pyfwctl fills it in
    bare: Any = None                    # what the flag means without a value; None: it needs one

    def check(self, value: Any) -> None:
        fits = type(value) is self.kind or (self.kind is float and type(value) is int)
        if self.kind is float and fits and not -MAX_NUMBER <= value <= MAX_NUMBER:     # nor infinite, nor no number
            fits = False
        if not fits or (self.kind is list and not all(type(word) is str for word in value)):
            kind = {str: "a text", int: "a number", float: "a number", bool: "true or false", list: "a list of texts"}[self.kind]
            raise CommandError(f"argument '{self.name}' must be {kind}", USAGE, "bad_argument")
        if self.choices and value not in self.choices:
            raise CommandError(f"argument '{self.name}' must be one of {', '.join(self.choices)}, not '{value}'",
                               USAGE, "bad_argument")


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    handler: Callable[[Services, Mapping[str, Any]], Answers]
    needs_root: bool = False            # else members of the control group may, too
    spoken: bool = True                 # False: pyfwctl has no such word, another program sends it
    client: str | None = None           # what pyfwctl does besides sending it and printing the answer: a function of rewrites.py
    others: int = 0                     # how many of those who are not root may have it under way at once; 0: any number
    arguments: tuple[Argument, ...] = ()

    def checked_arguments(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request's arguments by name; raises CommandError for one that is unknown or of the wrong kind."""
        known = {argument.name: argument for argument in self.arguments}
        given = {name: value for name, value in request.items() if name != "command" and value is not None}
        for name, value in given.items():
            if name not in known:
                raise CommandError(f"command '{self.name}' has no argument '{name}'"
                                   + (f"; it has {', '.join(known)}" if known else ""), USAGE, "bad_argument")
            known[name].check(value)
        return given


def find_command(request: Any) -> Command:
    """The command that a request names."""
    name = request.get("command") if isinstance(request, dict) else None
    if not isinstance(name, str):
        raise CommandError('a request is a JSON object on one line, such as {"command": "count"}', USAGE, "malformed")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "there are " + ", ".join(COMMANDS)
        raise CommandError(f"unknown command '{name[:64]}'; {hint}", USAGE, "unknown_command")
    return COMMANDS[name]


def elsewhere(module: str, name: str) -> Callable[[Services, Mapping[str, Any]], Answers]:
    """A handler of handlers/`module`.py, which is loaded when it is first needed."""
    def handler(services: Services, arguments: Mapping[str, Any]) -> Answers:
        found: Callable[[Services, Mapping[str, Any]], Answers] = getattr(
            importlib.import_module(f"pyfw.edge.control.handlers.{module}"), name)
        return (yield from found(services, arguments))
    return handler


FILTERS = (
    Argument("family", "only this family", ("-f", "--family"), choices=("ipv4", "ipv6")),
    Argument("protocol", "only this protocol, a name or a number", ("-p", "--proto", "--protocol")),
    Argument("src", "only connections opened from this address or network", ("-s", "--src", "--orig-src")),
    Argument("dst", "only connections opened to this address or network", ("-d", "--dst", "--orig-dst")),
    Argument("reply_src", "only connections answered from this address or network", ("-r", "--reply-src")),
    Argument("reply_dst", "only connections whose answers go to this address or network", ("-q", "--reply-dst")),
    Argument("mask_src", "the bits of --src that count, as an address", ("--mask-src",)),
    Argument("mask_dst", "the bits of --dst that count, as an address", ("--mask-dst",)),
    Argument("sport", "only this source port", ("--sport", "--orig-port-src"), int),
    Argument("dport", "only this destination port", ("--dport", "--orig-port-dst"), int),
    Argument("reply_sport", "only this source port of the answers", ("--reply-port-src",), int),
    Argument("reply_dport", "only this destination port of the answers", ("--reply-port-dst",), int),
    Argument("icmp_type", "only requests of this ICMP type", ("--icmp-type",), int),
    Argument("icmp_code", "only requests of this ICMP code", ("--icmp-code",), int),
    Argument("icmp_id", "only requests with this ICMP id", ("--icmp-id",), int),
    Argument("state", "only TCP connections in this state", ("--state",)),
    Argument("status", "only connections with all of these: ASSURED (eviction spares it), SEEN_REPLY, EXPECTED, UNREPLIED",
             ("-u", "--status")),
    Argument("mark", "only connections with this mark, or MARK/MASK: that mark under the mask", ("-m", "--mark")),
    Argument("id", "only the connection with this id, which -o json shows", ("--id",), int),
)
OUTPUT = Argument("output", "format: proc as /proc/net/ip_conntrack (IPv4 only), nf as /proc/net/nf_conntrack, json",
                  ("-o", "--output"), choices=("proc", "nf", "json"))

COMMANDS: dict[str, Command] = {command.name: command for command in (
    Command("list-conntrack", "list the connections", elsewhere("connections", "list_conntrack"), arguments=(*FILTERS, OUTPUT)),
    Command("count", "how many connections there are, or how many the filters select", elsewhere("connections", "count"),
            arguments=FILTERS),
    Command("list-expect", "list the connections that helpers expect", elsewhere("connections", "list_expect")),
    Command("events", "show connections as they begin, change and go, in the words of conntrack",
            elsewhere("events", "events"), others=3, arguments=(
                Argument("event_mask", "only these: NEW, UPDATE, DESTROY, with commas (default: all)", ("-e", "--event-mask")),
                *FILTERS,
                Argument("output", "format: text (default) or json; more in a line of text: id, timestamp, extended, with commas",
                         ("-o", "--output")))),
    Command("list-rules", "print the rules as iptables -S does", elsewhere("rules", "list_rules"), arguments=(
        Argument("chain", "only this chain"),
        Argument("verbose", "with packet and byte counters", ("-v", "--verbose"), bool),
        Argument("table", "the table (default: filter)", ("-t", "--table"), choices=("filter", "raw")))),
    Command("explain", "what would become of a packet, and why; nothing is changed",
            elsewhere("explain", "explain"), client="read_capture", others=2, arguments=(
                Argument("words", "such as: tcp 10.0.0.5:40000 203.0.113.7:443 --in eth1 --out eth0", kind=list),)),
    Command("trace", "show packets as they are judged, each with the rules it met",
            elsewhere("explain", "trace"), needs_root=True, arguments=(
                Argument("words", "such as: -p tcp --dport 443 --count 5", kind=list),)),
    Command("stats", "counters: packets, refusals by name, table, queue", elsewhere("daemon", "stats"), client="show_stats", arguments=(
        Argument("json", "as one JSON object", ("--json",), bool),
        Argument("watch", "again and again, each counter with its rate (default: every second)", ("--watch",), float, bare=1.0))),
    Command("top", "the busiest connections, on a live screen; h shows its keys", elsewhere("top", "top"),
            client="show_top", others=3, arguments=(
        *FILTERS,
        Argument("sort", "first the most bytes or packets per second, or the oldest (default: bytes)",
                 ("--sort",), choices=("bytes", "packets", "age")),
        Argument("reverse", "the other end first", ("-R", "--reverse"), bool),
        Argument("lines", "so many connections (default: 20; on a screen, as many as fit)", ("-n", "--lines"), int),
        Argument("interval", "seconds that a sample takes (default: 1)", ("-i", "--interval"), float),
        Argument("once", "one sample as text, then end; the default where the output is no terminal", ("--once",), bool),
        Argument("json", "one sample as one JSON object", ("--json",), bool))),
    Command("sources", "list who began the connections, if limits.per_source is set: how many each has, and began lately",
            elsewhere("sources", "sources"), arguments=(
                Argument("number", "only the NUMBER that have the most", ("-n", "--number"), int),
                Argument("json", "one JSON object a line", ("--json",), bool))),
    Command("flush", "forget all connections", elsewhere("connections", "flush"), needs_root=True),
    Command("delete", "forget the selected connections, and print them", elsewhere("connections", "delete"), needs_root=True,
            arguments=(*FILTERS, OUTPUT)),
    Command("reload", "read the config again; if it is bad, the old rules stay", elsewhere("daemon", "reload"), needs_root=True, arguments=(
        Argument("confirm", "take the rules back after so many seconds, unless confirmed", ("--confirm",), int),
        Argument("kill_states", "then forget the connections that the new rules would not have accepted, and print them",
                 ("--kill-states",), bool))),
    Command("confirm", "keep the rules that `reload --confirm` or `pyfw run --confirm` has on trial", elsewhere("daemon", "confirm"),
            needs_root=True),
    Command("shadow", "rules that are judged and not enforced: what they would decide otherwise (diff), their counters (rules), "
            "count anew (reset)", elsewhere("shadow", "shadow"), needs_root=True, arguments=(
                Argument("action", "diff, rules or reset (default: diff)", choices=("diff", "rules", "reset")),
                Argument("chain", "rules: only this chain"),
                Argument("table", "rules: the table (default: filter)", ("-t", "--table"), choices=("filter", "raw")),
                Argument("json", "diff: one JSON object for each", ("--json",), bool))),
    Command("save", "write the rules as they are now to the file that the config reads them from",
            elsewhere("rules", "save"), client="write_rules", needs_root=True, arguments=(Argument("file", "another file", is_path=True),)),
    Command("rules-saved", "the config's files are written", elsewhere("rules", "rules_saved"), needs_root=True, spoken=False),
    Command("iptables", "what pyfw-iptables does",
            elsewhere("rules", "run_iptables"), needs_root=True, spoken=False, arguments=(
        Argument("words", "the command line of iptables", kind=list), Argument("family", "4 or 6", kind=int))),
    Command("iptables-save", "what pyfw-iptables-save does", elsewhere("rules", "iptables_save"), spoken=False, arguments=(
        Argument("family", "4 or 6", kind=int), Argument("counters", "with counters", kind=bool),
        Argument("table", "only this table", choices=("filter", "raw")))),
    Command("iptables-restore", "what pyfw-iptables-restore does",
            elsewhere("rules", "iptables_restore"), needs_root=True, spoken=False, arguments=(
        Argument("family", "4 or 6", kind=int),
        Argument("noflush", "keep what is there", kind=bool), Argument("test", "change nothing", kind=bool),
        Argument("counters", "restore counters", kind=bool), Argument("skip_unsupported", "leave out what pyfw does not do", kind=bool),
        Argument("verbose", "say what is done", kind=bool),
        Argument("table", "only this table", choices=("filter", "raw")))),
    Command("ping", "wait until every packet queued so far has its verdict", elsewhere("daemon", "ping")),
    Command("set", "address sets, as ipset has them: create, add, del, test, list, save, restore, flush, swap, rename, destroy",
            elsewhere("sets", "run_set_command"), client="send_in_pieces", needs_root=True, arguments=(
                Argument("words", "what ipset takes, such as: add blocklist 192.0.2.0/24 timeout 600", kind=list),
                Argument("text", "what `restore` reads", typed=False),
                Argument("line", "number of the text's first line", kind=int, typed=False))),
    Command(HAND_OVER, "what pyfw run --takeover asks for", elsewhere("daemon", "hand_over"), needs_root=True, spoken=False),
    Command(FINISH_HANDOVER, "the successor judges", elsewhere("daemon", "finish_handover"), needs_root=True, spoken=False),
    Command("version", "the daemon's version", elsewhere("daemon", "version")),
)}
