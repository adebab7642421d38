"""Helpers: protocols that announce, inside one connection, another connection to come.

This is pyfw's public extension point.  A helper reads the payload of the connections it belongs to and
answers which connections to expect; the engine makes those RELATED.  A helper opens no socket, reads no
clock and keeps nothing outside the memory it is handed: that memory lives and dies with the connection,
and survives a restart of the daemon.

A helper comes into being in one of two ways: it is built in (`ftp`), or an installed distribution names
it in the entry-point group `pyfw.helpers`:

    [project.entry-points."pyfw.helpers"]
    mychat = "my_package.mychat:MyChatHelper"

after which `helpers: {mychat: {ports: [6100], colour: blue}}` in pyfw's configuration calls
`MyChatHelper(colour="blue")` and gives it every new connection to port 6100.
"""
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, Protocol

from pyfw.enums import Direction, Reason, Verdict

__all__ = ["ENTRY_POINT_GROUP", "MEMORY_SIZE", "Expectation", "Finding", "Helper", "HelperBinding",
           "HelperError", "Segment", "available", "bind", "make_helper"]

ENTRY_POINT_GROUP = "pyfw.helpers"
MEMORY_SIZE = 20                # bytes that a helper may remember of one connection
IPPROTO_TCP = 6

_BUILT_IN = (EntryPoint("ftp", "pyfw.helpers.ftp:FtpHelper", ENTRY_POINT_GROUP),)
_HELPER_ATTRIBUTES = ("name", "protocol", "max_expected", "timeout_s", "inspect")


class HelperError(ValueError):
    """A helper that does not exist, cannot be imported, or does not take what it was given."""


class Segment(NamedTuple):
    """One packet's payload, as a helper sees it.  Addresses are packed: 4 or 16 bytes."""
    family: int                 # 4 or 6
    direction: Direction        # ORIGINAL: from the side that opened the connection
    seq: int                    # TCP sequence number of payload[0]; 0 for other protocols
    payload: bytes              # whole, never empty, never cut by a snap length
    sender: bytes
    receiver: bytes
    sender_port: int
    receiver_port: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """A connection to come: its first packet is RELATED.  Used once."""
    source: bytes | None        # packed address; None: anyone
    destination: bytes
    port: int                   # at the destination; the source may use any
    protocol: int = IPPROTO_TCP
    active: bool = True         # False: admits nothing before a later Finding says `activate`


@dataclass(frozen=True, slots=True)
class Finding:
    """What a helper made of one segment."""
    verdict: Verdict = Verdict.ACCEPT
    reason: Reason = Reason.NONE
    expectations: tuple[Expectation, ...] = ()
    activate: bool = False      # the inactive expectations of this connection become active
    cancel: bool = False        # the inactive expectations of this connection go
    remark: str = ""            # in words: why an announcement opened nothing


class Helper(Protocol):
    """What the engine needs of a helper.

    `inspect` is called for packets with payload only, in ESTABLISHED connections that have seen traffic both
    ways, after the rules accepted the packet and before its verdict is sent; one call at a time.  `memory` is
    MEMORY_SIZE writable bytes, zero for a new connection, all ones for one that `adopt: kernel` took over in the
    middle.  None means: accept, nothing found.  The payload is hostile: time must stay linear in its length.  An
    exception drops the packet (Reason.HELPER_ERROR).  Helpers may take about a fifth of the packets' time: a
    connection with too many segments goes on without one (Reason.HELPER_BUSY).
    """
    name: str                   # as in `-j CT --helper NAME` and in the configuration
    protocol: int               # IPPROTO_* of the connections it reads
    max_expected: int           # expectations that one connection may hold; a new one replaces the oldest
    timeout_s: int              # how long an expectation lives

    def inspect(self, segment: Segment, memory: memoryview) -> Finding | None:
        """Read one segment, update the memory, and say what to expect."""


@dataclass(frozen=True, slots=True)
class HelperBinding:
    """A helper and the ports on which it belongs to new connections, by their first packet's destination."""
    helper: Helper
    ports: tuple[int, ...]

    def __post_init__(self) -> None:
        for port in self.ports:
            if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
                raise HelperError(f"helper {self.helper.name}: port {port!r}: must be a number from 1 to 65535")


def available() -> dict[str, EntryPoint]:
    """Every helper there is, by name; nothing is imported.

    Raises HelperError if two distributions claim one name.
    """
    found = {entry.name: entry for entry in _BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        first = found.setdefault(entry.name, entry)
        if first.value != entry.value:
            raise HelperError(f"helper {entry.name}: both {first.value} and {entry.value} claim this name: "
                              f"uninstall one of them")
    return found


def make_helper(name: str, **options: object) -> Helper:
    """The helper of that name, made with its own options.  Raises HelperError with one clear line."""
    known = available()
    if name not in known:
        raise HelperError(f"helper {name}: unknown; there are: {', '.join(sorted(known))}")
    try:
        factory = known[name].load()
    except (ImportError, AttributeError) as error:
        raise HelperError(f"helper {name}: cannot import {known[name].value}: {error}") from error
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        raise HelperError(f"helper {name}: {error}; it takes: {takes}") from error
    try:
        helper: Helper = factory(**options)
    except (TypeError, ValueError) as error:
        raise HelperError(f"helper {name}: {error}") from error
    missing = [attribute for attribute in _HELPER_ATTRIBUTES if not hasattr(helper, attribute)]
    if missing:
        raise HelperError(f"helper {name}: {known[name].value} lacks {', '.join(missing)}: see pyfw.helpers.Helper")
    return helper


def bind(name: str, ports: Iterable[int], **options: object) -> HelperBinding:
    """make_helper(), bound to ports.  Raises HelperError."""
    return HelperBinding(make_helper(name, **options), tuple(ports))
