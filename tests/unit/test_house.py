"""The law of the house: who may import what, where the world is touched, and that comments name files that exist."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYFW = ROOT / "pyfw"
SOURCES = sorted(path for pattern in ("*.py", "*.pyx", "*.pxd") for path in PYFW.rglob(pattern))

# From the ground up; those in one line do not import each other.  A folder's own files are free among themselves.
STOREYS = (
    ("enums", "reasons", "lock", "token_bucket", "escape", "bounded_text"),
    ("wire",),
    ("conntrack",),
    ("rules",),
    ("helpers",),
    ("engine",),
    ("observe",),
    ("explain",),
    ("report",),
    ("edge/safe_files", "edge/bounded_files", "edge/defects", "edge/queue_counters"),
    ("edge/queue", "edge/control", "edge/host", "edge/capture"),
    ("config",),
    ("daemon", "offline", "lab"),
    ("cli",),
)
RULES = (           # likewise, inside rules
    ("model", "values", "names", "lexer", "code", "parts"),
    ("sets", "log"),
    ("xt",),
    ("language",),
    ("program",),
)
MAIN = {"__init__", "__main__", "_cythonize"}      # the front door and the build
WORLD = {"socket", "socketserver", "time", "subprocess", "selectors", "asyncio", "signal", "tempfile", "shutil", "pyroute2",
         "netfilterqueue"}
OUTSIDE = ("edge", "config", "daemon", "offline", "cli", "lab", "__main__", "_cythonize")   # of these files, which may touch it
EXCEPTIONS = {
    "lock": "says at the end how long it was held, if a test asks for it",
    "rules/values": "services have the system's names, as in iptables",
    "rules/sets/text": "inet_aton() is a function of its text, and reads an address as ipset does",
    "wire/summary": "inet_ntop() is a function of its bytes",
}

IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n#]*)|c?import\s+([\w.]+))", re.MULTILINE)
STAR = re.compile(r"^from \S+ c?import \*", re.MULTILINE)
NAMED_FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
NAMED_FILE = re.compile(r"(?<![\w*{<./-])((?:[\w-]+/)*[\w-]+\.(?:py|pyx|pxd))\b")
PACKAGES = "|".join(sorted(path.name for path in PYFW.iterdir() if (path / "__init__.py").exists()))
NAMED_MODULE = re.compile(rf"`([a-z]\w*(?:\.[a-z]\w*)+)(?:\.[A-Z]\w*)?`|(?<![\w`./-])((?:{PACKAGES})(?:\.[a-z]\w*)+)")


def imports(source: str) -> Iterator[str]:
    """Modules that the import and cimport lines name; of `from a import b`, `a.b` if that is a module."""
    for package, names, module in IMPORT.findall(source):
        if module:
            yield module
            continue
        for name in re.sub(r"[()\n]", " ", names).split(","):
            whole = f"{package}.{name.split()[0]}" if name.split() else package
            yield whole if is_module(whole) else package


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or any(path.with_name(path.name + ending).exists() for ending in (".py", ".pyx", ".pxd"))


def place(path: str, order: tuple[tuple[str, ...], ...]) -> tuple[int, str]:
    """The storey and the room of a file below pyfw/ (or below rules/), without its ending."""
    for storey, rooms in enumerate(order):
        for room in rooms:
            if path == room or path.startswith(room + "/"):
                return storey, room
    raise AssertionError(f"{path} has no room: give it one here and in pyfw/README.md")


def arrows(path: str, source: str) -> Iterator[str]:
    """Imports of a file (below pyfw/, without its ending) that point upward, or across to a room beside it."""
    if path in MAIN:
        return
    for name in imports(source):
        if not name.startswith("pyfw."):
            continue
        other = name.removeprefix("pyfw.").replace(".", "/")
        inside = path.startswith("rules/") and other.startswith("rules/")
        order, mine, theirs = (RULES, path[6:], other[6:]) if inside else (STOREYS, path, other)
        (storey, room), (their_storey, their_room) = place(mine, order), place(theirs, order)
        beside = storey == their_storey and room != their_room and not (inside and storey == 0) and storey != 0
        if their_storey > storey or beside:
            yield f"{path} imports {other}"


def world(path: str, source: str) -> Iterator[str]:
    """Sockets, files and clocks in a file that may know none."""
    if path.split("/")[0] in OUTSIDE:
        return
    for name in imports(source):
        if name.split(".")[0] in WORLD:
            yield f"{path} imports {name}"
    if re.search(r"(?<![\w.])open\(|\bclock_gettime\(|\.(?:read|write)_(?:text|bytes)\(", source):
        yield f"{path} opens a file or reads a clock"


def comments(source: str) -> Iterator[str]:
    yield from re.findall(r'"""(.*?)"""', source, re.DOTALL)
    yield from re.findall(r"#\s(.*)", source)


def code(source: str) -> str:
    """Without docstrings and comments."""
    return re.sub(r'(?s)""".*?"""', "", re.sub(r"#\s.*", "", source))


CODE = "\n".join(code(path.read_text(encoding="utf-8")) for path in SOURCES)
MODULES = "\n".join("." + str(path.relative_to(ROOT).with_suffix("")).removesuffix("/__init__").replace("/", ".") for path in SOURCES)


def unknown_modules(source: str) -> list[str]:
    """Dotted names of comments, in backticks or with a package of pyfw's in front, that are no module and stand in no code."""
    names = (first or second for text in comments(source) for first, second in NAMED_MODULE.findall(text))
    return [name for name in names if not NAMED_FILE.fullmatch(name) and f".{name}\n" not in f"{MODULES}\n"
            and not re.search(rf"\b{re.escape(name)}\b", CODE)]


