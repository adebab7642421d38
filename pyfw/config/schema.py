"""The configuration: what every key means, what it is when left out, and how its file is read.

The only reader of config files.  Every mistake is a `ConfigError` whose text is one line,
`file:line:column: what is wrong, and what would be right`.  For a value given with `--set` the place
is the `--set` itself.  Knows no kernel, no socket and no clock.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pyfw.bounded_text import CONFIG_BYTES, RULES_BYTES, SETS_BYTES, NotYaml, compose_yaml, place_of
from pyfw.config.limits import LimitsConfig, read_limits
from pyfw.config.values import (
    TAG,
    ConfigError,
    OtherTables,
    Reader,
    Scope,
    ShadowError,
    choice,
    entries,
    error_at,
    is_null,
    list_of,
    location_of,
    read_absolute_path,
    read_control_path,
    read_duration_s,
    read_group,
    read_interface,
    read_listen,
    read_mark,
    read_switch,
    read_text,
    shown,
    suggest,
    whole_number,
)
from pyfw.conntrack.settings import TcpSettings, TrackingSettings
from pyfw.edge.bounded_files import read_file, read_text_file
from pyfw.edge.control.loopback_address import LoopbackAddress
from pyfw.rules.lexer import Place
from pyfw.rules.model import RulesError, Ruleset

DEFAULT_CONFIG = Path("/etc/pyfw/pyfw.yaml")
HOOKS = ("INPUT", "FORWARD", "OUTPUT")
VERDICTS = ("drop", "accept")
MAX_SET_FILES = 1000
MAX_HELPERS = 8                     # HELPERS_MAX and HELPER_PORTS_MAX of engine.pxd
MAX_HELPER_PORTS = 16


def read_timeouts(node: yaml.Node, name: str, scope: Scope) -> dict[str, int]:
    from pyfw.conntrack.timeouts import DEFAULTS
    timeouts = {}
    for key, key_node, value_node in entries(node, name):
        if key not in DEFAULTS:
            raise error_at(key_node, f"unknown timeout '{key}', {suggest(key, list(DEFAULTS))}")
        timeouts[key] = read_duration_s(value_node, f"{name}.{key}", scope)
    return timeouts


def _section(cls: type, **readers: Reader) -> Reader:
    """Reads a mapping into the dataclass `cls`; `key:` with nothing after it means all its defaults.

    `readers`: those of the fields that are not made with _option().
    """
    readers |= {item.name: item.metadata["read"] for item in fields(cls) if "read" in item.metadata}

    def read(node: yaml.Node, name: str, scope: Scope) -> Any:
        values = {}
        prefix = "" if cls is Config else f"{name}."
        for key, key_node, value_node in () if is_null(node) else entries(node, name):
            if key not in readers:
                raise error_at(key_node, f"unknown key '{key}' in {name}, {suggest(key, list(readers))}")
            values[key] = readers[key](value_node, prefix + key, scope)
        return cls(**values)
    return read


@dataclass(frozen=True)
class _BuiltInHelper:
    ports: tuple[int, ...]
    options: Mapping[str, Reader]


_BUILT_IN_HELPERS = {
    # strict: an announcement counts only as the answer to its command; loose: its address may be another host's;
    # assume_announcer: a private one is the server's own
    "ftp": _BuiltInHelper((21,), dict.fromkeys(("strict", "loose", "assume_announcer"), read_switch)),
}


def _helpers(node: yaml.Node, name: str, scope: Scope) -> dict[str, HelperConfig]:
    helpers = {}
    for key, key_node, value_node in () if is_null(node) else entries(node, name):
        off = value_node.tag == TAG + "bool" and not read_switch(value_node, name, scope)
        if not off:
            helpers[key] = _helper(key, key_node, value_node, scope)
    if len(helpers) > MAX_HELPERS:
        raise error_at(node, f"{name} may name {MAX_HELPERS} helpers, not {len(helpers)}")
    return helpers


def _helper(name: str, name_node: yaml.Node, node: yaml.Node, scope: Scope) -> HelperConfig:
    """Its ports, and the options that a built-in helper is known to take or that an installed one accepts."""
    built_in = _BUILT_IN_HELPERS.get(name)
    ports = built_in.ports if built_in else ()
    options = {}
    for key, key_node, value_node in () if is_null(node) else entries(node, f"helpers.{name}"):
        option = f"helpers.{name}.{key}"
        if key == "ports":
            ports = list_of(whole_number(1, 65535), at_least=1, at_most=MAX_HELPER_PORTS)(value_node, option, scope)
        elif not built_in:
            options[key] = yaml.SafeLoader("").construct_object(value_node, deep=True)
        elif key in built_in.options:
            options[key] = built_in.options[key](value_node, option, scope)
        else:
            raise error_at(key_node, f"unknown key '{key}' in helpers.{name}, "
                                   + suggest(key, ["ports", *built_in.options]))
    if not built_in:
        _check_installed_helper(name, name_node, ports, options)
    return HelperConfig(ports, options)


def _check_installed_helper(name: str, name_node: yaml.Node, ports: Sequence[int], options: Mapping[str, Any]) -> None:
    from pyfw.helpers import HelperError, available, make_helper
    try:
        known = available()
        if name not in known:
            raise error_at(name_node, f"unknown helper '{name}', {suggest(name, sorted(known))}")
        make_helper(name, **options)
    except HelperError as error:
        raise error_at(name_node, str(error)) from error
    if not ports:
        raise error_at(name_node, f"helper '{name}' needs ports, such as {{ports: [6100]}}")


def _rules(node: yaml.Node, name: str, scope: Scope) -> Ruleset | None:
    from pyfw.rules.language.yaml_rules import load_rules
    if is_null(node):
        return None
    try:
        return load_rules(node, dict(scope.variables), scope.directory, node.start_mark.name, partial(read_text_file, largest=RULES_BYTES),
                          scope.skipped, scope.others, scope.notes)
    except RulesError as error:
        raise ConfigError.from_rules(error, location_of(node.start_mark)) from error


def _shadow(node: yaml.Node, name: str, scope: Scope) -> Ruleset | None:
    try:
        return _shadow_rules(node, name, scope)
    except ConfigError as error:
        raise ShadowError(error.location, error.message) from error


def _shadow_rules(node: yaml.Node, name: str, scope: Scope) -> Ruleset | None:
    """The rules of another config (a name in .yaml or .yml, read with its own variables), or a file of iptables-save text."""
    from pyfw.rules.language.check import check_ruleset
    from pyfw.rules.language.iptables import parse_save
    if is_null(node):
        return None
    path = scope.directory / read_text(node, name, scope)
    try:
        if path.suffix in (".yaml", ".yml"):
            return _rules_of(path, scope.skipped)
        return check_ruleset(parse_save(read_text_file(path, RULES_BYTES), source=str(path), variables=scope.variables,
                                        skipped=scope.skipped))
    except (OSError, UnicodeDecodeError) as error:
        raise error_at(node, f"{name}: {path}: {getattr(error, 'strerror', None) or 'not a text in UTF-8'}") from error
    except RulesError as error:
        raise ConfigError.from_rules(error, str(path)) from error


def _rules_of(path: Path, skipped: list[str] | None) -> Ruleset | None:
    """Another config's rules, and nothing else of it."""
    found = {key: value for key, _, value in _members(_file_text(path), str(path))}
    if "rules" not in found:
        raise ConfigError(str(path), "it has no `rules:`, of which a shadow is made")
    variables = _variables(found["variables"], "variables", Scope(path.parent, {})) if "variables" in found else {}
    return _rules(found["rules"], "rules", Scope(path.parent, variables, skipped))


