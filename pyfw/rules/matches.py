"""The table of matches and targets: everything the rule language knows stands here once.

A new match is one entry in MATCHES: its options with their parsers and printers, and the function that
compiles it.  The readers (iptables.py, yaml_rules.py), the printer and the compiler know no option by name.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pyfw.enums import CtState, Reject
from pyfw.rules import names, values
from pyfw.rules.code import Action, IcmpTest, LogSettings, RuleCode, TransportTest
from pyfw.rules.model import Match, Rule, Setting, Target
from pyfw.rules.values import IcmpType, Network

LONGEST_COMMENT = 255
LONGEST_LOG_PREFIX = 29


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a match or target.

    `parse` takes as many words as `words` says and returns the value, or raises ValueError.  A value for which
    `trivial` is true says nothing: it is left out, as iptables does, and negating it is an error.
    """

    name: str
    parse: Callable[..., object]
    aliases: tuple[str, ...] = ()
    words: int = 1
    negatable: bool = True
    print: Callable[..., str] = str
    trivial: Callable[..., bool] = lambda value: False
    several: bool = False           # parse returns a tuple of values, each of which makes its own rule
    free_text: bool = False         # a value may begin with `-`
    stored_as: str = ""             # another option's name, of which this one is a short form

    @property
    def stored(self) -> str:
        return self.stored_as or self.name


def flag(name: str) -> Option:
    return Option(name, lambda: True, words=0, negatable=False, print=lambda value: "")


@dataclass(frozen=True, slots=True)
class MatchKind:
    """A match module.  `protocol`: what -p must say for it; `family`: the only one it exists in."""

    name: str
    options: tuple[Option, ...]
    compile: Callable[[Match, RuleCode], None]
    aliases: tuple[str, ...] = ()
    protocol: int | None = None
    family: int | None = None
    needs_option: bool = True


@dataclass(frozen=True, slots=True)
class TargetKind:
    """A target.  `check` raises ValueError for a rule it does not fit; `settle` makes it canonical in the rule's family."""

    name: str
    compile: Callable[[Target, RuleCode], None]
    options: tuple[Option, ...] = ()
    tables: tuple[str, ...] = ("raw", "filter")
    needs_option: bool = False
    check: Callable[[Target, Rule], None] = lambda target, rule: None
    settle: Callable[[Target, int | None], Target] = lambda target, family: target


def option_named(options: tuple[Option, ...], name: str) -> Option | None:
    return next((option for option in options if name == option.name or name in option.aliases), None)


# -- the IP header's own tests ------------------------------------------------------------------------------------

def is_whole_space(network: Network) -> bool:
    return network.mask == 0


IP_FIELDS = {"-s": "source", "-d": "destination", "-i": "indev", "-o": "outdev", "-p": "protocol", "-f": "fragment"}


def compile_ip(match: Match, code: RuleCode) -> None:
    for setting in match.settings:
        field = IP_FIELDS[setting.option]
        setattr(code, field, setting.value)
        code.tested.add(field)
        if setting.inverted:
            code.inverted.add(field)


IP = MatchKind("ip", needs_option=False, compile=compile_ip, options=(
    Option("-s", values.parse_networks, ("--source", "--src"), trivial=is_whole_space, several=True),
    Option("-d", values.parse_networks, ("--destination", "--dst"), trivial=is_whole_space, several=True),
    Option("-i", values.parse_interface, ("--in-interface", "--in"), trivial="+".__eq__),
    Option("-o", values.parse_interface, ("--out-interface", "--out"), trivial="+".__eq__),
    Option("-p", values.parse_protocol, ("--protocol", "--proto"), print=values.print_protocol, trivial=(0).__eq__),
    Option("-f", lambda: True, ("--fragments", "--fragment"), words=0, print=lambda value: ""),
))


# -- matches --------------------------------------------------------------------------------------------------------

def all_ports(ports: values.PortRange) -> bool:
    return (ports.low, ports.high) == (0, 65535)


