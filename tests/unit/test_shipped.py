"""What the project ships besides code: the configurations, the unit file, the package itself."""
from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from pyfw.config.schema import load_config
from pyfw.edge.host.owner_lock import OWNER_DIRECTORY
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"


def test_the_gateways_rules_are_the_same_in_both_languages() -> None:
    from_yaml = load_config(CONFIG / "pyfw.yaml").rules
    from_iptables = parse_save((CONFIG / "gateway.rules").read_text(), source="gateway.rules")
    assert sorted(print_ruleset(from_yaml).splitlines()) == sorted(print_ruleset(from_iptables).splitlines())


@pytest.mark.parametrize("name", ["pyfw.yaml", "gateway-nat.yaml", "host.yaml"])
def test_a_configuration_denies_by_default_and_compiles(name: str) -> None:
    from pyfw.rules.program.program import Program

    config = load_config(CONFIG / name)
    text = print_ruleset(config.rules)
    for hook in config.hooks:
        assert f":{hook} DROP" in text
    Program(config.rules)


def test_the_gateways_configuration_names_every_option_of_its_defaults() -> None:
    """It is documentation: what it says beside a value must be what leaving it out would mean."""
    shown, default = load_config(CONFIG / "pyfw.yaml"), load_config(CONFIG / "host.yaml")
    assert (shown.queue, shown.conntrack, shown.state, shown.control, shown.log, shown.metrics) == (
        default.queue, default.conntrack, default.state, default.control, default.log, default.metrics)


@pytest.mark.parametrize("name", ["pyfw.service", "pyfw-closed.service"])
def test_a_unit_file_is_clean(tmp_path: Path, name: str) -> None:
    """systemd-analyze wants the programs to exist, so they do, elsewhere."""
    for program in ("pyfw", "pyfwctl"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    unit = tmp_path / name
    unit.write_text((ROOT / "systemd" / name).read_text().replace("/opt/pyfw/bin", str(tmp_path)))
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_a_stop_of_the_service_leaves_locks_that_are_not_its_own() -> None:
    lines = (ROOT / "systemd" / "pyfw.service").read_text().splitlines()
    [runtime] = [line.partition("=")[2] for line in lines if line.startswith("RuntimeDirectory=")]
    [writable] = [line.partition("=")[2] for line in lines if line.startswith("ReadWritePaths=")]
    assert OWNER_DIRECTORY.parts[:3] not in [Path("/run", name).parts for name in runtime.split()]
    assert f"-{OWNER_DIRECTORY}" in writable.split()
    assert any(line.startswith("ExecStartPre=+") and f"mkdir -p -m 755 {OWNER_DIRECTORY} " in line for line in lines)


def test_every_cython_module_is_built_and_loads() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("pyfw/**/*.pyx")]
    assert len(modules) > 5
    for module in modules:
        assert importlib.import_module(module).__file__.endswith(".so")


def test_every_command_is_installed() -> None:
    scripts = {entry.name: entry.value for entry in importlib.metadata.distribution("pyfw").entry_points
               if entry.group == "console_scripts"}
    iptables = {f"pyfw-{program}{suffix}" for program in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore")}
    assert scripts.keys() == {"pyfw", "pyfwctl", *iptables}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