def relative(path: Path) -> str:
    return str(path.relative_to(PYFW).with_suffix(""))


def collected(check) -> list[str]:
    return [fault for path in SOURCES for fault in check(relative(path), path.read_text(encoding="utf-8"))]


def test_no_arrow_points_upward():
    assert collected(arrows) == []


def test_below_the_edge_nobody_touches_the_world():
    found = {fault.split()[0] for fault in collected(world)}
    assert found == EXCEPTIONS.keys(), "an exception that is none any more goes"


def test_every_cimported_name_is_written_out():
    assert [str(path) for path in SOURCES if STAR.search(path.read_text(encoding="utf-8"))] == []


def test_the_control_a_star_is_found():
    assert STAR.search("from libc.stdint cimport uint8_t\nfrom pyfw.enums cimport *\n")


def test_comments_name_files_that_exist():
    known = {str(path.relative_to(ROOT)) for folder in ("pyfw", "tests", "scripts", "config")
             for path in (ROOT / folder).rglob("*.p*") if path.suffix in {".py", ".pyx", ".pxd"}}
    missing = [f"{path.relative_to(ROOT)}: {name}" for path in SOURCES for text in comments(path.read_text(encoding="utf-8"))
               for name in NAMED_FILE.findall(text) if not any(file == name or file.endswith("/" + name) for file in known)]
    assert missing == []


def test_comments_name_folders_that_exist():
    known = [f"/{path.relative_to(ROOT)}/" for folder in ("pyfw", "tests", "scripts", "config") for path in (ROOT / folder, *(ROOT / folder).rglob("*"))
             if path.is_dir()]
    missing = [f"{path.relative_to(ROOT)}: {name}" for path in SOURCES for text in comments(path.read_text(encoding="utf-8"))
               for name in NAMED_FOLDER.findall(text) if not any(folder.endswith(f"/{name}") for folder in known)]
    assert missing == []


def test_comments_name_modules_that_exist():
    found = {relative(path): names for path in SOURCES if (names := unknown_modules(path.read_text(encoding="utf-8")))}
    assert found == {}


def test_scripts_start_modules_that_exist():
    started = {name for folder in ("scripts", "systemd", ".ci") for path in (ROOT / folder).rglob("*") if path.is_file()
               for name in re.findall(r"-m (pyfw[\w.]*)", path.read_text(encoding="utf-8", errors="replace"))}
    assert started
    assert not [name for name in started if not is_module(name)]


@pytest.mark.parametrize(("path", "line"), [
    ("engine/engine", "from pyfw.explain.dry_run import Answer"),
    ("conntrack/table", "from pyfw.rules.parts cimport Context"),
    ("helpers/ftp", "def f():\n    from pyfw.engine import engine"),
    ("edge/host/divert", "import pyfw.edge.queue.socket"),
    ("edge/safe_files", "from pyfw.edge.host.journal import Journal"),
    ("rules/xt/rate", "from pyfw.rules.language.kinds import Match"),
    ("rules/sets/sets", "from pyfw.rules.log.ring cimport Ring"),
    ("daemon/daemon", "from pyfw.cli.pyfw import main"),
])
def test_the_control_an_arrow_upward_is_found(path, line):
    assert list(arrows(path, line))


@pytest.mark.parametrize("line", ["import socket", "from time import monotonic_ns", "text = open(path).read()", "path.read_text()"])
def test_the_control_the_world_is_found(line):
    assert list(world("engine/engine", line))
    assert not list(world("edge/host/divert", line))


def test_the_control_a_module_that_is_gone_is_found():
    text = "# of `formats.metrics` and edge.latency, report.metrics, `pyfw.wire`, edge.queue.loop, wire. And (edge.gone)\n"
    assert unknown_modules(text) == ["formats.metrics", "edge.latency", "edge.gone"]
