"""pyfw run: the daemon, in the foreground."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pyfw.cli.pyfw.check import add_config_arguments, add_skip_argument
from pyfw.cli.pyfw.main import fail
from pyfw.config.values import ConfigError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run", help="guard this machine or a network namespace",
        description="Divert packets to a queue and judge them, until SIGTERM or SIGINT; SIGHUP reads the rules again.")
    add_config_arguments(parser)
    add_skip_argument(parser)
    parser.add_argument("--netns", metavar="NAME", help="guard this network namespace, as `ip netns` names it")
    parser.add_argument("--socket", metavar="PATH", type=Path, help="the control socket, instead of the config's")
    parser.add_argument("--takeover", action="store_true",
                        help="replace the running daemon: no packet and no connection is lost")
    parser.add_argument("--confirm", metavar="SECONDS", type=seconds, default=0,
                        help="end again after so many seconds, unless `pyfwctl confirm` comes before")
    parser.add_argument("--shadow", metavar="FILE", type=Path,
                        help="rules to be judged for every packet and not enforced, instead of the config's policy.shadow")
    parser.add_argument("--no-divert", dest="divert", action="store_false",
                        help="do not install the kernel rules that divert packets to the queue")


def seconds(text: str) -> int:
    from pyfw.edge.control.table import MAX_TRIAL_S  # not loaded by a start without a trial
    if not text.isdecimal() or not 1 <= int(text) <= MAX_TRIAL_S:
        raise argparse.ArgumentTypeError(f"1 to {MAX_TRIAL_S} seconds, not {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    if arguments.takeover and arguments.confirm:
        return fail("--confirm cannot bring a daemon back that --takeover has replaced; load the rules with "
                    "`pyfwctl reload --confirm SECONDS`", 2)
    from pyfw.daemon import start
    from pyfw.daemon.parts import DaemonError, Options
    try:
        overrides = list(arguments.overrides)
        if arguments.socket:
            overrides.append(f"control.socket={json.dumps(str(arguments.socket.absolute()))}")
        if arguments.shadow:
            overrides.append(f"policy.shadow={json.dumps(str(arguments.shadow.absolute()))}")
        start.run(Options(arguments.config, overrides, netns=arguments.netns, divert=arguments.divert,
                          skip_unsupported=arguments.skip_unsupported, takeover=arguments.takeover, confirm_s=arguments.confirm))
    except ConfigError as error:
        return fail(str(error), 2)
    except DaemonError as error:
        return fail(str(error), 1)
    return 0
