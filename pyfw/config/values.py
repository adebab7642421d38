"""How one value of the configuration is read, and how a mistake in it is said.

A reader takes the YAML node, the value's dotted name and the Scope.  It returns the value or raises ConfigError, whose
text is one line, `file:line:column: what is wrong, and what would be right`.
"""
from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyfw.bounded_text import MAX_EXPANSION
from pyfw.edge.control.loopback_address import LoopbackAddress
from pyfw.edge.control.service_error import ServiceError
from pyfw.rules.model import RulesError
from pyfw.rules.values import CONTROL

SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_TIMEOUT_S = 2**31 - 1           # what a kernel sysctl in seconds can hold
MAX_SOCKET_PATH = 107               # sun_path of unix(7), without its final zero
MAX_MEANT_LENGTH = 64               # characters of a word that might be another one
MAX_INTERFACE_NAME = 15             # IFNAMSIZ without its final zero

TAG = "tag:yaml.org,2002:"
KINDS = {"map": "a mapping", "seq": "a list", "null": "nothing", "bool": "a truth value", "int": "a number",
         "float": "a number with a point", "str": "a text", "timestamp": "a date"}
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})?")
_ADDRESS_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):(\d{1,5})", re.ASCII)
_MARK = re.compile(r"0[xX][0-9A-Fa-f]{1,8}|[1-9]\d{0,9}", re.ASCII)
_DURATION = re.compile(r"(\d{1,10})([smhd]?)")


class ConfigError(ServiceError):
    """A mistake in the configuration; `location` is `file:line:column`, a file, or a `--set`."""

    def __init__(self, location: str, message: str) -> None:
        super().__init__(f"{location}: {message}")
        self.location = location
        self.message = message

    @classmethod
    def from_rules(cls, error: RulesError, place: str) -> ConfigError:
        """The same mistake; `place` is where it stands if the error does not know."""
        text, location = str(error), error.location or place
        if location.startswith("--set "):
            location = re.sub(r":\d+:\d+$", "", location)
        return cls(location, text.removeprefix(f"{error.location}: "))


class ShadowError(ConfigError):
    """A mistake in what is judged and not enforced."""


OtherTables = dict[int, dict[str, list[str]]]
"""By family and name: lines as iptables-save prints them."""


@dataclass(frozen=True)
class Scope:
    """What is known while a value is read: where the file lies, and the variables it may use."""

    directory: Path
    variables: Mapping[str, str]
    skipped: list[str] | None = None    # takes a warning for each rule that is left out; None: such a rule is an error
    notes: list[str] | None = None      # takes warnings of what is valid
    others: OtherTables | None = None   # takes the tables that are not pyfw's; None: one is an error


Reader = Callable[[yaml.Node, str, Scope], Any]    # node, dotted name for messages, scope -> value


def location_of(mark: yaml.Mark) -> str:
    if mark.name.startswith("--set "):
        return mark.name
    return f"{mark.name}:{mark.line + 1}:{mark.column + 1}"


def error_at(node: yaml.Node, message: str) -> ConfigError:
    return ConfigError(location_of(node.start_mark), message)


def kind_of(node: yaml.Node) -> str:
    return KINDS.get(node.tag.removeprefix(TAG), f"a value tagged {node.tag}")


def shown(node: yaml.Node) -> str:
    return f"'{node.value}'" if isinstance(node, yaml.ScalarNode) and node.value else kind_of(node)


def suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word[:MAX_MEANT_LENGTH], known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known here: " + ", ".join(known)


