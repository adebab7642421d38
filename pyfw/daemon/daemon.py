"""The daemon: builds the parts, owns the threads, takes the signals, and takes all down again.

    data thread      QueueLoop.run(): packets in, verdicts out, without the GIL
    journal thread   LOG's lines and messages to standard error; it alone waits when nobody reads them
    main thread      asyncio: control socket, sweeping, sets, signals
    metrics thread   asyncio: answers who asks for metrics, at the lowest priority
    worker thread    reads and compiles rules, at the lowest priority
    diversion thread puts the kernel's rules back that others have changed

The diversion comes last and goes first, so that packets are diverted only while somebody judges them; what is queued
is judged before the queue is closed.  A predecessor ends when its successor's diversion is in place.  If the data thread
fails, the diversion stays: the kernel then does what queue.when_down says.  Outside the queue loop, this is the only reader
of the clock.

A service whose config cannot be used serves the last good rules, and says so until a reload finds better.

A predecessor that was killed, restarted by systemd or told to hand over has left a queue in which packets wait: then
nothing is done, and no module loaded, before the data thread runs that it can do without.
"""
from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyfw
from pyfw.config.engine import compile_shadow, engine_from_config
from pyfw.config.last_good import LastGoodRules
from pyfw.config.schema import Config, ConfigError
from pyfw.config.source import ConfigSource
from pyfw.config.values import ShadowError
from pyfw.daemon.active_rules import ActiveRules
from pyfw.daemon.connection_review import ConnectionReview
from pyfw.daemon.metrics_keeper import MetricsKeeper
from pyfw.daemon.process import ProcessError, check_capabilities, enter_namespace, lower_priority
from pyfw.edge.control.descriptors import Reserve, raise_limit
from pyfw.edge.control.handover import CONTROL, DIVERSION, QUEUE, Handover, HandoverError
from pyfw.edge.defects import Defects
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.journal import Journal
from pyfw.edge.host.own_mark import own_mark
from pyfw.edge.host.owner_lock import DiversionOwner
from pyfw.edge.host.restarts import SERVED_S, Restarts
from pyfw.edge.host.state_file import BATCH, TABLE, StateFile, StateFileError, open_state_file
from pyfw.edge.host.systemd import NativeJournal, ServiceManager
from pyfw.edge.queue.loop import IN_HAND_BYTES, QueueLoop
from pyfw.edge.queue.socket import QueueError, port_of, why_not_bound
from pyfw.edge.queue_counters import QueueCounters, QueueStats, queue_owner
from pyfw.edge.safe_files import open_directory
from pyfw.engine.engine import Engine
from pyfw.engine.relearn import relearn_windows
from pyfw.report.degraded import ADOPT, CONTROL_GROUP, RULES, SHADOW, Degraded
from pyfw.rules.model import Ruleset
from pyfw.rules.program.program import Program

if TYPE_CHECKING:
    import asyncio

    from pyfw.edge.control.server import ControlServer
    from pyfw.edge.control.table import Reload
    from pyfw.edge.host.diversion_keeper import DiversionKeeper
    from pyfw.edge.host.links import Links
    from pyfw.edge.host.local_addresses import AddressAlarm

T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0002      # how long a helper's payload may wait for a Python thread to give way
SWEEP_INTERVAL_S = 0.1
BUSY_SWEEP_INTERVAL_S = 0.01   # while there is something to free
DRAIN_S = 1.0                   # how long a clean stop waits for the last verdicts
DRAIN_INTERVAL_S = 0.002
DEFECT_PAUSE_S = 1.0            # before what failed is tried again
STATUS_INTERVAL_S = 5.0         # how often systemd hears how things are
MEND_INTERVAL_S = 3.0           # how often what did not work at the start is tried again


class DaemonError(Exception):
    """The daemon cannot start or go on: one line that says why and what to do."""


