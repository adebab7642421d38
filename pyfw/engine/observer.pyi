from typing import NamedTuple

from pyfw.engine.judgement import Judgement
from pyfw.enums import Hook
from pyfw.rules.program.program import Program

class Observer: ...

class Facts(NamedTuple):
    src: str
    dst: str
    protocol: int
    sport: int
    dport: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    length: int
    ttl: int
    tos: int
    fragment: int
    has_transport: bool
    indev: str
    outdev: str
    hardware: str | None
    uid: int | None
    gid: int | None

class RuleHit(NamedTuple):
    number: int
    table: int
    fit: int
    header: int
    state: bool
    test: int | None

class PacketTrace(NamedTuple):
    now_ns: int
    hook: Hook
    data: bytes
    facts: Facts
    judgement: Judgement
    program: Program | None
    steps: list[RuleHit]
    met: int
    tracked: bool
    tracking_text: str
    connection: str | None
    begins: bool
    expected: bool
    ends: bool
    helper: str | None
    inspected: bool