SPORT = Option("--sport", values.parse_ports, ("--source-port",), trivial=all_ports)
DPORT = Option("--dport", values.parse_ports, ("--destination-port",), trivial=all_ports)


def compile_transport(match: Match, code: RuleCode) -> None:
    fields: dict[str, object] = {"tcp": match.name == "tcp"}
    for setting in match.settings:
        field = {"--sport": "sport", "--dport": "dport", "--tcp-flags": "flags"}[setting.option]
        fields |= {field: setting.value, f"{field}_inverted": setting.inverted}
    code.tests.append(TransportTest(**fields))


def ports_match(name: str) -> MatchKind:
    return MatchKind(name, (SPORT, DPORT), compile_transport, protocol=names.PROTOCOLS[name], needs_option=False)


def compile_icmp(match: Match, code: RuleCode) -> None:
    setting = match.settings[0]
    value: IcmpType = setting.value
    low, high = (0, 255) if value.code is None else (value.code, value.code)
    any_type = match.name == "icmp" and value.type == names.ANY_ICMP_TYPE
    code.tests.append(IcmpTest(value.type, low, high, any_type, setting.inverted))


def compile_states(match: Match, code: RuleCode) -> None:
    tracked = sum(1 << state for state in CtState)
    for setting in match.settings:
        wanted = setting.value & tracked
        code.require_state(tracked & ~wanted if setting.inverted else wanted)


def states_match(name: str, option: str, known: dict[str, int]) -> MatchKind:
    return MatchKind(name, (Option(option, partial(values.parse_states, known=known),
                                   print=partial(values.print_states, known=known)),), compile_states)


MATCHES: dict[str, MatchKind] = {kind.name: kind for kind in (
    IP,
    MatchKind("tcp", compile=compile_transport, protocol=6, needs_option=False, options=(
        SPORT, DPORT,
        Option("--tcp-flags", values.parse_tcp_flags, words=2),
        Option("--syn", lambda: values.SYN_ONLY, words=0, stored_as="--tcp-flags"),
    )),
    ports_match("udp"),
    ports_match("udplite"),
    ports_match("sctp"),
    MatchKind("icmp", compile=compile_icmp, protocol=1, family=4, options=(
        Option("--icmp-type", partial(values.parse_icmp_type, known=names.ICMP_TYPES), print=values.print_icmp_type),
    )),
    MatchKind("icmp6", compile=compile_icmp, protocol=58, family=6, aliases=("icmpv6", "ipv6-icmp"), options=(
        Option("--icmpv6-type", partial(values.parse_icmp_type, known=names.ICMPV6_TYPES)),
    )),
    states_match("state", "--state", names.STATES),
    states_match("conntrack", "--ctstate", names.STATES | names.ADDRESS_TRANSLATION_STATES),
    MatchKind("comment", compile=lambda match, code: None, options=(
        Option("--comment", partial(values.parse_text, longest=LONGEST_COMMENT, what="the comment"),
               negatable=False, print=values.quote, free_text=True),
    )),
)}


def match_kind(name: str) -> MatchKind | None:
    """The kind that `-m name` loads; the IP header's tests need no -m and have none."""
    return next((kind for kind in MATCHES.values() if kind is not IP and name in (kind.name, *kind.aliases)), None)


def match_for_protocol(number: int) -> MatchKind | None:
    """The match that `-p` brings along when one of its options is met."""
    return next((kind for kind in MATCHES.values() if kind.protocol == number), None)


# -- targets ----------------------------------------------------------------------------------------------------------

def act(action: Action) -> Callable[[Target, RuleCode], None]:
    def compile_action(target: Target, code: RuleCode) -> None:
        code.action = action
    return compile_action


PORT_UNREACHABLE = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}


def reject_kind(target: Target) -> str:
    setting = target.get("--reject-with")
    return setting.value if setting else names.ANY_PORT_UNREACHABLE


