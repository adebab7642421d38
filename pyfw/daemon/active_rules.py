"""The rules, the shadow and the sets that serve: those of the config, again at a reload, and the former ones if nothing confirms it.

After the start, no other module puts rules in force.  The commands that change rules come here, too.

Law: what a trial takes back is what a reload brought, and nothing else.  While one is on, other changes of rules are refused.

May know: the engine, configs, what is said to the administrator.  Must not know: sockets, threads' beginnings and ends, the clock.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from pyfw.config.engine import check_helpers, check_limits, compile_rules, compile_shadow, config_sets
from pyfw.config.schema import Config, changed_keys
from pyfw.config.values import ConfigError
from pyfw.daemon.chores import Chores
from pyfw.edge.control.table import Reload
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.journal import SHADOW, Journal
from pyfw.edge.host.other_tables import Tables
from pyfw.edge.host.systemd import ServiceManager
from pyfw.engine.engine import Engine
from pyfw.rules.language.commands import RESOURCE, CommandFailed
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program
from pyfw.rules.sets.store import SetStore
from pyfw.rules.sets.text import SetError

ON_TRIAL = "rules are on trial: `pyfwctl confirm` them first, or wait until they are taken back"


class Configs(NamedTuple):
    """started   the config of the start: what a reload does not change is compared with it
    read      reads the config anew; ConfigError
    good      is told of a config whose rules serve and are not on trial
    """

    started: Config
    read: Callable[[], Config]
    good: Callable[[Config], object]


class Told(NamedTuple):
    """Who is told of what happens.

    kernel    takes the tables that are not pyfw's, and whether what is in them stays; DivertError
    """

    journal: Journal
    manager: ServiceManager
    kernel: Callable[[Tables, bool], object]


class Clocks(NamedTuple):
    """now_ns: the engine's, which is CLOCK_MONOTONIC; wall_s: the time of day, in seconds since 1970"""

    now_ns: Callable[[], int]
    wall_s: Callable[[], float]


