"""The sanitizer build: every compiled module once more, by clang, and the driver that runs targets in them.

It lies in build/fuzz.  A module is compiled again when its generated C or the way it is compiled has changed.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension

TOP = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = TOP / "build" / "fuzz"
LIBRARY = BUILD / "lib"         # stands before the tree in the driver's sys.path
DRIVER = BUILD / "driver"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

# -fwrapv as CPython's own flags have it; a finding ends the process, so that libFuzzer keeps the input.
SANITIZE = "address,undefined"
FLAGS = ["-O1", "-g1", "-fwrapv", "-DNDEBUG", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-w",
         f"-I{sysconfig.get_path('include')}"]
MODULE_FLAGS = [*FLAGS, f"-fsanitize=fuzzer-no-link,{SANITIZE}", "-fPIC", "-shared"]
DRIVER_FLAGS = [*FLAGS, f"-fsanitize=fuzzer,{SANITIZE}", "-rdynamic"]


def build() -> None:
    """Bring build/fuzz up to date.  Raises CalledProcessError with the compiler's words on standard error."""
    link_python()
    modules = generated_modules()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(compile_module, name, *parts) for name, parts in modules.items()]:
            done.result()
    libraries = [f"-L{sysconfig.get_config_var('LIBDIR')}", f"-lpython{sysconfig.get_config_var('LDVERSION')}"]
    compile_once(HERE / "driver.c", DRIVER, DRIVER_FLAGS, libraries)
    wanted = {LIBRARY / path for path in modules}
    for stale in set(LIBRARY.rglob("*.so")) - wanted:
        stale.unlink()


def link_python() -> None:
    """The modules in Python, as links: the driver runs the tree's own."""
    for source in (TOP / "pyfw").rglob("*.py"):
        link = LIBRARY / source.relative_to(TOP)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() or link.readlink() != source:      # a tree that was copied has the other one's
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    for link in LIBRARY.rglob("*.py"):
        if not link.exists():
            link.unlink()


def generated_modules() -> dict[str, tuple[Path, list[str]]]:
    """Each module's place in LIBRARY: its C, brought up to date, and the libraries it needs."""
    native = Extension("fuzz_native", ["tests/fuzz/native.pyx"])
    with chdir(TOP):                    # by where their files are, cythonize names modules
        extensions = cythonize(["pyfw/**/*.pyx"], quiet=True)
        extensions += cythonize([native], quiet=True, build_dir=str(BUILD / "c"))
    return {extension.name.replace(".", "/") + SUFFIX:
            (TOP / extension.sources[0], [f"-l{library}" for library in extension.libraries]) for extension in extensions}


def compile_module(place: str, source: Path, libraries: list[str]) -> None:
    compile_once(source, LIBRARY / place, MODULE_FLAGS, libraries)


def compile_once(source: Path, target: Path, flags: list[str], libraries: list[str]) -> None:
    sum_file = BUILD / "sums" / f"{target.name}.{hashlib.sha256(str(target).encode()).hexdigest()[:8]}"
    command = ["clang", *flags, str(source), "-o", str(target), *libraries]
    wanted = hashlib.sha256("\0".join(command).encode() + source.read_bytes()).hexdigest()
    if target.exists() and sum_file.exists() and sum_file.read_text() == wanted:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    sum_file.parent.mkdir(parents=True, exist_ok=True)
    sum_file.write_text(wanted)


def environment() -> dict[str, str]:
    """For the driver: Python finds the sanitizer build first, then the tests, then what pyfw depends on."""
    paths = [LIBRARY, TOP / "tests", *(Path(path) for path in sys.path if path.endswith("site-packages"))]
    symbolizer = shutil.which("llvm-symbolizer") or shutil.which("llvm-symbolizer-14") or ""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONMALLOC": "malloc",               # the sanitizer sees Python's memory, too
        "PYTHONHASHSEED": "0",
        # CPython keeps what it made until the process ends, and asks for memory that it can do without.
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=4:allocator_may_return_null=1:handle_abort=1:handle_segv=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "ASAN_SYMBOLIZER_PATH": symbolizer,
    }
