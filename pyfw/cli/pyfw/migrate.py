"""pyfw migrate: a config from the rules of iptables or ufw that run.  It reads them, and changes none."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyfw.cli.pyfw.main import fail
from pyfw.config.engine import check_rules
from pyfw.config.schema import load_config
from pyfw.config.values import ConfigError
from pyfw.edge.host.iptables import DivertError, current_families, saved_sets
from pyfw.escape import printable
from pyfw.rules.language.migrate import UFWS, LeftOut, take
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.model import RulesError, Ruleset

SOURCES = ("iptables", "ufw")
CONFIG = """\
# Made by `pyfw migrate {source}` of the rules that ran.
hooks: [{hooks}]
adopt: kernel                       # the connections that are there go on
conntrack: {{tcp: {{loose: true}}}}     # as the kernel has it
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "migrate", help="write a config from the iptables or ufw rules that run",
        description="Write a config and its rules, from what iptables-save and ip6tables-save print, into a new directory; list "
                    "the rules that pyfw cannot take. The rules that run stay as they are.")
    parser.add_argument("source", choices=SOURCES, help="all rules of the tables filter and raw, or those of ufw's chains alone")
    parser.add_argument("directory", metavar="DIR", type=Path, help="where the files go; it is made")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 all rules are taken; 1 some are not, or there are none; 2 the directory or the result is not fit for use."""
    directory: Path = arguments.directory
    try:
        saved = {family.version: family.saved_text() for family in current_families()}
        sets = saved_sets() if any("--match-set" in text for text in saved.values()) else ""
    except DivertError as error:
        return fail(str(error), 1)
    is_ufw = arguments.source == "ufw"
    if is_ufw and not any(f":{name}" in text for text in saved.values() for name in UFWS):
        return fail("ufw's chains are not there: start it (`ufw enable`), or have `migrate iptables` read what runs", 1)
    try:
        directory.mkdir()
        ruleset, left_out = take_all(saved, directory, UFWS if is_ufw else ("",))
        (directory / "pyfw.rules").write_text(print_ruleset(ruleset))
        config = directory / "pyfw.yaml"
        config.write_text(config_text(arguments.source, ruleset, saved, bool(sets)))
        if sets:
            (directory / "sets").write_text(sets)
        read = load_config(config)
        check_rules(read)
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}", 2)
    except (RulesError, ConfigError) as error:
        return fail(str(error), 2)
    for rule in left_out:
        print(printable(f"{rule.place}: {rule.rule}: {rule.reason}; left out, which {rule.effect}"))
    of_ufw = ", those of ufw's chains, and the chains' policies; of /etc/ufw nothing is read" if is_ufw else ""
    print(f"pyfw: {config}: {read.rule_count} rules{of_ufw}; {len(left_out)} left out")
    print(f"pyfw: what runs is as it was, and judges beside pyfw until you stop it; next: pyfw check -c {config}")
    return 1 if left_out else 0


def take_all(saved: dict[int, str], directory: Path, owners: tuple[str, ...]) -> tuple[Ruleset, list[LeftOut]]:
    """Of both families.  What was read is kept beside the config: the places of rules are places there."""
    ruleset = Ruleset()
    left_out: list[LeftOut] = []
    for version, text in saved.items():
        path = directory / f"ipv{version}.saved"
        path.write_text(text, errors="surrogateescape")
        taken = take(ruleset, text, version, str(path), owners)
        ruleset = taken.ruleset
        left_out += taken.left_out
        for table, count in taken.kept_by_kernel.items():
            print(printable(f"{path}: table {table} stays with the kernel, and goes on there: {count} rules"))
    return ruleset, left_out


def config_text(source: str, ruleset: Ruleset, saved: dict[int, str], has_sets: bool) -> str:
    """Packets that are forwarded are diverted where rules say something about them."""
    table = ruleset.table("filter")
    forward = table and table.chain("FORWARD")
    is_used = forward and (forward.rules or "DROP" in (forward.policy_of(4), forward.policy_of(6)))
    text = CONFIG.format(source=source, hooks="INPUT, FORWARD, OUTPUT" if is_used else "INPUT, OUTPUT")
    if any("--helper ftp" in rules for rules in saved.values()):
        text += "helpers: {ftp: {}}\n"
    if has_sets:
        text += "sets: [sets]\n"
    return text + "rules: {file: pyfw.rules}\n"
