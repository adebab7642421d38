"""An explained packet: one dictionary for --json, and the same as lines of text.

    packet    what it is, and where it was met
    raw       the rules of the raw table, one line each: name, rule, what came of it
    tracking  its state and why, and its connection
    filter    the rules of the filter table
    verdict   what becomes of it
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyfw.engine.observer import PacketTrace
from pyfw.enums import Direction, Reject
from pyfw.explain.dry_run import Answer
from pyfw.explain.packet_spec import PacketSpec
from pyfw.explain.walkthrough import Visit, visits
from pyfw.rules import names
from pyfw.wire.summary import summarize

REJECTS: dict[Reject, str] = {reject: name for known in (names.REJECTS_V4, names.REJECTS_V6) for name, reject in known.items()}
REJECTS[Reject.TCP_RESET] = "tcp-reset"
_TITLE = 10
_INDENT = "  "


def packet_trace_record(packet_trace: PacketTrace, met: Iterable[Visit] | None = None) -> dict[str, Any]:
    """A packet that was judged (met: its visits, if they are known already):

        packet    summary, hook, in, out, bytes
        raw, filter     lists of {rule, text, depth, outcome, why}; outcome is matched, no,
                        end (of its chain), or dropped
        cut       steps that are not listed, because there were too many
        tracking  state, direction, reason, connection (its line, as the packet leaves it), begins, ends, expected, helper;
                  null: the raw table dropped the packet
        verdict   verdict, rule, reason, reason_text, reject, mark, inspected
    """
    judgement = packet_trace.judgement
    direction = None if judgement.direction == Direction.NONE else judgement.direction.name
    tables: dict[str, list[dict[str, Any]]] = {"raw": [], "filter": []}
    for visit in visits(packet_trace) if met is None else met:
        tables[visit.table].append({"rule": visit.rule, "text": visit.text, "depth": visit.depth, "outcome": visit.outcome,
                                    "why": visit.why})
    return {
        "packet": packet_record(packet_trace.data, packet_trace.facts.length, packet_trace.hook.name, packet_trace.facts.indev,
                                packet_trace.facts.outdev),
        **tables,
        "cut": packet_trace.met - len(packet_trace.steps),
        "tracking": {"state": judgement.state.name, "direction": direction, "reason": packet_trace.tracking_text,
                     "connection": packet_trace.connection, "begins": packet_trace.begins, "ends": packet_trace.ends,
                     "expected": packet_trace.expected, "helper": packet_trace.helper} if packet_trace.tracked else None,
        "verdict": verdict_record(judgement, packet_trace.inspected),
    }


def packet_record(data: bytes, length: int, hook: str, indev: str, outdev: str) -> dict[str, Any]:
    return {"summary": summarize(data, length), "hook": hook, "in": indev, "out": outdev, "bytes": length}


def verdict_record(judgement: Any, inspected: bool = False) -> dict[str, Any]:
    return {"verdict": judgement.verdict.name, "rule": judgement.rule,
            "reason": judgement.reason.name if judgement.reason else None, "reason_text": judgement.reason_text,
            "reject": REJECTS.get(judgement.reject), "mark": judgement.mark, "inspected": inspected}


def answer_record(answer: Answer, asked: PacketSpec, met: Iterable[Visit] | None = None) -> dict[str, Any]:
    """As packet_trace_record(), and besides

        notes     what was assumed about the packet
        tracking  before (its connection's line now), master (that of the connection that expected it), table_full
    """
    if answer.packet_trace is None:
        return {"packet": packet_record(asked.data, len(asked.data), asked.hook.name, asked.indev, asked.outdev),
                "notes": list(asked.notes), "raw": [], "tracking": None, "filter": [], "cut": 0,
                "verdict": verdict_record(answer.judgement)}
    record = {**packet_trace_record(answer.packet_trace, met), "notes": list(asked.notes)}
    if record["tracking"]:
        record["tracking"] |= {"before": answer.known.line if answer.known else None,
                               "master": answer.master if answer.packet_trace.expected else None, "table_full": answer.full}
    return record


def explanation_text(record: dict[str, Any]) -> str:
    """A record as lines; those of answer_record() have more to say than those of packet_trace_record()."""
    lines = [_titled("packet", _packet_text(record["packet"]))]
    lines += [_titled("", f"({note})") for note in record.get("notes", ())]
    lines += _table_lines("raw", record["raw"])
    if record["tracking"]:
        lines += _block("tracking", _tracking_lines(record["tracking"], record["verdict"]["verdict"] == "ACCEPT"))
    lines += _table_lines("filter", record["filter"])
    if record["cut"]:
        lines.append(_titled("", f"({record['cut']} more rules are not shown)"))
    lines.append(_titled("verdict", _verdict_text(record["verdict"])))
    return "".join(f"{line}\n" for line in lines)


def _titled(title: str, text: str) -> str:
    return f"{title:<{_TITLE}}{text}".rstrip()


def _block(title: str, texts: list[str]) -> list[str]:
    return [_titled(title if index == 0 else "", text) for index, text in enumerate(texts)]


def _packet_text(packet: dict[str, Any]) -> str:
    where = f"at {packet['hook']}, in {packet['in'] or '-'}, out {packet['out'] or '-'}"
    return f"{packet['summary']}; {packet['bytes']} bytes, {where}"


def _table_lines(table: str, met: list[dict[str, Any]]) -> list[str]:
    return _block(table, [f"{_INDENT * visit['depth']}{visit['rule']}  {visit['text']}   {_outcome_text(visit)}"
                          for visit in met])


def _outcome_text(visit: dict[str, Any]) -> str:
    if visit["outcome"] in ("matched", "end"):
        return ", ".join(part for part in (visit["outcome"], visit["why"]) if part)
    return f"{visit['outcome']}: {visit['why']}"


def _tracking_lines(tracking: dict[str, Any], accepted: bool) -> list[str]:
    first = f"state {tracking['state']}"
    if tracking["direction"]:
        first += f", direction {tracking['direction']}"
    for key, text in (("begins", "begins a connection"), ("expected", "which a helper expected"),
                      ("ends", "ends its connection")):
        if tracking[key]:
            first += f", {text}"
    if tracking["reason"]:
        first += f": {tracking['reason']}"
    refused = tracking["begins"] and not accepted
    lines = [first + (" (of which nothing stays: the packet is dropped)" if refused else "")]
    if tracking.get("before"):
        lines.append(f"now:  {tracking['before']}")
    if tracking["connection"] and not refused:
        lines.append(f"{'new' if tracking['begins'] else 'then'}:  {tracking['connection']}")
    if tracking.get("master"):
        lines.append(f"expected by:  {tracking['master']}")
    if tracking.get("table_full"):
        lines.append("the table is full: it takes no other connection")
    return lines


def _verdict_text(verdict: dict[str, Any]) -> str:
    text: str = verdict["verdict"]
    if verdict["rule"]:
        text += f" by {verdict['rule']}"
    if not verdict["rule"] and verdict["reason_text"]:
        text += f": {verdict['reason_text']}"
    if verdict["reject"]:
        text += f"; answered with {verdict['reject']}"
    if verdict["mark"]:
        text += f"; mark 0x{verdict['mark']:x}"
    if verdict["inspected"]:
        text += "; its helper sees the payload first"
    return text
