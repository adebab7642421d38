"""The stubs say what the compiled modules have: names, signatures, values.

A stub says nothing of names that a module only imports; those that mypy's stubtest cannot tell from the module's own are
listed in IMPORTED.
"""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = sorted(path.relative_to(ROOT) for path in ROOT.glob("pyfw/**/*.pyi"))
CYTHONS_OWN = [r".*\.__(test|pyx_capi|reduce_cython|setstate_cython)__"]
IMPORTED = [
    r"pyfw\.engine\.drop_log\.DEFAULT_LOG_(BURST|RATE)",
    r"pyfw\.engine\.helper_runner\.DIRECTIONS",
    r"pyfw\.rules\.program\.program\.(AUDIT|TABLE_NUMBERS)",
]
UNREADABLE = [r"pyfw\.engine\.engine\.Engine\.__init__"]    # only keywords: the compiled class says *args of it
IMPORT = re.compile(r"^\s*(?:from|import) (pyfw[\w.]*)(?: import (\w+))?", re.MULTILINE)
CLASS = re.compile(r"^cdef class (\w+).*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
CONSTRUCTOR = re.compile(r"^    def __(c?)init__\(self(?:, )?(.*?)\)(?: -> None)?:$", re.MULTILINE | re.DOTALL)


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def argument(text: str) -> str:
    """`uint32_t limit=0` -> "limit=": its name, and whether it may be left out."""
    name, default = re.fullmatch(r"(.*?)(?:: .*?)?( ?=.*)?", text.strip(), re.DOTALL).groups()
    return name.removesuffix(" not None").split(" ")[-1] + ("=" if default else "")


def compiled_constructors(source: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cython_class in CLASS.finditer(source):
        for kind, arguments in sorted(CONSTRUCTOR.findall(cython_class[0]), reverse=True):      # __init__ counts, where both are
            found[cython_class[1]] = [argument(text) for text in re.split(r",(?![^()\[\]]*[)\]])", arguments) if text.strip()]
    return {name: arguments for name, arguments in found.items() if arguments}


def stub_constructors(source: str) -> dict[str, list[str]]:
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for function in node.body:
                if isinstance(function, ast.FunctionDef) and function.name in ("__init__", "__new__"):
                    found[node.name] = named(function.args)[1:]
    return found


def named(arguments: ast.arguments) -> list[str]:
    required = len(arguments.args) - len(arguments.defaults)
    names = [known.arg + ("=" if number >= required else "") for number, known in enumerate(arguments.args)]
    if arguments.kwonlyargs:
        names.append("*")
    return names + [known.arg + ("" if default is None else "=")
                    for known, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]


def test_every_compiled_module_that_python_imports_has_a_stub() -> None:
    imported = set()
    for path in (*ROOT.glob("pyfw/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("scripts/lib/*.py")):
        for module, name in IMPORT.findall(path.read_text()):
            imported |= {module, f"{module}.{name}"}
    compiled = {module_of(path.relative_to(ROOT)) for path in ROOT.glob("pyfw/**/*.pyx")}
    assert compiled & imported <= {module_of(path) for path in STUBS}


def test_the_stubs_fit_the_modules(tmp_path: Path) -> None:
    allowed, config = tmp_path / "allowed", tmp_path / "mypy.ini"
    allowed.write_text("\n".join(CYTHONS_OWN + IMPORTED + UNREADABLE))
    # What mypy says of the sources has a test of its own.
    config.write_text(f"[mypy]\nignore_errors = true\nignore_missing_imports = true\ncache_dir = {ROOT}/build/stubtest\n")
    checked = subprocess.run([sys.executable, "-m", "mypy.stubtest", *map(module_of, STUBS), "--concise", "--ignore-disjoint-bases",
                              "--mypy-config-file", str(config), "--allowlist", str(allowed)],
                             cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)


@pytest.mark.parametrize("stub", STUBS, ids=module_of)
def test_constructors_take_what_their_stubs_say(stub: Path) -> None:
    """By the source: a compiled class does not tell its constructor's arguments."""
    compiled = compiled_constructors((ROOT / stub).with_suffix(".pyx").read_text())
    assert stub_constructors((ROOT / stub).read_text()) == compiled
