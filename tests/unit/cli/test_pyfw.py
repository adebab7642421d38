"""pyfw as a program: its subcommands, what `check` says, and what is said when a part is missing."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RULES = """\
rules:
  filter:
    FORWARD: {policy: DROP, rules: [-p icmp -j ACCEPT, -j DROP]}
"""


def pyfw(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, after the statements `before`."""
    program = f"import sys\n{before}\nfrom pyfw.cli.pyfw.main import main\nsys.exit(main())"
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True,
                          timeout=60)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gw.yaml"
    path.write_text(RULES)
    return path


def test_a_good_config_is_ok(config: Path):
    done = pyfw("check", "-c", config)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{config}: ok, 2 rules\n", "")


def test_a_config_without_rules_is_said_to_accept_everything(config: Path):
    config.write_text("hooks: [FORWARD]")
    assert "everything is accepted" in pyfw("check", "-c", config).stdout


@pytest.mark.parametrize(("rules", "column", "word"), [
    ("FORWARD: {rules: [-j nowhere]}", 26, "nowhere"),
    ("FORWARD: {rules: ['-s $LAN -j DROP']}", 27, "LAN"),
    ("FORWARD: {rules: [{jump: DROP, src: 10.0.0.0/33}]}", 41, "33"),
])
def test_a_mistake_in_a_rule_has_its_place(config: Path, rules: str, column: int, word: str):
    config.write_text(f"rules:\n  filter:\n    {rules}\n")
    done = pyfw("check", "-c", config)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    place, _, text = done.stderr.partition(": ")[2].partition(": ")
    assert place == f"{config}:3:{column}"
    assert word in text


def test_a_set_can_replace_a_policy(config: Path):
    assert pyfw("check", "-c", config, "--set", "rules.filter.FORWARD.policy=ACCEPT").returncode == 0
    wrong = pyfw("check", "-c", config, "--set", "rules.filter.FORWARD.policy=MAYBE")
    assert wrong.returncode == 2
    assert "MAYBE" in wrong.stderr


@pytest.mark.parametrize("missing", ["pyfw.engine.engine", "pyfw.rules.program.program", "netfilterqueue._impl"])
def test_a_missing_module_is_named_with_the_command_that_builds_it(config: Path, missing: str):
    done = pyfw("run", "-c", config, before=f"sys.modules[{missing!r}] = None")
    assert (done.returncode, done.stderr) == (
        1, f"pyfw: the module {missing} is missing: build and install pyfw with `pip install .` in its source "
           "directory, or with `scripts/setup` there\n")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["run", "--nonsense"], ["check", "extra"]])
def test_wrong_usage_ends_with_2(arguments: list[str]):
    done = pyfw(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: pyfw")


def test_help_knows_every_subcommand():
    done = pyfw("--help")
    assert done.returncode == 0
    for command in ("run", "check", "replay", "lab"):
        assert f"\n    {command} " in done.stdout


def test_python_m_pyfw_is_the_same():
    done = subprocess.run([sys.executable, "-m", "pyfw", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "pyfw")
