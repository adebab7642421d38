"""`pyfw lab`: the network of pyfw.lab, by hand."""
from __future__ import annotations

import argparse
import os
import sys

from pyfw.lab import ROLES, Lab, LabError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "lab", help="a client, a gateway and a server in network namespaces",
        description="Build, inspect and remove client - gateway - server in network namespaces.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    summaries = {"up": "build it", "down": "end what runs in it and remove it", "status": "what is there",
                 "exec": "run a command on one of its hosts"}
    for action, summary in summaries.items():
        sub = actions.add_parser(action, help=summary, description=summary)
        sub.add_argument("--name", default="pyfw", help="which lab, when there are several (default: %(default)s)")
        if action == "exec":
            sub.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
            sub.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        return ACTIONS[args.action](Lab(args.name), args)
    except LabError as error:
        print(f"pyfw lab: {error}", file=sys.stderr)
        return 1


def _up(lab: Lab, args: argparse.Namespace) -> int:
    lab.up()
    return _status(lab, args)


def _down(lab: Lab, args: argparse.Namespace) -> int:
    lab.down()
    return 0


def _status(lab: Lab, args: argparse.Namespace) -> int:
    print("\n".join(lab.status()))
    return 0 if all(map(lab.exists, ROLES)) else 1


def _exec(lab: Lab, args: argparse.Namespace) -> int:
    command = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not command:
        print(f"pyfw lab: exec {args.role}: a command is missing", file=sys.stderr)
        return 2
    argv = lab.command(args.role, command)
    os.execvp(argv[0], argv)


ACTIONS = {"up": _up, "down": _down, "status": _status, "exec": _exec}
