"""The daemon: builds the parts, owns the threads, takes the signals, and takes all down again.

    data thread      QueueLoop.run(): packets in, verdicts out, without the GIL
    journal thread   LOG's lines and messages to standard error; it alone waits when nobody reads them
    main thread      asyncio: control socket, sweeping, sets, signals
    worker thread    reads and compiles rules, at the lowest priority

The diversion comes last and goes first, so that packets are diverted only while somebody judges them; what is queued
is judged before the queue is closed.  If the data thread fails, the diversion stays: the kernel then does what
queue.when_down says.  Outside the queue loop, this is the only reader of the clock.
"""
from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import netns as namespaces

from pyfw import __version__
from pyfw.build import compile_rules, config_sets, engine_from_config
from pyfw.config import Config, ConfigError, changed_keys, load_config, rule_files
from pyfw.edge.commands import Reload
from pyfw.edge.control import ControlServer
from pyfw.edge.divert import OWN_MARK, DivertError, Diversion, DiversionOwner
from pyfw.edge.journal import Journal
from pyfw.edge.links import Links
from pyfw.edge.local_addresses import AddressAlarm, read_routes
from pyfw.edge.nfqueue import QueueError, QueueLoop, why_not_bound
from pyfw.edge.queue_stats import QueueCounters, QueueStats, queue_owner
from pyfw.edge.state_file import StateFileError, open_state_file
from pyfw.engine import Engine
from pyfw.rules.parts import Surroundings
from pyfw.rules.program import Program
from pyfw.rules.set_store import SetStore

T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0002      # how long a helper's payload may wait for a Python thread to give way
SWEEP_INTERVAL_S = 0.1
BUSY_SWEEP_INTERVAL_S = 0.01   # while there is something to free
WORKER_NICE = 19
DRAIN_S = 1.0                   # how long a clean stop waits for the last verdicts
DRAIN_INTERVAL_S = 0.002


class DaemonError(Exception):
    """The daemon cannot start or go on: one line that says why and what to do."""


