from collections.abc import Iterator
from typing import NamedTuple

from pyfw.engine.engine import Engine
from pyfw.rules.program.program import Program

class Reviewer:
    def __init__(self, engine: Engine, program: Program) -> None: ...
    def review(self, cursor: int, now_ns: int) -> Slice: ...

class Slice(NamedTuple):
    text: bytes
    killed: int
    unknown: int
    cursor: int

def review(engine: Engine, program: Program | None, now_ns: int) -> Iterator[Slice]: ...
