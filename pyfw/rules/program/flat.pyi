from collections.abc import Hashable, Iterable
from typing import Final, TypeVar

_K = TypeVar("_K", bound=Hashable)

HEADER_TESTS: Final[dict[str, int]]
TABLE_NUMBERS: Final[tuple[tuple[str, int], ...]]

def index_of(things: Iterable[_K]) -> dict[_K, int]: ...