SetSource = tuple[Place, bytes]
"""Where a text in the syntax of `ipset save` begins, and the text."""


def _sets(node: yaml.Node, name: str, scope: Scope) -> tuple[SetSource, ...]:
    """A list of files' names, or one text."""
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return ((Place(node.start_mark.name, node.start_mark.line + 2), node.value.encode()),)
    names = () if is_null(node) else list_of(read_text, at_least=0, at_most=MAX_SET_FILES)(node, name, scope)
    sources, left = [], SETS_BYTES
    for file_name in names:
        path = scope.directory / file_name
        try:
            sources.append((Place(str(path)), read_file(path, left)))
            left -= len(sources[-1][1])
        except OSError as error:
            raise error_at(node, f"{path}: {error.strerror}") from error
    return tuple(sources)


def _variables(node: yaml.Node, name: str, scope: Scope) -> dict[str, str]:
    """Variables may use those that stand above them."""
    variables: dict[str, str] = {}
    if is_null(node):
        return variables
    for key, key_node, value_node in entries(node, name):
        if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            raise error_at(key_node, f"'{key}' cannot be a variable's name: letters, digits and _, not a digit first")
        variables[key] = read_text(value_node, f"{name}.{key}", Scope(scope.directory, variables))
    return variables


# -- the schema ----------------------------------------------------------------------------------------------


