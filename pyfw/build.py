"""A checked config -> the parts that judge packets, the same for the daemon, `check` and `replay`.

Opens nothing and reads nothing: the config has it all.
"""
from __future__ import annotations

from typing import Any

from pyfw.config import Config, ConfigError
from pyfw.engine import Engine
from pyfw.helpers import bind
from pyfw.lock import Lock
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.parts import Surroundings
from pyfw.rules.set_store import SetStore, load_sets
from pyfw.rules.set_text import SetError
from pyfw.rules.program import Program


def config_sets(config: Config, now_ns: int = 0, lock: Lock | None = None) -> SetStore:
    """The sets that the config's files make.  Raises ConfigError."""
    try:
        return load_sets(config.sets, now_ns, lock)
    except SetError as error:
        raise ConfigError("sets", str(error)) from error


def check_rules(config: Config, sets: SetStore | None = None) -> None:
    """Raise ConfigError for rules that cannot be compiled; `sets`: those that the config's files make, if they were read."""
    surroundings = Surroundings(config.helpers, sets or config_sets(config))
    compile_rules(config, surroundings)
    compile_shadow(config, surroundings)


def compile_rules(config: Config, surroundings: Surroundings) -> Program | None:
    """The config's rules as the packet path runs them; None: it has none.

    `surroundings` are those of the engine that will run them.  Raises ConfigError.
    """
    return compiled(config.rules, surroundings, "rules")


def compile_shadow(config: Config, surroundings: Surroundings) -> Program | None:
    """The config's shadow rules, likewise: they see the engine's sets, addresses and connections, and remember by themselves."""
    own = Surroundings(surroundings.helpers, surroundings.sets, surroundings.table, surroundings.addresses)
    return compiled(config.policy.shadow, own, "policy.shadow")


def compiled(rules: Ruleset | None, surroundings: Surroundings, place: str) -> Program | None:
    if rules is None:
        return None
    try:
        return Program(rules, surroundings)
    except RulesError as error:
        raise ConfigError.from_rules(error, place) from error


def rule_texts(program: Program | None) -> dict[str, str]:
    """Each rule's and policy's name (filter:FORWARD:rule:3) -> its text, as `iptables -S` prints it."""
    numbers = range(len(program.numbering)) if program else ()
    return {program.rule_name(number): program.rule_text(number) for number in numbers}


def engine_from_config(config: Config, now_ns: int = 0, **memory: Any) -> Engine:
    """An engine with its helpers, sets and rules; `memory` is what Engine takes to keep its table in a file."""
    conntrack = config.conntrack
    helpers = [bind(name, helper.ports, **helper.options) for name, helper in config.helpers.items()]
    engine = Engine(max_entries=conntrack.max_entries, accounting=conntrack.accounting, checksum=conntrack.checksum,
                    tcp_loose=conntrack.tcp.loose, tcp_liberal=conntrack.tcp.liberal,
                    tcp_max_retrans=conntrack.tcp.max_retrans,
                    tcp_ignore_invalid_rst=conntrack.tcp.ignore_invalid_rst,
                    timeouts=conntrack.timeouts, expect_max=conntrack.expect_max, helpers=helpers, **memory)
    engine.surroundings.sets.replace(config_sets(config, now_ns, engine.guard))
    engine.load(compile_rules(config, engine.surroundings))
    return engine
