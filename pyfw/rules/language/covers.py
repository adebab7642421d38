"""Whether one rule matches everything that another one matches.

Conservative: when in doubt the answer is no.  A rule's matches must all hold, so that a rule covers another
if each of its matches is implied by what the other one demands.
"""
from __future__ import annotations

from pyfw.rules.language.extensions.connection import TRACKED
from pyfw.rules.model import Match, Rule, Setting
from pyfw.rules.values import Network, PortRange

CHANGING = {"limit", "hashlimit", "connlimit", "recent", "statistic", "set", "mark", "connmark"}
"""What they say of a packet may be another thing a few rules later."""


def covers(wider: Rule, narrower: Rule) -> bool:
    """Whether every packet that `narrower` matches is matched by `wider`."""
    if wider.family is not None and wider.family != narrower.family:
        return False
    return all(implied(match, narrower) for match in wider.matches)


def implied(match: Match, rule: Rule) -> bool:
    """Whether what `rule` demands implies `match`."""
    if match.name in CHANGING:
        return False
    if match.name == "comment":
        return True
    if (wanted := states_of(match)) is not None:
        return any((narrow := states_of(other)) is not None and not narrow & ~wanted for other in rule.matches)
    if match.name == "ip":
        header = rule.match("ip") or Match("ip")
        return all(header_implied(setting, header.get(setting.option)) for setting in match.settings)
    return any(other.name == match.name and settings_implied(match, other) for other in rule.matches)


def states_of(match: Match) -> int | None:
    """The states that a match allows, if that is all it asks for."""
    if match.name not in ("state", "conntrack") or len(match.settings) != 1:
        return None
    setting = match.settings[0]
    if setting.option not in ("--state", "--ctstate"):
        return None
    states: int = setting.value
    return TRACKED & ~states if setting.inverted else states & TRACKED


def settings_implied(wider: Match, narrower: Match) -> bool:
    if wider == narrower:
        return True
    if wider.name not in ("tcp", "udp", "udplite", "sctp"):
        return False
    return all((other := narrower.get(setting.option)) is not None and ports_implied(setting, other) for setting in wider.settings)


def ports_implied(wider: Setting, narrower: Setting) -> bool:
    if wider == narrower:
        return True
    if not isinstance(wider.value, PortRange) or narrower.inverted:
        return False
    one: PortRange = wider.value
    other: PortRange = narrower.value
    inside = one.low <= other.low and other.high <= one.high
    apart = other.high < one.low or one.high < other.low
    return apart if wider.inverted else inside


def header_implied(wider: Setting, narrower: Setting | None) -> bool:
    if narrower is None:
        return False
    if wider == narrower:
        return True
    if isinstance(wider.value, Network):
        return networks_implied(wider, narrower)
    if wider.option in ("-i", "-o"):
        return interfaces_implied(wider, narrower)
    return wider.option == "-p" and wider.inverted and not narrower.inverted and wider.value != narrower.value


def networks_implied(wider: Setting, narrower: Setting) -> bool:
    one: Network = wider.value
    other: Network = narrower.value
    if one.family != other.family or narrower.inverted:
        return False
    if wider.inverted:
        return bool((one.address ^ other.address) & one.mask & other.mask)
    return one.mask & ~other.mask == 0 and other.address & one.mask == one.address


def interfaces_implied(wider: Setting, narrower: Setting) -> bool:
    if narrower.inverted:
        return False
    one: str = wider.value
    other: str = narrower.value
    prefix, name = one.removesuffix("+"), other.removesuffix("+")
    if wider.inverted:
        if other.endswith("+") or one.endswith("+"):
            shorter = min(len(prefix), len(name))
            return prefix[:shorter] != name[:shorter]
        return prefix != name
    return one.endswith("+") and name.startswith(prefix)


def contradicts(rule: Rule) -> str | None:
    """Why no packet can match: two of its own parts exclude each other."""
    allowed = TRACKED
    for match in rule.matches:
        if (states := states_of(match)) is not None:
            allowed &= states
    if allowed == 0:
        return "no packet has the state that it asks for"
    return None

