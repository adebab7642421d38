"""Files that are read to a bound: a user who names or writes one must not take memory or time without end."""
from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path, largest: int) -> bytes:
    """What a regular file of at most `largest` bytes holds.  Raises OSError; never waits for a writer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no file can have this name: {error}", str(path)) from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a device, a pipe or a socket; a file is expected", str(path))
        data = file.read(largest + 1) if status.st_size <= largest else b""
        if status.st_size > largest or len(data) > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest >> 20} MiB", str(path))
        return data


def read_text_file(path: Path, largest: int) -> str:
    """As read_file(), in UTF-8 and with any kind of line ends.  Raises UnicodeDecodeError, too."""
    return read_file(path, largest).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
