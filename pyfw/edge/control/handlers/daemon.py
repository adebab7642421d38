"""Commands about the daemon itself: its counters, a reload, whether it keeps up, what a successor asks of it."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyfw.edge.control.answers import WORK_INTERVAL_S, in_background
from pyfw.edge.control.handover import Offer
from pyfw.edge.control.service_error import ServiceError
from pyfw.edge.control.table import MAX_TRIAL_S, USAGE, Answers, CommandError, Pause, Services
from pyfw.edge.queue_counters import QueueCounters

PING_TIMEOUT_S = 10.0
PING_INTERVAL_S = 0.001
REST_S = 5.0                    # how long a successor waits until the diversion is not being looked at; it may wait ANSWER_TIMEOUT_S


def stats(services: Services, arguments: Mapping[str, Any]) -> Answers:
    from pyfw.report.stats import stats_text
    if "watch" in arguments:
        from pyfw.edge.control.handlers.top import watch_stats
        return (yield from watch_stats(services, arguments))
    statistics = services.statistics()
    yield {"records": [statistics]} if arguments.get("json") else {"text": stats_text(statistics)}
    return {}


def reload(services: Services, arguments: Mapping[str, Any]) -> Answers:
    try:
        outcome = yield from in_background(services, services.reload, _confirm_s(arguments))
    except ServiceError as error:
        raise CommandError(f"{error}; the old rules stay in force", reason="bad_config") from error
    yield {"note": outcome.text()}
    killed = {}
    if (outcome.kill_states or arguments.get("kill_states")) and not outcome.confirm_s:
        from pyfw.edge.control.handlers.shadow import kill_states
        killed = yield from kill_states(services)
    return {"rules": outcome.rules, "needs_restart": outcome.needs_restart, **killed}


def _confirm_s(arguments: Mapping[str, Any]) -> int:
    seconds: int = arguments.get("confirm", 0)
    if "confirm" in arguments and not 1 <= seconds <= MAX_TRIAL_S:
        raise CommandError(f"--confirm takes 1 to {MAX_TRIAL_S} seconds, not {seconds}", USAGE, "bad_argument")
    if seconds and arguments.get("kill_states"):
        raise CommandError("--confirm cannot bring connections back that --kill-states has ended: first the one, then the other",
                           USAGE, "bad_argument")
    return seconds


def confirm(services: Services, arguments: Mapping[str, Any]) -> Answers:
    if not services.confirm():
        raise CommandError("there are no rules on trial")
    yield {"note": "the rules stay"}
    return {}


def hand_over(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """What a successor asks for; see pyfw.edge.control.handover."""
    deadline_ns = services.now_ns() + int(REST_S * 1e9)
    while not services.begin_handover():
        if services.now_ns() > deadline_ns:
            raise CommandError("the diversion is being put back, or another successor is taking over: ask again",
                               reason="handing_over")
        yield Pause(WORK_INTERVAL_S)
    try:
        while services.is_judging:
            yield Pause(WORK_INTERVAL_S)
        yield Offer(services.what_is_handed_over(), services.take_back)
    except GeneratorExit:               # the successor has gone
        services.take_back()
        raise
    return {}


def finish_handover(services: Services, arguments: Mapping[str, Any]) -> Answers:
    services.finish_handover()
    return {}
    yield


def ping(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """Done once every packet that was queued before the command has its verdict.  Refused while packets are not diverted.

    A packet that the kernel lost on its way to the daemon has none, ever: an empty queue ends the waiting, too.
    """
    at_command = _queue_counters(services)
    deadline_ns = services.now_ns() + int(PING_TIMEOUT_S * 1e9)
    while not services.has_judged(at_command.id_sequence):
        waiting = _queue_counters(services).queued
        if waiting == 0:
            break
        if services.now_ns() > deadline_ns:
            raise CommandError(f"{waiting} packets are still without verdict after {PING_TIMEOUT_S:.0f} s",
                               reason="timeout")
        yield Pause(PING_INTERVAL_S)
    for part, reason in services.degraded.items():
        yield {"note": f"degraded: {part}: {reason}"}
    if (fault := services.diversion_fault) is not None:
        raise CommandError(f"the diversion is not in place: {fault}", reason="not_diverted")
    return {}


def _queue_counters(services: Services) -> QueueCounters:
    counters = services.queue_counters()
    if counters is None:
        raise CommandError("the kernel does not know the daemon's queue any more", reason="queue_gone")
    return counters


def version(services: Services, arguments: Mapping[str, Any]) -> Answers:
    from pyfw import __version__
    yield {"text": f"pyfw {__version__}\n"}
    return {"version": __version__}
