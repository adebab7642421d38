"""The rules that last came into force from the config's files, kept over boots, for a daemon whose config cannot be used.

One file, so that it is whole or the old one: a line of JSON, then the texts that the line gives the lengths of.

    settings    the config of the start without its rules, sets and shadow, as YAML
    rules       as iptables-save prints them
    sets        in ipset's words, each text with where it came from

A user who can write that file chooses the rules of a firewall.  It is read only if root or the daemon's own user owns it, in a directory
that no other user can write to.  Its checksum detects damage, not forgery.
"""
from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyfw.config.engine import check_rules
from pyfw.config.schema import Config, parse_config
from pyfw.config.values import ConfigError
from pyfw.edge.safe_files import open_path, write_atomically
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.lexer import Place
from pyfw.rules.model import RulesError

NAME = "last-good-rules"
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_BYTES = 1 << 30


class NoLastGood(Exception):
    """There are no last good rules, or they cannot be trusted: one line that says why."""


@dataclass(frozen=True)
class LastGood:
    """A config that was once in force.

    since   when it came into force, in the local time zone
    source  the file that it was read from
    """

    config: Config
    since: str
    source: str


class LastGoodRules:
    """The file, in a directory that outlives a boot."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    @classmethod
    def of_service(cls, environment: Mapping[str, str] = os.environ) -> LastGoodRules | None:
        """In the state directory that systemd made for the service; None: it made none."""
        directory = environment.get("STATE_DIRECTORY", "")
        return cls(Path(directory)) if directory.startswith("/") and ":" not in directory else None

    def keep(self, config: Config, source: str) -> None:
        """Keep what has come into force.  Raises OSError, ConfigError if it could not be used again; then the old ones stay.

        Its `settings` may say other limits and helpers than those that its rules and sets were checked with.
        """
        texts = [config.settings.encode(), print_ruleset(config.rules).encode() if config.rules else b"",
                 *(text for _, text in config.sets)]
        header = {"version": VERSION, "since_s": int(time.time()), "source": source, "has_rules": config.rules is not None,
                  "sets": [[place.source, place.line, place.indent] for place, _ in config.sets],
                  "lengths": [len(text) for text in texts], "sha256": _checksum(texts)}
        kept = _config_of(header, texts)
        if (kept.limits, kept.helpers) != (config.limits, config.helpers):
            check_rules(kept)
        write_atomically(self._path, b"\n".join([json.dumps(header).encode(), b"".join(texts)]), 0o600)

    def read(self) -> LastGood:
        """What was kept, and can still be used.  Raises NoLastGood."""
        try:
            header, texts = self._read()
            config = _config_of(header, texts)
            check_rules(config)
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header["since_s"]))
            return LastGood(config, since, str(header["source"]))
        except FileNotFoundError:
            raise NoLastGood("no last good rules are kept") from None
        except (OSError, ConfigError) as error:
            raise NoLastGood(f"the last good rules cannot be used: {error}") from error
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise NoLastGood(f"the last good rules in {self._path} are damaged: {error}") from error

    def _read(self) -> tuple[dict[str, Any], list[bytes]]:
        with os.fdopen(open_path(self._path), "rb") as file:
            header = json.loads(file.readline(MAX_HEADER_BYTES))
            if header["version"] != VERSION:
                raise ValueError(f"they are of version {header['version']}")
            data = file.read(MAX_BYTES)
        texts, at = [], 0
        for length in header["lengths"]:
            texts.append(data[at:at + length])
            at += length
        if _checksum(texts) != header["sha256"] or at != len(data):
            raise ValueError("their checksum is another")
        return header, texts


def _checksum(texts: list[bytes]) -> str:
    summed = hashlib.sha256()
    for text in texts:
        summed.update(text)
    return summed.hexdigest()


def _config_of(header: Mapping[str, Any], texts: list[bytes]) -> Config:
    """Raises ConfigError."""
    settings, rules, *sets = texts
    config = parse_config(settings.decode(), NAME, Path("/"))
    places = [Place(*place) for place in header["sets"]]
    try:
        ruleset = parse_save(rules.decode(), source=NAME) if header["has_rules"] else None
    except RulesError as error:
        raise ConfigError.from_rules(error, NAME) from error
    return replace(config, rules=ruleset, sets=tuple(zip(places, sets, strict=True)))
