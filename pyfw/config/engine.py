"""A checked config -> the parts that judge packets, the same for the daemon, `check` and `replay`.

Opens nothing and reads nothing: the config has it all.
"""
from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pyfw.config.limits import PerSourceConfig
from pyfw.config.schema import Config
from pyfw.config.values import ConfigError, ShadowError
from pyfw.conntrack.sources import Sources
from pyfw.engine.engine import Engine
from pyfw.engine.source_limits import SourceLimits
from pyfw.helpers import bind
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.bindable import bindable
from pyfw.rules.program.packet_filter import connection_filter
from pyfw.rules.program.program import Program, no_helper
from pyfw.rules.sets.store import SetStore, load_sets
from pyfw.rules.sets.text import SetError


def config_sets(config: Config, now_ns: int = 0) -> SetStore:
    """The sets that the config's files make.  Raises ConfigError."""
    try:
        return load_sets(config.sets, now_ns)
    except SetError as error:
        raise ConfigError("sets", str(error)) from error


def check_rules(config: Config) -> None:
    """Raise ConfigError for rules that cannot be compiled, or limits that name what is not there."""
    environment = RuleEnvironment(config.helpers, config_sets(config))
    compile_rules(config, environment)
    compile_shadow(config, environment)
    check_limits(config, environment)


def without_unbindable(config: Config, skipped: list[str]) -> Config:
    """The config without rules that name a helper or a set that it has not; `skipped` takes a warning for each."""
    if config.rules is None:
        return config
    return replace(config, rules=bindable(config.rules, RuleEnvironment(config.helpers, config_sets(config)), skipped))


def check_limits(config: Config, environment: RuleEnvironment) -> None:
    """Raise ConfigError for limits that name what is not in this environment."""
    if config.limits.per_source:
        limit_references(config.limits.per_source, environment)


def check_helpers(config: Config, running: Collection[str]) -> None:
    """Raise ConfigError for a rule whose helper is not both in the config, where a start looks for it, and running."""
    for rules, place in ((config.rules, "rules"), (config.policy.shadow, "policy.shadow")):
        for target in (rule.enforced for _, chain in (rules or Ruleset()).chains() for rule in chain.rules):
            if target is None or (named := target.get("--helper")) is None:
                continue
            if named.value not in config.helpers:
                message = no_helper(named.value, tuple(config.helpers))
            elif named.value not in running:
                message = f"helper {named.value!r} is new, and helpers are read only at start"
            else:
                continue
            raise ConfigError.from_rules(RulesError(message, target.location), place)


def compile_rules(config: Config, environment: RuleEnvironment) -> Program | None:
    """The config's rules as the packet path runs them; None: it has none.

    `environment` is that of the engine that will run them.  Raises ConfigError.
    """
    return compiled(config.rules, environment, "rules")


def compile_shadow(config: Config, environment: RuleEnvironment) -> Program | None:
    """The config's shadow rules, likewise: they see the engine's sets, addresses and connections, and remember by themselves.

    Raises ShadowError.
    """
    own = RuleEnvironment(environment.helpers, environment.sets, environment.table, environment.addresses)
    try:
        return compiled(config.policy.shadow, own, "policy.shadow")
    except ConfigError as error:
        raise ShadowError(error.location, error.message) from error


def compiled(rules: Ruleset | None, environment: RuleEnvironment, place: str) -> Program | None:
    if rules is None:
        return None
    try:
        return Program(rules, environment)
    except RulesError as error:
        raise ConfigError.from_rules(error, place) from error


def limit_references(per_source: PerSourceConfig, environment: RuleEnvironment) -> dict[str, Any]:
    """What the limits per source name elsewhere, as SourceLimits takes it.  Raises ConfigError."""
    found: dict[str, Any] = {}
    for name in per_source.overload:
        place, subject = per_source.places["overload"], f"limits.per_source.overload: set '{name}'"
        if name not in environment.sets.names:
            raise ConfigError(place, f"{subject} does not exist; create it in a file under `sets:`, "
                                     f"such as `create {name} hash:ip timeout 3600`")
        named = environment.sets.find(name)
        options = named.contents.options
        if options.type not in ("hash:ip", "hash:net"):
            raise ConfigError(place, f"{subject} is of type {options.type}; it must be hash:ip or hash:net")
        prefix = per_source.prefix4 if options.family == 4 else per_source.prefix6
        if options.type == "hash:ip" and (options.netmask or options.bits) > prefix:
            raise ConfigError(place, f"{subject} takes single addresses, but a source is a /{prefix}: "
                                     f"make it hash:net, or hash:ip with `netmask {prefix}`")
        if f"overload{options.family}" in found:
            raise ConfigError(place, f"{subject} is the second of IPv{options.family}; there may be one of each family")
        found[f"overload{options.family}"] = named
    if per_source.match:
        try:
            found["match"] = connection_filter(per_source.match, environment)
        except RulesError as error:
            text = str(error).removeprefix(f"{error.location}: ")
            raise ConfigError(per_source.places["match"], f"limits.per_source.match: {text}") from error
    return found


def source_limits(config: Config, environment: RuleEnvironment) -> SourceLimits | None:
    """The config's limits per source, for an engine with this environment.  Raises ConfigError."""
    wanted = config.limits.per_source
    if wanted is None:
        return None
    window_ns = wanted.max_new.window_s * 10**9 if wanted.max_new else 0
    sources = Sources(config.conntrack.max_entries, wanted.prefix4, wanted.prefix6, window_ns, os.urandom(16))
    return SourceLimits(sources, max_states=wanted.max_states or 0, max_new=wanted.max_new.count if wanted.max_new else 0,
                        flush=wanted.flush, prefix4=wanted.prefix4, prefix6=wanted.prefix6,
                        **limit_references(wanted, environment))


def adaptive_range(config: Config) -> tuple[int, int] | None:
    """(start, end) of adaptive timeouts in connections; None: timeouts do not adapt."""
    adaptive = config.limits.adaptive
    if adaptive is None:
        return None
    entries = config.conntrack.max_entries
    start = entries * adaptive.start // 100
    return start, max(entries * adaptive.end // 100, start + 1)


def rule_texts(program: Program | None) -> dict[str, str]:
    """Each rule's and policy's name (filter:FORWARD:rule:3) -> its text, as `iptables -S` prints it."""
    if program is None:
        return {}
    return {program.numbering.name(number): program.rule_text(number) for number in range(len(program.numbering))}


def engine_from_config(config: Config, now_ns: int = 0, **memory: Any) -> Engine:
    """An engine with its helpers, sets and rules; `memory` is what Engine takes to keep its table in a file."""
    conntrack = config.conntrack
    helpers = [bind(name, helper.ports, **helper.options) for name, helper in config.helpers.items()]
    engine = Engine(max_entries=conntrack.max_entries, expect_max=conntrack.expect_max, tracking=conntrack,
                    adaptive=adaptive_range(config), evict=config.limits.when_full == "evict", helpers=helpers, **memory)
    engine.environment.sets.replace(config_sets(config, now_ns))
    limits = source_limits(config, engine.environment)
    if limits is not None:
        engine.limit_sources(limits)
    engine.load(compile_rules(config, engine.environment))
    return engine
