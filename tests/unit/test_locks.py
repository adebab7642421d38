"""scripts/locks: exactly what pyproject.toml asks for, each package with one version and its checksums."""
from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pyfw.cli.pyfw.main import EXTRAS as MISSING

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEEDED = PROJECT["project"]["dependencies"]
EXTRAS = ("metrics", "replay", "screen", "completion")
SETS = {"build": [tool for tool in PROJECT["build-system"]["requires"] if tool not in NEEDED], "daemon": NEEDED,
        **{name: PROJECT["project"]["optional-dependencies"][name] for name in EXTRAS}}
ENTRY = re.compile(r"([\w.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "scripts" / "locks" / f"{name}.txt").read_text()
    assert ENTRY.sub("", text) == ""            # nothing else: no option, no address, no package without a checksum
    return {canonicalize_name(package): version for package, version, _ in ENTRY.findall(text)}


def needs(requirements: list[str]) -> set[str]:
    """The names of all that these requirements lead to, as the packages installed here say."""
    names: set[str] = set()
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.add(canonicalize_name(requirement.name))
            names |= needs(metadata.requires(requirement.name) or [])
    return names


def test_there_is_a_lock_for_each_set() -> None:
    assert {path.stem for path in (ROOT / "scripts" / "locks").iterdir()} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_a_lock_agrees_with_the_project(name: str) -> None:
    versions = locked(name)
    for requirement in map(Requirement, SETS[name]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    assert set(versions) == needs(SETS[name])


def test_the_daemon_is_installed_without_what_only_its_users_commands_need() -> None:
    assert locked("daemon").keys() == {"netfilterqueue", "pyroute2", "pyyaml"}
    assert not locked("daemon").keys() & {package for name in EXTRAS for package in locked(name)}


def test_what_is_missing_names_an_extra_that_there_is() -> None:
    assert set(MISSING.values()) == set(EXTRAS)
    for module, extra in MISSING.items():
        assert canonicalize_name(module) in locked(extra)