class Daemon:
    """One firewall, from start to stop.  The `services` of the control commands."""

    engine: Engine

    def __init__(self, config_path: Path | str, overrides: Sequence[str] = (), *, netns: str | None = None,
                 divert: bool = True, skip_unsupported: bool = False) -> None:
        self._config_path = config_path
        self._overrides = tuple(overrides)
        self._netns = netns
        self._divert = divert
        self._skip_unsupported = skip_unsupported
        self._config: Config            # this and the next four: made by run()
        self._links: Links
        self._addresses: AddressAlarm
        self._queue: QueueLoop
        self._queue_stats: QueueStats
        self._control: ControlServer
        self._diversion: Diversion | None = None
        self._main_loop: asyncio.AbstractEventLoop
        self._worker = ThreadPoolExecutor(1, "pyfw-worker", initializer=give_way)
        self._journal = Journal()
        self._failure: BaseException | None = None
        self._started_ns = time.monotonic_ns()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises ConfigError or DaemonError if it cannot start: then nothing is left installed.
        Raises DaemonError if the queue loop fails.
        """
        self._config = self._load_config()
        compile_rules(self._config)
        if os.geteuid() != 0:
            raise DaemonError("must be root to take packets from the kernel: run it with sudo")
        if self._netns is not None:
            enter_namespace(self._netns)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        with ExitStack() as stack:
            try:
                self._build(stack)
            except (QueueError, StateFileError, DivertError) as error:
                raise DaemonError(str(error)) from error
            except OSError as error:
                raise DaemonError(f"{error.filename or 'the kernel'}: {error.strerror or error}") from error
            asyncio.run(self._serve())

    # -- start -----------------------------------------------------------------------------------------------

    def _load_config(self) -> Config:
        skipped: list[str] | None = [] if self._skip_unsupported else None
        config = load_config(self._config_path, self._overrides, skipped)
        for warning in skipped or ():
            self._journal.say(f"warning: {warning}")
        return config

    def _build(self, stack: ExitStack) -> None:
        config = self._config
        if queue_owner(config.queue.number) is not None:
            raise QueueError(why_not_bound(config.queue.number))
        if self._divert:
            stack.callback(DiversionOwner().close)
        # As a rule this is the state directory, too, which only root may enter if it is made as such.
        config.control.socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        state = open_state_file(config.state.dir,
                                Engine.memory_size(config.conntrack.max_entries, config.conntrack.expect_max))
        self.engine = engine_from_config(config, self.now_ns(), memory=state.memory, boot_id=state.boot_id,
                                         previous=state.previous)
        self._journal.follow(self.engine.program)
        self.engine.on_helper_error = lambda error: self._journal.say(f"helper failed, packet dropped: {error!r}")
        self._control = ControlServer(config.control.socket, config.control.group, self)
        self._control.bind()
        stack.callback(self._control.unbind)
        self._links = Links(on_change=lambda names: self._queue.set_links(names))
        stack.callback(self._links.close)
        self._addresses = AddressAlarm()
        stack.callback(self._addresses.close)
        self._learn_addresses()
        self._queue = QueueLoop(self.engine, number=config.queue.number, mark=OWN_MARK, length=config.queue.length,
                                fail_open=config.queue.on_overload == "accept", links=self._links.names)
        stack.callback(self._queue.close)
        self._queue_stats = QueueStats()
        stack.callback(self._queue_stats.close)

    # -- the main thread -------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self.in_background(self._reload_on_signal))
        self._main_loop = loop
        loop.add_reader(self._links.fileno(), self._links.read)
        loop.add_reader(self._addresses.fileno(), self._addresses_changed)
        data_thread = threading.Thread(target=self._judge_packets, args=(loop, stop), name="pyfw-data", daemon=True)
        data_thread.start()
        self._journal.start()
        sweeper = asyncio.create_task(self._sweep())
        try:
            self._install_diversion()
            await self._control.start()     # last: who gets an answer may rely on being guarded
            self._journal.say(self._greeting())
            await stop.wait()
            if self._failure is None:
                await self._withdraw()
        finally:
            sweeper.cancel()
            self._worker.shutdown(wait=False, cancel_futures=True)
            await self._control.close()
            self._queue.stop()
            data_thread.join()
            self._journal.stop()
        if self._failure is not None:
            raise DaemonError(f"stopped: the queue loop failed: {self._failure!r}; the diversion stays in place")

    def _judge_packets(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        try:
            self._queue.run()
        except BaseException as error:
            self._failure = error
            loop.call_soon_threadsafe(stop.set)

    async def _sweep(self) -> None:
        while True:
            freed = self.engine.sweep(self.now_ns())
            self.engine.surroundings.sets.sweep(self.now_ns())
            self.engine.wall_offset_ns = time.time_ns() - self.now_ns()
            await asyncio.sleep(BUSY_SWEEP_INTERVAL_S if freed else SWEEP_INTERVAL_S)

    def _addresses_changed(self) -> None:
        self._addresses.clear()
        self.in_background(self._learn_addresses)

    def _learn_addresses(self) -> None:
        self.engine.surroundings.addresses.replace(read_routes())

    def _install_diversion(self) -> None:
        if not self._divert:
            return
        config = self._config
        diversion = Diversion(queue=config.queue.number, hooks=config.hooks, exempt=config.exempt.interfaces,
                              bypass=config.queue.when_down == "accept")
        try:
            diversion.install()
        except DivertError as error:
            with suppress(DivertError):
                diversion.remove()
            raise DaemonError(str(error)) from error
        self._diversion = diversion

    async def _withdraw(self) -> None:
        """Divert no more, then see the packets out that are queued."""
        if self._diversion is not None:
            try:
                self._diversion.remove()
            except DivertError as error:
                self._journal.say(f"the diversion stays in place: {error}")
        deadline_ns = self.now_ns() + int(DRAIN_S * 1e9)
        while self.now_ns() < deadline_ns:
            counters = self.queue_counters()
            if counters is None or counters.queued == 0:
                return
            await asyncio.sleep(DRAIN_INTERVAL_S)

    def _reload_on_signal(self) -> None:
        try:
            self._journal.say(self.reload().text())
        except ConfigError as error:
            self._journal.say(f"{error}; the old rules stay in force")

    def _greeting(self) -> str:
        config = self._config
        where = f"network namespace {self._netns}" if self._netns else "this machine"
        diversion = "of " + ", ".join(config.hooks) if self._divert else "that other rules divert"
        rules = f"{config.rule_count} rules" if config.rules else "no rules, everything is accepted"
        return (f"guarding {where}: packets {diversion} on queue {config.queue.number}; {rules}; "
                f"{self.engine.adopted} connections taken over; control socket {config.control.socket}")

    # -- what the control commands need ----------------------------------------------------------------------

    def now_ns(self) -> int:
        """The clock that the queue loop reads, too."""
        return time.monotonic_ns()

    def in_background(self, work: Callable[[], T]) -> Future[T]:
        """Have something done that takes long: one after another, by a thread that gives way to the packets."""
        return self._worker.submit(work)

    def reload(self) -> Reload:
        """Read the config again and let its sets and rules serve.  Raises ConfigError; then nothing has changed.

        In the background: the sets are the main thread's, so that it must put the new ones in place.
        """
        config = self._load_config()
        surroundings = self.engine.surroundings
        if config.sets:
            fresh = config_sets(config, self.now_ns(), self.engine.guard)
            compile_rules(config, Surroundings(surroundings.helpers, fresh))
            asyncio.run_coroutine_threadsafe(self._replace_sets(fresh), self._main_loop).result()
        self.serve_rules(compile_rules(config, surroundings))
        return Reload(config.rule_count, changed_keys(self._config, config))

    async def _replace_sets(self, fresh: SetStore) -> None:
        self.engine.surroundings.sets.replace(fresh)

    def rule_files(self) -> dict[str | None, Path]:
        """The files that the rules are read from, by table; None: one of all tables."""
        return rule_files(self._config_path)

    def serve_rules(self, program: Program | None) -> None:
        """Let another program judge, from one packet to the next."""
        self.engine.load(program)
        self._journal.follow(program)

    def queue_counters(self) -> QueueCounters | None:
        """The kernel's counters of the queue; None: it is gone."""
        return self._queue_stats.read(self._config.queue.number)

    def has_judged(self, packet_id: int) -> bool:
        """Whether every packet up to this number of the queue's has its verdict."""
        return self._queue.drained(packet_id)

    def statistics(self) -> dict[str, Any]:
        """All counters, nested; each group under its own name."""
        kernel = self.queue_counters()
        return {
            "daemon": {"version": __version__, "pid": os.getpid(),
                       "uptime_s": (self.now_ns() - self._started_ns) // 10**9,
                       "connections_taken_over": self.engine.adopted},
            **self.engine.counters(),
            "queue": {"number": self._config.queue.number, **self._queue.counters()},
            "kernel_queue": kernel._asdict() if kernel else {},
            "log": {"lines": self._journal.lines, "suppressed": self._journal.suppressed},
            "control": self._control.counters(),
        }


def give_way() -> None:
    """The calling thread takes the processor when nobody else wants it: rules are compiled while packets are judged."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICE)


def enter_namespace(name: str) -> None:
    """Move this process to a network namespace; threads started later are in it, too."""
    try:
        namespaces.setns(name, flags=0)
    except FileNotFoundError as error:
        known = ", ".join(sorted(namespaces.listnetns())) or "none"
        raise DaemonError(f"there is no network namespace '{name}' (there are: {known}); "
                         f"make it with `ip netns add {name}`") from error
    except OSError as error:
        raise DaemonError(f"network namespace '{name}' cannot be entered: {error.strerror}") from error
