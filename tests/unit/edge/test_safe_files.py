"""What somebody else has made, or could change, is neither read nor written: it is named and refused, and nothing waits for it."""
from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyfw.edge.control.handover import Handover, HandoverError
from pyfw.edge.control.unix_socket import bind_unix_socket
from pyfw.edge.host.state_file import BATCH, LOCK, TABLE, StateFileError, open_state_file
from pyfw.edge.safe_files import UnsafePath, open_directory, open_file, open_path, write_atomically

STRANGER = 65534
SIZE = 8192


def identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    os.close(descriptor)
    return found.st_dev, found.st_ino


def same(path: Path, other: Path) -> bool:
    return identity(open_directory(path)) == (other.stat().st_dev, other.stat().st_ino)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory where everybody may make files, as /tmp and /dev/shm."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared


# -- directories -----------------------------------------------------------------------------------------------------

def test_directories_that_are_root_s(tmp_path: Path, shared: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("shared/../one")
    (tmp_path / "far").symlink_to(tmp_path / "link")
    (shared / "ours").mkdir()
    (shared / "link").symlink_to("ours")
    assert same(tmp_path / "one", tmp_path / "one")
    assert same(tmp_path / "far" / "." / "..", tmp_path)
    assert same(tmp_path / "far", tmp_path / "one")
    assert same(shared / "link", shared / "ours")
    assert same(Path("/"), Path("/"))
    assert same(Path("/.."), Path("/"))


def test_missing_directories_are_made(tmp_path: Path, shared: Path):
    for parent in (tmp_path, shared):
        assert same_after_making(parent / "a" / "b")
        assert [stat.S_IMODE(path.stat().st_mode) for path in (parent / "a", parent / "a" / "b")] == [0o700, 0o700]
    with pytest.raises(FileNotFoundError, match=r"/a/c'$"):
        open_directory(tmp_path / "a" / "c" / "d")


def same_after_making(path: Path) -> bool:
    return identity(open_directory(path, make_mode=0o700)) == (path.stat().st_dev, path.stat().st_ino)


Spoil = Callable[[Path, Path], None]
"""(the directory that is wanted, the one above it)"""


def stranger_s(wanted: Path, above: Path) -> None:
    os.chown(wanted, STRANGER, STRANGER)


def in_a_stranger_s(wanted: Path, above: Path) -> None:
    os.chown(above, STRANGER, STRANGER)


def everybody_s(wanted: Path, above: Path) -> None:
    wanted.chmod(0o1777)


def in_everybody_s(wanted: Path, above: Path) -> None:
    above.chmod(0o777)


def a_group_s(wanted: Path, above: Path) -> None:
    wanted.chmod(0o775)


def a_link_to_everybody_s(wanted: Path, above: Path) -> None:
    wanted.rmdir()
    above.chmod(0o1777)
    wanted.symlink_to(above / "other" / "..")
    (above / "other").mkdir()


def a_stranger_s_link(wanted: Path, above: Path) -> None:
    wanted.rename(above / "moved")
    wanted.symlink_to("moved")
    os.chown(wanted, STRANGER, STRANGER, follow_symlinks=False)


@pytest.mark.root
@pytest.mark.parametrize(("spoil", "name", "reason"), [
    (stranger_s, "wanted", "belongs to user 65534 and not to root: chown it, or choose another directory"),
    (in_a_stranger_s, "above", "belongs to user 65534 and not to root: chown it, or choose another directory"),
    (everybody_s, "wanted", "can be written by others (mode 1777): chmod go-w it, or choose another directory"),
    (in_everybody_s, "above", "can be written by others (mode 777): chmod go-w it, or choose another directory"),
    (a_group_s, "wanted", "can be written by others (mode 775): chmod go-w it, or choose another directory"),
    (a_link_to_everybody_s, "above", "can be written by others (mode 1777): chmod go-w it, or choose another directory"),
    (a_stranger_s_link, "wanted", "is a symbolic link of user 65534's: remove it"),
], ids=lambda case: getattr(case, "__name__", None))
def test_directories_that_are_not_root_s_alone(tmp_path: Path, spoil: Spoil, name: str, reason: str):
    """Neither for the state nor for sockets, and not made into what they should be."""
    above = tmp_path / "above"
    wanted = above / "wanted"
    wanted.mkdir(parents=True)
    spoil(wanted, above)
    before = os.lstat(wanted)
    place = above if name == "above" else wanted
    with pytest.raises(UnsafePath) as caught:
        open_directory(wanted)
    assert (caught.value.filename, caught.value.strerror) == (str(place), reason)
    with pytest.raises(StateFileError) as refused:
        open_state_file(wanted, SIZE)
    assert str(refused.value) == f"{place}: {reason} (state.dir, where the state of connections is kept)"
    with pytest.raises(UnsafePath):
        bind_unix_socket(wanted / "control.sock", None)
    assert os.lstat(wanted) == before
    assert set(os.listdir(wanted)) <= {"wanted", "other"}


@pytest.mark.root
def test_a_directory_that_a_stranger_made_where_everybody_may(shared: Path):
    (shared / "pyfw").mkdir()
    os.chown(shared / "pyfw", STRANGER, STRANGER)
    with pytest.raises(StateFileError, match="pyfw: belongs to user 65534 and not to root"):
        open_state_file(shared / "pyfw", SIZE)


def test_links_that_go_round(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_directory(tmp_path / "a")


def test_what_is_no_directory(tmp_path: Path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "fifo"):
        with pytest.raises(NotADirectoryError, match=name):
            open_directory(tmp_path / name)


@pytest.mark.root
def test_a_user_without_rights_has_directories_of_its_own(shared: Path):
    """The daemon need not be root: what is its user's is as good as what is root's."""
    code = ("import os, sys; from pathlib import Path; from pyfw.edge.host.state_file import open_state_file\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); open_state_file(Path(sys.argv[1]), 8192); print('held')")
    shared.parent.chmod(0o755)
    home = shared / "its"
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    with reachable(shared):
        done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("held\n", "")


@contextmanager
def reachable(path: Path) -> Iterator[None]:
    """Everybody may pass through the directories above, as long as this lasts."""
    with ExitStack() as stack:
        for parent in path.parents:
            mode = stat.S_IMODE(parent.stat().st_mode)
            if not mode & stat.S_IXOTH:
                parent.chmod(mode | stat.S_IXOTH)
                stack.callback(parent.chmod, mode)
        yield


# -- files -----------------------------------------------------------------------------------------------------------

def link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def hard_link(path: Path) -> None:
    other = path.with_name("other")
    other.touch(0o600)
    path.hardlink_to(other)


def of_a_stranger(path: Path) -> None:
    path.touch(0o600)
    os.chown(path, STRANGER, STRANGER)


def open_to_a_group(path: Path) -> None:
    path.touch(0o600)
    path.chmod(0o640)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.root
@pytest.mark.parametrize("name", [TABLE, BATCH, LOCK])
@pytest.mark.parametrize(("put", "reason"), [
    (link_to(Path("/etc/hostname")), "is a symbolic link: remove it"),
    (hard_link, "has 2 names (hard links), of which one may be anywhere: remove it"),
    (of_a_stranger, "belongs to user 65534 and not to root: remove it"),
    (open_to_a_group, "is open to others (mode 640): remove it, or chmod go= it"),
    (os.mkfifo, "is no regular file: remove it"),
    (os.mkdir, "is no regular file: remove it"),
    (unix_socket, "is no regular file: remove it"),
    (link_to(Path("/dev/zero")), "is a symbolic link: remove it"),
], ids=["link", "hard link", "stranger's", "readable", "fifo", "directory", "socket", "device"])
def test_state_files_that_are_something_else(tmp_path: Path, name: str, put: Callable[[Path], None], reason: str):
    put(tmp_path / name)
    before = os.lstat(tmp_path / name)
    with pytest.raises(StateFileError) as caught:
        open_state_file(tmp_path, SIZE)
    assert str(caught.value) == f"{tmp_path / name}: {reason} (state.dir, where the state of connections is kept)"
    assert os.lstat(tmp_path / name) == before


def test_opening_waits_for_nobody(tmp_path: Path):
    """A FIFO that nobody reads or writes."""
    os.mkfifo(tmp_path / "fifo")
    directory = open_directory(tmp_path)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with pytest.raises(UnsafePath, match="is no regular file"):
            open_file(directory, tmp_path / "fifo", flags)
    os.close(directory)


def test_descriptors_that_were_handed_over_are_looked_at_as_well(tmp_path: Path):
    reader, writer = os.pipe()
    with pytest.raises(StateFileError, match="table: is no regular file"):
        open_state_file(tmp_path, SIZE, handed={TABLE: reader})
    os.close(writer)


def test_what_a_new_table_is_written_to_first_is_not_what_lies_there(tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "table.new").hardlink_to(precious)
    open_state_file(tmp_path / "state", SIZE).close()
    assert precious.read_bytes() == b"precious"


# -- space -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [TABLE, BATCH])
def test_files_with_holes_are_filled(tmp_path: Path, name: str):
    """Else a full tmpfs ends who writes there, or who looks, with SIGBUS."""
    descriptor = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(descriptor, SIZE)
    os.close(descriptor)
    open_state_file(tmp_path, SIZE, SIZE).close()
    assert (tmp_path / name).stat().st_blocks * 512 >= SIZE


HOLES = """
import os, sys
from pathlib import Path
from pyfw.edge.host.state_file import StateFileError, open_state_file
place, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
holes = os.open(place / name, os.O_RDWR | os.O_CREAT, 0o600)
os.truncate(holes, size)
if name == "batch":
    open_state_file(place / "other", 4096)
    (place / "other" / "table").rename(place / "table")
with open(place / "rest", "wb", buffering=0) as rest:
    try:
        while True:
            rest.write(bytes(4096))
    except OSError:
        pass
try:
    state = open_state_file(place, 4096, 4096)
    state.memory[:], state.batch[:] = bytes(4096), bytes(4096)
    bytes(state.previous or b"")
    print("kept")
except StateFileError as error:
    print(error)
"""


@pytest.mark.root
@pytest.mark.parametrize(("name", "size"), [(TABLE, 4096), (BATCH, 4096)])
def test_a_full_disk_is_known_at_the_start(tmp_path: Path, name: str, size: int):
    """The files of a predecessor have holes, and there is no space for them."""
    with_tmpfs = f"mount -t tmpfs -o size=64k,mode=700 tmpfs {tmp_path} && exec {sys.executable} - {tmp_path} {name} {size}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", with_tmpfs], input=HOLES, capture_output=True, text=True)
    assert done.stdout.startswith(f"{tmp_path}/"), done
    assert "No space left on device" in done.stdout
    assert done.returncode == 0


