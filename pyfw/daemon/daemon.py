"""The daemon that serves: has signals, loops and chores go on beside the packets, and leaves in order.

    data thread      QueueLoop.run(): packets in, verdicts out, without the GIL
    journal thread   LOG's lines and messages to standard error; it alone waits when their reader is slow
    main thread      asyncio: control socket, sweeping, sets, signals
    metrics thread   asyncio: answers requests for metrics, at the lowest priority
    worker thread    reads and compiles rules, at the lowest priority
    diversion thread puts the kernel's rules back that others have changed

If the data thread fails, the diversion stays: the kernel then does what queue.when_down says.  Outside the queue loop, the
clock is read in this room alone.
"""
from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pyfw
from pyfw.config.schema import Config
from pyfw.config.values import ConfigError
from pyfw.daemon.active_rules import ActiveRules, Clocks, Configs, Told
from pyfw.daemon.chores import Chores, mender, reporter, sweeper
from pyfw.daemon.connection_review import ConnectionReview
from pyfw.daemon.metrics_keeper import MetricsKeeper
from pyfw.daemon.parts import DaemonError, Parts, Surroundings
from pyfw.daemon.process import lower_priority
from pyfw.edge.control.handover import CONTROL, DIVERSION, QUEUE
from pyfw.edge.control.server import ControlServer
from pyfw.edge.control.table import Reload
from pyfw.edge.control.unix_socket import group_id_of
from pyfw.edge.host.diversion_keeper import DiversionKeeper
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.local_addresses import read_routes
from pyfw.edge.host.other_tables import Tables, hand_over
from pyfw.edge.host.restarts import SERVED_S
from pyfw.edge.queue_counters import QueueCounters
from pyfw.report.degraded import CONTROL_GROUP, RULES, SHADOW
from pyfw.rules.model import Ruleset
from pyfw.rules.program.program import Program

T = TypeVar("T")

DRAIN_S = 1.0                   # how long a clean stop waits for the last verdicts
DRAIN_INTERVAL_S = 0.002


