"""`pyfwctl explain ...` and `pyfwctl trace ...`: what would become of a packet, and what becomes of those that come.

Entries for the table of commands; their handlers take the words as they were written.
"""
from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfw.edge.control.answers import in_background
from pyfw.edge.control.table import USAGE, Answers, CommandError, Pause, Services
from pyfw.engine.observer import PacketTrace
from pyfw.explain.packet_spec import SpecError, packet_spec, read_spec, spec_parser
from pyfw.explain.text import answer_record, explanation_text, packet_trace_record
from pyfw.explain.walkthrough import Visit, visits
from pyfw.observe.trace import TooMany, Tracer
from pyfw.rules.model import RulesError
from pyfw.rules.program.packet_filter import packet_filter

DEFAULT_COUNT, MAX_PACKETS = 10, 100_000
PACKETS_PER_SECOND = 100
POLL_S = 0.05
VISITS_AT_ONCE = 50             # of rules by the packet that is asked about: a few milliseconds
HEARTBEAT_POLLS = 20            # in vain, until something is said nevertheless: a peer that has gone is noticed by it
HELP = ("-h", "--help")
TRACE_HELP = f"""\
usage: pyfwctl trace [MATCH ...] [--count N] [--json]

Shows packets as they are judged, each with the rules it met.  MATCH are iptables' words,
such as -p tcp --dport 443 -s 10.0.0.0/8; none: all packets.

  --count N   end after N packets (default: {DEFAULT_COUNT})
  --json      one JSON object for each

At most {PACKETS_PER_SECOND} packets a second are shown; how many more there were is said at the end.
"""


def explain(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`words`: a question, as packet_spec.py reads it.  Where there are many rules, the text takes longer than the answer: it is made
    rule by rule here, where it ends with its connection, and not in the background, where it would keep reloads waiting."""
    words = arguments.get("words", ())
    if any(word in HELP for word in words):
        yield {"text": spec_parser("pyfwctl explain").format_help()}
        return {}
    now_ns = services.now_ns()
    try:
        question = yield from in_background(services, read_spec, words)
        if question.packet[0] == "pcap":
            raise SpecError("the daemon reads no files of its users: send the frame as hex")
        asked = packet_spec(question, services.engine, now_ns)
    except SpecError as error:
        raise CommandError(str(error), USAGE, "bad_argument") from error
    answer = asked.put(services.engine, now_ns)
    met: list[Visit] = []
    for visit in visits(answer.packet_trace) if answer.packet_trace else ():
        met.append(visit)
        if len(met) % VISITS_AT_ONCE == 0:
            yield Pause(0)
    record = answer_record(answer, asked, met)
    yield {"records": [record]} if question.json else {"text": explanation_text(record)}
    return {}


@dataclass
class TraceRequest:
    """What to trace: the filter's words, how many packets, and in which form."""

    filter: list[str]
    count: int = DEFAULT_COUNT
    json: bool = False

    @classmethod
    def read(cls, words: Sequence[str]) -> TraceRequest:
        """Raises CommandError."""
        request, rest = cls([]), iter(words)
        for word in rest:
            if word == "--json":
                request.json = True
            elif word == "--count" or word.startswith("--count="):
                request.count = _count(word.partition("=")[2] or next(rest, ""))
            else:
                request.filter.append(word)
        return request


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_PACKETS:
        raise CommandError(f"--count takes a number from 1 to {MAX_PACKETS}, not '{text}'", USAGE, "bad_argument")
    return int(text)


def trace(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`words`: the filter and the options.  Ends by itself after so many packets, or when the peer leaves."""
    words = arguments.get("words", ())
    if any(word in HELP for word in words):
        yield {"text": TRACE_HELP}
        return {}
    request = TraceRequest.read(words)
    try:
        chosen = yield from in_background(services, packet_filter, request.filter, services.engine.environment)
    except RulesError as error:
        raise CommandError(error.message, USAGE, "bad_argument") from error
    tracer = Tracer(chosen, request.count, PACKETS_PER_SECOND)
    try:
        tracer.arm(services.engine)
    except TooMany as error:
        raise CommandError(str(error), reason="busy") from error
    try:
        yield from _shown(services, tracer, request.json)
    finally:
        tracer.disarm()
    if tracer.suppressed:
        yield {"note": f"{tracer.suppressed} more packets matched and are not shown: they came too fast"}
    return {"count": request.count, "suppressed": tracer.suppressed}


def _shown(services: Services, tracer: Tracer, as_json: bool) -> Generator[dict[str, Any] | Pause, None, None]:
    yield {}                    # it tells the client that packets are seen from here on
    in_vain = 0
    while not tracer.is_over:
        traces = tracer.take()
        if traces:
            yield from (yield from in_background(services, _told, services, traces, as_json))
        in_vain = 0 if traces else in_vain + 1
        if in_vain % HEARTBEAT_POLLS == 0:
            yield {}
        yield Pause(POLL_S)


def _told(services: Services, traces: Sequence[PacketTrace], as_json: bool) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for packet_trace in traces:
        time_s = (packet_trace.now_ns + services.engine.wall_offset_ns) / 1e9
        record = {"time": time_s, **packet_trace_record(packet_trace)}
        answers.append({"records": [record]} if as_json else {"text": f"{_clock(time_s)}\n{explanation_text(record)}\n"})
    return answers


def _clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s)) + f"{time_s % 1:.6f}"[1:]
