"""Files that are believed because of who can have written them: root, or this process's own user, and nobody else."""
from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


class Untrusted(OSError):
    """Somebody else may write there: one line that names the path."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")


def open_trusted(path: Path) -> int:
    """A descriptor to read the file, which is regular, has one name, and was written by root or by us, as its directories were.

    Raises Untrusted, OSError.  What somebody else may change after the check is not believed before it: every
    directory on the way is ours or root's, too.
    """
    path = Path(os.path.realpath(path))
    for directory in reversed(path.parents):
        _check(directory, directory.lstat(), sticky=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        _check(path, found)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise Untrusted(path, "is no regular file with one name")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, found: os.stat_result, *, sticky: bool = False) -> None:
    """sticky: in a directory whose files only their owners rename and remove, others may make some."""
    if found.st_uid not in (0, os.geteuid()):
        raise Untrusted(path, f"belongs to user {found.st_uid}, not to root")
    if found.st_mode & 0o022 and not (sticky and found.st_mode & stat.S_ISVTX):
        raise Untrusted(path, "may be written by others than its owner")


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """The whole data or the old file.  The old file's owner, group and mode stay; a new one has its directory's group.

    mode: of the file, whatever it was.  Raises OSError; ValueError if this cannot be a name.
    """
    try:
        there = path.stat()
        wanted, owner, group = stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid
    except FileNotFoundError:
        wanted, owner, group = 0o640, -1, path.parent.stat().st_gid
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            made = os.fstat(file.fileno())
            if (owner, group) not in ((made.st_uid, made.st_gid), (-1, made.st_gid)):
                os.fchown(file.fileno(), owner, group)
            os.fchmod(file.fileno(), wanted if mode is None else mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
