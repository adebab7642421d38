"""pyfw: a live stateful firewall in user space on Linux.

    from pyfw import Engine, Hook
    judgement = Engine().judge(packet, Hook.FORWARD, "eth1", "eth0", now=0)

The map, from above; each imports only what stands below it, and README.md says where to begin:

    cli                the commands: argv -> request -> print
    daemon, offline    who owns an engine: a running system; captures and policy tests
    config             reads config files, and makes an engine of them
    edge               all that touches the world: queue, control socket, host, captures
    report, explain    records -> text; one packet's way, asked
    observe            reads a running engine in slices
    engine             judge() and sweep(): the order of the steps
    helpers            protocols that announce connections
    rules              iptables' language, and the program that it becomes
    conntrack          which connection, which state
    wire               bytes <-> fields

Names are loaded when they are first asked for, so that the command line can say how to build what is not built.
"""
from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False           # for type checkers; the module that has it takes long to load
if TYPE_CHECKING:
    from typing import Any

_HOMES = {
    "Engine": "pyfw.engine.engine", "Judgement": "pyfw.engine.engine",
    "Hook": "pyfw.enums", "Verdict": "pyfw.enums", "CtState": "pyfw.enums", "Direction": "pyfw.enums",
    "load_config": "pyfw.config.schema",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'pyfw' has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("pyfw")
    except PackageNotFoundError:    # used from a tree that was never installed
        return "unknown"
