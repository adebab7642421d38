"""Parts of the daemon that do not work as the config has it, and without which the daemon starts and judges."""
from __future__ import annotations

from collections.abc import Callable, Mapping

ADOPT, CONTROL_GROUP, METRICS, RULES, SHADOW = PARTS = ("adopt", "control.group", "metrics.listen", "rules", "policy.shadow")
"""Options of the config."""


class Degraded:
    """Tells `say`, in the journal, when a part begins or ceases to fail.  Any thread."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reasons: dict[str, str] = {}

    @property
    def reasons(self) -> Mapping[str, str]:
        """{part: what is wrong with it}"""
        return dict(self._reasons)

    def fails(self, part: str, reason: str) -> None:
        if self._reasons.get(part) != reason:
            self._reasons[part] = reason
            self._say(f"degraded: {part}: {reason}")

    def works(self, part: str) -> None:
        if self._reasons.pop(part, None) is not None:
            self._say(f"{part} works again")
