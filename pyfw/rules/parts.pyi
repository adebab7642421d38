from collections.abc import Callable, Iterable, MutableMapping
from typing import TypeVar

from pyfw.conntrack.table import Table
from pyfw.rules.sets.store import SetStore
from pyfw.rules.xt.addrtype import LocalAddresses

_T = TypeVar("_T")

class RuleEnvironment:
    helpers: tuple[str, ...]
    sets: SetStore              # None where rules are only compiled, and name no set
    table: Table | None
    addresses: LocalAddresses   # likewise, and ask for no type of address
    def __init__(self, helpers: Iterable[str] = (), sets: SetStore | None = None, table: Table | None = None,
                 addresses: LocalAddresses | None = None) -> None: ...
    @property
    def named(self) -> MutableMapping[tuple[str, str], object]: ...
    def shared(self, kind: str, name: str, make: Callable[[], _T]) -> _T: ...

class PacketMatch:
    def bind(self, environment: RuleEnvironment) -> None: ...

class PacketAction:
    def bind(self, environment: RuleEnvironment) -> None: ...
