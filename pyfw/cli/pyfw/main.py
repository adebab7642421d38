"""pyfw: run the firewall, check its config, test a policy, replay captures, build a lab.

Exit status: 0 done, 1 failed, 2 usage or bad input.
"""
from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Container, Sequence

from pyfw.escape import escaping_output, shortened

SUBCOMMANDS = {
    "run": "guard this machine or a network namespace",
    "check": "read a config as run does, and say what is wrong with it",
    "test": "test a policy: traffic, and what the rules should say of it",
    "replay": "judge the packets of a capture file",
    "explain": "what would become of a packet, and why",
    "migrate": "write a config from the iptables or ufw rules that run",
    "close": "divert all packets without a daemon: the kernel drops them",
    "open": "divert packets no more",
    "lab": "network namespaces to try pyfw in",
}

# What only some commands need, by the module that brings it.
EXTRAS = {"prometheus_client": "metrics", "rich": "screen", "scapy": "replay", "shtab": "completion"}


@escaping_output()
def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    wanted = next((word for word in argv if not word.startswith("-")), "")
    try:
        arguments = make_parser((wanted,)).parse_args(argv)
        return int(importlib.import_module(f"pyfw.cli.pyfw.{arguments.command}").run(arguments))
    except ModuleNotFoundError as error:
        return fail(missing_module(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def missing_module(error: ModuleNotFoundError) -> str:
    """What to install, in one line."""
    module = (error.name or "").partition(".")[0]
    if extra := EXTRAS.get(module):
        return (f"{module} is not installed, which this needs: `scripts/install --with {extra}` installs it, "
                f"or `pip install 'pyfw[{extra}]'`")
    return (f"the module {error.name} is missing: build and install pyfw with `pip install .` in its source "
            "directory, or with `scripts/setup` there")


def fail(message: str, status: int) -> int:
    """One line on standard error; returns the exit status."""
    print(f"pyfw: {shortened(message)}", file=sys.stderr)
    return status


def make_parser(wanted: Container[str] = SUBCOMMANDS) -> argparse.ArgumentParser:
    """Knows all subcommands by name, and the arguments of those wanted: the others' modules are not loaded."""
    from pyfw import __version__
    parser = argparse.ArgumentParser(prog="pyfw", description="A stateful packet filter in user space.",
                                     epilog="A running daemon is steered with pyfwctl.")
    parser.add_argument("--version", action="version", version=f"pyfw {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in SUBCOMMANDS.items():
        if name in wanted:
            importlib.import_module(f"pyfw.cli.pyfw.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
