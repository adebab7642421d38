"""A checked config -> the parts that judge packets, the same for the daemon, `check` and `replay`.

Opens nothing and reads nothing: the config has it all.
"""
from __future__ import annotations

from typing import Any

from pyfw.config import Config, ConfigError
from pyfw.engine import Engine
from pyfw.helpers import bind
from pyfw.lock import Lock
from pyfw.rules.model import RulesError
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


def compile_rules(config: Config, surroundings: Surroundings | None = None) -> Program | None:
    """The config's rules as the packet path runs them; None: it has none.

    `surroundings` are those of the engine that will run them; without, the config is only checked.  Raises ConfigError.
    """
    if config.rules is None:
        return None
    try:
        return Program(config.rules, surroundings or Surroundings(config.helpers, config_sets(config)))
    except RulesError as error:
        raise ConfigError.from_rules(error, "rules") from error


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
