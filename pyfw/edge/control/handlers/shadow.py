"""`pyfwctl reload --kill-states` and `pyfwctl shadow ...`: connections that new rules end, and rules that are only tried.

Entries for the table of commands.
"""
from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pyfw.edge.control.answers import in_pieces
from pyfw.edge.control.table import DONE, NOTHING_MATCHED, Answers, CommandError, Pause, Services
from pyfw.engine.shadow import Shadow
from pyfw.report.shadow import difference_record, difference_text
from pyfw.rules.language.printing import rule_lines


def kill_states(services: Services) -> Generator[dict[str, Any] | Pause, None, dict[str, Any]]:
    """End what the rules in force would not have accepted, and list it; {"killed": n, "unknown": n}.

    The review goes through the whole table, even if the client leaves before the end.
    """
    review = services.connection_review()
    try:
        for text in review:
            yield {"text": text} if text else Pause(0)
    finally:
        review.finish()
    yield {"note": review.result}
    return {"killed": review.killed, "unknown": review.unknown}


def shadow(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`action`: diff, rules or reset."""
    loaded = services.engine.shadow
    if loaded is None:
        raise CommandError("there is no shadow ruleset; `pyfw run --shadow FILE` or `policy: {shadow: FILE}` loads one")
    action = arguments.get("action", "diff")
    if action == "reset":
        loaded.reset()
        return {}
    if action == "rules":
        return (yield from _rules(loaded, arguments.get("table", "filter"), arguments.get("chain")))
    return (yield from _diff(services, loaded, bool(arguments.get("json"))))


def _rules(loaded: Shadow, table: str, chain: str | None) -> Answers:
    program = loaded.program
    counters = program.counters() if program.ruleset.table(table) else None
    try:
        lines = rule_lines(program.ruleset, table, chain, counters=counters)
    except KeyError as error:
        raise CommandError(f"the shadow has no chain '{chain}' in table {table}") from error
    yield from in_pieces(lines)
    return {}


def _diff(services: Services, loaded: Shadow, as_json: bool) -> Answers:
    found = loaded.found(services.engine.program)
    counted = loaded.counters()
    for difference in found:
        yield {"records": [difference_record(difference)]} if as_json else {"text": difference_text(difference)}
    unkept = f"; {counted['unkept']} of them are not shown: they differ in too many ways" if counted["unkept"] else ""
    yield {"note": f"{counted['otherwise']} of {counted['judged']} packets judged otherwise{unkept}"}
    return {**counted, "status": DONE if found else NOTHING_MATCHED}