class Daemon:
    """One firewall, from start to stop.  The `services` of the control commands."""

    engine: Engine

    def __init__(self, config_path: Path | str, overrides: Sequence[str] = (), *, netns: str | None = None,
                 divert: bool = True, skip_unsupported: bool = False, takeover: bool = False, confirm_s: int = 0) -> None:
        """takeover: replace the running daemon.  confirm_s: end again, unless confirm() is called within so many seconds."""
        self._netns = netns
        self._divert = divert
        self._takeover = takeover
        self._confirm_s = confirm_s
        self._config: Config            # this and the next ten: made by run()
        self._rules: ActiveRules
        self._state: StateFile
        self._queue: QueueLoop
        self._data_thread: threading.Thread
        self._queue_stats: QueueStats
        self._links: Links
        self._addresses: AddressAlarm
        self._control: ControlServer
        self._metrics: MetricsKeeper
        self._main_loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event
        self._owner: DiversionOwner | None = None
        self._diversion: DiversionKeeper | None = None
        self._manager = ServiceManager()
        self._worker = ThreadPoolExecutor(1, "pyfw-worker", initializer=lower_priority)
        self._journal = Journal(NativeJournal.if_ours())
        self._defects = Defects(self._journal.say)
        self._degraded = Degraded(self._journal.say)
        self._reserve = Reserve()
        self._source = ConfigSource(config_path, overrides, skip_unsupported=skip_unsupported, say=self._journal.say,
                                    last_good=LastGoodRules.of_service(), degraded=self._degraded)
        self._restarts = Restarts()
        self._unconfirmed = False
        self._failure: BaseException | None = None
        self._adopted = 0               # connections from a predecessor's table, or the kernel's
        self.handing_over = False       # a successor may be judging: the queue and the table are not ours to touch
        self._handed_on = False         # it is, and stays
        self._started_ns = time.monotonic_ns()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises ConfigError or DaemonError if it cannot start: then the kernel's rules are as they were before, and a daemon
        that was to be taken over goes on.  Raises DaemonError if the queue loop fails.
        """
        self._restarts.begin()
        # Who takes over, or tries rules out, waits for the answer.  Where packets wait, rules are compiled once.
        self._config = self._source.for_start(check=QUEUE not in self._manager.inherited,
                                              may_fall_back=not self._takeover and not self._confirm_s)
        try:
            check_capabilities(enters_namespace=self._netns is not None, diverts=self._divert)
            if self._netns is not None:
                enter_namespace(self._netns)
        except ProcessError as error:
            raise DaemonError(str(error)) from error
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        raise_limit()
        with ExitStack() as stack:
            try:
                if self._takeover:
                    load_what_is_needed()
                    handover = stack.enter_context(Handover(str(self._config.control.socket)))
                    self._build(stack, handover.descriptors)
                    if self._diversion is not None:
                        self._diversion.install_before(handover.done)
                    else:
                        handover.done()
                else:
                    self._build(stack, self._inherited())
            except (QueueError, StateFileError, DivertError, HandoverError) as error:
                raise DaemonError(str(error)) from error
            except OSError as error:
                raise DaemonError(f"{error.filename or 'the kernel'}: {error.strerror or error}") from error
            import asyncio
            asyncio.run(self._serve())

    # -- start -----------------------------------------------------------------------------------------------

    def _inherited(self) -> dict[str, int]:
        """What systemd has kept of a predecessor.  Without its queue there is nothing that could be left in hand."""
        inherited = self._manager.inherited
        queue = inherited.get(QUEUE)
        if queue is not None and queue_owner(self._config.queue.number) == port_of(queue):
            return {name: inherited[name] for name in (QUEUE, TABLE, BATCH) if name in inherited}
        return {}

    def _build(self, stack: ExitStack, handed: dict[str, int]) -> None:
        """Everything up to the diversion; `stack` takes it down.  What a predecessor handed over is taken into use."""
        config = self._config
        if QUEUE not in handed and queue_owner(config.queue.number) is not None:
            raise QueueError(why_not_bound(config.queue.number))
        if self._divert:
            self._owner = DiversionOwner(handed.get(DIVERSION))
            stack.callback(self._owner.close)
        mark = own_mark(config.queue.mark, self._owner)
        # As a rule this is the state directory, too, which only root may enter if it is made as such.
        os.close(open_directory(config.control.socket.parent, make_mode=0o755))
        self._state = open_state_file(
            config.state.dir, Engine.memory_size(config.conntrack.max_entries, config.conntrack.expect_max), IN_HAND_BYTES, handed)
        self.engine = self._make_engine()
        self.engine.bound_lives(self.now_ns())
        config = self._config
        self._adopted = self.engine.adopted
        self._rules = ActiveRules(self.engine, config, self._source.load, self._journal, self._manager, self.now_ns,
                                  time.time, self._apart, self._came_into_force)
        try:
            self._rules.serve_shadow(compile_shadow(config, self.engine.environment))
        except ShadowError as error:
            self._degraded.fails(SHADOW, str(error))
        if config.policy.kill_states and self.engine.adopted:
            review = self.connection_review()
            review.finish()
            self._journal.say(review.result)
        if config.log.drops:
            self._journal.follow_drops(self.engine.log_drops())
        self.engine.on_helper_error = lambda error: self._defects.report("helper failed, packet dropped", error)
        self._journal.follow_growth("{} connections had too many segments for their helper, and go on without",
                                    lambda: self.engine.budget.refused)
        self._queue_stats = QueueStats()
        stack.callback(self._queue_stats.close)
        self._queue = QueueLoop(self.engine, number=config.queue.number, mark=mark, length=config.queue.length,
                                fail_open=config.queue.on_overload == "accept", memory=self._state.batch,
                                descriptor=handed.get(QUEUE))
        stack.callback(self._release_queue)
        if asks_for_local_addresses(config):
            self._watch_addresses(stack)
        self._start_judging()
        stack.callback(self._stop_judging)
        self._manager.store({QUEUE: handed.get(QUEUE, self._queue.fileno()),
                             **{name: self._state.descriptors[name] for name in (TABLE, BATCH)}})
        if self._owner is not None:
            self._keep_diversion(self._owner, mark, QUEUE in handed)
        if config.adopt == "kernel" and not handed and not self.engine.adopted:
            self._adopt_from_kernel()
        if not asks_for_local_addresses(config):
            self._watch_addresses(stack)
        self._watch_links(stack)
        self._open_control(stack, handed)
        self._metrics = MetricsKeeper(config, self.statistics, lambda: self.engine.program, prepare_thread=lower_priority,
                                      degraded=self._degraded, defects=self._defects)
        stack.callback(self._metrics.close)
        self._metrics.open()

    def _make_engine(self) -> Engine:
        memory = {"memory": self._state.memory, "boot_id": self._state.boot_id}
        try:
            return engine_from_config(self._config, self.now_ns(), previous=self._state.previous, **memory)
        except ConfigError as error:
            if self._takeover or self._confirm_s:
                raise
            self._config = self._source.with_last_good_rules(self._config, error)
            return engine_from_config(self._config, self.now_ns(), **memory)     # the first has taken what was before

    def _adopt_from_kernel(self) -> None:
        from pyfw.edge.host.kernel_conntrack import ConntrackUnreadable, read_connections
        from pyfw.engine.import_connections import import_connections
        try:
            self._adopted += import_connections(self.engine, read_connections(), self.now_ns())
        except ConntrackUnreadable as error:
            self._degraded.fails(ADOPT, f"{error}; load nf_conntrack_netlink, or take `adopt` out of the config")
        except Exception as error:          # whatever users have the kernel track
            self._defects.report("adopting connections", error)
            self._degraded.fails(ADOPT, f"a connection could not be read: {error!r}")

    def _keep_diversion(self, owner: DiversionOwner, mark: int, had_queue: bool) -> None:
        from pyfw.edge.host.diversion_keeper import DiversionKeeper
        from pyfw.edge.host.divert import Diversion
        config = self._config
        diversion = Diversion(queue=config.queue.number, hooks=config.hooks, exempt=config.exempt.interfaces,
                              bypass=config.queue.when_down == "accept", mark=mark)
        self._diversion = DiversionKeeper(diversion, owner, self._journal.say, self._relearn_windows)
        if diversion.bypass and not had_queue:
            self._diversion.relearn()

    def _relearn_windows(self) -> int:
        return 0 if self.handing_over else relearn_windows(self.engine)     # else a successor does

    def _watch_links(self, stack: ExitStack) -> None:
        from pyfw.edge.host.links import Links
        self._links = Links(on_change=self._queue.set_links)
        stack.callback(self._links.close)
        self._queue.set_links(self._links.names)

    def _watch_addresses(self, stack: ExitStack) -> None:
        from pyfw.edge.host.local_addresses import AddressAlarm
        self._addresses = AddressAlarm()
        stack.callback(self._addresses.close)
        self._learn_addresses()

    def _open_control(self, stack: ExitStack, handed: dict[str, int]) -> None:
        from pyfw.edge.control.server import ControlServer
        from pyfw.edge.control.unix_socket import group_id_of
        config = self._config.control
        self._control = ControlServer(config.socket, config.group, self, defects=self._defects)
        self._control.bind(handed)
        if group_id_of(config.group) is not None and not config.socket.stat().st_mode & 0o060:
            self._degraded.fails(CONTROL_GROUP, f"only root may use {config.socket}: this user may not give it to the group "
                                                f"{config.group} (`systemctl edit pyfw`: Group={config.group}, SupplementaryGroups=pyfw)")
        stack.callback(self._control.unbind, unlink=CONTROL not in handed)  # a predecessor's path stays where it is

    # -- the data thread -------------------------------------------------------------------------------------

    def _start_judging(self) -> None:
        self._queue.resume()
        self._data_thread = threading.Thread(target=self._judge_packets, name="pyfw-data", daemon=True)
        self._tell_time()
        self._data_thread.start()

    def _judge_packets(self) -> None:
        try:
            self._queue.run()
        except BaseException as error:
            self._failure = error
            if self._main_loop is not None:
                self._main_loop.call_soon_threadsafe(self._stop.set)

    def _stop_judging(self) -> None:
        self._queue.stop()
        self._data_thread.join()

    def _release_queue(self) -> None:
        if self._handed_on or self.handing_over:
            self._queue.hand_on()
        else:
            self._queue.close()

    # -- the main thread -------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        import asyncio
        self._stop = asyncio.Event()
        self._main_loop = self._rules.loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._apart(self._reload_on_signal))
        loop.add_reader(self._links.fileno(), self._links.read)
        loop.add_reader(self._addresses.fileno(), self._addresses_changed)
        if self._failure is not None:
            self._stop.set()            # it came before there was a loop to be told
        self._journal.start()
        chores = [self._sweep, self._mend, *([self._reporter()] if self._manager else [])]
        tasks = [asyncio.create_task(self._again_and_again(work)) for work in chores]
        try:
            if self._diversion is not None:
                self._start_diverting(self._diversion)
            await self._control.start()     # last: who gets an answer may rely on being guarded
            self._journal.say(self._greeting())
            self._manager.tell("READY=1")
            if self._confirm_s:
                self._rules.try_out(self._confirm_s, self._give_up)
            elif RULES not in self.degraded:
                self._came_into_force(self._config)
            loop.call_later(SERVED_S, self._restarts.ended_well)
            await self._stop.wait()
            self._control.stop_serving()    # now, for what follows needs descriptors and the processor
            self._reserve.release()
            if self._failure is None:
                self._restarts.ended_well()
                if not self._handed_on:
                    await self._leave()
        finally:
            for task in tasks:
                task.cancel()
            self._worker.shutdown(wait=False, cancel_futures=True)
            await self._control.close(unlink=not self._handed_on)
            self._metrics.close()
            self._stop_judging()
            self._release_queue()
            self._journal.stop()
            if self._handed_on:
                os._exit(0)             # packets wait: nobody does for an interpreter that tidies up
        if self._failure is not None:
            raise DaemonError(f"stopped: the queue loop failed: {self._failure!r}; the diversion stays in place")
        if self._unconfirmed:
            raise DaemonError(f"nobody confirmed within {self._confirm_s} s: nothing is diverted any more")

    def _unexpected(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._defects.report(context["message"], context.get("exception") or RuntimeError(context["message"]))

    async def _leave(self) -> None:
        """End so that either a successor goes on from here, or nothing is diverted any more."""
        if self.handing_over:
            self.take_back()
        if self._manager.is_restarting():
            self._handed_on = True
        else:
            self._manager.tell("STOPPING=1")
            await self._withdraw()

    def _give_up(self) -> None:
        self._unconfirmed = True
        self._stop.set()

    async def _again_and_again(self, work: Callable[[], float]) -> None:
        """Do `work`, and again after as many seconds as it says.  A defect in it is told of, and does not end that."""
        import asyncio
        while True:
            try:
                pause_s = work()
            except Exception as error:
                self._defects.report(f"{work.__name__.strip('_')} failed", error)
                pause_s = DEFECT_PAUSE_S
            await asyncio.sleep(pause_s)

    def _sweep(self) -> float:
        freed = 0 if self.handing_over else self.engine.sweep(self.now_ns())
        self.engine.environment.sets.sweep(self.now_ns())
        self._tell_time()
        return BUSY_SWEEP_INTERVAL_S if freed else SWEEP_INTERVAL_S

    def _tell_time(self) -> None:
        """The engine reads no clock, and no time zone."""
        self.engine.wall_offset_ns = time.time_ns() - self.now_ns()
        self.engine.zone_offset_s = time.localtime().tm_gmtoff

    def _reporter(self) -> Callable[[], float]:
        """Tells systemd that the data thread makes progress, as often as it wants to hear it, and how things are."""
        interval_s = min(self._manager.watchdog_s or STATUS_INTERVAL_S, STATUS_INTERVAL_S) / 2
        alive, packets, since_ns = 0, 0, self.now_ns()

        def report() -> float:
            nonlocal alive, packets, since_ns
            if self._queue.alive != alive:
                alive = self._queue.alive
                self._manager.tell("WATCHDOG=1", waits=False)
            counted, now_ns = self._queue.counters()["packets"], self.now_ns()
            rate = (counted - packets) * 10**9 // max(now_ns - since_ns, 1)
            entries = self.engine.counters()["table"]["entries"]
            troubles = "".join(f"; {part}: {reason}" for part, reason in self.degraded.items())
            self._manager.tell(f"STATUS={entries:,} connections, {rate:,} packets/s{troubles}", waits=False)
            packets, since_ns = counted, now_ns
            return interval_s

        return report

    def _mend(self) -> float:
        if not self.handing_over:
            self._metrics.open()
        return MEND_INTERVAL_S

    def _addresses_changed(self) -> None:
        self._addresses.clear()
        self._apart(self._learn_addresses)

    def _learn_addresses(self) -> None:
        from pyfw.edge.host.local_addresses import read_routes
        self.engine.environment.addresses.replace(read_routes())

    def _came_into_force(self, config: Config) -> None:
        """Rules from the config's files serve, and stay."""
        self._degraded.works(RULES)
        if self._source.keeps:
            self._apart(self._source.keep, config, self._config)

    def _start_diverting(self, diversion: DiversionKeeper) -> None:
        try:
            if not self._takeover:
                diversion.install()
        except DivertError as error:
            raise DaemonError(str(error)) from error
        diversion.start()

    async def _withdraw(self) -> None:
        """Divert no more, then see the packets out that are queued."""
        import asyncio
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
            outcome = self.reload()
        except ConfigError as error:
            self._journal.say(f"{error}; the old rules stay in force")
            return
        self._journal.say(outcome.text())
        if outcome.kill_states:
            import asyncio
            asyncio.run_coroutine_threadsafe(self._kill_states(), self._main_loop).result()

    async def _kill_states(self) -> None:
        import asyncio
        review = self.connection_review()
        for _ in review:
            await asyncio.sleep(0)
        self._journal.say(review.result)

    def _greeting(self) -> str:
        config = self._config
        where = f"network namespace {self._netns}" if self._netns else "this machine"
        diversion = "of " + ", ".join(config.hooks) if self._divert else "that other rules divert"
        rules = f"{config.rule_count} rules" if config.rules else "no rules, everything is accepted"
        return (f"guarding {where}: packets {diversion} on queue {config.queue.number}; {rules}; "
                f"{self._adopted} connections taken over; control socket {config.control.socket}")

    # -- what the control commands need ----------------------------------------------------------------------

    def now_ns(self) -> int:
        """The clock that the queue loop reads, too."""
        return time.monotonic_ns()

    def in_background(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have something done that takes long: one after another, by a thread that gives way to the packets."""
        return self._worker.submit(work, *arguments)

    def _apart(self, work: Callable[..., object], *arguments: Any) -> None:
        """As in_background(), for what nobody waits for: a defect in it is told of."""
        self.in_background(work, *arguments).add_done_callback(self._look_at)

    def _look_at(self, done: Future[object]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._defects.report("work in the background failed", error)

    def reload(self, confirm_s: int = 0) -> Reload:
        """As ActiveRules.reload(); before, the diversion is seen to."""
        if self._diversion is not None:
            self._diversion.verify()
        outcome = self._rules.reload(confirm_s)
        self._degraded.works(SHADOW)
        return outcome

    def connection_review(self) -> ConnectionReview:
        """Of the rules in force."""
        return ConnectionReview(self.engine, self.now_ns())

    def confirm(self) -> bool:
        """As ActiveRules.confirm()."""
        return self._rules.confirm()

    def serve_rules(self, ruleset: Ruleset) -> Program:
        """As ActiveRules.serve_rules()."""
        return self._rules.serve_rules(ruleset)

    def compile_rules(self, ruleset: Ruleset) -> Program:
        """As ActiveRules.compile_rules()."""
        return self._rules.compile_rules(ruleset)

    @property
    def config_path(self) -> Path:
        return self._source.path

    def keep_saved_rules(self) -> None:
        """As ConfigSource.keep_saved().  Not in the main thread."""
        self._source.keep_saved(self._rules.config, self._config)

    def begin_handover(self) -> bool:
        """Judge no more, for the sake of a successor.  The data thread ends within 100 ms; packets wait in the kernel.

        False: not now, for the diversion is being looked at, or another successor has come before.
        """
        if self.handing_over or (self._diversion is not None and not self._diversion.rest()):
            return False
        self.handing_over = True
        self._metrics.close()               # the successor wants the address
        self._queue.stop()
        return True

    @property
    def is_judging(self) -> bool:
        return self._data_thread.is_alive()

    def what_is_handed_over(self) -> dict[str, int]:
        """Descriptors by name."""
        diversion = {DIVERSION: self._owner.fileno()} if self._owner is not None else {}
        return {QUEUE: self._queue.fileno(), **self._control.descriptors(), **self._state.descriptors, **diversion}

    def take_back(self) -> None:
        """The successor did not come up: go on."""
        if self.handing_over and not self._handed_on:
            self._data_thread.join()
            self.handing_over = False
            self.engine.relink()
            self.engine.bound_lives(self.now_ns())
            self._queue.take_back()
            self._start_judging()
            if self._diversion is not None:
                self._diversion.resume()
            self._metrics.open()
            self._journal.say("a successor asked for the queue and has not taken it; going on")

    def finish_handover(self) -> None:
        """The successor judges: end, and leave everything in its place."""
        self._handed_on = True
        self._stop.set()

    @property
    def degraded(self) -> Mapping[str, str]:
        """{part: what is wrong with it}, as Degraded has it."""
        return self._degraded.reasons

    def queue_counters(self) -> QueueCounters | None:
        """The kernel's counters of the queue; None: it is gone."""
        return self._queue_stats.read(self._config.queue.number)

    @property
    def diversion_fault(self) -> str | None:
        """What is wrong with the kernel's rules, as far as is known; None: nothing, or they are not ours to install."""
        return self._diversion.fault if self._diversion is not None else None

    def has_judged(self, packet_id: int) -> bool:
        """Whether every packet up to this number of the queue's has its verdict."""
        return self._queue.drained(packet_id)

    def statistics(self) -> dict[str, Any]:
        """All counters, nested; each group under its own name."""
        kernel = self.queue_counters()
        return {
            "daemon": {"version": pyfw.__version__, "pid": os.getpid(),
                       "uptime_s": (self.now_ns() - self._started_ns) // 10**9,
                       "connections_taken_over": self._adopted},
            "degraded": self.degraded,
            **self.engine.counters(),
            "queue": {"number": self._config.queue.number, "length": self._config.queue.length, **self._queue.counters()},
            "kernel_queue": kernel._asdict() if kernel else {},
            **({"diversion": self._diversion.counters()} if self._diversion is not None else {}),
            **({"shadow": self.engine.shadow.counters()} if self.engine.shadow else {}),
            "verdict_latency": self._queue.latency_counters(),
            "reloads": dict(self._rules.reloads),
            "log": {"lines": self._journal.lines, "suppressed": self._journal.suppressed,
                    "drops": self._journal.drops, "drops_suppressed": self._journal.suppressed_drops},
            "control": self._control.counters(),
            **self._metrics.counters(),
        }


def load_what_is_needed() -> None:
    """Load the modules that would otherwise be loaded while packets wait, or after an upgrade has put others in their place."""
    from importlib import import_module
    for name in ("asyncio", "pyfw.edge.control.server", "pyfw.edge.control.handlers.daemon", "pyfw.edge.host.diversion_keeper",
                 "pyfw.edge.host.links", "pyfw.edge.host.local_addresses"):
        import_module(name)


def asks_for_local_addresses(config: Config) -> bool:
    chains = config.rules.chains() if config.rules else ()
    return any(match.name == "addrtype" for _, chain in chains for rule in chain.rules for match in rule.matches)
