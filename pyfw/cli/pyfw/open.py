"""pyfw open: the end of what `close`, or a daemon that was killed, has left."""
from __future__ import annotations

import argparse
from typing import Any

from pyfw.cli.pyfw.main import fail
from pyfw.edge.host.divert import Diversion
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.owner_lock import DiversionOwner


def add_parser(subparsers: Any) -> None:
    subparsers.add_parser(
        "open", help="divert packets no more",
        description="Take away what diverts packets, if a daemon that cannot start, or `close`, has left it: everything passes.")


def run(arguments: argparse.Namespace) -> int:
    try:
        owner = DiversionOwner()        # a daemon would put back at once what was taken away
        try:
            Diversion.remove()
            owner.discard()
        finally:
            owner.close()
    except DivertError as error:
        return fail(str(error), 1)
    print("pyfw: open: nothing is diverted any more")
    return 0