def reject_family(kind: str) -> int | None:
    return 4 if kind in names.REJECTS_V4 else 6 if kind in names.REJECTS_V6 else None


def settle_reject(target: Target, family: int | None) -> Target:
    """Plain REJECT answers port-unreachable; a rule bound to a family says which of the two."""
    if reject_kind(target) != names.ANY_PORT_UNREACHABLE:
        return target
    return replace(target, settings=(Setting("--reject-with", PORT_UNREACHABLE[family]),) if family else ())


def check_reject(target: Target, rule: Rule) -> None:
    protocol = (header.get("-p") if (header := rule.match("ip")) else None)
    if reject_kind(target) == "tcp-reset" and not (protocol and protocol.value == 6 and not protocol.inverted):
        raise ValueError("--reject-with tcp-reset answers TCP only; say -p tcp")


def compile_reject(target: Target, code: RuleCode) -> None:
    code.action = Action.DROP
    kinds = names.REJECTS_V4 | names.REJECTS_V6 | {"tcp-reset": Reject.TCP_RESET}
    code.reject = kinds[reject_kind(target)]


def compile_log(target: Target, code: RuleCode) -> None:
    code.action = Action.LOG
    given = {setting.option: setting.value for setting in target.settings}
    code.log = LogSettings(
        prefix=given.get("--log-prefix", ""), level=given.get("--log-level", DEFAULT_LOG_LEVEL),
        tcp_sequence="--log-tcp-sequence" in given, tcp_options="--log-tcp-options" in given,
        ip_options="--log-ip-options" in given)


def check_ct(target: Target, rule: Rule) -> None:
    if len(target.settings) != 1:
        raise ValueError("CT takes one of --notrack and --helper NAME")


def compile_ct(target: Target, code: RuleCode) -> None:
    helper = target.get("--helper")
    code.action = Action.HELPER if helper else Action.NOTRACK
    code.helper = helper.value if helper else ""


DEFAULT_LOG_LEVEL = 4

TARGETS: dict[str, TargetKind] = {kind.name: kind for kind in (
    TargetKind("ACCEPT", act(Action.ACCEPT)),
    TargetKind("DROP", act(Action.DROP)),
    TargetKind("RETURN", act(Action.RETURN)),
    TargetKind("REJECT", compile_reject, tables=("filter",), check=check_reject, settle=settle_reject, options=(
        Option("--reject-with", values.parse_reject, negatable=False),
    )),
    TargetKind("LOG", compile_log, options=(
        Option("--log-prefix", partial(values.parse_text, longest=LONGEST_LOG_PREFIX, what="the log prefix"),
               negatable=False, print=values.quote, free_text=True),
        Option("--log-level", values.parse_log_level, negatable=False, trivial=DEFAULT_LOG_LEVEL.__eq__),
        flag("--log-tcp-sequence"), flag("--log-tcp-options"), flag("--log-ip-options"),
        flag("--log-uid"), flag("--log-macdecode"),
    )),
    TargetKind("NOTRACK", act(Action.NOTRACK), tables=("raw",)),
    TargetKind("CT", compile_ct, tables=("raw",), check=check_ct, options=(
        flag("--notrack"),
        Option("--helper", partial(values.parse_text, longest=15, what="the helper's name"), negatable=False,
               print=values.quote),
    )),
)}


# -- families -----------------------------------------------------------------------------------------------------------

def implied_families(rule: Rule) -> set[int]:
    """The families that the parts of a rule exist in, where they do not exist in both."""
    found: set[int | None] = {match_family(match) for match in rule.matches}
    found |= {setting.value.family for match in rule.matches for setting in match.settings
              if isinstance(setting.value, Network)}
    if rule.target and rule.target.name == "REJECT":
        found.add(reject_family(reject_kind(rule.target)))
    return found - {None}


def match_family(match: Match) -> int | None:
    if match.name == "ip" and match.get("-f"):
        return 4
    return MATCHES[match.name].family
