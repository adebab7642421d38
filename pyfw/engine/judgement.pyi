from typing import Final, NamedTuple

from pyfw.enums import CtState, Direction, Reason, Reject, Verdict

VERDICTS: Final[tuple[Verdict, ...]]
STATES: Final[tuple[CtState, ...]]
DIRECTIONS: Final[tuple[Direction, ...]]
REASON_MEMBERS: Final[tuple[Reason, ...]]
REJECTS: Final[tuple[Reject, ...]]

class Judgement(NamedTuple):
    verdict: Verdict
    state: CtState
    direction: Direction
    reason: Reason
    rule: str | None
    mark: int
    reject: Reject
    reason_text: str
