"""Policy tests on the engine: each case has a connection table and a clock of its own.  Opens only captures."""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import product

from pyfw.config.engine import engine_from_config, rule_texts
from pyfw.config.schema import Config
from pyfw.edge.capture.pcap import Capture, CaptureError
from pyfw.engine.engine import Engine, Judgement
from pyfw.enums import Hook, Reject
from pyfw.offline.cases import (
    Address,
    CaptureCase,
    Case,
    End,
    Expected,
    PacketStep,
    PolicyError,
    Traffic,
    TrafficCase,
    TrafficStep,
    WaitStep,
    families,
)
from pyfw.offline.replay import Replay
from pyfw.rules import names, values
from pyfw.wire.build import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, IpHeader, sctp_chunk

BEGIN_NS = 1_700_000_000 * 10**9
STEP_NS = 10**6                 # between two packets of a case
QUOTED = 64                     # bytes of a packet that an ICMP error quotes
FIRST_HOST, SECOND_HOST = 10, 20        # of a zone's network
REJECT_NAMES = {number: name for name, number in {**names.REJECTS_V4, **names.REJECTS_V6, "tcp-reset": Reject.TCP_RESET}.items()}


@dataclass
class Outcome:
    """A case, for one family: what went otherwise than expected."""

    name: str
    case: Case
    failures: list[str] = field(default_factory=list)
    packets: int = 0


@dataclass
class Run:
    """All outcomes, and how often each rule was met: name -> packets; with the rules' texts."""

    outcomes: list[Outcome] = field(default_factory=list)
    touched: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failures]

    @property
    def untouched(self) -> list[str]:
        """The rules and policies that no case met, as `name  text`."""
        return [f"{name}  {self.texts[name]}" for name, count in self.touched.items() if count == 0]


@dataclass
class Side:
    """One end of a connection that a case plays."""

    address: Address
    port: int
    seq: int
    last: bytes = b""           # the packet that it sent last


def run_cases(config: Config, cases: list[Case]) -> Run:
    """Raises PolicyError for a case that cannot be played."""
    run = Run()
    for case in cases:
        if isinstance(case, CaptureCase):
            play_capture(run, config, case)
            continue
        shown = families(case)
        if not shown:
            raise PolicyError(f"{case.location}: the two ends have no family in common")
        for family in shown:
            name = case.name if len(shown) == 1 else f"{case.name} (IPv{family})"
            play_traffic(run, config, case, family, name)
    return run


def play_traffic(run: Run, config: Config, case: TrafficCase, family: int, name: str) -> None:
    outcome = Outcome(name, case)
    pairs = port_pairs(case.traffic)
    for sport, dport in pairs[:1] if case.steps else pairs:
        engine = engine_from_config(config)
        player = Player(engine, outcome, case, family)
        if case.expected is None:
            player.play_steps()
        else:
            player.first_packet(case.traffic, case.expected, sport, dport, "")
        note_counters(run, engine)
    run.outcomes.append(outcome)


def port_pairs(traffic: Traffic) -> list[tuple[int, int]]:
    pairs = list(product(traffic.source.ports, traffic.destination.ports))
    return pairs if traffic.protocol in (TCP, UDP, SCTP, UDPLITE) else pairs[:1]


def play_capture(run: Run, config: Config, case: CaptureCase) -> None:
    outcome, engine = Outcome(case.name, case), engine_from_config(config)
    replay = Replay(engine, case.hook, case.indev, case.outdev)
    try:
        with Capture(case.pcap) as capture:
            for replayed in replay.run(capture):
                expected = case.frames.get(replayed.record.number, case.frames.get(0))
                if expected is None or replayed.verdict is None:
                    continue
                outcome.packets += 1
                came = f"{replayed.verdict} {replayed.state}"
                wanted = f"{'DROP' if expected.verdict == 'REJECT' else expected.verdict} {expected.state or replayed.state}"
                if came != wanted:
                    outcome.failures.append(f"frame {replayed.record.number}: {came} instead of {wanted}")
    except CaptureError as error:
        raise PolicyError(f"{case.location}: {error}") from None
    note_counters(run, engine)
    run.outcomes.append(outcome)


