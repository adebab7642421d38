"""The lock of the one daemon that diverts a network namespace's packets: a file of the daemon's user alone.

The file is named by the namespace.  It is locked as long as a process has its descriptor, which a daemon gives to its
successor; it says with which mark the daemon's own packets leave, so that a successor need not change that.

The directory is no service's runtime directory: systemd removes that when the service stops, and with it would go the
locks of daemons in other namespaces.  Where the service's user may not make it, its unit has root do so (pyfw.service).
"""
from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from pyfw.edge.host.iptables import DivertError
from pyfw.edge.safe_files import WRITABLE_BY_OTHERS, open_directory

OWNER_DIRECTORY = Path("/run/pyfw-locks")
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class AnotherDiverts(DivertError):
    """The lock is held."""


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
        """Remove the file; a daemon that has waited for it makes another.  For a daemon without a successor."""
        with suppress(OSError):
            lock_path().unlink()


def lock_path() -> Path:
    """The file for the calling thread's network namespace."""
    return OWNER_DIRECTORY / f"diversion-{os.stat('/proc/thread-self/ns/net').st_ino}.lock"


def open_owner_lock() -> int:
    """The locked file's descriptor.  Raises DivertError: another daemon has it, or others could have made it."""
    try:
        run = open_directory(OWNER_DIRECTORY.parent)
        try:
            with suppress(FileExistsError):
                os.mkdir(OWNER_DIRECTORY.name, 0o755, dir_fd=run)
            directory = os.open(OWNER_DIRECTORY.name, DIRECTORY_FLAGS, dir_fd=run)
        finally:
            os.close(run)
        try:
            while (descriptor := _open_locked(directory)) is None:
                pass
            return descriptor
        finally:
            os.close(directory)
    except OSError as error:
        path = error.filename if str(error.filename).startswith("/") else lock_path()     # a name in a directory that is open
        raise DivertError(f"{path}: {error.strerror}: whoever diverts packets locks a file there") from None


def _open_locked(directory: int) -> int | None:
    """None: the file has just been removed, and another may be in its place."""
    path, owner = lock_path(), os.fstat(directory)
    descriptor = os.open(path.name, OPEN_FLAGS, 0o600, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        # The directory belongs to the user that root gave it to, the service's as a rule.
        if (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in (0, os.geteuid(), owner.st_uid)
                or (owner.st_mode | found.st_mode) & WRITABLE_BY_OTHERS):
            raise DivertError(f"{path} can be written by others than pyfw: remove it")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.geteuid() == 0 and found.st_uid != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, -1)     # whose daemon could not open root's
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path.name, dir_fd=directory, follow_symlinks=False), found):
                locked, descriptor = descriptor, -1
                return locked
        return None
    except BlockingIOError:
        raise AnotherDiverts("another pyfw diverts the packets of this network namespace: "
                             "stop it, or run this one with --no-divert") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