def _option(read: Reader, default: Any) -> Any:
    if callable(default):
        return field(default_factory=default, metadata={"read": read})
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The NFQUEUE that carries the packets to the daemon."""

    number: int = _option(whole_number(0, 65535), 0)
    length: int = _option(whole_number(1, 65535), 8192)          # packets that may wait for their verdict
    when_down: str = _option(choice(*VERDICTS), "drop")    # what the kernel does while no daemon listens
    on_overload: str = _option(choice(*VERDICTS), "drop")  # what it does with a packet that finds the queue full
    mark: int | None = _option(read_mark, None)            # fwmark of REJECT's answers; None: drawn at random


@dataclass(frozen=True, slots=True)
class ExemptConfig:
    """What is never diverted."""

    interfaces: tuple[str, ...] = _option(list_of(read_interface), ("lo",))


@dataclass(frozen=True, slots=True)
class ConntrackConfig(TrackingSettings):
    """The state table, and what holds for tracking."""

    max_entries: int = _option(whole_number(1, 2**28), 262144)
    expect_max: int = _option(whole_number(1, 65535), 4096)      # expectations of all helpers together


_conntrack = _section(ConntrackConfig, accounting=read_switch, checksum=read_switch, timeouts=read_timeouts,
                      tcp=_section(TcpSettings, loose=read_switch, liberal=read_switch, max_retrans=whole_number(0, 255),
                                   ignore_invalid_rst=read_switch))


@dataclass(frozen=True, slots=True)
class HelperConfig:
    """A helper that runs.  None does unless named: `helpers: {ftp: {}}` is the FTP helper with its defaults."""

    ports: tuple[int, ...]                                  # destination ports of the connections it reads
    options: Mapping[str, Any]                              # its own keyword arguments


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Where the state table lives, so that a restarted daemon finds its connections."""

    dir: Path = _option(read_absolute_path, Path("/run/pyfw"))  # on a tmpfs; one daemon per directory


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The socket that pyfwctl talks to.  Root may do all, members of the group may read.  Beside it is one for root alone."""

    socket: Path = _option(read_control_path, Path("/run/pyfw/control.sock"))
    group: str | None = _option(read_group, "pyfw")


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """How rules come into force, and how they are tried before."""

    kill_states: bool = _option(read_switch, False)         # new rules end the connections that they would not have accepted
    shadow: Ruleset | None = _option(_shadow, None)         # judged for every packet and not enforced


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is written to standard error besides what rules LOG."""

    drops: bool = _option(read_switch, False)               # dropped packets, each with its rule and reason


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Prometheus metrics over HTTP.  A Unix socket is open to root and members of control.group, as the control socket."""

    listen: LoopbackAddress | Path | None = _option(read_listen, None)     # None: nowhere


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration file, read and checked."""

    queue: QueueConfig = _option(_section(QueueConfig), QueueConfig)
    hooks: tuple[str, ...] = _option(list_of(choice(*HOOKS), at_least=1, at_most=len(HOOKS)), HOOKS)
    exempt: ExemptConfig = _option(_section(ExemptConfig), ExemptConfig)
    conntrack: ConntrackConfig = _option(_conntrack, ConntrackConfig)
    adopt: str = _option(choice("none", "kernel"), "none")  # whose connections a table that begins empty takes over
    limits: LimitsConfig = _option(read_limits, LimitsConfig)
    helpers: Mapping[str, HelperConfig] = _option(_helpers, dict)
    state: StateConfig = _option(_section(StateConfig), StateConfig)
    control: ControlConfig = _option(_section(ControlConfig), ControlConfig)
    policy: PolicyConfig = _option(_section(PolicyConfig), PolicyConfig)
    log: LogConfig = _option(_section(LogConfig), LogConfig)
    metrics: MetricsConfig = _option(_section(MetricsConfig), MetricsConfig)
    variables: Mapping[str, str] = _option(_variables, dict)
    sets: tuple[SetSource, ...] = _option(_sets, ())
    other_tables: str = _option(choice("refuse", "kernel"), "refuse")   # who gets tables of `rules` that are not pyfw's
    rules: Ruleset | None = _option(_rules, None)           # None: connections are tracked, everything is accepted
    kernel_tables: OtherTables = field(default_factory=dict, compare=False)     # of `rules`, for the kernel
    notes: tuple[str, ...] = field(default=(), compare=False)   # warnings of what is valid

    # As YAML, this config without what it reads from elsewhere: `sets`, `rules` and `policy.shadow`.
    settings: str = field(default="", compare=False, repr=False)

    @property
    def rule_count(self) -> int:
        return sum(len(chain.rules) for _, chain in self.rules.chains()) if self.rules else 0