class ActiveRules:
    """Puts rules in force, from one packet to the next.  The sets are the main thread's, which `chores` knows.

    reloads   good and failed, and when each was last (last_good_s, last_failed_s: seconds since 1970)
    """

    def __init__(self, engine: Engine, configs: Configs, told: Told, clocks: Clocks, chores: Chores) -> None:
        self._engine = engine
        self._configs = configs
        self._told = told
        self._clocks = clocks
        self._chores = chores
        self._handed: Tables = configs.started.kernel_tables
        self._tried = configs.started
        self._trial: asyncio.TimerHandle | None = None      # takes new rules back when its time has come
        self._may_return = False        # the former rules; set and cleared by the worker, or by confirm()
        self.reloads = {"good": 0, "failed": 0, "last_good_s": int(clocks.wall_s())}

    def serve_rules(self, ruleset: Ruleset) -> Program:
        """Compile rules and let them serve, from one packet to the next.  In the worker thread.

        Raises RulesError, or CommandFailed while a reload is on trial; then nothing has changed.
        """
        if self._may_return:
            raise CommandFailed(ON_TRIAL)
        program = self.compile_rules(ruleset)
        self._serve(program)
        return program

    def hand_over_tables(self, tables: Tables, keep: bool) -> None:
        """Give the kernel tables that are not pyfw's, until the next reload.  keep: what is in them stays.  In the worker thread.

        Raises CommandFailed.
        """
        if self._may_return:
            raise CommandFailed(ON_TRIAL)
        try:
            self._told.kernel(tables, keep)
        except DivertError as error:
            raise CommandFailed(str(error), RESOURCE) from error
        self._handed = {}

    def compile_rules(self, ruleset: Ruleset) -> Program:
        """As serve_rules() does it: rules that stay keep their counters.  Raises RulesError."""
        return Program(ruleset, self._engine.environment, previous=self._engine.program)

    def _serve(self, program: Program | None) -> None:
        self._engine.load(program)
        self._told.journal.follow(program)

    def _serve_shadow(self, program: Program | None) -> None:
        """Let another program say what it would have decided."""
        self._engine.load_shadow(program)
        self._told.journal.follow(program, SHADOW)

    def reload(self, confirm_s: int = 0) -> Reload:
        """Read the config again and let its sets and rules serve.  Raises ConfigError; then nothing has changed.

        confirm_s: take the rules back after so many seconds, unless confirm() is called before.  Not in the main thread.
        """
        if self._may_return or self._trial is not None:
            raise ConfigError("reload", ON_TRIAL)
        result = "failed"
        self._told.manager.tell("RELOADING=1", f"MONOTONIC_USEC={self._clocks.now_ns() // 1000}")
        try:
            outcome = self._load(confirm_s)
            result = "good"
        finally:
            self._told.manager.tell("READY=1")
            self.reloads[result] += 1
            self.reloads[f"last_{result}_s"] = int(self._clocks.wall_s())
        return outcome

    def _load(self, confirm_s: int) -> Reload:
        config, former = self._configs.read(), self._engine.program
        fresh = config_sets(config, self._clocks.now_ns()) if config.sets else None
        program, shadow = self._compile(config, fresh)
        tables = self._handed
        self._give_kernel(config.kernel_tables)
        if fresh is not None:
            asyncio.run_coroutine_threadsafe(self._replace_sets(fresh), self._chores.loop).result()
        self._may_return = confirm_s > 0
        self._serve(program)
        self._serve_shadow(shadow)
        self._tried = config
        if confirm_s:
            self._chores.loop.call_soon_threadsafe(self.try_out, confirm_s,
                                                   lambda: self._chores.apart(self._serve_again, former, tables))
        else:
            self._configs.good(config)
        return Reload(config.rule_count, changed_keys(self._configs.started, config), config.policy.kill_states, confirm_s)

    def _give_kernel(self, tables: Tables) -> None:
        """Raises ConfigError.  What is the same is left alone: others may have added to it."""
        try:
            if tables != self._handed:
                self._told.kernel(tables, False)
                self._handed = tables
        except DivertError as error:
            raise ConfigError("other_tables", str(error)) from error

    def _compile(self, config: Config, fresh: SetStore | None) -> tuple[Program | None, Program | None]:
        """The rules and the shadow.  They may refer to sets of `fresh`, which are not there yet, and then to no others.

        So a start, which finds no other sets, takes these rules, too.
        """
        environment = self._engine.environment
        check_helpers(config, environment.helpers)
        environment.sets.announce(fresh)
        try:
            programs = compile_rules(config, environment), compile_shadow(config, environment)
            if fresh is not None:
                check_limits(config, RuleEnvironment(config.helpers, fresh))
            return programs
        except BaseException:
            environment.sets.announce(None)
            raise

    async def _replace_sets(self, fresh: SetStore) -> None:
        try:
            self._engine.environment.sets.replace(fresh)
        except SetError as error:
            raise ConfigError("sets", str(error)) from error

    @property
    def config(self) -> Config:
        """The one whose rules and sets came into force last, on trial or not."""
        return self._tried

    # -- on trial --------------------------------------------------------------------------------------------------------

    def try_out(self, seconds: int, take_back: Callable[[], object]) -> None:
        """Have something taken back after so many seconds, unless confirm() is called before.  In the main thread."""
        def end() -> None:
            self._trial = None
            take_back()
        self._trial = self._chores.loop.call_later(seconds, end)

    def confirm(self) -> bool:
        """What is on trial stays.  False: nothing is."""
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.cancel()
            self._may_return = False
            self._configs.good(self._tried)
        return trial is not None

    def _serve_again(self, former: Program | None, tables: Tables) -> None:
        """The former rules, compiled anew: the sets that they name may be others by now."""
        try:
            with suppress(ConfigError):
                self._give_kernel(tables)
            with suppress(RulesError):
                former = former and self.compile_rules(former.ruleset)
            self._serve(former)
        finally:
            self._may_return = False
        self._told.journal.say("nobody confirmed the new rules: the former ones serve again")