class Daemon:
    """One firewall, from the first packet to the stop.  The `services` of the control commands."""

    def __init__(self, around: Surroundings, parts: Parts, stack: ExitStack) -> None:
        """`stack` closes the event loop."""
        self.parts = parts
        self.engine = parts.engine
        self._around = around
        self._options = around.options
        self._journal = around.journal
        self._manager = around.manager
        self._degraded = around.degraded
        self._config = parts.config
        self._judging = parts.judging
        self._diversion = parts.diversion
        self._runner = stack.enter_context(asyncio.Runner())
        self._loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        self._chores = Chores(self._loop, around.defects)
        self._rules = ActiveRules(self.engine, Configs(self._config, around.source.load, self._came_into_force),
                                  Told(self._journal, self._manager, hand_over if self._options.divert else lambda tables, keep: None),
                                  Clocks(self.now_ns, time.time), self._chores)
        self._control = ControlServer(self._config.control.socket, self._config.control.group, self, defects=around.defects)
        self._metrics = MetricsKeeper(self._config, self.statistics, lambda: self.engine.program, prepare_thread=lower_priority,
                                      degraded=self._degraded, defects=around.defects)
        self._unconfirmed = False

    def open_sockets(self, handed: dict[str, int], stack: ExitStack) -> None:
        """Take the addresses at which questions are answered, from a predecessor if it has handed them over."""
        config = self._config.control
        self._control.bind(handed)
        if group_id_of(config.group) is not None and not config.socket.stat().st_mode & 0o060:
            self._degraded.fails(CONTROL_GROUP, f"only root may use {config.socket}: this user may not give it to the group "
                                                f"{config.group} (`systemctl edit pyfw`: Group={config.group}, SupplementaryGroups=pyfw)")
        stack.callback(self._control.unbind, unlink=CONTROL not in handed)  # a predecessor's path stays where it is
        stack.callback(self._metrics.close)
        self._metrics.open()

    # -- the main thread -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.  Raises DaemonError."""
        self._runner.run(self._serve())

    async def _serve(self) -> None:
        loop, judging = self._loop, self._judging
        loop.set_exception_handler(self._unexpected)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._chores.apart(self._reload_on_signal))
        loop.add_reader(self.parts.links.fileno(), self.parts.links.read)
        loop.add_reader(self.parts.addresses.fileno(), self._addresses_changed)
        judging.tell_of_failure(lambda: loop.call_soon_threadsafe(self._stop.set))
        self._journal.start()
        chores = [sweeper(judging), mender(judging, self._metrics), *([reporter(self._around, judging)] if self._manager else [])]
        tasks = [asyncio.create_task(self._chores.again_and_again(work)) for work in chores]
        try:
            if self._diversion is not None:
                self._start_diverting(self._diversion)
            await self._control.start()     # last: a client that gets an answer may rely on being guarded
            self._journal.say(self._greeting())
            self._manager.tell("READY=1")
            if self._options.confirm_s:
                self._rules.try_out(self._options.confirm_s, self._give_up)
            elif RULES not in self.degraded:
                self._came_into_force(self._config)
            loop.call_later(SERVED_S, self._around.restarts.ended_well)
            await self._stop.wait()
            self._control.stop_serving()    # now, for what follows needs descriptors and the processor
            self._around.reserve.release()
            if judging.failure is None:
                self._around.restarts.ended_well()
                if not judging.handed_on:
                    await self._leave()
        finally:
            for task in tasks:
                task.cancel()
            self._chores.close()
            await self._control.close(unlink=not judging.handed_on)
            self._metrics.close()
            judging.close()
            self._journal.stop()
            if judging.handed_on:
                os._exit(0)             # at once: packets wait, and an interpreter that tidies up takes time
        if judging.failure is not None:
            raise DaemonError(f"stopped: the queue loop failed: {judging.failure!r}; the diversion stays in place")
        if self._unconfirmed:
            raise DaemonError(f"nobody confirmed within {self._options.confirm_s} s: nothing is diverted any more")

    def _unexpected(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._around.defects.report(context["message"], context.get("exception") or RuntimeError(context["message"]))

    async def _leave(self) -> None:
        """End so that either a successor goes on from here, or nothing is diverted any more."""
        if self.handing_over:
            self.take_back()
        if self._manager.is_restarting():
            self._judging.handed_on = True
        else:
            self._manager.tell("STOPPING=1")
            await self._withdraw()

    def _give_up(self) -> None:
        self._unconfirmed = True
        self._stop.set()

    def _addresses_changed(self) -> None:
        self.parts.addresses.clear()
        self._chores.apart(self._learn_addresses)

    def _learn_addresses(self) -> None:
        self.engine.environment.addresses.replace(read_routes())

    def _came_into_force(self, config: Config) -> None:
        """Rules from the config's files serve, and stay."""
        self._degraded.works(RULES)
        if self._around.source.keeps:
            self._chores.apart(self._around.source.keep, config, self._config)

    def _start_diverting(self, diversion: DiversionKeeper) -> None:
        try:
            if not self._options.takeover:
                diversion.install_before(lambda: hand_over(self._config.kernel_tables))
        except DivertError as error:
            raise DaemonError(str(error)) from error
        diversion.start()

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
            outcome = self.reload()
        except ConfigError as error:
            self._journal.say(f"{error}; the old rules stay in force")
            return
        self._journal.say(outcome.text())
        if outcome.kill_states:
            asyncio.run_coroutine_threadsafe(self._kill_states(), self._loop).result()

    async def _kill_states(self) -> None:
        review = self.connection_review()
        for _ in review:
            await asyncio.sleep(0)
        self._journal.say(review.result)

    def _greeting(self) -> str:
        config, options = self._config, self._options
        where = f"network namespace {options.netns}" if options.netns else "this machine"
        diversion = f"of {self._diversion}" if self._diversion is not None else "that other rules divert"
        rules = f"{config.rule_count} rules" if config.rules else "no rules, everything is accepted"
        return (f"guarding {where}: packets {diversion} on queue {config.queue.number}; {rules}; "
                f"{self.parts.adopted} connections taken over; control socket {config.control.socket}")

    # -- what the control commands need ----------------------------------------------------------------------

    def now_ns(self) -> int:
        """The clock that the queue loop reads, too."""
        return time.monotonic_ns()

    def in_background(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """As Chores.in_background()."""
        return self._chores.in_background(work, *arguments)

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

    @property
    def other_tables(self) -> str:
        """Who gets tables that are not pyfw's."""
        return self._rules.config.other_tables

    def hand_over_tables(self, tables: Tables, keep: bool) -> None:
        """As ActiveRules.hand_over_tables()."""
        self._rules.hand_over_tables(tables, keep)

    def compile_rules(self, ruleset: Ruleset) -> Program:
        """As ActiveRules.compile_rules()."""
        return self._rules.compile_rules(ruleset)

    @property
    def config_path(self) -> Path:
        return self._around.source.path

    def keep_saved_rules(self) -> None:
        """As ConfigSource.keep_saved().  Not in the main thread."""
        self._around.source.keep_saved(self._rules.config, self._config)

    @property
    def handing_over(self) -> bool:
        """A successor may be judging."""
        return self._judging.handing_over

    def begin_handover(self) -> bool:
        """Judge no more, for the sake of a successor.  The data thread ends within 100 ms; packets wait in the kernel.

        False: not now, for the diversion is being looked at, or another successor has come before.
        """
        if self.handing_over or (self._diversion is not None and not self._diversion.rest()):
            return False
        self._metrics.close()               # the successor wants the address
        self._judging.hand_over()
        return True

    @property
    def is_judging(self) -> bool:
        return self._judging.is_alive

    def what_is_handed_over(self) -> dict[str, int]:
        """Descriptors by name."""
        owner = self.parts.owner
        diversion = {DIVERSION: owner.fileno()} if owner is not None else {}
        return {QUEUE: self._judging.queue.fileno(), **self._control.descriptors(), **self.parts.state.descriptors, **diversion}

    def take_back(self) -> None:
        """The successor did not come up: go on."""
        if self.handing_over and not self._judging.handed_on:
            self._judging.take_back()
            if self._diversion is not None:
                self._diversion.resume()
            self._metrics.open()
            self._journal.say("a successor asked for the queue and has not taken it; going on")

    def finish_handover(self) -> None:
        """The successor judges: end, and leave everything in its place."""
        self._judging.handed_on = True
        self._stop.set()

    @property
    def degraded(self) -> Mapping[str, str]:
        """{part: what is wrong with it}, as Degraded has it."""
        return self._degraded.reasons

    def queue_counters(self) -> QueueCounters | None:
        """The kernel's counters of the queue; None: it is gone."""
        return self.parts.queue_stats.read(self._config.queue.number)

    @property
    def diversion_fault(self) -> str | None:
        """What is wrong with the kernel's rules, as far as is known; None: nothing, or they are not ours to install."""
        return self._diversion.fault if self._diversion is not None else None

    def has_judged(self, packet_id: int) -> bool:
        """Whether every packet up to this number of the queue's has its verdict."""
        return self._judging.queue.drained(packet_id)

    def statistics(self) -> dict[str, Any]:
        """All counters, nested; each group under its own name."""
        kernel, queue, journal = self.queue_counters(), self._judging.queue, self._journal
        return {
            "daemon": {"version": pyfw.__version__, "pid": os.getpid(),
                       "uptime_s": (self.now_ns() - self._around.started_ns) // 10**9,
                       "connections_taken_over": self.parts.adopted},
            "degraded": self.degraded,
            **self.engine.counters(),
            "queue": {"number": self._config.queue.number, "length": self._config.queue.length, **queue.counters()},
            "kernel_queue": kernel._asdict() if kernel else {},
            **({"diversion": self._diversion.counters()} if self._diversion is not None else {}),
            **({"shadow": self.engine.shadow.counters()} if self.engine.shadow else {}),
            "verdict_latency": queue.latency_counters(),
            "reloads": dict(self._rules.reloads),
            "log": {"lines": journal.lines, "suppressed": journal.suppressed,
                    "drops": journal.drops, "drops_suppressed": journal.suppressed_drops},
            "control": self._control.counters(),
            **self._metrics.counters(),
        }