# -- locks and peers -------------------------------------------------------------------------------------------------

def test_a_stopped_process_that_has_the_lock_does_not_stop_others(tmp_path: Path):
    """It is named, at once."""
    holder = subprocess.Popen([sys.executable, "-c", "import sys; from pathlib import Path; from pyfw.edge.host.state_file import *\n"
                               f"open_state_file(Path({str(tmp_path)!r}), {SIZE}); print(flush=True); sys.stdin.read()"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        holder.stdout.readline()
        holder.send_signal(19)
        with pytest.raises(StateFileError, match=rf"another pyfw \(process {holder.pid}\) keeps its state there"):
            open_state_file(tmp_path, SIZE)
        holder.kill()


def test_the_lock_cannot_be_had_by_who_may_not_open_it(tmp_path: Path):
    open_state_file(tmp_path, SIZE).close()
    with open(tmp_path / LOCK, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert stat.S_IMODE((tmp_path / LOCK).stat().st_mode) == 0o600


@pytest.fixture
def strangers_socket(shared: Path) -> Iterator[Path]:
    """Somebody who has no rights listens, and answers whoever comes."""
    path = shared / "control.sock"
    code = ("import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1])\n"
            "listener.listen(); print(flush=True); connection, _ = listener.accept(); connection.recv(1)")
    with reachable(shared / "control.sock"):
        with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as listening:
            listening.stdout.readline()
            yield path
            listening.kill()


@pytest.mark.root
def test_a_stranger_hands_nothing_over(strangers_socket: Path):
    with pytest.raises(HandoverError, match=r"it is user 65534's; only that user may take it over$"):
        Handover(str(strangers_socket))


# -- sockets ---------------------------------------------------------------------------------------------------------

@pytest.mark.root
def test_a_socket_for_a_group(tmp_path: Path):
    with bind_unix_socket(tmp_path / "made" / "a.sock", 12345):
        found = (tmp_path / "made" / "a.sock").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 12345, 0o660)
    with bind_unix_socket(tmp_path / "made" / "b.sock", None):
        assert stat.S_IMODE((tmp_path / "made" / "b.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o755


@pytest.mark.root
@pytest.mark.parametrize("put", [link_to(Path("precious")), lambda path: path.touch()], ids=["link", "file"])
def test_what_took_a_socket_s_place_is_left_alone(tmp_path: Path, put: Callable[[Path], None]):
    """A predecessor's socket was handed over, and its name stands for something else by now."""
    (tmp_path / "precious").write_bytes(b"")
    before = (tmp_path / "precious").stat()
    put(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as handed, pytest.raises(UnsafePath, match="is no socket: remove it"):
        bind_unix_socket(tmp_path / "a.sock", 12345, os.dup(handed.fileno()))
    assert (tmp_path / "precious").stat() == before


# -- one file, whole ---------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    directory.mkdir(mode=0o755)
    (directory / "file").write_text("ours")
    (directory / "file").chmod(0o644)
    return directory / "file"


@pytest.mark.root
@pytest.mark.parametrize("spoil", [
    pytest.param(lambda path: os.chown(path, STRANGER, -1), id="another's"),
    pytest.param(lambda path: path.chmod(0o664), id="writable by its group"),
    pytest.param(lambda path: os.link(path, path.with_name("other")), id="two names"),
    pytest.param(lambda path: os.chown(path.parent, STRANGER, -1), id="in another's directory"),
    pytest.param(lambda path: path.parent.parent.chmod(0o777), id="below a directory for all"),
])
def test_a_path_is_opened_if_others_have_had_no_hand_in_it(path: Path, spoil: Callable[[Path], object]) -> None:
    with os.fdopen(open_path(path)) as file:
        assert file.read() == "ours"
    spoil(path)
    with pytest.raises(UnsafePath, match=f"^{path.parent.parent}"):
        open_path(path)


def test_what_is_written_keeps_owner_group_and_mode(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)
    path.chmod(0o604)
    write_atomically(path, b"new")
    found = path.stat()
    assert (path.read_bytes(), found.st_uid, found.st_gid, found.st_mode & 0o777) == (b"new", STRANGER, STRANGER, 0o604)
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_is_for_its_directorys_group(path: Path) -> None:
    os.chown(path.parent, -1, STRANGER)
    write_atomically(path.with_name("new"), b"new")
    found = path.with_name("new").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (os.geteuid(), STRANGER, 0o640)
