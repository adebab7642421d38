from typing import Final, NamedTuple

from pyfw.enums import CtState, Hook, Reject, Verdict
from pyfw.lock import Lock
from pyfw.rules.program.program import Program

MAX_DIFFERENCES: Final[int]

class Shadow:
    def __init__(self, program: Program, guard: Lock) -> None: ...
    @property
    def program(self) -> Program: ...
    def note_program(self, program: Program | None) -> None: ...
    def add(self, program: Program | None) -> None: ...
    def found(self, program: Program | None) -> list[Difference]: ...
    def reset(self) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def add_one(self, difference: Difference) -> None: ...
    def count_unkept(self, packets: int) -> None: ...

class RulesetVerdict(NamedTuple):
    verdict: Verdict
    reject: Reject
    rule: str | None
    text: str | None

class Example(NamedTuple):
    now_ns: int
    data: bytes
    length: int
    hook: Hook
    indev: str
    outdev: str
    state: CtState

class Difference(NamedTuple):
    live: RulesetVerdict
    shadow: RulesetVerdict
    packets: int
    bytes: int
    example: Example

def table_of(said: RulesetVerdict) -> str | None: ...
