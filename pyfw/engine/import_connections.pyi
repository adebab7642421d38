from collections.abc import Iterable
from typing import NamedTuple

from pyfw.engine.engine import Engine

class Foreign(NamedTuple):
    src: bytes
    dst: bytes
    protocol: int
    sport: int = 0
    dport: int = 0
    seen_reply: bool = False
    assured: bool = False
    expected: bool = False
    timeout_s: int = 0
    mark: int = 0
    helper: str | None = None
    packets: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    state: int = 0
    flags: tuple[int, int] = (0, 0)
    scale: tuple[int, int] = (0, 0)
    tags: tuple[int, int] = (0, 0)

def import_connections(engine: Engine, connections: Iterable[Foreign], now_ns: int) -> int: ...
