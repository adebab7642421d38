"""`pyfwctl events ...`: connections as they begin, change and go, in the form of `conntrack -E`.

An entry for the table of commands.
"""
from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pyfw.edge.control.handlers.connections import selection
from pyfw.edge.control.table import USAGE, Answers, CommandError, Pause, Services
from pyfw.observe.events import Kind, Listener, TooMany

POLL_S = 0.05                   # a ring holds what comes in this time at 300,000 events a second
HEARTBEAT_POLLS = 20            # in vain, until something is said nevertheless: a peer that has gone is noticed by it
EVENTS = {"NEW": Kind.NEW, "UPDATE": Kind.UPDATE, "UPDATES": Kind.UPDATE, "DESTROY": Kind.DESTROY, "ALL": ~Kind(0)}
LOOKS = ("text", "json", "id", "timestamp", "extended")


def events(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """Ends when the peer leaves.  A peer that reads too slowly is told how many events it has lost, and where."""
    listener = _listener(arguments)
    try:
        listener.arm(services.engine)
    except TooMany as error:
        raise CommandError(str(error), reason="busy") from error
    try:
        yield from _heard(listener)
    finally:
        listener.disarm()
    return {}


def _listener(arguments: Mapping[str, Any]) -> Listener:
    """Raises CommandError."""
    kinds = Kind(0)
    for word in arguments.get("event_mask", "ALL").split(","):
        if word.upper() not in EVENTS:
            raise CommandError(f"unknown event '{word}': one of NEW, UPDATE, DESTROY, or several with commas", USAGE, "bad_argument")
        kinds |= EVENTS[word.upper()]
    looks = arguments.get("output", "text").split(",")
    for look in looks:
        if look not in LOOKS:
            raise CommandError(f"unknown output '{look}': one of {', '.join(LOOKS)}, or several with commas", USAGE, "bad_argument")
    return Listener(selection(arguments), kinds, records="json" in looks, timestamp="timestamp" in looks,
                    family="extended" in looks, id="id" in looks)


def _heard(listener: Listener) -> Generator[dict[str, Any] | Pause, None, None]:
    yield {}                    # it tells the client that events are heard from here on
    in_vain = 0
    while True:
        lost, shown = listener.take()
        if lost:
            yield {"note": f"{lost} events lost"}
        if isinstance(shown, list):
            gap = [{"event": "LOST", "count": lost}] if lost else []
            if gap or shown:
                yield {"records": gap + shown}
        elif shown:
            yield {"text": shown.decode("ascii")}
        if lost or shown:
            in_vain = 0
            continue
        if in_vain % HEARTBEAT_POLLS == 0:
            yield {}
        in_vain += 1
        yield Pause(POLL_S)
