"""A rule between what the user meant and what the packet path runs: tests and actions with plain numbers.

`matches.py` writes it, `program.pyx` copies it into C arrays.  Knows neither syntax nor packets.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from pyfw.enums import CtState, Reject
from pyfw.rules.model import Match
from pyfw.rules.parts import PacketAction, PacketMatch
from pyfw.rules.values import Network, PortRange, TcpFlags

ALL_STATES = sum(1 << state for state in CtState)


class Action(Enum):
    """What a matching rule does."""

    CONTINUE = auto()       # count, go on with the next rule
    ACCEPT = auto()
    DROP = auto()           # `reject` says whether and how it is answered
    RETURN = auto()
    JUMP = auto()
    GOTO = auto()
    LOG = auto()
    NOTRACK = auto()
    HELPER = auto()
    TRACE = auto()
    OBJECT = auto()         # what `performs` does
    AUDIT = auto()          # log, go on as if the rule had not matched


@dataclass(frozen=True, slots=True)
class TransportTest:
    """Ports and TCP flags of a packet whose transport header must be there; None is not tested."""

    sport: PortRange | None = None
    dport: PortRange | None = None
    flags: TcpFlags | None = None
    sport_inverted: bool = False
    dport_inverted: bool = False
    flags_inverted: bool = False
    tcp: bool = False


@dataclass(frozen=True, slots=True)
class IcmpTest:
    """Type and codes from low to high; `any_type` matches every type and code."""

    type: int
    code_low: int
    code_high: int
    any_type: bool = False
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class StateTest:
    """Bits of CtState, one of which must be the packet's."""

    states: int


Test = TransportTest | IcmpTest | StateTest | PacketMatch


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What LOG prints besides the packet's header fields."""

    prefix: str = ""
    level: int = 4
    tcp_sequence: bool = False
    tcp_options: bool = False
    ip_options: bool = False


@dataclass(slots=True)
class RuleCode:
    """One rule.  The header's tests and `states` come first, then `tests` in the order they were written."""

    protocol: int | None = None
    source: Network | None = None
    destination: Network | None = None
    indev: str | None = None
    outdev: str | None = None
    fragment: bool = False
    tested: set[str] = field(default_factory=set)       # names of the fields above that are tested at all
    inverted: set[str] = field(default_factory=set)     # and of those that must not match
    states: int = ALL_STATES
    tests: list[Test] = field(default_factory=list)
    origins: list[Match] = field(default_factory=list)  # the match that each test was compiled from
    action: Action = Action.CONTINUE
    reject: Reject = Reject.NONE
    chain: str = ""                 # JUMP, GOTO
    helper: str = ""                # HELPER
    log: LogSettings | None = None  # LOG
    performs: PacketAction | None = None    # OBJECT

    def perform(self, action: PacketAction) -> None:
        """Have `action` done; the packet goes on with the next rule."""
        self.action, self.performs = Action.OBJECT, action

    def require_state(self, states: int) -> None:
        """A state test costs nothing among the header's tests, and may stand there unless another test comes before it:
        tests of the transport header drop packets that have none."""
        if self.tests:
            self.tests.append(StateTest(states))
        else:
            self.states &= states
