from collections.abc import Sequence
from typing import Final

from pyfw.rules.parts import PacketAction, PacketMatch, RuleEnvironment
from pyfw.rules.sets.store import SetStore

COMPARISONS: Final[dict[str, int]]
OWN_TIMEOUT: Final[int]

def known_sets(environment: RuleEnvironment) -> SetStore: ...

class SetTest(PacketMatch):
    def __init__(self, name: str, sides: Sequence[str], inverted: bool = False, *, return_nomatch: bool = False,
                 update: bool = True, update_members: bool = True, packets: tuple[str, int] = ("", 0),
                 bytes: tuple[str, int] = ("", 0)) -> None: ...
    @property
    def name(self) -> str: ...
    def bind(self, environment: RuleEnvironment) -> None: ...

class SetAction(PacketAction):
    def __init__(self, add: tuple[str, Sequence[str]] | None = None, remove: tuple[str, Sequence[str]] | None = None,
                 timeout_s: int | None = None, exist: bool = False) -> None: ...
    @property
    def added(self) -> str | None: ...
    @property
    def removed(self) -> str | None: ...
    def bind(self, environment: RuleEnvironment) -> None: ...
