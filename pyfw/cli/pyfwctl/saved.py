"""`pyfwctl save`: the rules of the running daemon go to the files that its config reads them from, or to another.

The daemon may not write there, and pyfwctl, which root runs, must not write where a daemon of another user likes.  So
that user's config is used only if no one but root can have written it.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pyfw.cli.pyfwctl.client import Refused, ask, daemon_uid
from pyfw.config.schema import rule_files
from pyfw.config.values import ConfigError
from pyfw.edge.safe_files import UnsafePath, open_path, write_atomically
from pyfw.rules.language.other_tables import separated

FAILED, USAGE = 1, 2


def save(path: str, file: str | None) -> int:
    """Save the rules of the daemon at the socket `path`.  Returns the exit status; raises NoDaemon, Refused."""
    saved = next(ask(path, {"command": "save"}))
    if file is not None:
        _write(Path(file), saved["all"])
        return 0
    for name, target in _files(saved, daemon_uid(path)).items():
        text = saved["all"] if name is None else saved[name] if name in ("ipv4", "ipv6") else saved["tables"][name]
        _write(target, text + _other_tables(target))
    for _ in ask(path, {"command": "rules-saved"}):
        pass
    return 0


def _files(saved: dict[str, Any], uid: int) -> dict[str | None, Path]:
    """The files that the daemon's config reads rules from, by table; None: one of all tables."""
    config = Path(saved["config"])
    try:
        if uid not in (0, os.geteuid()):
            os.close(open_path(config))
        files = rule_files(config)
    except (OSError, ConfigError) as error:
        hint = "; `pyfwctl save FILE` writes the rules to a file that you choose" if isinstance(error, UnsafePath) else ""
        raise Refused(f"{error}{hint}", FAILED) from error
    missing = [name for name in saved["used"] if not files.keys() & {None, "ipv4", name}]
    if missing:
        raise Refused(f"the rules of table {missing[0]} stand in the config itself, which is not rewritten; `pyfwctl save FILE` "
                      f"writes them to a file that the config can read: `rules: {{file: FILE}}`", FAILED)
    return files


def _other_tables(path: Path) -> str:
    """The sections of a file that are the kernel's: they stay in it."""
    try:
        tables = separated(path.read_text(encoding="utf-8"))[1]
    except (OSError, UnicodeDecodeError):
        return ""
    return "".join("\n".join([f"*{name}", *lines, "COMMIT\n"]) for name, lines in tables.items())


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", FAILED) from error
    except ValueError as error:
        raise Refused(f"{str(path)!r} cannot be the name of a file: {error}", USAGE) from error
    print(f"pyfwctl: rules saved to {path}", file=sys.stderr)
