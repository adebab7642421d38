from collections.abc import Iterable
from typing import Final

from pyfw.rules.parts import PacketMatch, RuleEnvironment

FIELDS: Final[dict[str, int]]
INTERFACES: Final[dict[str, int]]

class FieldTest(PacketMatch):
    def __init__(self, field: str, low: int, high: int, inverted: bool = False, mask: int = 0xFFFFFFFF) -> None: ...

class PortsTest(PacketMatch):
    def __init__(self, ranges: Iterable[tuple[int, int]], source: bool, destination: bool, inverted: bool) -> None: ...

class TcpOptionTest(PacketMatch):
    def __init__(self, kind: int, inverted: bool) -> None: ...

class AddressRangeTest(PacketMatch):
    def __init__(self, source: bool, low: bytes, high: bytes, inverted: bool) -> None: ...

class HardwareTest(PacketMatch):
    def __init__(self, address: bytes, inverted: bool) -> None: ...

class TextTest(PacketMatch):
    def __init__(self, pattern: bytes, start: int, end: int, ignores_case: bool, inverted: bool) -> None: ...

class TimeTest(PacketMatch):
    def __init__(self, begins_s: int, ends_s: int, day_begins_s: int, day_ends_s: int, month_days: int, week_days: int,
                 local: bool, contiguous: bool) -> None: ...

class AddressTypeTest(PacketMatch):
    def __init__(self, source: bool, types: int, inverted: bool, interface: str = "") -> None: ...
    def bind(self, environment: RuleEnvironment) -> None: ...