def note_counters(run: Run, engine: Engine) -> None:
    if engine.program is None:
        return
    for name, text in rule_texts(engine.program).items():
        if ":return:" not in name:
            run.texts[name] = text
            run.touched.setdefault(name, 0)
    for (table, chain), (policy, rules) in engine.program.counters().items():
        for index, (packets, _) in enumerate(rules, 1):
            run.touched[f"{table}:{chain}:rule:{index}"] += packets
        if policy is not None:
            run.touched[f"{table}:{chain}:policy:{len(rules) + 1}"] += policy[0]


class Player:
    """Sends the packets of one case to an engine, and compares."""

    def __init__(self, engine: Engine, outcome: Outcome, case: TrafficCase, family: int) -> None:
        self.engine, self.outcome, self.case, self.family = engine, outcome, case, family
        self.now_ns = BEGIN_NS
        engine.zone_offset_s = time.localtime(BEGIN_NS // 10**9).tm_gmtoff

    # -- single packets ---------------------------------------------------------------------------------------------------

    def first_packet(self, traffic: Traffic, expected: Expected, sport: int, dport: int, label: str) -> None:
        packet = self.build(traffic, IpHeader(*self.addresses(traffic)), sport, dport)
        ports = f"ports {sport} -> {dport}: " if len(port_pairs(traffic)) > 1 else ""
        self.judge(packet, traffic.source, traffic.destination, expected, f"{label}{ports}")

    def addresses(self, traffic: Traffic) -> tuple[Address, Address]:
        """Each zone's first host, unless a case says which: the same one in all steps of a case."""
        source, destination = traffic.source, traffic.destination
        other = SECOND_HOST if source.zone is destination.zone else FIRST_HOST
        return self.host(source, FIRST_HOST), self.host(destination, other)

    def host(self, end: End, number: int) -> Address:
        host = end.host(self.family, number)
        if host is None:
            raise PolicyError(f"{self.case.location}: a step needs an IPv{self.family} host of zone {end.zone.name}, and there is none")
        return host

    def build(self, traffic: Traffic, header: IpHeader, sport: int, dport: int) -> bytes:
        """The packet that begins a connection, or one with the flags or the type that the case says."""
        protocol, what = traffic.protocol, traffic.what
        try:
            if protocol == TCP:
                flags = values.parse_flag_set(what[0]) if what else 0x02
                return header.tcp(sport, dport, flags, seq=1000, ack=0)
            if protocol in (UDP, UDPLITE):
                return header.udp(sport, dport, b"policy test", protocol=protocol)
            if protocol in (ICMP, ICMPV6):
                known = names.ICMP_TYPES if protocol == ICMP else names.ICMPV6_TYPES
                kind = values.parse_icmp_type(what[0] if what else "echo-request", known)
                return header.icmp(kind.type, kind.code or 0, 77, 1, b"policy test")
            if protocol == SCTP:
                return header.sctp(sport, dport, 0, sctp_chunk(1))
        except ValueError as error:
            raise PolicyError(f"{self.case.location}: {error}") from None
        return header.packet(protocol, b"policy test.")

    def judge(self, packet: bytes, source: End, destination: End, expected: Expected, label: str) -> None:
        hook = self.hook(source, destination)
        indev = "" if hook is Hook.OUTPUT else source.zone.interface
        outdev = "" if hook is Hook.INPUT else destination.zone.interface
        self.now_ns += STEP_NS
        judgement = self.engine.judge(packet, hook, indev, outdev, self.now_ns, trusted=True)
        self.outcome.packets += 1
        if difference := self.difference(judgement, expected):
            self.outcome.failures.append(f"{label}{difference}")

    def hook(self, source: End, destination: End) -> Hook:
        if self.case.hook is not None:
            return self.case.hook
        return Hook.OUTPUT if source.zone.is_self else Hook.INPUT if destination.zone.is_self else Hook.FORWARD

    def difference(self, judgement: Judgement, expected: Expected) -> str:
        """What came otherwise than expected, "" if nothing did."""
        verdict = "REJECT" if judgement.reject else judgement.verdict.name
        kind = REJECT_NAMES.get(judgement.reject)
        text = self.rule_text(judgement.rule)
        wrong = [f"{what} {came} instead of {wanted}" for what, came, wanted in (
            ("verdict", verdict, expected.verdict), ("state", judgement.state.name, expected.state), ("reject", kind, expected.reject))
            if wanted is not None and came != wanted]
        if expected.rule is not None and judgement.rule != expected.rule and expected.rule not in (text or ""):
            wrong.append(f"decided by {judgement.rule} instead of {expected.rule}")
        if not wrong:
            return ""
        reason = f" ({judgement.reason_text})" if judgement.reason_text else ""
        return f"{', '.join(wrong)}: state {judgement.state.name}, {verdict} by {judgement.rule}  {text}{reason}"

    def rule_text(self, name: str | None) -> str | None:
        return rule_texts(self.engine.program).get(name) if name else None

    # -- sequences --------------------------------------------------------------------------------------------------------

    def play_steps(self) -> None:
        traffic = self.case.traffic
        source, destination = self.addresses(traffic)
        opener, answerer = Side(source, traffic.source.ports[0], 1000), Side(destination, traffic.destination.ports[0], 5000)
        for number, step in enumerate(self.case.steps, 1):
            label = f"step {number}, {step.text!r}: "
            if isinstance(step, WaitStep):
                self.now_ns += step.seconds * 10**9
                self.engine.sweep(self.now_ns)
            elif isinstance(step, TrafficStep):
                self.first_packet(step.traffic, step.expected, *port_pairs(step.traffic)[0], label)
            else:
                self.play_packet(step, *((answerer, opener) if step.reply else (opener, answerer)), label)

    def play_packet(self, step: PacketStep, sender: Side, receiver: Side, label: str) -> None:
        traffic = self.case.traffic
        ends = (traffic.destination, traffic.source) if step.reply else (traffic.source, traffic.destination)
        header = IpHeader(sender.address, receiver.address)
        payload = self.payload(step, sender, receiver)
        if step.error:
            packet = header.icmp(*self.error_type(step), payload=receiver.last[:QUOTED])
        elif traffic.protocol == TCP:
            flags = values.parse_flag_set(step.flags)
            packet = header.tcp(sender.port, receiver.port, flags, seq=sender.seq, ack=receiver.seq if flags & 0x10 else 0,
                                payload=payload)
            sender.seq = (sender.seq + len(payload) + bool(flags & 0x03)) % 2**32
        elif traffic.protocol in (ICMP, ICMPV6):
            request, answer = (8, 0) if traffic.protocol == ICMP else (128, 129)
            packet = header.icmp(answer if step.reply else request, 0, 77, 1, payload)
        else:
            packet = header.udp(sender.port, receiver.port, payload, protocol=traffic.protocol)
        sender.last = packet
        self.judge(packet, *ends, step.expected, label)

    def error_type(self, step: PacketStep) -> tuple[int, int]:
        try:
            kind = values.parse_icmp_type(step.error, names.ICMP_TYPES if self.family == 4 else names.ICMPV6_TYPES)
        except ValueError as error:
            raise PolicyError(f"{step.location}: {error}") from None
        return kind.type, kind.code or 0

    def payload(self, step: PacketStep, sender: Side, receiver: Side) -> bytes:
        """The text of a line; {src}, {dst} are its packet's addresses, {SRC}, {DST} the same with commas, as FTP writes them."""
        if step.payload is None:
            return b""
        shown = {"{src}": str(sender.address), "{dst}": str(receiver.address),
                 "{SRC}": commas(sender.address), "{DST}": commas(receiver.address)}
        text = step.payload
        for name, value in shown.items():
            text = text.replace(name, value)
        return text.encode() + b"\r\n"


def commas(address: Address) -> str:
    return str(address).replace(".", ",") if isinstance(address, IPv4Address) else str(address)
