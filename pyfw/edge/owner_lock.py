"""The lock of the one daemon that diverts a network namespace's packets: a file of the daemon's user, and nobody else's.

The file is named by the namespace.  It is locked as long as a process has its descriptor, which a daemon gives to its
successor; it says with which mark the daemon's own packets leave, so that a successor need not change that.
"""
from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from pyfw.edge.iptables import DivertError

OWNER_DIRECTORY = Path("/run/pyfw")
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DiversionOwner:
    """Held by the one daemon of a network namespace that diverts; free again when its process has ended."""

    def __init__(self, handed: int | None = None) -> None:
        """handed: a predecessor's, which stays held.  Raises DivertError."""
        if handed is not None and stat.S_ISREG(os.fstat(handed).st_mode):
            self._descriptor = handed
            return
        self._descriptor = open_owner_lock()
        if handed is not None:
            os.close(handed)

    @property
    def mark(self) -> int | None:
        """What remember_mark() was given last, by this daemon or one before."""
        text = os.pread(self._descriptor, 64, 0).decode("ascii", "replace").strip()
        with suppress(ValueError):
            if 0 < (mark := int(text, 16)) < 2**32:
                return mark
        return None

    def remember_mark(self, mark: int) -> None:
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%#010x\n" % mark, 0)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """A successor may have the descriptor, too: then the lock stays held."""
        os.close(self._descriptor)

    def discard(self) -> None:
        """Remove the file; whoever has waited for it makes another.  For a daemon without a successor."""
        with suppress(OSError):
            lock_path().unlink()


def lock_path() -> Path:
    """The file for the calling thread's network namespace."""
    return OWNER_DIRECTORY / f"diversion-{os.stat('/proc/thread-self/ns/net').st_ino}.lock"


def open_owner_lock() -> int:
    """The locked file's descriptor.  Raises DivertError: another daemon has it, or it is not only ours to write."""
    try:
        OWNER_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        directory = os.open(OWNER_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check(os.fstat(directory), stat.S_ISDIR, OWNER_DIRECTORY)
            while (descriptor := _open_locked(directory)) is None:
                pass
            return descriptor
        finally:
            os.close(directory)
    except OSError as error:
        raise DivertError(f"{lock_path()}: {error.strerror}: whoever diverts packets locks this file") from None


def _open_locked(directory: int) -> int | None:
    """None: the file has just been removed, and another may be in its place."""
    path = lock_path()
    descriptor = os.open(path.name, OPEN_FLAGS, 0o600, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        _check(status, stat.S_ISREG, path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path.name, dir_fd=directory, follow_symlinks=False), status):
                locked, descriptor = descriptor, -1
                return locked
        return None
    except BlockingIOError:
        raise DivertError("another pyfw diverts the packets of this network namespace: "
                          "stop it, or run this one with --no-divert") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _check(status: os.stat_result, is_kind, path: Path) -> None:
    """Nobody but root and this process's user may be able to write it."""
    if not is_kind(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022 \
            or stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise DivertError(f"{path} can be written by others than pyfw: remove it")
