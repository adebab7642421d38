from collections.abc import Iterable
from typing import Final

STATUSES: Final[dict[str, tuple[int, int]]]

class Selection:
    def __init__(self, family: int | None = None, protocol: int | None = None, src: str | None = None, dst: str | None = None,
                 sport: int | None = None, dport: int | None = None, state: str | None = None, *, reply_src: str | None = None,
                 reply_dst: str | None = None, mask_src: str | None = None, mask_dst: str | None = None,
                 reply_sport: int | None = None, reply_dport: int | None = None, status: Iterable[str] = (),
                 mark: tuple[int, int] | None = None, icmp_type: int | None = None, icmp_code: int | None = None,
                 icmp_id: int | None = None, id: int | None = None) -> None: ...
