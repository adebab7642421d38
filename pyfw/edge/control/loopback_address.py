"""Where the metrics may be asked for over TCP."""
from typing import NamedTuple


class LoopbackAddress(NamedTuple):
    """Where something listens that only this machine may reach."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
