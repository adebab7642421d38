"""The queue loop in this very process, its thread and its sockets on the lab's gateway."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from lab.edge.wrapper import QUEUE
from pyfw.edge.host.divert import Diversion
from pyfw.edge.host.links import Links
from pyfw.edge.queue.loop import QueueLoop
from pyfw.edge.queue_counters import QueueCounters, read_kernel_counters
from pyfw.engine.engine import Engine
from pyfw.lab import Lab, wait_until
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

MARK = 0xC0FFEE                 # of what the loop itself sends

Serve = Callable[..., QueueLoop]


@pytest.fixture
def serve(lab: Lab) -> Iterator[Serve]:
    """serve(rules, hooks=...) diverts the gateway's packets to a running loop whose engine has these rules.

    `rules`: lines of the filter table, without "*filter" and COMMIT; none: accept all.  judging=False: nobody takes
    the packets out of the queue until the test runs the loop.
    """
    with ExitStack() as stack:
        def start(rules: str = "", *, hooks: Sequence[str] = ("FORWARD",), judging: bool = True,
                  helpers: Sequence = (), engine: Engine | None = None, **options) -> QueueLoop:
            engine = engine or Engine(max_entries=4096, helpers=helpers)
            if rules:
                engine.load(Program(parse_save(f"*filter\n{rules}\nCOMMIT\n")))
            with lab.inside("gateway"):
                with Links() as links:
                    loop = QueueLoop(engine, number=QUEUE, mark=MARK, links=links.names, **options)
                stack.callback(loop.close)
                diversion = Diversion(QUEUE, hooks=hooks, mark=MARK)
                stack.callback(on_gateway, diversion.remove)
                diversion.install()
                if judging:
                    stack.callback(run_in_thread(loop))
            return loop

        def on_gateway(function: Callable[[], None]) -> None:
            with lab.inside("gateway"):
                function()

        yield start


def run_in_thread(loop: QueueLoop) -> Callable[[], None]:
    """Start run() in a thread on this thread's host; returns what stops it and proves that it was still there."""
    thread = threading.Thread(target=loop.run)
    thread.start()

    def stop() -> None:
        alive = thread.is_alive()
        loop.stop()
        thread.join(5)
        assert alive
        assert not thread.is_alive()

    return stop


@pytest.fixture
def queued(lab: Lab) -> Callable[[], QueueCounters | None]:
    """The kernel's counters of the queue."""
    def read() -> QueueCounters | None:
        with lab.inside("gateway"):
            return read_kernel_counters(QUEUE)

    return read


@pytest.fixture
def judge_all(queued: Callable[[], QueueCounters]) -> Callable[[QueueLoop], None]:
    """Runs a loop until it has judged what is in the queue."""
    def judge(loop: QueueLoop) -> None:
        stop = run_in_thread(loop)
        wait_until(lambda: queued().queued == 0, "an empty queue")
        stop()

    return judge
