from typing import NamedTuple

from pyfw.engine.engine import Engine
from pyfw.engine.judgement import Judgement
from pyfw.engine.observer import Observer, PacketTrace
from pyfw.enums import TcpState

class DryRun(Observer): ...

class Known(NamedTuple):
    line: str
    direction: int
    tcp_state: TcpState | None
    next_seq: int
    next_ack: int
    tag: int

class Answer(NamedTuple):
    packet_trace: PacketTrace | None
    judgement: Judgement
    known: Known | None
    master: str | None
    full: bool

def dry_run(engine: Engine, data: bytes, hook: int, indev: str = "", outdev: str = "", now_ns: int = 0, *, mark: int = 0,
            length: int | None = None, trusted: bool = False, hardware: bytes | None = None,
            owner: tuple[int, int] | None = None) -> Answer: ...
def find_known(engine: Engine, data: bytes, now_ns: int) -> Known | None: ...
