"""pyfw check: everything that `pyfw run` would find wrong with a config, without root and without effect."""
from __future__ import annotations

import argparse
from typing import Any

from pyfw.cli.pyfw import fail
from pyfw.config import DEFAULT_CONFIG, Config, ConfigError, load_config


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("check", help="read a config as run does, and say what is wrong with it",
                                   description="Read a config as `pyfw run` does. Nothing is installed.")
    add_config_arguments(parser)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """-c and --set, the same for all subcommands that read a config."""
    parser.add_argument("-c", "--config", metavar="FILE", default=str(DEFAULT_CONFIG),
                        help="the config (default: %(default)s)")
    parser.add_argument("--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[],
                        help="override a value of the config, such as conntrack.tcp.loose=false; may be repeated")


def run(arguments: argparse.Namespace) -> int:
    from pyfw.build import compile_rules
    try:
        config = load_config(arguments.config, arguments.overrides)
        compile_rules(config)
    except ConfigError as error:
        return fail(str(error), 2)
    print(f"{arguments.config}: {_summary(config)}")
    return 0


def _summary(config: Config) -> str:
    if config.rules is None:
        return "ok, but without rules: connections are tracked and everything is accepted"
    return f"ok, {config.rule_count} rules"
