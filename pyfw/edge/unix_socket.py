"""Listening Unix sockets: for root and the members of one group."""
from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path

from pyfw.edge.safe_files import give_to_group, open_directory


class SocketInUse(OSError):
    """A living daemon listens on the socket's path."""


def bind_unix_socket(path: Path, group_id: int | None, handed: int | None = None) -> socket.socket:
    """Take the path, mode 0660 for root and the group, else 0600; a socket file that a dead daemon left is replaced.

    Its directory is made if it is missing, and must be one where nobody else could put another socket (safe_files).
    handed: a living daemon's socket, which has the path already and is ours from now on.
    The socket does not block, and does not listen yet.  Raises SocketInUse, OSError.
    """
    directory = open_directory(path.parent, make_mode=0o755)
    try:
        listener = socket.socket(fileno=handed) if handed is not None else _bound(path)
        listener.setblocking(False)
        if group_id is not None:
            give_to_group(directory, path, group_id)
    finally:
        os.close(directory)
    return listener


def _bound(path: Path) -> socket.socket:
    _remove_stale_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)     # the mode of what bind() makes
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    return listener


def group_id_of(name: str | None) -> int | None:
    """None: there is no such group, or none is meant."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


def _remove_stale_socket(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "exists and is not a socket", str(path))
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass                            # its backlog is full: somebody listens
    finally:
        probe.close()
    raise SocketInUse(errno.EADDRINUSE, "a running daemon listens here", str(path))
