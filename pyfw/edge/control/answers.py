"""What handlers have in common: they let others have their turn while they work."""
from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Any, TypeVar

from pyfw.edge.control.table import Pause, Services

T = TypeVar("T")

WORK_INTERVAL_S = 0.002
LINES_AT_ONCE = 100             # of rules: a few milliseconds


def in_background(services: Services, work: Callable[..., T], *arguments: Any) -> Generator[Pause, None, T]:
    """What `work` comes to; meanwhile others are answered."""
    future = services.in_background(work, *arguments)
    while not future.done():
        yield Pause(WORK_INTERVAL_S)
    return future.result()


def in_pieces(lines: Iterable[str], exact: bool = True) -> Generator[dict[str, Any], None, None]:
    """Lines of rules, which take time to make: so many at once that others hardly wait.  `exact`: as an answer has it."""
    lines = iter(lines)
    while piece := "".join(f"{line}\n" for line in islice(lines, LINES_AT_ONCE)):
        yield {"text": piece, "exact": exact}
