# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What becomes of one packet, for Python.

May know: the closed sets, rules' names.  Must not know: packets, connections, the engine.
"""
from typing import NamedTuple

from pyfw.enums import CtState, Direction, Reason, Reject, Verdict
from pyfw.reasons import reason_text

# Members by number: a tuple is much faster than asking the enum.
VERDICTS, STATES, DIRECTIONS, REASON_MEMBERS, REJECTS = map(tuple, (Verdict, CtState, Direction, Reason, Reject))


class Judgement(NamedTuple):
    """What becomes of a packet, for callers in Python."""
    verdict: Verdict
    state: CtState
    direction: Direction
    reason: Reason
    rule: str | None            # the deciding rule in the words of the kernel's TRACE: "filter:FORWARD:rule:3"
    mark: int
    reject: Reject              # how a REJECT rule wants the sender told
    reason_text: str            # the reason in the kernel's words, with its numbers; "" for none


cdef str words_of(const CReason *reason):
    return reason_text(reason.number, tuple([reason.argument[i] for i in range(4)])) if reason.number else ""


cdef object judgement_of(const CJudgement *judgement, object program):
    """`program`: whose rules' numbers the judgement speaks of; None: there are none."""
    return Judgement(VERDICTS[judgement.verdict], STATES[judgement.state], DIRECTIONS[judgement.direction],
                     REASON_MEMBERS[judgement.reason.number], program.rule_name(judgement.rule) if program is not None else None,
                     judgement.mark, REJECTS[judgement.reject], words_of(&judgement.reason))
