"""What is known of a packet's connection.  iptables-extensions(8): state, conntrack."""
from __future__ import annotations

from functools import partial

from pyfw.enums import CtState
from pyfw.rules import names, values
from pyfw.rules.code import RuleCode
from pyfw.rules.kinds import MatchKind, Option
from pyfw.rules.model import Match


def compile_states(match: Match, code: RuleCode) -> None:
    tracked = sum(1 << state for state in CtState)
    for setting in match.settings:
        wanted = setting.value & tracked
        code.require_state(tracked & ~wanted if setting.inverted else wanted)


def states_match(name: str, option: str, known: dict[str, int]) -> MatchKind:
    return MatchKind(name, (Option(option, partial(values.parse_states, known=known),
                                   print=partial(values.print_states, known=known)),), compile_states)


MATCHES = (
    states_match("state", "--state", names.STATES),
    states_match("conntrack", "--ctstate", names.STATES | names.ADDRESS_TRANSLATION_STATES),
)
