"""What the containers are made of, kept between runs: a Debian tree, and the wheels that an installation takes.

Both lie in $PYFW_TEST_CACHE, or in /var/cache/pyfw-tests, under names that hold a checksum of what they were made from; so a
second run finds them made, and a change makes them anew.  Debian's packages come from where this machine's apt gets them.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "scripts/locks").iterdir())
CACHE = Path(os.environ.get("PYFW_TEST_CACHE", "/var/cache/pyfw-tests"))
THIS_RELEASE = platform.freedesktop_os_release()["VERSION_CODENAME"]
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "procps",
    "gcc", "libc6-dev", "libnetfilter-queue-dev", "python3-dev", "python3-venv",    # what scripts/install would fetch
    "iptables", "iproute2",
    "iptables-persistent", "nftables",                                                              # others that change rules at boot
    "bash-completion", "curl", "iputils-ping", "man-db", "openssh-server", "zsh",                    # what the tests use
)
NEXT_RELEASE, NEXT_PYTHON = "trixie", "3.13"
NEXT_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "procps",
    "gcc", "libc6-dev", "libnetfilter-queue-dev", "python3-dev", "python3-venv", "iptables", "iproute2",
    "iputils-ping", "openssh-server", "python3-hypothesis",
)
KEPT = 3                            # of each kind: other source trees may use the same cache
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "pyfw")
CLONED = (*SOURCES, "config", "scripts", "systemd", "tests")
BUILT = ("*.c", "*.so", "*.pyc")


class CacheError(Exception):
    """The tree or the wheels cannot be made: one line, and the end of what the program said."""


def debian_tree(release: str = THIS_RELEASE, packages: Sequence[str] = PACKAGES) -> Path:
    """A Debian, never booted and never written to."""
    return _kept(f"debian-{release}", " ".join(packages).encode(), lambda path: _bootstrap(release, packages, path))


def copy_sources(target: Path) -> None:
    """As a fresh clone has them: nothing is built."""
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns(*BUILT, "__pycache__"))
        else:
            shutil.copy2(ROOT / name, target)


def wheels() -> Path:
    """The wheels of pyfw, of what it needs, and of what builds it."""
    return _kept("wheels", b"".join(_sources()), _build_wheels)


def sources_for_next_python() -> Path:
    """What pip takes instead of the network there: wheels, and sources of what has none."""
    platforms = [f"--platform=manylinux{kind}_{platform.machine()}" for kind in ("2014", "_2_17", "_2_28")]
    options = ["--quiet", "--no-deps", "--require-hashes", f"--python-version={NEXT_PYTHON}", *platforms]
    return _kept("next-dependencies", _locks_text(), lambda path: _run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", path, *_lock_options()]) and None)


def _kept(name: str, made_from: bytes, make: Callable[[Path], None]) -> Path:
    """The cached directory; made first, whole or not at all, if it is not there.  Those not used for longest go."""
    path = CACHE / f"{name}-{hashlib.sha256(made_from).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / f"{name}.lock"):
        if not path.exists():
            unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-unfinished-", dir=CACHE))
            unfinished.chmod(0o755)
            try:
                make(unfinished)
                unfinished.rename(path)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        os.utime(path)
        for old in sorted(CACHE.glob(f"{name}-*"), key=lambda other: other.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bootstrap(release: str, packages: Sequence[str], path: Path) -> None:
    """From the archive that has this machine's release; it has the others, too."""
    indexes = _run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", f"Codename: {THIS_RELEASE}",
                    "Component: main", "Origin: Debian"]).split()
    if not indexes:
        raise CacheError(f"apt knows no source for Debian {THIS_RELEASE}: run apt-get update")
    _run(["debootstrap", "--foreign", "--variant=minbase", f"--include={','.join(packages)}", release, path, indexes[0]])
    # The packages' scripts save and load rules: not this machine's.
    _run(["unshare", "--net", "chroot", path, "/debootstrap/debootstrap", "--second-stage"])
    for rules in (path / "etc/iptables").glob("rules.*"):
        rules.unlink()
    for package in (path / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


def _sources() -> Iterator[bytes]:
    for name in SOURCES:
        for path in sorted([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*")):
            if path.is_file() and not any(map(path.match, BUILT)):
                yield str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes()


def _build_wheels(path: Path) -> None:
    """pyfw's own from the modules that scripts/setup has compiled: that they can be built is another test's matter."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--wheel-dir"]
    others = _kept_wheels_of_others(pip)
    for wheel in others.iterdir():
        os.link(wheel, path / wheel.name)
    with tempfile.TemporaryDirectory(prefix="pyfw-wheel-") as directory:
        source = Path(directory)
        for name in SOURCES:
            _run(["cp", "-a", ROOT / name, source])
        built = source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        for module in ROOT.glob("pyfw/**/*.so"):
            target = built / module.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(module, target)
        _run([*pip, path, "--no-deps", "--no-build-isolation", source])


def _kept_wheels_of_others(pip: list[str]) -> Path:
    """As an installation with network fetches them: what has another checksum than the locks' is refused."""
    return _kept("dependencies", _locks_text(), lambda path: _run([*pip, path, "--require-hashes", *_lock_options()]) and None)


def _locks_text() -> bytes:
    return b"".join(lock.read_bytes() for lock in LOCKS)


def _lock_options() -> list[str]:
    return [f"--requirement={lock}" for lock in LOCKS]


def _run(argv: list[str | os.PathLike]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "CFLAGS"}
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        raise CacheError(f"{argv[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
