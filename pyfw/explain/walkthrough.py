"""A packet's way through the rules, in words: each rule it met, and why it did or did not match.

Reads what a PacketTrace holds; knows no socket and changes nothing.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pyfw.engine.observer import Facts, PacketTrace, RuleHit
from pyfw.rules.code import Action, IcmpTest, RuleCode, StateTest, TransportTest
from pyfw.rules.language.extensions.header import IP, IP_FIELDS
from pyfw.rules.language.printing import print_rule
from pyfw.rules.model import BUILTIN_CHAINS, Match, Rule, Setting
from pyfw.rules.names import TCP_FLAGS
from pyfw.rules.program.flat import HEADER_TESTS
from pyfw.rules.program.linker import chain_end
from pyfw.rules.program.program import Program
from pyfw.rules.values import PortRange, TcpFlags, print_protocol
from pyfw.rules.xt.packet import TcpOptionTest

FITS_NOT, FITS, FITS_DROP, FITS_NO_ROOM = range(4)
TABLES = tuple(BUILTIN_CHAINS)
_OPTIONS = {field: option for option, field in IP_FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Visit:
    """A rule, or the end of a chain, that the packet met."""

    table: str
    rule: str               # filter:FORWARD:rule:3, as the kernel's TRACE has it
    text: str               # -A FORWARD ..., -P FORWARD DROP; for the end of one's own chain -N CHAIN
    depth: int              # how many jumps deep
    outcome: str            # matched, no, dropped; end: of a chain
    why: str                # what did not match and what the packet has instead; where it goes from here


def visits(packet_trace: PacketTrace) -> Iterator[Visit]:
    """In order.  Without its program nothing is known of the rules, and there are none."""
    program = packet_trace.program
    if program is None:
        return
    family = 6 if ":" in packet_trace.facts.src else 4
    callers: list[str] = []
    table = ""
    for step in packet_trace.steps:
        if table != TABLES[step.table]:
            table, callers = TABLES[step.table], []
        visit = _Meeting(packet_trace, program, step, family, table, len(callers)).visit()
        action, chain, target = _way(program, step.number, family)
        if step.fit == FITS:
            if action is Action.AUDIT:
                visit = replace(visit, why="it only audits: on as if it had not matched")
            elif action is Action.JUMP:
                callers.append(chain)
                visit = replace(visit, why=f"to {target}")
            elif action is Action.GOTO:
                visit = replace(visit, why=f"on to {target}, not to come back")
            elif action is Action.RETURN:
                visit = replace(visit, why=f"back to {callers.pop()}" if callers else "to the policy")
        yield visit


def _way(program: Program, number: int, family: int) -> tuple[Action, str, str]:
    """What the rule does, the chain it stands in, and the chain it leads to."""
    _, chain, _ = program.numbering.places[number]
    code = program.rule_code(number, family) or chain_end(chain, family)
    return code.action, chain.name, code.chain


class _Meeting:
    """One rule meets one packet."""

    def __init__(self, packet_trace: PacketTrace, program: Program, step: RuleHit, family: int, table: str, depth: int) -> None:
        self.facts: Facts = packet_trace.facts
        self.step = step
        self.table = table
        self.depth = depth
        self.state = packet_trace.judgement.state if table == "filter" else None
        self.code: RuleCode | None = program.rule_code(step.number, family)
        self.name = program.numbering.name(step.number)
        self.text = program.rule_text(step.number, family)
        _, chain, index = program.numbering.places[step.number]
        self.rule = chain.rules[index] if index < len(chain.rules) else None

    def visit(self) -> Visit:
        fit = self.step.fit
        outcome = {FITS_NOT: "no", FITS: "matched"}.get(fit, "dropped")
        why = ""
        if self.rule is None:
            outcome = "end"
        elif fit == FITS_DROP and self.rule.audit:
            outcome, why = "no", "it only audits a header that is missing or broken"
        elif fit == FITS_NO_ROOM:
            outcome, why = "no" if self.rule.audit else "dropped", "there is no room for what this rule remembers"
        elif fit == FITS_NOT:
            why = self.why_not(self.rule)
        elif fit == FITS_DROP:
            why = "the header that this rule asks about is missing or broken"
        return Visit(self.table, self.name, self.text, self.depth, outcome, why)

    def why_not(self, rule: Rule) -> str:
        if self.code is not None and self.step.test is not None:
            return self.test_failed(self.code.tests[self.step.test], self.code.origins[self.step.test])
        if self.step.state:
            return self.state_text()
        header = rule.match(IP.name) or Match(IP.name)
        return "; ".join(self.header_failed(header, field) for field, bit in HEADER_TESTS.items() if self.step.header & bit)

    def state_text(self) -> str:
        return "no state is known yet" if self.state is None else f"state is {self.state.name}"

    def header_failed(self, header: Match, field: str) -> str:
        has = {"source": self.facts.src, "destination": self.facts.dst, "protocol": print_protocol(self.facts.protocol),
               "indev": self.facts.indev or "none", "fragment": "no later fragment",
               "outdev": self.facts.outdev or "none"}[field]
        if field == "outdev" and self.table == "raw":
            has = "none before routing"
        return f"{_words(IP.name, header[_OPTIONS[field]])}: packet has {has}"

    def test_failed(self, test: object, match: Match) -> str:
        if isinstance(test, StateTest):
            return self.state_text()
        if isinstance(test, TransportTest):
            if self.facts.fragment == 2:
                return "a later fragment has no ports"
            return "; ".join(self.transport_failed(match))
        if isinstance(test, IcmpTest):
            return f"{_words(match.name, *match.settings)}: packet has {self.facts.icmp_type}/{self.facts.icmp_code}"
        if isinstance(test, TcpOptionTest):
            return _option_words(match.name, match["--tcp-option"])
        value = VALUES.get(match.name)
        return _words(match.name, *match.settings) + (f": packet has {value(self.facts)}" if value else "")

    def transport_failed(self, match: Match) -> Iterator[str]:
        has = {"--sport": self.facts.sport, "--dport": self.facts.dport, "--tcp-flags": self.facts.tcp_flags}
        for setting in filter(lambda setting: setting.option in has, match.settings):
            value = has[setting.option]
            if _holds(setting.value, value) == setting.inverted:
                shown = flag_names(value) if setting.option == "--tcp-flags" else value
                yield f"{_option_words(match.name, setting)}: packet has {shown}"


def flag_names(bits: int) -> str:
    return ",".join(name for name, bit in TCP_FLAGS.items() if bits & bit) or "NONE"


def _holds(wanted: PortRange | TcpFlags, value: int) -> bool:
    if isinstance(wanted, PortRange):
        return wanted.low <= value <= wanted.high
    return value & wanted.mask == wanted.value


def _words(name: str, *settings: Setting) -> str:
    """As `iptables -S` prints the match with these settings."""
    return print_rule(Rule((Match(name, settings),)))


def _option_words(name: str, setting: Setting) -> str:
    """The same without `-m NAME`."""
    return _words(name, setting).partition(" ")[2].partition(" ")[2]


VALUES: dict[str, Callable[[Facts], object]] = {
    "length": lambda facts: f"{facts.length} bytes",
    "ttl": lambda facts: facts.ttl,
    "hl": lambda facts: facts.ttl,
    "tos": lambda facts: f"0x{facts.tos:02x}",
    "dscp": lambda facts: f"0x{facts.tos >> 2:02x}",
    "mac": lambda facts: facts.hardware or "no Ethernet address",
    "owner": lambda facts: "no owner" if facts.uid is None else f"uid {facts.uid} gid {facts.gid}",
    "multiport": lambda facts: f"ports {facts.sport} and {facts.dport}",
    "iprange": lambda facts: f"{facts.src} and {facts.dst}",
}
"""What a packet has, for matches whose test is an object of its own."""
