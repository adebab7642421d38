"""Parts of the daemon that do not work and that judging does not need: they never end it, or keep it from starting."""
from __future__ import annotations

from collections.abc import Callable, Mapping

ADOPT, CONTROL_GROUP, METRICS, SHADOW = PARTS = ("adopt", "control.group", "metrics.listen", "policy.shadow")     # options


class Degraded:
    """Tells `say`, in the journal, when a part begins or ceases to fail.  Any thread."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reasons: dict[str, str] = {}

    @property
    def reasons(self) -> Mapping[str, str]:
        """{part: why it does not work}"""
        return dict(self._reasons)

    def fails(self, part: str, reason: str) -> None:
        if self._reasons.get(part) != reason:
            self._reasons[part] = reason
            self._say(f"degraded: {part} does not work: {reason}")

    def works(self, part: str) -> None:
        if self._reasons.pop(part, None) is not None:
            self._say(f"{part} works again")
