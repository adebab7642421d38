from typing import Any

from pyfw.conntrack.sources import Sources
from pyfw.rules.program.program import Program
from pyfw.rules.sets.sets import NamedSet

class SourceLimits:
    def __init__(self, sources: Sources, *, max_states: int = 0, max_new: int = 0, overload4: NamedSet | None = None,
                 overload6: NamedSet | None = None, flush: bool = False, match: Program | None = None, prefix4: int = 32,
                 prefix6: int = 64) -> None: ...
    @property
    def sources(self) -> Sources: ...
    @property
    def is_about_all(self) -> bool: ...
    @property
    def window_s(self) -> int: ...
    def statistics(self) -> dict[str, Any]: ...
