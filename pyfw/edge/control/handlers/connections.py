"""`pyfwctl list-conntrack`, `count`, `delete`, `flush`, `list-expect`: walks through the table, in slices."""
from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pyfw.edge.control.table import DONE, NOTHING_MATCHED, USAGE, Answers, CommandError, Pause, Services

FIRST_CURSOR = 1                # of a walk through the table; 0 means its end
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "udplite": 136}
PLAIN_FILTERS = ("src", "dst", "reply_src", "reply_dst", "mask_src", "mask_dst", "sport", "dport", "reply_sport", "reply_dport",
                 "icmp_type", "icmp_code", "icmp_id", "state", "id")      # which Selection takes as they were written
ADDRESSES = ("src", "dst", "reply_src", "reply_dst")


def _protocol_number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= 255:
        return int(text)
    if text.lower() in PROTOCOLS:
        return PROTOCOLS[text.lower()]
    raise CommandError(f"unknown protocol '{text}': a number to 255, or one of {', '.join(PROTOCOLS)}",
                       USAGE, "bad_argument")


def _listing(arguments: Mapping[str, Any]) -> tuple[Any, str]:
    """(Selection, style).  The classic format has no place for IPv6: asking for that gives the newer one."""
    family = arguments.get("family") or ("ipv6" if any(":" in arguments.get(name, "") for name in ADDRESSES) else None)
    style = arguments.get("output") or ("nf" if family == "ipv6" else "proc")
    if style == "proc" and family == "ipv6":
        raise CommandError("the proc format is IPv4 only; use -o nf", USAGE, "bad_argument")
    return selection({**arguments, "family": "ipv4" if style == "proc" else family}), style


def selection(arguments: Mapping[str, Any]) -> Any:
    """What the filters among the arguments select."""
    from pyfw.conntrack.selection import Selection
    plain = {name: arguments[name] for name in PLAIN_FILTERS if name in arguments}
    try:
        return Selection(family={"ipv4": 4, "ipv6": 6, None: None}[arguments.get("family")],
                         protocol=_protocol_number(arguments["protocol"]) if "protocol" in arguments else None,
                         status=arguments["status"].split(",") if "status" in arguments else (),
                         mark=_mark(arguments["mark"]) if "mark" in arguments else None, **plain)
    except ValueError as error:
        raise CommandError(str(error), USAGE, "bad_argument") from error


def _mark(text: str) -> tuple[int, int]:
    """`MARK` or `MARK/MASK`, decimal or 0x..."""
    value, slash, mask = text.partition("/")
    try:
        numbers = int(value, 0), int(mask, 0) if slash else 0xFFFFFFFF
    except ValueError:
        numbers = -1, -1
    if not all(0 <= number <= 0xFFFFFFFF for number in numbers):
        raise CommandError(f"'{text}' is no mark; write 5, 0x10 or 0x10/0xff", USAGE, "bad_argument")
    return numbers


def _walk(services: Services, selection: Any, style: str, *,
          delete: bool) -> Generator[dict[str, Any], None, int]:
    """Yields the selected connections in chunks; returns how many there were."""
    from pyfw.observe.dump import dump_records, dump_text
    engine, now_ns = services.engine, services.now_ns()
    cursor, matched = FIRST_CURSOR, 0
    while cursor:
        if style == "json":
            records, cursor = dump_records(engine, selection, cursor, now_ns, delete)
            matched += len(records)
            yield {"records": records}
        else:
            text, cursor, lines = dump_text(engine, selection, style, cursor, now_ns, delete)
            matched += lines
            yield {"text": text.decode("ascii")}
    return matched


def list_conntrack(services: Services, arguments: Mapping[str, Any]) -> Answers:
    matched = yield from _walk(services, *_listing(arguments), delete=False)
    filtered = bool(arguments.keys() - {"output"})
    return {"count": matched, "status": NOTHING_MATCHED if filtered and not matched else DONE}


def delete(services: Services, arguments: Mapping[str, Any]) -> Answers:
    matched = yield from _walk(services, *_listing(arguments), delete=True)
    yield {"note": f"{matched} flow entries have been deleted."}
    return {"count": matched, "status": DONE if matched else NOTHING_MATCHED}


def flush(services: Services, arguments: Mapping[str, Any]) -> Answers:
    from pyfw.conntrack.selection import Selection
    removed = 0
    for piece in _walk(services, Selection(), "nf", delete=True):
        removed += piece["text"].count("\n")
        yield Pause(0)
    yield {"note": f"connection tracking table has been emptied ({removed} flow entries)."}
    return {"count": removed}


def count(services: Services, arguments: Mapping[str, Any]) -> Answers:
    from pyfw.observe.dump import count_entries
    entries = count_entries(services.engine, services.now_ns(), selection(arguments))
    yield {"text": f"{entries}\n"}
    return {"count": entries}


def list_expect(services: Services, arguments: Mapping[str, Any]) -> Answers:
    from pyfw.observe.dump import expect_text
    yield {"text": expect_text(services.engine, services.now_ns())}
    return {}
