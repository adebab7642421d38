"""pyfwctl: look into a running pyfw and steer it.

Exit status: 0 done, 1 nothing matched or refused, 2 usage, 3 no daemon.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from pyfw.cli.pyfwctl import rewrites
from pyfw.cli.pyfwctl.arguments import add_argument
from pyfw.cli.pyfwctl.client import NoDaemon, Refused, ask
from pyfw.config.schema import ControlConfig
from pyfw.edge.control.table import COMMANDS, DONE, NO_DAEMON, NOTHING_MATCHED
from pyfw.escape import EscapingStream, escaping_output, json_line, shortened

SOCKET_VARIABLE = "PYFW_SOCKET"


@escaping_output()
def main(argv: Sequence[str] | None = None) -> int:
    arguments = vars(make_parser().parse_args(argv))
    path = arguments.pop("socket")
    request = {name: value for name, value in arguments.items() if value is not None and value is not False}
    client = COMMANDS[request["command"]].client
    try:
        requests = getattr(rewrites, client)(path, request) if client else [request]
        if isinstance(requests, int):
            return requests
        return next((status for request in requests if (status := _run(path, request))), DONE)
    except NoDaemon as error:
        return _fail(str(error), NO_DAEMON)
    except Refused as error:
        return _fail(str(error), error.status)
    except ModuleNotFoundError as error:
        from pyfw.cli.pyfw.main import missing_module
        return _fail(missing_module(error), NOTHING_MATCHED)
    except BrokenPipeError:             # the reader of our output, such as head, has closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _run(path: str, request: dict[str, Any]) -> int:
    output = cast(EscapingStream, sys.stdout)      # within escaping_output()
    status = 0
    for answer in ask(path, request):
        if "text" in answer:
            (output.write_exactly if answer.get("exact") else output.write)(answer["text"])
        output.writelines(map(json_line, answer.get("records", ())))
        if "note" in answer:
            output.flush()
            print(f"pyfwctl: {answer['note']}", file=sys.stderr)
        if not answer:                  # more is to come, but not at once
            output.flush()
        status = answer.get("status", 0)
    output.flush()
    return status


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    print(f"pyfwctl: {shortened(message)}", file=sys.stderr)
    return status


def make_parser() -> argparse.ArgumentParser:
    from pyfw import __version__
    default_socket = os.environ.get(SOCKET_VARIABLE) or str(ControlConfig().socket)
    parser = argparse.ArgumentParser(
        prog="pyfwctl", description="Look into a running pyfw and steer it.",
        epilog="Exit status: 0 done, 1 nothing matched or refused, 2 usage, 3 no daemon.")
    parser.add_argument("--socket", metavar="PATH", default=default_socket,
                        help=f"the control socket (default: ${SOCKET_VARIABLE}, else {ControlConfig().socket})")
    parser.add_argument("--version", action="version", version=f"pyfwctl {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in filter(lambda command: command.spoken, COMMANDS.values()):
        takes_words = any(argument.kind is list for argument in command.arguments)      # whose options are words, too
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help.capitalize() + ".",
                                          prefix_chars="\0" if takes_words else "-", add_help=not takes_words)
        if not takes_words:
            subparser.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the control socket")
        for argument in filter(lambda argument: argument.typed, command.arguments):
            add_argument(subparser, argument)
    return parser


if __name__ == "__main__":
    sys.exit(main())
