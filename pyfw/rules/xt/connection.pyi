from typing import Final

from pyfw.rules.parts import PacketMatch, RuleEnvironment

FIELDS: Final[dict[str, int]]
STATUSES: Final[dict[str, int]]
MODES: Final[dict[str, int]]

class ConnTest(PacketMatch):
    def __init__(self, field: str, low: int, high: int, inverted: bool, without: bool) -> None: ...

class ConnAddressTest(PacketMatch):
    def __init__(self, source: bool, address: bytes, mask: bytes, inverted: bool, without: bool) -> None: ...

class HelperTest(PacketMatch):
    def __init__(self, name: str, inverted: bool) -> None: ...
    def bind(self, environment: RuleEnvironment) -> None: ...

class ConnBytesTest(PacketMatch):
    def __init__(self, low: int, high: int, mode: str, original: bool, reply: bool, inverted: bool) -> None: ...