def entries(node: yaml.Node, name: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """(key, node of the key, node of the value) of a mapping; a key that stands twice is an error."""
    if not isinstance(node, yaml.MappingNode):
        raise error_at(node, f"{name} must be a mapping (`key: value` lines), not {shown(node)}")
    first_lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise error_at(key_node, f"a key in {name} must be a plain word, not {kind_of(key_node)}")
        key = key_node.value
        if key in first_lines:
            raise error_at(key_node, f"{name} has '{key}' twice, first on line {first_lines[key]}; keep one of them")
        first_lines[key] = key_node.start_mark.line + 1
        yield key, key_node, value_node


def is_null(node: yaml.Node) -> bool:
    return node.tag == TAG + "null"


def read_text(node: yaml.Node, name: str, scope: Scope) -> str:
    """A scalar as it was written, with `$NAME` and `${NAME}` replaced by the variables' values."""
    if not isinstance(node, yaml.ScalarNode) or is_null(node):
        raise error_at(node, f"{name} must be a text, not {shown(node)}")

    expanded = 0

    def value_of(match: re.Match[str]) -> str:
        nonlocal expanded
        variable = (match[1] or "").strip("{}")
        if variable not in scope.variables:
            raise error_at(node, f"undefined variable ${variable} in {name}; "
                               + suggest(variable, sorted(scope.variables) or ["none"]))
        expanded += len(scope.variables[variable])
        if expanded > MAX_EXPANSION:
            raise error_at(node, f"the variables in {name} come to more than {MAX_EXPANSION} characters")
        return scope.variables[variable]

    return _VARIABLE.sub(value_of, node.value)


def read_switch(node: yaml.Node, name: str, scope: Scope) -> bool:
    if node.tag != TAG + "bool":
        raise error_at(node, f"{name} must be true or false, not {shown(node)}")
    return node.value.lower() in ("yes", "true", "on")


def whole_number(low: int, high: int) -> Reader:
    def read(node: yaml.Node, name: str, scope: Scope) -> int:
        if not isinstance(node, yaml.ScalarNode) or not re.fullmatch(r"[+-]?\d{1,18}", node.value, re.ASCII):
            raise error_at(node, f"{name} must be a whole number from {low} to {high}, not {shown(node)}")
        value = int(node.value)
        if not low <= value <= high:
            raise error_at(node, f"{name} must be from {low} to {high}, not {value}")
        return value
    return read


def read_mark(node: yaml.Node, name: str, scope: Scope) -> int | None:
    """A packet's mark, all 32 bits of it; null: none is given."""
    if is_null(node):
        return None
    match = _MARK.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
    if not match or not 0 < (mark := int(node.value, 0)) < 2**32:
        raise error_at(node, f"{name} must be a mark from 1 to 0xffffffff, not {shown(node)}")
    return mark


def choice(*words: str) -> Reader:
    def read(node: yaml.Node, name: str, scope: Scope) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.value not in words:
            raise error_at(node, f"{name} must be {' or '.join(words)}, not {shown(node)}")
        return str(node.value)
    return read


def list_of(read_item: Reader, *, at_least: int = 0, at_most: int = 1000) -> Reader:
    def read(node: yaml.Node, name: str, scope: Scope) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise error_at(node, f"{name} must be a list, [a, b], not {shown(node)}")
        if not at_least <= len(node.value) <= at_most:
            raise error_at(node, f"{name} must have {at_least} to {at_most} items, not {len(node.value)}")
        items: list[Any] = []
        for item_node in node.value:
            item = read_item(item_node, name, scope)
            if item in items:
                raise error_at(item_node, f"{name} has {item} twice; keep one of them")
            items.append(item)
        return tuple(items)
    return read


def read_duration_s(node: yaml.Node, name: str, scope: Scope) -> int:
    match = _DURATION.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
    if not match:
        raise error_at(node, f"{name} must be a duration such as 30s, 2m, 1h, 5d or plain seconds, not {shown(node)}")
    seconds = int(match[1]) * SECONDS_PER_UNIT.get(match[2], 1)
    if not 1 <= seconds <= MAX_TIMEOUT_S:
        raise error_at(node, f"{name} must be from 1s to {MAX_TIMEOUT_S // SECONDS_PER_UNIT['d']}d, not {node.value}")
    return seconds


def read_interface(node: yaml.Node, name: str, scope: Scope) -> str:
    interface = read_text(node, name, scope)
    length = len(interface.encode(errors="replace"))
    if not 1 <= length <= MAX_INTERFACE_NAME or re.search(r"[\s/]", interface) or CONTROL.search(interface):
        raise error_at(node, f"'{interface}' cannot be an interface's name: 1 to {MAX_INTERFACE_NAME} bytes, "
                           "neither blanks nor '/'")
    return interface


def read_absolute_path(node: yaml.Node, name: str, scope: Scope) -> Path:
    text = read_text(node, name, scope)
    path = Path(text)
    if CONTROL.search(text):
        raise error_at(node, f"{name} holds a control character")
    if not path.is_absolute():
        raise error_at(node, f"{name} must be an absolute path such as /run/pyfw, not {shown(node)}")
    return path


def read_socket_path(node: yaml.Node, name: str, scope: Scope, most: int = MAX_SOCKET_PATH) -> Path:
    path = read_absolute_path(node, name, scope)
    if len(bytes(path)) > most:
        raise error_at(node, f"{name} is {len(bytes(path))} bytes long; a socket's path may have {most}")
    return path


def read_control_path(node: yaml.Node, name: str, scope: Scope) -> Path:
    """Beside it is root's own socket, whose path is longer."""
    return read_socket_path(node, name, scope, MAX_SOCKET_PATH - len("-root"))


def read_listen(node: yaml.Node, name: str, scope: Scope) -> LoopbackAddress | Path | None:
    """`127.0.0.1:9469`, `[::1]:9469`, the path of a Unix socket, or null."""
    if is_null(node):
        return None
    text = read_text(node, name, scope)
    if text.startswith("/"):
        return read_socket_path(node, name, scope)
    match = _ADDRESS_AND_PORT.fullmatch(text)
    if not match:
        raise error_at(node, f"{name} must be a loopback address and a port, such as 127.0.0.1:9469 or \"[::1]:9469\", "
                             f"or a socket's absolute path such as /run/pyfw/metrics.sock, not {shown(node)}")
    host, port = match[1] or match[2], int(match[3])
    try:
        address = _unmapped(ipaddress.IPv6Address(host)) if match[1] else ipaddress.IPv4Address(host)
    except ValueError as error:
        raise error_at(node, f"{name}: '{host}' is no IPv{6 if match[1] else 4} address; names are not "
                             "looked up: 127.0.0.1 or [::1]") from error
    if not address.is_loopback:
        raise error_at(node, f"{name}: {host} is no loopback address; only this machine may ask, at 127.0.0.1, [::1] "
                             "or a Unix socket")
    if not 1 <= port <= 65535:
        raise error_at(node, f"{name}: the port must be from 1 to 65535, not {port}")
    return LoopbackAddress(str(address), port)


def _unmapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel binds ::ffff:127.0.0.1 to 127.0.0.1.  Whether the former is loopback depends on Python's version."""
    return address.ipv4_mapped or address


def read_group(node: yaml.Node, name: str, scope: Scope) -> str | None:
    return None if is_null(node) else read_text(node, name, scope)
