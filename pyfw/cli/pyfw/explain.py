"""pyfw explain: what a config's rules would make of a packet, and why, without root and without the kernel."""
from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from pyfw.cli.frames import read_frame
from pyfw.cli.pyfw.check import add_config_arguments
from pyfw.cli.pyfw.main import fail
from pyfw.config.schema import load_config
from pyfw.config.values import ConfigError
from pyfw.explain.packet_spec import HELP, SpecError, add_spec_arguments, packet_spec


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "explain", help="what would become of a packet, and why", epilog=HELP, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Judge one packet by a config's rules, with no connections known, and print every rule that it meets.\n"
                    "What a running daemon would make of it, `pyfwctl explain` says.")
    add_config_arguments(parser)
    add_spec_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 answered; 2 the config or the question cannot be read."""
    from pyfw.config.engine import engine_from_config
    from pyfw.escape import json_line
    from pyfw.explain.text import answer_record, explanation_text
    now_ns = time.time_ns()
    try:
        engine = engine_from_config(load_config(arguments.config, arguments.overrides), now_ns)
        read_frame(arguments)
        asked = packet_spec(arguments, engine, now_ns)
    except (ConfigError, SpecError) as error:
        return fail(str(error), 2)
    record = answer_record(asked.put(engine, now_ns), asked)
    sys.stdout.write(json_line(record) if arguments.json else explanation_text(record))
    return 0

