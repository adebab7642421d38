"""The files that hold the state table and the batch in hand: mapped by one daemon, outliving it, gone with the boot.

May know: files, locks, the boot id.  Must not know: what is in the files.
"""
from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pyfw.edge.safe_files import OPEN_TO_OTHERS, UnsafePath, check_file, open_directory, open_file

TABLE, BATCH, LOCK = "table", "batch", "lock"     # the files' names, and those of their descriptors
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StateFileError(Exception):
    """The state cannot be kept there: one line that names the path and says what to do."""


@dataclass(frozen=True)
class StateFile:
    """The mapped files, and the lock that keeps other daemons off their directory.

    memory       the table, exactly as long as asked for; zeros where the file is new
    batch        the batch in hand, likewise; its file may be longer
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
        """Unmap and unlock; the files stay for the successor.  BufferError while something still refers to memory."""
        self.memory.close()
        self.batch.close()
        if self.previous is not None:
            self.previous.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)


def open_state_file(directory: Path, size: int, batch_size: int = mmap.PAGESIZE,
                    handed: Mapping[str, int] | None = None) -> StateFile:
    """Open or make the table file of `size` bytes in `directory`, which is made when missing, and the batch's (safe_files).

    `handed`: descriptors that a predecessor had and gave us, which stand for the files in the directory; ours from now on.
    Raises StateFileError.
    """
    path = directory / TABLE
    with ExitStack() as opened:
        try:
            place = open_directory(directory, make_mode=0o700)
            try:
                lock = _take(place, directory / LOCK, handed or {}, os.O_CREAT)
                opened.callback(os.close, lock)
                _lock(directory, lock)
                table, memory, previous = _map(place, path, size, handed or {})
                opened.callback(os.close, table)
                batch = _take(place, directory / BATCH, handed or {}, os.O_CREAT)
                opened.callback(os.close, batch)
                _reserve(batch, batch_size)
                batch_memory = mmap.mmap(batch, batch_size)
            finally:
                os.close(place)
        except UnsafePath as error:
            raise StateFileError(f"{error.filename}: {error.strerror} (state.dir, where the state of connections is kept)") from None
        except OSError as error:
            raise StateFileError(f"{error.filename or path}: {error.strerror}: the state of connections is kept there; "
                                 "choose another state.dir, or make this one writable") from None
        opened.pop_all()
    _write_owner(lock)
    return StateFile(path, memory, batch_memory, previous, read_boot_id(), {TABLE: table, BATCH: batch, LOCK: lock})


def read_boot_id() -> bytes:
    return bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))


def _take(place: int, path: Path, handed: Mapping[str, int], flags: int = 0) -> int:
    """A descriptor of the file: the one that was handed over, or one from the open directory `place`.  Only we may read it, too:
    who can open a file can lock it."""
    if path.name not in handed:
        return open_file(place, path, os.O_RDWR | flags, forbidden=OPEN_TO_OTHERS)
    check_file(handed[path.name], path, forbidden=OPEN_TO_OTHERS)
    return handed[path.name]


def _lock(directory: Path, lock: int) -> None:
    """The lock is a file of its own, since the table's file is replaced when its size changes."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise StateFileError(f"{directory}: another pyfw (process {owner}) keeps its state there: "
                             "stop it, or choose another state.dir") from None


def _write_owner(lock: int) -> None:
    os.truncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _map(place: int, path: Path, size: int, handed: Mapping[str, int]) -> tuple[int, mmap.mmap, mmap.mmap | None]:
    """The file's descriptor, its mapping, and that of the file it replaces."""
    try:
        descriptor = _take(place, path, handed)
    except FileNotFoundError:
        return *_create(place, path, size), None
    there = os.fstat(descriptor).st_size
    if there == size:
        _reserve(descriptor, size)
        return descriptor, mmap.mmap(descriptor, size), None
    previous = None
    with suppress(OSError):             # it has holes, and there is no space for them: it was damaged
        _reserve(descriptor, there)
        previous = mmap.mmap(descriptor, there, prot=mmap.PROT_READ) if there else None
    if path.name not in handed:         # else its number must not be another file's: who keeps the descriptors tells them apart by it
        os.close(descriptor)
    return *_create(place, path, size), previous


def _create(place: int, path: Path, size: int) -> tuple[int, mmap.mmap]:
    """A new file takes the old one's name only when all its space is there."""
    fresh = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        os.unlink(fresh.name, dir_fd=place)
    descriptor = open_file(place, fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, forbidden=OPEN_TO_OTHERS)
    try:
        os.posix_fallocate(descriptor, 0, size)
        memory = mmap.mmap(descriptor, size)
        os.replace(fresh.name, path.name, src_dir_fd=place, dst_dir_fd=place)
    except OSError as error:
        os.close(descriptor)
        os.unlink(fresh.name, dir_fd=place)
        raise OSError(error.errno, f"{error.strerror} ({size} bytes are needed)", str(path)) from None
    return descriptor, memory


def _reserve(descriptor: int, size: int) -> None:
    """All space of the file is there from now on, or OSError: a full tmpfs kills with SIGBUS who writes where there is none, or only
    looks.  It never becomes shorter: a predecessor may have it mapped."""
    there = os.fstat(descriptor)
    if there.st_size < size or there.st_blocks * 512 < size:
        os.posix_fallocate(descriptor, 0, size)
