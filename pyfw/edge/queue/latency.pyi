from collections.abc import Iterable
from typing import Any, Final

BOUNDS_NS: Final[tuple[int, ...]]

def histogram_of(observations: Iterable[int]) -> dict[str, Any]: ...