# -- files and --set -----------------------------------------------------------------------------------------


def load_config(path: Path | str = DEFAULT_CONFIG, overrides: Sequence[str] = (),
                skipped: list[str] | None = None) -> Config:
    """Read a config file.

    `overrides` are `KEY=VALUE` with a dotted key and a YAML value, as `--set` takes them; they win over the file.
    `skipped` takes a warning for each rule that pyfw does not do, which is left out; None: that is a mistake, too.
    Raises ConfigError for the first mistake.
    """
    path = Path(path)
    return parse_config(_file_text(path), str(path), path.parent, overrides, skipped)


def load_diversion(path: Path | str = DEFAULT_CONFIG) -> tuple[Config, list[ConfigError]]:
    """What a config says of the diversion (`queue`, `hooks`, `exempt`), and the mistakes that keep it from being known.

    What cannot be read has its default, which diverts the most.  The rest of the config is not looked at.
    """
    path = Path(path)
    found: dict[str, Any] = {}
    mistakes: list[ConfigError] = []

    def read(name: str, reader: Reader, scope: Scope) -> Any:
        try:
            return {name: reader(nodes[name], name, scope)} if name in nodes else {}
        except ConfigError as error:
            mistakes.append(error)
            return {}

    try:
        nodes = {key: node for key, _, node in _members(_file_text(path), str(path))}
        variables = read("variables", _variables, Scope(path.parent, {})).get("variables", {})
        for item in fields(Config):
            if item.name in ("queue", "hooks", "exempt"):
                found |= read(item.name, item.metadata["read"], Scope(path.parent, variables))
    except ConfigError as error:
        mistakes.append(error)
    return Config(**found), mistakes


def rule_files(path: Path | str) -> dict[str | None, Path]:
    """The files that a config's rules are read from, by table; None: one that holds all tables."""
    from pyfw.rules.language.yaml_rules import rule_files
    path = Path(path)
    rules = [value for key, _, value in _members(_file_text(path), str(path)) if key == "rules"]
    return rule_files(rules[0], path.parent) if rules else {}


def _file_text(path: Path) -> str:
    try:
        return read_text_file(path, CONFIG_BYTES)
    except OSError as error:
        raise ConfigError(str(path), f"cannot read the config file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:{place_of(error)}", f"not a text in UTF-8 (byte {error.start}); is this a config file?") from error


def parse_config(text: str, source: str, directory: Path, overrides: Sequence[str] = (),
                 skipped: list[str] | None = None) -> Config:
    """As load_config, from a text; `source` names it in errors, `directory` is where its `file:`s are looked for."""
    root = _compose(text, source)
    if root is None:
        raise ConfigError(source, "the file is empty; a config has at least `rules:`")
    for override in overrides:
        root = _overridden(root, override)
    variables: dict[str, str] = {}
    others: OtherTables | None = None
    notes: list[str] = []
    for key, _, value_node in entries(root, "the config"):
        if key == "variables":
            variables = _variables(value_node, "variables", Scope(directory, {}))
        elif key == "other_tables" and choice("refuse", "kernel")(value_node, key, Scope(directory, {})) == "kernel":
            others = {}
    config: Config = _section(Config)(root, "the config", Scope(directory, variables, skipped, notes, others))
    if config.metrics.listen == config.control.socket:
        raise ConfigError(source, f"metrics.listen and control.socket are both {config.control.socket}; give them a path each")
    return replace(config, settings=_settings(root), kernel_tables=others or {}, notes=tuple(notes))


