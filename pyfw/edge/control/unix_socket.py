"""Listening Unix sockets: for root, and for the members of one group as well."""
from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from pyfw.edge.safe_files import give_to_group, open_directory


class SocketInUse(OSError):
    """A living daemon listens on the socket's path."""


def roots_path(path: Path) -> Path:
    """Where root alone may connect, beside the socket that others may use, too: control.sock -> control-root.sock."""
    return path.with_name(f"{path.stem}-root{path.suffix}")


def connected(path: str, timeout_s: float) -> socket.socket:
    """A connection to the daemon that serves `path`: root's at root's own socket, if there is one.  Raises OSError."""
    own = roots_path(Path(path))
    if os.geteuid() == 0 and _owner(Path(path)) in (None, _owner(own)):    # else another user has put it there, for root to ask
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return _connection(str(own), timeout_s)
    return _connection(path, timeout_s)


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _connection(path: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(timeout_s)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def bind_unix_socket(path: Path, group_id: int | None, handed: int | None = None) -> socket.socket:
    """Take the path, mode 0660 for us and the group, else 0600; a socket file that a dead daemon left is replaced.

    Its directory is made if it is missing, and must be one where no other user can put another socket (safe_files).
    It is 0600, too, if this process may not give it to that group: that must keep no firewall from starting.
    handed: a living daemon's socket, which has the path already and is ours from now on.
    The socket does not block, and does not listen yet.  Raises SocketInUse, OSError.
    """
    directory = open_directory(path.parent, make_mode=0o755)
    try:
        listener = socket.socket(fileno=handed) if handed is not None else _bound(path)
        listener.setblocking(False)
        if group_id is not None:
            with suppress(PermissionError):
                give_to_group(directory, path, group_id)
    finally:
        os.close(directory)
    return listener


def _bound(path: Path) -> socket.socket:
    _clear(path)
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


def _clear(path: Path) -> None:
    """Take away what a dead daemon has left."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "exists and is not a socket", str(path))
    if _is_alive(path):
        raise SocketInUse(errno.EADDRINUSE, "a running daemon listens here", str(path))
    path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError, PermissionError):    # the last: root's, and we are root no more
            return False
        except BlockingIOError:
            pass                        # its backlog is full: a process listens
    return True
