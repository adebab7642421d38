# cython: language_level=3
"""What the engine has counted, for Python.

May know: the counters of the engine, its tracker, its limits and its rules.  Must not know: how they are shown.
"""
from pyfw.conntrack.expect cimport ExpectCounters, Expectations
from pyfw.conntrack.table cimport Table, TableCounters
from pyfw.enums cimport VERDICT_ACCEPT, VERDICT_DROP

from pyfw.enums import CtState, Reason, Verdict


cdef dict counters_of(Counters tally, Tracker tracker, SourceLimits limits, RuleEnvironment environment):
    """What was judged since the start, by state, verdict and reason; use of table and expectations.

    reasons: also of packets that passed all the same; drops: of those that did not, each for one reason.
    full: how often there was no room to remember something; recent: how often another address was forgotten for it.
    """
    cdef Table table = tracker.table
    cdef TableCounters entries = table.counters
    cdef Expectations expectations = tracker.expectations
    cdef ExpectCounters expected = expectations.counters
    judged = {state.name: {verdict.name: tally.packets[state][verdict] for verdict in Verdict} for state in CtState}
    reasons = {reason.name: tally.reason[reason] for reason in Reason if reason}
    adaptive = table.timers != NULL
    return {
        "packets": sum(sum(verdicts.values()) for verdicts in judged.values()),
        "bytes": tally.bytes[VERDICT_DROP] + tally.bytes[VERDICT_ACCEPT],
        "states": {state: sum(verdicts.values()) for state, verdicts in judged.items()},
        "verdicts": {verdict.name: sum(verdicts[verdict.name] for verdicts in judged.values()) for verdict in Verdict},
        "verdict_bytes": {verdict.name: tally.bytes[verdict] for verdict in Verdict},
        "judged": judged,
        "reasons": {name: sum(by_verdict) for name, by_verdict in reasons.items() if sum(by_verdict)},
        "drops": {name: by_verdict[VERDICT_DROP] for name, by_verdict in reasons.items() if by_verdict[VERDICT_DROP]},
        "table": {"entries": table.count, "max_entries": table.header.max_entries,
                  "created": entries.created, "destroyed": entries.destroyed, "expired": entries.expired,
                  "early_drop": entries.early_drop, "table_full": entries.table_full},
        "adaptive": {"active": bool(table.is_adapting()), "start": table.adaptive_start, "end": table.adaptive_end,
                     "ended_early": entries.ended_early} if adaptive else {},
        "limits": limits.statistics() if limits is not None else {},
        "expectations": {"entries": expectations.count, "max_entries": expectations.limit, "created": expected.created,
                         "used": expected.used, "expired": expected.expired},
        "full": {"expectations": expected.no_room, "hashlimit": environment.full.hashlimit,
                 "recent": environment.full.recent, "sets": environment.full.sets, "interfaces": entries.unnumbered},
        "events": {"listeners": table.events.count, "lost": table.events.lost},
    }
