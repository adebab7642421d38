from typing import Final

from pyfw.rules.parts import PacketAction

COMMANDS: Final[dict[str, int]]

class MarkAction(PacketAction):
    def __init__(self, value: int, mask: int) -> None: ...

class ConnMarkAction(PacketAction):
    def __init__(self, command: str, value: int, mask: int, other_mask: int = 0xFFFFFFFF) -> None: ...
