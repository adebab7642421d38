"""The manual pages: they name what there is, all of it and nothing else, with its defaults, and are well-formed."""
from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyfw.cli.pyfw import main as pyfw
from pyfw.cli.pyfwctl import main as pyfwctl
from pyfw.cli.pyfwctl.iptables import run_restore, run_save
from pyfw.config.limits import AdaptiveConfig, PerSourceConfig
from pyfw.config.schema import _BUILT_IN_HELPERS, DEFAULT_CONFIG, Config, parse_config
from pyfw.conntrack.timeouts import DEFAULTS
from pyfw.edge.control.handlers.explain import DEFAULT_COUNT, PACKETS_PER_SECOND, TRACE_HELP, TraceRequest
from pyfw.edge.control.handlers.sets import FLAGS as SET_FLAGS
from pyfw.explain.packet_spec import add_spec_arguments
from pyfw.helpers.ftp import FtpHelper
from pyfw.offline.cases import CASE_KEYS, PLAIN_PORTS, SOURCE_PORTS, read_cases
from pyfw.rules.language.commands import COMMANDS, read_request
from pyfw.rules.language.long_options import LONG
from pyfw.rules.language.matches import IP, MATCHES, TARGETS
from pyfw.rules.language.yaml_rules import rule_keys
from pyfw.rules.sets.store import COMMANDS as SET_COMMANDS
from pyfw.rules.sets.text import TYPES

MAN = Path(__file__).resolve().parents[2] / "pyfw" / "man"
PAGES = sorted(path.name for path in MAN.iterdir())
HELP = {"-h", "--help"}


def sections(page: str, macro: str) -> dict[str, list[str]]:
    """The lines below each heading (.Sh or .Ss), to the next of either kind."""
    parts: dict[str, list[str]] = {}
    here: list[str] = []
    for line in (MAN / page).read_text().splitlines():
        if line.startswith((".Sh ", ".Ss ")):
            here = []
            if line.startswith(f".{macro} "):
                parts[line.split(" ", 1)[1]] = here
        here.append(line)
    return parts


def named(lines: list[str], macro: str) -> set[str]:
    """What `macro` marks in the list's tags."""
    return {word for line in lines if line.startswith(".It ") for word in re.findall(rf"\b{macro} (\S+)", line)}


def options(lines: list[str]) -> set[str]:
    return {f"-{flag}" for flag in named(lines, "Fl")}


def subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    return next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    below = [option_strings(subparser) for subparser in subparsers(parser).values()]
    return {flag for action in parser._actions for flag in action.option_strings}.union(*below) - HELP


PARSERS = {("pyfw.8", name): parser for name, parser in subparsers(pyfw.make_parser()).items()}
PARSERS |= {("pyfwctl.8", name): parser for name, parser in subparsers(pyfwctl.make_parser()).items()}
BY_WORDS = {("pyfwctl.8", "set"), ("pyfwctl.8", "trace")}       # whose options no parser knows


@pytest.mark.parametrize(("page", "module"), [("pyfw.8", pyfw), ("pyfwctl.8", pyfwctl)])
def test_a_page_has_every_command(page: str, module: Any) -> None:
    assert list(sections(page, "Ss"))
    assert set(sections(page, "Ss")) == set(subparsers(module.make_parser()))


@pytest.mark.parametrize(("page", "command"), sorted(PARSERS.keys() - BY_WORDS))
def test_a_command_has_its_options(page: str, command: str) -> None:
    parser = PARSERS[page, command]
    wanted = option_strings(parser) - ({"--socket"} if page == "pyfwctl.8" else set())      # said once, for all
    lines = sections(page, "Ss")[command]
    filters = options(sections(page, "Sh")["FILTERS"]) if ".Sx FILTERS" in lines else set()
    assert options(lines) | filters == wanted
    actions = subparsers(parser)
    assert actions.keys() <= named(lines, "Cm")


def test_options_for_all_commands() -> None:
    assert options(sections("pyfwctl.8", "Sh")["DESCRIPTION"]) == {"--socket", "--version"}


def test_both_explains_take_the_same_options() -> None:
    """Which is why one is described with the other."""
    parser = argparse.ArgumentParser(add_help=False)
    add_spec_arguments(parser)
    assert option_strings(PARSERS["pyfw.8", "explain"]) - option_strings(parser) == {"-c", "--config", "--set"}


def test_traces_words() -> None:
    lines = sections("pyfwctl.8", "Ss")["trace"]
    assert options(lines) == set(re.findall(r"^  (--\w+)", TRACE_HELP, re.MULTILINE))
    assert all(TraceRequest.read([option, "7"]).filter in ([], ["7"]) for option in options(lines))
    text = "\n".join(lines)
    assert f"default: {DEFAULT_COUNT}." in text
    assert f"At most {PACKETS_PER_SECOND} packets" in text


