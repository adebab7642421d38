"""What a shadow ruleset would have decided differently: one dictionary for --json, and the same as lines of text."""
from __future__ import annotations

from typing import Any

from pyfw.engine.shadow import Difference, RulesetVerdict
from pyfw.explain.text import REJECTS, packet_record

NAME_WIDTH = 25


def difference_record(difference: Difference) -> dict[str, Any]:
    """packets, bytes, and

        real, shadow    verdict, reject, rule, text: what the rules in force say, and the shadow's
        example         the first of the packets: as explain's packet, and its state
    """
    example = difference.example
    return {"packets": difference.packets, "bytes": difference.bytes,
            "real": verdict_record(difference.live), "shadow": verdict_record(difference.shadow),
            "example": packet_record(example.data, example.length, example.hook.name, example.indev, example.outdev)
            | {"state": example.state.name}}


def verdict_record(said: RulesetVerdict) -> dict[str, Any]:
    return {"verdict": said.verdict.name, "reject": REJECTS.get(said.reject), "rule": said.rule, "text": said.text}


def difference_text(difference: Difference) -> str:
    record = difference_record(difference)
    example = record["example"]
    places = "".join(f", {word} {example[word]}" for word in ("in", "out") if example[word])
    counted = f"{record['packets']} packet{'s' * (record['packets'] != 1)}, {record['bytes']} bytes"
    return (f"{counted}: {verdict_text(record['real'])}, the shadow {verdict_text(record['shadow'])}\n"
            f"  real    {rule_text(record['real'])}\n"
            f"  shadow  {rule_text(record['shadow'])}\n"
            f"  such as {example['summary']}; {example['bytes']} bytes, at {example['hook']}{places}, state {example['state']}\n")


def verdict_text(said: dict[str, Any]) -> str:
    return f"REJECT with {said['reject']}" if said["reject"] else said["verdict"]


def rule_text(said: dict[str, Any]) -> str:
    return f"{said['rule']:<{NAME_WIDTH}} {said['text']}" if said["rule"] else "no rule"
