"""The files that hold the state table and the batch in hand: mapped by one daemon, outliving it, gone with the boot.

May know: files, locks, the boot id.  Must not know: what is in the files.
"""
from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

TABLE, BATCH, LOCK = "table", "batch", "lock"     # the files' names, and those of their descriptors
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StateFileError(Exception):
    """The state cannot be kept there: one line that names the path and says what to do."""


@dataclass(frozen=True)
class StateFile:
    """The mapped files, and the lock that keeps other daemons off their directory.

    memory       the table, exactly as long as asked for; zeros where the file is new
    batch        the batch in hand, likewise
    previous     the table of a predecessor, of another size, read-only; None: there was none, or `memory` is it.
                 Its file is already replaced: copy what is wanted and close it.
    boot_id      16 bytes that no other boot of any machine has
    descriptors  of the files, by TABLE, BATCH, LOCK: what a successor can be given
    """

    path: Path
    memory: mmap.mmap
    batch: mmap.mmap
    previous: mmap.mmap | None
    boot_id: bytes
    descriptors: Mapping[str, int]

    def close(self) -> None:
        """Unmap and unlock; the files stay for the successor.  BufferError while somebody still looks into memory."""
        self.memory.close()
        self.batch.close()
        if self.previous is not None:
            self.previous.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)


def open_state_file(directory: Path, size: int, batch_size: int = mmap.PAGESIZE,
                    handed: Mapping[str, int] | None = None) -> StateFile:
    """Open or make the table file of `size` bytes in `directory`, which is made when missing, and the batch's.

    `handed`: descriptors that a predecessor had and gave us, which stand for the files in the directory; ours from now on.
    Raises StateFileError.
    """
    handed = handed or {}
    path = directory / TABLE
    with ExitStack() as opened:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = handed[LOCK] if LOCK in handed else _lock(directory)
            opened.callback(os.close, lock)
            table, memory, previous = _map(path, size, handed.get(TABLE))
            opened.callback(os.close, table)
            batch = handed[BATCH] if BATCH in handed else os.open(directory / BATCH, _OPEN | os.O_CREAT, 0o600)
            opened.callback(os.close, batch)
            if os.fstat(batch).st_size != batch_size:
                os.truncate(batch, batch_size)
            batch_memory = mmap.mmap(batch, batch_size)
        except OSError as error:
            raise StateFileError(f"{error.filename or path}: {error.strerror}: the state of connections is kept there; "
                                 "choose another state.dir, or make this one writable") from None
        opened.pop_all()
    _write_owner(lock)
    return StateFile(path, memory, batch_memory, previous, read_boot_id(), {TABLE: table, BATCH: batch, LOCK: lock})


def read_boot_id() -> bytes:
    return bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))


def _lock(directory: Path) -> int:
    """The lock is a file of its own, since the table's file is replaced when its size changes."""
    lock = os.open(directory / LOCK, _OPEN | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StateFileError(f"{directory}: another pyfw (process {owner}) keeps its state there: "
                             "stop it, or choose another state.dir") from None
    return lock


def _write_owner(lock: int) -> None:
    os.truncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _map(path: Path, size: int, handed: int | None) -> tuple[int, mmap.mmap, mmap.mmap | None]:
    """The file's descriptor, its mapping, and that of the file it replaces."""
    try:
        descriptor = os.open(path, _OPEN) if handed is None else handed
    except FileNotFoundError:
        return *_create(path, size), None
    there = os.fstat(descriptor).st_size
    if there == size:
        return descriptor, mmap.mmap(descriptor, size), None
    previous = mmap.mmap(descriptor, there, prot=mmap.PROT_READ) if there else None
    if handed is None:                  # else its number must not be another file's: whoever keeps it tells them by that
        os.close(descriptor)
    return *_create(path, size), previous


def _create(path: Path, size: int) -> tuple[int, mmap.mmap]:
    """A new file takes the old one's name only when all its space is there: a full tmpfs would kill with SIGBUS."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, _OPEN | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        memory = mmap.mmap(descriptor, size)
        os.replace(fresh, path)
    except OSError as error:
        os.close(descriptor)
        os.unlink(fresh)
        raise OSError(error.errno, f"{error.strerror} ({size} bytes are needed)", str(path)) from None
    return descriptor, memory
