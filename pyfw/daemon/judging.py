"""The data thread and its queue, from the first packet to the last, and whether they are ours.

May know: the engine, the queue's loop, the clock.  Must not know: who asks for a hand-over, and what else is handed over.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pyfw.edge.queue.loop import QueueLoop
from pyfw.engine.engine import Engine
from pyfw.engine.relearn import relearn_windows


class Judging:
    """Packets are judged as long as this is not closed or handed over.

    handing_over   a successor may be judging: the queue and the table are not ours to touch
    handed_on      it is, and stays
    failure        what ended the data thread; None: nothing did, or stop was asked for
    """

    def __init__(self, engine: Engine, queue: QueueLoop) -> None:
        self.engine = engine
        self.queue = queue
        self.handing_over = False
        self.handed_on = False
        self.failure: BaseException | None = None
        self._on_failure: Callable[[], object] = lambda: None
        self._thread = self._started()

    def _started(self) -> threading.Thread:
        self.queue.resume()
        thread = threading.Thread(target=self._judge_packets, name="pyfw-data", daemon=True)
        tell_time(self.engine)
        thread.start()
        return thread

    def _judge_packets(self) -> None:
        try:
            self.queue.run()
        except BaseException as error:
            self.failure = error
            self._on_failure()

    def tell_of_failure(self, tell: Callable[[], object]) -> None:
        """Have `tell` called at a failure: at once for one that has been, else by the data thread."""
        self._on_failure = tell
        if self.failure is not None:
            tell()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def hand_over(self) -> None:
        """Judge no more, for the sake of a successor.  The data thread ends within 100 ms; packets wait in the kernel."""
        self.handing_over = True
        self.queue.stop()

    def take_back(self) -> None:
        """The successor did not come up: go on."""
        self._thread.join()
        self.handing_over = False
        self.engine.relink()
        self.engine.bound_lives(time.monotonic_ns())
        self.queue.take_back()
        self._thread = self._started()

    def relearn_windows(self) -> int:
        """As engine/relearn.pyx has it; a successor does it by itself."""
        return 0 if self.handing_over else relearn_windows(self.engine)

    def close(self) -> None:
        """Judge what is in hand, and let go of the queue: for a successor that may be judging, else for good."""
        self.queue.stop()
        self._thread.join()
        if self.handed_on or self.handing_over:
            self.queue.hand_on()
        else:
            self.queue.close()


def tell_time(engine: Engine) -> None:
    """The engine reads no clock, and no time zone."""
    engine.wall_offset_ns = time.time_ns() - time.monotonic_ns()
    engine.zone_offset_s = time.localtime().tm_gmtoff
