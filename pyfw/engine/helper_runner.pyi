from collections.abc import Callable, Sequence

from pyfw.engine.helper_budget import HelperBudget
from pyfw.helpers import HelperBinding
from pyfw.lock import Lock

class HelperRunner:
    on_error: Callable[[Exception], object] | None
    def __init__(self, guard: Lock, tracker: object, bindings: Sequence[HelperBinding]) -> None: ...
    @property
    def budget(self) -> HelperBudget: ...
