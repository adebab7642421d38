"""Directories and files that only root, or the user that this process runs as, can have made or can change.

May know: owners, modes, kinds of files.  Must not know: what is in them.

Laws:
  - A directory is opened from / on, one name after another.  Each on the way belongs to root or to us, and no other user may
    write there.  Where all users may, and the sticky bit is set (/tmp, /dev/shm), the next directory is root's or ours.
    So no other user can put another directory into a place that was looked at.
  - A file is opened in a directory that was opened so, by its descriptor, and looked at before it is read or written: it is
    a regular one, root's or ours, with one name.  No open waits: a FIFO in a file's place is refused, not waited for.
  - A refusal is one line that names the path and says what is wrong with it.
"""
from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

LINKS_MAX = 40                      # symbolic links on the way to a directory, as the kernel's MAXSYMLINKS
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = _LOOK | os.O_DIRECTORY
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class UnsafePath(OSError):
    """Another user could have made this, or can change it: `strerror` says why, `filename` names it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_directory(path: Path, *, make_mode: int | None = None) -> int:
    """An O_PATH descriptor of the directory, the caller's to close.  Raises UnsafePath, OSError.

    make_mode: of directories that are missing, which are made; None: none is.
    """
    there, at = Path("/"), os.open("/", _DIRECTORY)
    names = list(reversed(Path(os.path.abspath(path)).parts[1:]))
    links = 0
    try:
        _check_directory(there, at, on_the_way=bool(names))
        while names:
            name = names.pop()
            target = _enter(there, at, name, make_mode)
            if isinstance(target, int):
                there, at = there.parent if name == ".." else there / name, _move(at, target)
            else:
                links += 1
                if links > LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(there / name))
                names += reversed([part for part in Path(target).parts if part != "/"])
                if target.startswith("/"):
                    there, at = Path("/"), _move(at, os.open("/", _DIRECTORY))
            _check_directory(there, at, on_the_way=bool(names))
    except BaseException:
        os.close(at)
        raise
    return at


def open_file(directory: int, path: Path, flags: int, mode: int = 0o600, *, forbidden: int = WRITABLE_BY_OTHERS) -> int:
    """A descriptor of the file `path.name` in an open directory; `path` is what a refusal names.  Raises UnsafePath, OSError.

    flags: as os.open() takes them; not O_TRUNC, since what would be cut has not been looked at yet.
    forbidden: permissions that the file must not grant.
    """
    assert not flags & os.O_TRUNC
    try:
        descriptor = os.open(path.name, flags | _FILE, mode, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafePath(path, "is a symbolic link: remove it") from None
        if error.errno in (errno.ENXIO, errno.EISDIR):      # a FIFO without a reader, a socket
            raise UnsafePath(path, "is no regular file: remove it") from None
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        check_file(descriptor, path, forbidden=forbidden)
    except UnsafePath:
        os.close(descriptor)
        raise
    return descriptor


def open_path(path: Path, flags: int = os.O_RDONLY) -> int:
    """As open_file(), in the file's directory, which is opened as open_directory() does."""
    directory = open_directory(path.parent)
    try:
        return open_file(directory, path, flags)
    finally:
        os.close(directory)


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


def check_file(descriptor: int, path: Path, *, forbidden: int = WRITABLE_BY_OTHERS) -> None:
    """Raise UnsafePath unless it is a regular file, root's or ours, with one name, or none any more."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise UnsafePath(path, "is no regular file: remove it")
    if not is_trusted(found.st_uid):
        raise UnsafePath(path, f"belongs to user {found.st_uid} and not to {_owners()}: remove it")
    if found.st_nlink > 1:
        raise UnsafePath(path, f"has {found.st_nlink} names (hard links), of which one may be anywhere: remove it")
    if found.st_mode & forbidden:
        raise UnsafePath(path, f"is open to others (mode {stat.S_IMODE(found.st_mode):o}): remove it, or chmod go= it")


def give_to_group(directory: int, path: Path, group_id: int) -> None:
    """Let a group connect to the socket `path.name` in an open directory (mode 0660).  Raises UnsafePath, OSError."""
    try:
        descriptor = os.open(path.name, _LOOK, dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode):
            raise UnsafePath(path, "is no socket: remove it")
        inode = f"/proc/self/fd/{descriptor}"       # as fchown() and fchmod() would have it, which take no O_PATH descriptor
        if found.st_gid != group_id:                # else no right to is needed
            os.chown(inode, -1, group_id)
        os.chmod(inode, 0o660)
    finally:
        os.close(descriptor)


def is_trusted(user_id: int) -> bool:
    """Whether what this user does is root's doing, or ours."""
    return user_id in (0, os.geteuid())


def _move(old: int, new: int) -> int:
    os.close(old)
    return new


def _enter(there: Path, at: int, name: str, make_mode: int | None) -> int | str:
    """A descriptor of the directory `name`, or the target of the symbolic link that it is."""
    path = there / name
    try:
        try:
            return os.open(name, _DIRECTORY, dir_fd=at)
        except FileNotFoundError:
            if make_mode is None:
                raise
            os.mkdir(name, make_mode, dir_fd=at)
            return os.open(name, _DIRECTORY, dir_fd=at)
        except NotADirectoryError:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                raise
            if not is_trusted(found.st_uid):
                raise UnsafePath(path, f"is a symbolic link of user {found.st_uid}'s: remove it") from None
            return os.readlink(name, dir_fd=at)
    except UnsafePath:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _check_directory(path: Path, descriptor: int, *, on_the_way: bool) -> None:
    found = os.fstat(descriptor)
    if not is_trusted(found.st_uid):
        raise UnsafePath(path, f"belongs to user {found.st_uid} and not to {_owners()}: chown it, or choose another directory")
    if found.st_mode & WRITABLE_BY_OTHERS and not (on_the_way and found.st_mode & stat.S_ISVTX):
        raise UnsafePath(path, f"can be written by others (mode {stat.S_IMODE(found.st_mode):o}): "
                               "chmod go-w it, or choose another directory")


def _owners() -> str:
    return "root" if os.geteuid() == 0 else f"root or user {os.geteuid()}"