def test_sets_words() -> None:
    lines = sections("pyfwctl.8", "Ss")["set"]
    assert options(lines) == SET_FLAGS.keys() - {"--exist"} | {"-o", "-output"}
    commands = [line.split()[2] for line in lines if line.startswith(".It Cm ")]
    assert sorted(commands) == sorted(SET_COMMANDS)
    assert {line.split()[1] for line in lines if line.startswith(".Cm ") and ":" in line} == set(TYPES)


# -- the config ----------------------------------------------------------------------------------------------


def defaults(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option's dotted name and its default, as YAML has it."""
    for item in filter(lambda item: item.compare, fields(config)):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from defaults(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", plain(value)


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else \
        str(value) if isinstance(value, Path) else value


def keys(section: str) -> dict[str, Any]:
    found = (re.fullmatch(r"\.It Ic (\S+) Pq (.*)", line) for line in sections("pyfw.yaml.5", "Sh")[section])
    return {match[1]: yaml.safe_load(match[2]) for match in found if match}


def test_every_key_and_its_default() -> None:
    wanted = dict(defaults(Config()))
    for name, helper in _BUILT_IN_HELPERS.items():
        wanted[f"helpers.{name}.ports"] = list(helper.ports)
        wanted |= {f"helpers.{name}.{option}": getattr(FtpHelper(), option) for option in helper.options}
    wanted |= {f"limits.per_source.{item.name}": plain(getattr(PerSourceConfig(), item.name))
               for item in fields(PerSourceConfig) if item.compare}
    wanted |= {f"limits.adaptive.{item.name}": f"{item.default}%" for item in fields(AdaptiveConfig)}
    assert keys("KEYS") == wanted


def test_every_timeout_and_its_default() -> None:
    assert keys("TIMEOUTS") == DEFAULTS


@pytest.mark.parametrize(("section", "kinds"), [("Matches", MATCHES), ("Targets", TARGETS)])
def test_every_word_of_a_rule(section: str, kinds: Mapping[str, Any]) -> None:
    found: dict[str, list[str]] = {}
    for line in sections("pyfw.rules.5", "Ss")[section]:
        words = line.split()
        if line.startswith(".It Cm "):
            found[words[2]] = []
        elif line.startswith(".Cm ") and found:
            found[list(found)[-1]].append(words[1])
    assert found == {name: [spelling[2:] for option in kind.options for spelling in (option.name, *option.aliases)
                            if spelling.startswith("--")] for name, kind in kinds.items()}


def test_every_key_of_a_rule_and_of_a_chain() -> None:
    options_of_rules = {spelling[2:] for kind in (*MATCHES.values(), *TARGETS.values())
                        for option in kind.options for spelling in (option.name, *option.aliases)}
    words = {line.split()[2] for line in (*sections("pyfw.yaml.5", "Sh")["RULES"], *sections("pyfw.rules.5", "Sh")["RULES AS TEXT AND AS MAPPINGS"]) if line.startswith(".It Cm ")}
    assert words == set(rule_keys()) - options_of_rules | {"policy", "rules"}


def test_the_example_is_a_config(tmp_path: Path) -> None:
    page = (MAN / "pyfw.yaml.5").read_text()
    example = page[page.index(".Sh EXAMPLES"):].partition("indent\n")[2].partition(".Ed")[0]
    assert parse_config(example, "example", tmp_path).rule_count == 2
    assert str(DEFAULT_CONFIG) in page


def example(page: str) -> str:
    """The first literal text of a page's examples."""
    text = (MAN / page).read_text()
    return text[text.index(".Sh EXAMPLES"):].partition("indent\n")[2].partition(".Ed")[0]


def test_the_two_ways_to_write_a_rule_are_one() -> None:
    lines = sections("pyfw.rules.5", "Sh")["RULES AS TEXT AND AS MAPPINGS"]
    mapping, text = (line for line in lines if line.startswith("- "))
    rules = [parse_config(f"rules: {{filter: {{INPUT: {{rules: [{rule}]}}}}}}", "page", Path()).rules
             for rule in (mapping[2:], f"'{text[2:]}'")]
    assert rules[0] == rules[1]


def test_the_example_of_rules_is_a_ruleset(tmp_path: Path) -> None:
    (tmp_path / "rules.v4").write_text(example("pyfw.rules.5"))
    assert parse_config("rules: {file: rules.v4}", "page", tmp_path).rule_count == 4


# -- iptables' words -----------------------------------------------------------------------------------------


def test_every_command_and_option_of_iptables() -> None:
    """By their short names and by their long ones."""
    commands, others = (options(sections("pyfw-iptables.8", "Sh")[name]) for name in ("COMMANDS", "OPTIONS"))
    spelled = {word for long, short in LONG.items() for word in (long, short)}
    assert commands == {word for long, short in LONG.items() if short in COMMANDS for word in (long, short)}
    of_rules = {word for option in IP.options for word in (option.name, *option.aliases)} | {
        "-j", "--jump", "-g", "--goto", "-m", "--match"}
    assert others == spelled - commands - of_rules


@pytest.mark.parametrize(("section", "run"), [("SAVE", run_save), ("RESTORE", run_restore)])
def test_every_option_of_save_and_restore(section: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("program", 4, ["--help"])
    offered = {word for line in re.findall(r"^  (-.*)", capsys.readouterr().out, re.MULTILINE)
               for word in re.findall(r"(?:^|, )(--?[\w-]+)", line.split("  ")[0])}
    assert options(sections("pyfw-iptables.8", "Sh")[section]) == offered - HELP


def test_the_examples_of_iptables_are_commands() -> None:
    lines = [line.split()[2:] for line in example("pyfw-iptables.8").splitlines() if line.startswith("# pyfw-iptables -")]
    assert [read_request(words, 4).command for words in lines] == ["-I", "-L"]


# -- policy tests --------------------------------------------------------------------------------------------


def test_every_key_of_a_file_of_policy_tests() -> None:
    of_cases = named_keys(sections("pyfw.test.5", "Ss")["Cases"])
    assert (len(of_cases), set(of_cases)) == (len(CASE_KEYS), set(CASE_KEYS))
    assert named_keys(sections("pyfw.test.5", "Ss")["Zones"]) == ["interface", "networks"]
    assert named_keys(sections("pyfw.test.5", "Sh")["KEYS"]) == ["zones", "cases"]


def named_keys(lines: list[str]) -> list[str]:
    return [line.split()[2] for line in lines if line.startswith(".It Ic ")]


def test_every_port_that_any_stands_for() -> None:
    *first, last = map(str, PLAIN_PORTS)
    assert f"stands for {', '.join(first)} and {last}." in (MAN / "pyfw.test.5").read_text()
    assert f"a source has port {SOURCE_PORTS[0]}," in (MAN / "pyfw.test.5").read_text()


def test_the_example_is_a_file_of_policy_tests(tmp_path: Path) -> None:
    path = tmp_path / "tests.yaml"
    path.write_text(example("pyfw.test.5"))
    assert [len(case.steps) for case in read_cases(path, {})] == [0, 0, 2]


# -- the service ---------------------------------------------------------------------------------------------


def test_the_services_commands_are_commands() -> None:
    """Those in the literal text and in the displayed lines."""
    text = (MAN / "pyfw-service.7").read_text()
    lines = [line.split() for line in re.findall(r"^(?:\.Dl )?# (.*)", text, re.MULTILINE)]
    for name, *words in lines:
        if name == "pyfwctl":
            pyfwctl.make_parser().parse_args(words)
    assert {"pyfwctl", "systemctl", "journalctl", "curl", "apt", "scripts/install", "scripts/package"} == {name for name, *_ in lines}


def test_the_limits_of_the_service_are_a_config(tmp_path: Path) -> None:
    text = "\n".join(sections("pyfw-service.7", "Ss")["Limits of one source"])
    limits = text.partition("indent\n")[2].partition(".Ed")[0]
    config = parse_config("sets: |\n  create blocked hash:ip\n" + limits, "page", tmp_path)
    assert config.limits.per_source.max_states == 200


def test_pages_refer_to_pages_that_are_there() -> None:
    named_pages = {f"{name}.{section}" for page in PAGES
                   for name, section in re.findall(r"^\.Xr (pyfw\S*) (\d)", (MAN / page).read_text(), re.MULTILINE)}
    assert named_pages == set(PAGES)


# -- the pages as such ---------------------------------------------------------------------------------------


def warnings(path: Path) -> str:
    """What man's formatter and mandoc's checker find."""
    formatted = subprocess.run(["man", "--warnings=w", "--local-file", path], capture_output=True, text=True)
    checked = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True)
    return formatted.stderr + checked.stdout


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_well_formed(page: str) -> None:
    assert warnings(MAN / page) == ""


def test_every_page_is_installed() -> None:
    script = (MAN.parents[1] / "scripts" / "package").read_text()
    pattern = re.search(r"for page in pyfw/man/(\S+);", script)
    assert pattern
    assert sorted(path.name for path in MAN.glob(pattern[1])) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_found_by_its_words(page: str) -> None:
    """apropos(1) asks an index, which lexgrog's parser fills."""
    found = subprocess.run(["lexgrog", MAN / page], capture_output=True, text=True)
    assert f'"{page.rpartition(".")[0]} - ' in found.stdout


def test_what_is_not_well_formed_is_found(tmp_path: Path) -> None:
    for mistake in (".It Fl x", ".Nonsense"):
        page = tmp_path / "page.8"
        page.write_text((MAN / "pyfw.8").read_text().replace(".Sh FILES", f"{mistake}\n.Sh FILES"))
        assert warnings(page)
