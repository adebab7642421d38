from enum import IntFlag
from typing import Any, Final, NamedTuple

from pyfw.conntrack.selection import Selection
from pyfw.engine.engine import Engine

MOST: Final[int]
KEPT: Final[int]
CHANGES: Final[dict[int, str]]

class Kind(IntFlag):
    NEW = 1
    UPDATE = 2
    DESTROY = 4

class TooMany(Exception): ...

class Heard(NamedTuple):
    lost: int
    shown: bytes | list[dict[str, Any]]

class Listener:
    def __init__(self, selection: Selection, kinds: int, *, records: bool = False, timestamp: bool = False,
                 family: bool = False, id: bool = False) -> None: ...
    @property
    def as_records(self) -> bool: ...
    def arm(self, engine: Engine) -> None: ...
    def disarm(self) -> None: ...
    def take(self) -> Heard: ...
