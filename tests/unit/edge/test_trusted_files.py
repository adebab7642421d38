"""A file is believed if root or we alone can have written it."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfw.edge.trusted_files import Untrusted, open_trusted, write_atomically

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    directory.mkdir(mode=0o755)
    (directory / "file").write_text("ours")
    (directory / "file").chmod(0o644)
    return directory / "file"


def test_ours_is_read(path: Path) -> None:
    with os.fdopen(open_trusted(path)) as file:
        assert file.read() == "ours"


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.parent.parent / "theirs")
    (path.parent.parent / "theirs").write_text("theirs")
    os.chown(path.parent.parent / "theirs", NOBODY, NOBODY)


@pytest.mark.parametrize("spoil", [
    pytest.param(lambda path: os.chown(path, NOBODY, -1), id="another's"),
    pytest.param(lambda path: path.chmod(0o664), id="writable by its group"),
    pytest.param(lambda path: path.chmod(0o646), id="writable by all"),
    pytest.param(lambda path: os.link(path, path.with_name("other")), id="two names"),
    pytest.param(lambda path: os.chown(path.parent, NOBODY, -1), id="in another's directory"),
    pytest.param(lambda path: path.parent.chmod(0o777), id="in a directory for all"),
    pytest.param(lambda path: path.parent.parent.chmod(0o777), id="below a directory for all"),
    pytest.param(lambda path: (path.unlink(), os.mkfifo(path)), id="a pipe, which would never end"),
    pytest.param(link, id="a link to another's"),
])
def test_what_others_can_have_written_is_not(path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(path)
    with pytest.raises(Untrusted, match=str(path.parent.parent)):
        open_trusted(path)


def test_a_directory_where_only_owners_rename_is_no_harm(path: Path) -> None:
    path.parent.chmod(0o1777)
    os.close(open_trusted(path))


def test_what_is_written_keeps_owner_group_and_mode(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o604)
    write_atomically(path, b"new")
    found = path.stat()
    assert (path.read_bytes(), found.st_uid, found.st_gid, found.st_mode & 0o777) == (b"new", NOBODY, NOBODY, 0o604)
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_is_for_its_directorys_group(path: Path) -> None:
    os.chown(path.parent, -1, NOBODY)
    write_atomically(path.with_name("new"), b"new")
    found = path.with_name("new").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (os.geteuid(), NOBODY, 0o640)
