"""The file that holds the state table: mapped by one daemon, outliving it, gone with the machine's boot.

May know: files, locks, the boot id.  Must not know: what is in the table.
"""
from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "table"
LOCK_NAME = "lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StateFileError(Exception):
    """The state cannot be kept there: one line that names the path and says what to do."""


@dataclass(frozen=True)
class StateFile:
    """The mapped table, and the lock that keeps other daemons off its directory.

    memory      the mapping, exactly as long as asked for; zeros where the file is new
    previous    the table of a predecessor, of another size, read-only; None: there was none, or `memory` is it.
                Its file is already replaced: copy what is wanted and close it.
    boot_id     16 bytes that no other boot of any machine has
    """

    path: Path
    memory: mmap.mmap
    previous: mmap.mmap | None
    boot_id: bytes
    lock: int

    def close(self) -> None:
        """Unmap and unlock; the file stays for the successor.  BufferError while somebody still looks into memory."""
        self.memory.close()
        if self.previous is not None:
            self.previous.close()
        os.close(self.lock)


def open_state_file(directory: Path, size: int) -> StateFile:
    """Open or make the table file of `size` bytes in `directory`, which is made when missing.

    Raises StateFileError.
    """
    path = directory / FILE_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(directory)
        try:
            memory, previous = _map(path, size)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise StateFileError(f"{error.filename or path}: {error.strerror}: the state of connections is kept there; "
                             "choose another state.dir, or make this one writable") from None
    return StateFile(path, memory, previous, read_boot_id(), lock)


def read_boot_id() -> bytes:
    return bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))


def _lock(directory: Path) -> int:
    """The lock is a file of its own, since the table's file is replaced when its size changes."""
    lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StateFileError(f"{directory}: another pyfw (process {owner}) keeps its state there: "
                             "stop it, or choose another state.dir") from None
    os.truncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _map(path: Path, size: int) -> tuple[mmap.mmap, mmap.mmap | None]:
    previous = None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _create(path, size), None
    try:
        there = os.fstat(descriptor).st_size
        if there == size:
            return mmap.mmap(descriptor, size), None
        if there:
            previous = mmap.mmap(descriptor, there, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    return _create(path, size), previous


def _create(path: Path, size: int) -> mmap.mmap:
    """A new file takes the old one's name only when all its space is there: a full tmpfs would kill with SIGBUS."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        memory = mmap.mmap(descriptor, size)
        os.replace(fresh, path)
    except OSError as error:
        os.unlink(fresh)
        raise OSError(error.errno, f"{error.strerror} ({size} bytes are needed)", str(path)) from None
    finally:
        os.close(descriptor)
    return memory
