"""Work beside the packets: repeated in the main thread, or done once by a low-priority worker thread.

Law: a defect in such work is reported, and ends nothing.
"""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pyfw.daemon.judging import Judging, tell_time
from pyfw.daemon.metrics_keeper import MetricsKeeper
from pyfw.daemon.parts import Surroundings
from pyfw.daemon.process import lower_priority
from pyfw.edge.defects import Defects

T = TypeVar("T")

SWEEP_INTERVAL_S = 0.1
BUSY_SWEEP_INTERVAL_S = 0.01   # while there is something to free
DEFECT_PAUSE_S = 1.0            # before what failed is tried again
STATUS_INTERVAL_S = 5.0         # how often systemd hears how things are
MEND_INTERVAL_S = 3.0           # how often what did not work at the start is tried again


class Chores:
    """loop: the main thread's"""

    def __init__(self, loop: asyncio.AbstractEventLoop, defects: Defects) -> None:
        self.loop = loop
        self._defects = defects
        self._worker = ThreadPoolExecutor(1, "pyfw-worker", initializer=lower_priority)

    def in_background(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have the low-priority worker do something that takes long; one thing after another."""
        return self._worker.submit(work, *arguments)

    def apart(self, work: Callable[..., object], *arguments: Any) -> None:
        """As in_background(), for work whose result is not needed: a defect in it is reported."""
        self.in_background(work, *arguments).add_done_callback(self._look_at)

    def _look_at(self, done: Future[object]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._defects.report("work in the background failed", error)

    async def again_and_again(self, work: Callable[[], float]) -> None:
        """Do `work`, and again after as many seconds as it says.  A defect in it is reported, and does not end that."""
        while True:
            try:
                pause_s = work()
            except Exception as error:
                self._defects.report(f"{work.__name__} failed", error)
                pause_s = DEFECT_PAUSE_S
            await asyncio.sleep(pause_s)

    def close(self) -> None:
        """Begin nothing more in the background."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def sweeper(judging: Judging) -> Callable[[], float]:
    def sweep() -> float:
        freed = 0 if judging.handing_over else judging.engine.sweep(time.monotonic_ns())
        judging.engine.environment.sets.sweep(time.monotonic_ns())
        tell_time(judging.engine)
        return BUSY_SWEEP_INTERVAL_S if freed else SWEEP_INTERVAL_S

    return sweep


def mender(judging: Judging, metrics: MetricsKeeper) -> Callable[[], float]:
    def mend() -> float:
        if not judging.handing_over:
            metrics.open()
        return MEND_INTERVAL_S

    return mend


def reporter(around: Surroundings, judging: Judging) -> Callable[[], float]:
    """Tells systemd that the data thread makes progress, as often as it wants to hear it, and how things are."""
    manager, queue = around.manager, judging.queue
    interval_s = min(manager.watchdog_s or STATUS_INTERVAL_S, STATUS_INTERVAL_S) / 2
    alive, packets, since_ns = 0, 0, time.monotonic_ns()

    def report() -> float:
        nonlocal alive, packets, since_ns
        if queue.alive != alive:
            alive = queue.alive
            manager.tell("WATCHDOG=1", waits=False)
        counted, now_ns = queue.counters()["packets"], time.monotonic_ns()
        rate = (counted - packets) * 10**9 // max(now_ns - since_ns, 1)
        entries = judging.engine.counters()["table"]["entries"]
        troubles = "".join(f"; {part}: {reason}" for part, reason in around.degraded.reasons.items())
        manager.tell(f"STATUS={entries:,} connections, {rate:,} packets/s{troubles}", waits=False)
        packets, since_ns = counted, now_ns
        return interval_s

    return report
