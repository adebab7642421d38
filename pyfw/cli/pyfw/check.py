"""pyfw check: everything that `pyfw run` would find wrong with a config, and what is likely a mistake.

Needs no root and changes nothing.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyfw.cli.pyfw.main import fail
from pyfw.config.schema import DEFAULT_CONFIG, Config, load_config
from pyfw.config.values import ConfigError
from pyfw.escape import json_line

if TYPE_CHECKING:
    from pyfw.rules.language.lint import Warning


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("check", help="read a config as run does, and say what is wrong with it",
                                   description="Read a config as `pyfw run` does. Nothing is installed.")
    add_config_arguments(parser)
    add_skip_argument(parser)
    parser.add_argument("--strict", action="store_true", help="exit status 1 if there are warnings")
    parser.add_argument("--json", action="store_true", help="one JSON object for each finding")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """-c and --set, the same for all subcommands that read a config."""
    parser.add_argument("-c", "--config", metavar="FILE", default=str(DEFAULT_CONFIG),
                        help="the config (default: %(default)s)")
    parser.add_argument("--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[],
                        help="override a value of the config, such as conntrack.tcp.loose=false; may be repeated")


def add_skip_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-unsupported", action="store_true", help="leave out rules that pyfw does not do, each with a warning")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 nothing wrong; 1 warnings, with --strict; 2 an error."""
    from pyfw.config.engine import check_rules, without_unbindable
    from pyfw.rules.language.lint import Warning, lint
    skipped: list[str] | None = [] if arguments.skip_unsupported else None
    try:
        config = load_config(arguments.config, arguments.overrides, skipped)
        config = without_unbindable(config, skipped) if skipped is not None else config
        check_rules(config)
    except ConfigError as error:
        if not arguments.json:
            return fail(str(error), 2)
        sys.stdout.write(json_line({"severity": "error", "name": "error", "place": error.location, "message": error.message}))
        return 2
    warnings = [Warning("one-family", note, None) for note in config.notes] + (lint(config.rules) if config.rules else [])
    if arguments.json:
        print_json(skipped or [], warnings)
    else:
        for line in (*(skipped or []), *map(str, warnings)):
            print(line, file=sys.stderr)
        counted = f", {len(warnings)} warnings" if warnings else ""
        print(f"{arguments.config}: {_summary(config)}{counted}")
    return 1 if arguments.strict and (warnings or skipped) else 0


def print_json(skipped: Sequence[str], warnings: Sequence[Warning]) -> None:
    """One object a line: severity, name, place (file:line:column or null), message."""
    for line in skipped:
        sys.stdout.write(json_line({"severity": "warning", "name": "unsupported", "place": None, "message": line}))
    for warning in warnings:
        sys.stdout.write(json_line({"severity": "warning", "name": warning.name, "message": warning.message,
                                    "place": str(warning.location) if warning.location else None}))


def _summary(config: Config) -> str:
    if config.rules is None:
        return "ok, but without rules: connections are tracked and everything is accepted"
    return f"ok, {config.rule_count} rules"