def _settings(root: yaml.Node) -> str:
    members = [(key, value) for key, value in root.value if key.value not in ("sets", "rules")]
    for number, (key, value) in enumerate(members):
        if key.value == "policy" and not is_null(value):
            kept = [(name, node) for name, node in value.value if name.value != "shadow"]
            members[number] = key, yaml.MappingNode(value.tag, kept)
    return yaml.serialize(yaml.MappingNode(root.tag, members), Dumper=yaml.SafeDumper, allow_unicode=True)


def mixed_settings(settings: str, others: str, keys: Sequence[str]) -> str:
    """A Config's `settings`, but these keys as another's have them, or not at all."""
    members = [(key_node, value) for text, wanted in ((settings, False), (others, True))
               for key, key_node, value in _members(text, "settings") if (key in keys) is wanted]
    return yaml.serialize(yaml.MappingNode(TAG + "map", members), Dumper=yaml.SafeDumper, allow_unicode=True)


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return compose_yaml(text, source)
    except NotYaml as error:
        raise ConfigError(location_of(error.mark), f"not valid YAML: {error}") from error


def _members(text: str, source: str) -> list[tuple[str, yaml.Node, yaml.Node]]:
    """A config's keys, with their nodes and their values'; an empty text has none."""
    root = _compose(text, source)
    return list(entries(root, "the config")) if root is not None else []


def _overridden(root: yaml.Node, override: str) -> yaml.Node:
    """The tree with one `KEY=VALUE` put in; its nodes' marks name the `--set`."""
    source = f"--set {override}"
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(source, "expected KEY=VALUE, for example conntrack.tcp.loose=false")
    mark = yaml.Mark(source, 0, 0, 0, "", 0)        # without text: yaml_rules.py looks there for a bare `!`
    nothing = yaml.ScalarNode(TAG + "null", "", mark, mark)
    return _grafted(root, parts, _compose(value, source) or nothing, mark)


def _grafted(node: yaml.Node, parts: list[str], value: yaml.Node, mark: yaml.Mark) -> yaml.Node:
    """A copy of `node` whose member at the path `parts` is `value`; missing mappings on the way are made."""
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if is_null(node):
        node = yaml.MappingNode(TAG + "map", [], mark, mark)
    members = list(node.value)
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(members):
        members[int(part)] = _grafted(members[int(part)], rest, value, mark)
        return yaml.SequenceNode(node.tag, members, node.start_mark, node.end_mark)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(mark.name, f"there is no '{part}' to set: the value there is {shown(node)}")
    keys = [key.value for key, _ in members]
    if part in keys:
        index = keys.index(part)
        members[index] = (members[index][0], _grafted(members[index][1], rest, value, mark))
    else:
        nothing = yaml.ScalarNode(TAG + "null", "", mark, mark)
        key_node = yaml.ScalarNode(TAG + "str", part, mark, mark)
        members.append((key_node, _grafted(nothing, rest, value, mark)))
    return yaml.MappingNode(node.tag, members, node.start_mark, node.end_mark)


def changed_keys(old: Config, new: Config) -> list[str]:
    """Dotted names of the options in which two configs differ, those left out that a reload reads."""
    reloaded = ("rules", "sets", "variables", "policy", "other_tables")
    return [name for name in _changed_names(old, new, "") if name.partition(".")[0] not in reloaded]


def _changed_names(old: Any, new: Any, name: str) -> list[str]:
    if old == new:
        return []
    if not is_dataclass(old) or type(old) is not type(new) or isinstance(old, Ruleset):
        return [name]
    return [changed for item in fields(old) if item.compare
            for changed in _changed_names(getattr(old, item.name), getattr(new, item.name),
                                          f"{name}.{item.name}".lstrip("."))]
