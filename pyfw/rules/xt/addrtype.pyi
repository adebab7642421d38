from collections.abc import Iterable
from typing import NamedTuple

from pyfw.lock import Lock

class LocalAddresses:
    def __init__(self, guard: Lock | None = None) -> None: ...
    def replace(self, routes: Iterable[Route]) -> None: ...

class Route(NamedTuple):
    address: bytes
    prefix: int
    type: int
    interface: str
