"""The arguments of control commands, as argparse takes them."""
from __future__ import annotations

import argparse
import os

from pyfw.edge.control.table import Argument


def add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    if argument.kind is list:
        parser.add_argument(argument.name, nargs=argparse.REMAINDER, metavar=argument.name.upper(), help=argument.help)
    elif not argument.flags:
        parser.add_argument(argument.name, nargs="?", type=os.path.abspath if argument.is_path else argument.kind,
                            choices=argument.choices or None, metavar=argument.name.upper(), help=argument.help)
    elif argument.kind is bool:
        parser.add_argument(*argument.flags, dest=argument.name, action="store_true", help=argument.help)
    else:
        metavar = None if argument.choices else "SECONDS" if argument.kind is float else argument.name.upper()
        parser.add_argument(*argument.flags, dest=argument.name, type=argument.kind, metavar=metavar, const=argument.bare,
                            nargs=None if argument.bare is None else "?", choices=argument.choices or None, help=argument.help)
