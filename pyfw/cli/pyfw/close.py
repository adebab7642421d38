"""pyfw close: what a boot begins with, before there is a daemon and while there is none."""
from __future__ import annotations

import argparse
import sys
from typing import Any

from pyfw.cli.pyfw.main import fail
from pyfw.config.schema import DEFAULT_CONFIG, load_diversion
from pyfw.edge.host.capabilities import missing_capability
from pyfw.edge.host.divert import Diversion
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.owner_lock import AnotherDiverts, DiversionOwner


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "close", help="divert all packets without a daemon: the kernel drops them",
        description="Divert packets to the queue as `run` does, and end: until a daemon serves the queue, the kernel drops them, "
                    "or accepts them with `queue.when_down: accept`. A config that cannot be read diverts those of all hooks.")
    parser.add_argument("-c", "--config", metavar="FILE", default=str(DEFAULT_CONFIG), help="the config (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    if missing := missing_capability(["CAP_NET_ADMIN"], for_children=True):
        return fail(f"{missing} is needed to change the kernel's rules: run as root (sudo)", 1)
    config, mistakes = load_diversion(arguments.config)
    for mistake in mistakes:
        print(f"pyfw: warning: {mistake}", file=sys.stderr)
    try:
        owner = DiversionOwner()
    except AnotherDiverts:
        print("pyfw: a daemon diverts the packets here: the diversion is its own, and stays as it is")
        return 0
    except DivertError as error:
        return fail(str(error), 1)
    try:
        Diversion(queue=config.queue.number, hooks=config.hooks, exempt=config.exempt.interfaces,
                  bypass=config.queue.when_down == "accept").install()
    except DivertError as error:
        return fail(str(error), 1)
    finally:
        owner.close()
    print(f"pyfw: closed: packets of {', '.join(config.hooks)} wait for a daemon on queue {config.queue.number}, "
          f"which the kernel {config.queue.when_down}s without one")
    return 0
