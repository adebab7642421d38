"""pyfw test: a policy's tests, without root and without the kernel."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pyfw.cli.pyfw.check import add_config_arguments
from pyfw.cli.pyfw.main import fail
from pyfw.config.schema import load_config
from pyfw.config.values import ConfigError
from pyfw.offline.cases import PolicyError, read_cases
from pyfw.offline.player import run_cases
from pyfw.offline.report import junit, tap


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "test", help="test a policy: traffic, and what the rules should say of it",
        description="Send the traffic that FILE describes through the config's rules, offline, and say where the verdict or "
                    "the state is not the expected one, and which rules no case met. Needs no root. "
                    "Exit status: 0 all passed, 1 some failed, 2 bad input.")
    parser.add_argument("file", metavar="FILE", type=Path, help="the cases, as config/tests/*.yaml shows them")
    add_config_arguments(parser)
    parser.add_argument("--format", choices=("tap", "junit"), default="tap", help="of the report (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the report goes (default: standard output)")


def run(arguments: argparse.Namespace) -> int:
    try:
        config = load_config(arguments.config, arguments.overrides)
        outcome = run_cases(config, read_cases(arguments.file, config.variables))
    except (ConfigError, PolicyError) as error:
        return fail(str(error), 2)
    report = tap(outcome) if arguments.format == "tap" else junit(outcome, arguments.file.stem)
    if arguments.output:
        try:
            arguments.output.write_text(report, encoding="utf-8")
        except OSError as error:
            return fail(f"{arguments.output}: {error.strerror}", 2)
    else:
        sys.stdout.write(report)
    return 1 if outcome.failed else 0
