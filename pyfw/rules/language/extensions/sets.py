"""Address sets in rules.  iptables-extensions(8): set, SET."""
from __future__ import annotations

from dataclasses import dataclass

from pyfw.rules import values
from pyfw.rules.code import RuleCode
from pyfw.rules.language.kinds import MatchKind, Option, TargetKind, flag
from pyfw.rules.model import Match, Rule, Setting, Target
from pyfw.rules.sets.text import MAX_NAME_LENGTH, MAX_TIMEOUT_S
from pyfw.rules.xt.set import SetAction, SetTest

MAX_SIDES = 6                   # IPSET_DIM_MAX
MAX_COUNT = 2 ** 64 - 1
COUNTERS = ("packets", "bytes")
COMPARISONS = ("eq", "lt", "gt")


@dataclass(frozen=True, slots=True)
class SetLookup:
    """A set's name, and what of a packet is looked up in it: "src" and "dst" in order."""

    name: str
    sides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {','.join(self.sides)}"


def parse_lookup(name: str, sides_text: str) -> SetLookup:
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"setname `{name}' too long, max {MAX_NAME_LENGTH} characters.")
    sides = tuple(sides_text.split(","))
    if len(sides) > MAX_SIDES:
        raise ValueError(f"Can't be more src/dst options than {MAX_SIDES}.")
    if not set(sides) <= {"src", "dst"}:
        raise ValueError("You must specify (the comma separated list of) 'src' or 'dst'.")
    return SetLookup(name, sides)


def print_lookup(lookup: SetLookup) -> str:
    return f"{values.quote(lookup.name)} {','.join(lookup.sides)}"


def parse_count(text: str) -> int:
    return values.parse_number(text, MAX_COUNT, "counter")


def counter_options() -> tuple[Option, ...]:
    return tuple(Option(f"--{counter}-{comparison}", parse_count, negatable=comparison == "eq")
                 for counter in COUNTERS for comparison in COMPARISONS)


def comparison_of(match: Match, counter: str) -> tuple[str, int]:
    """What the match wants a counter to be, as SetTest takes it."""
    given = [(comparison, setting) for comparison in COMPARISONS if (setting := match.get(f"--{counter}-{comparison}"))]
    if len(given) > 1:
        raise ValueError(f"only one of the --{counter}-[eq|lt|gt] is allowed")
    if not given:
        return "", 0
    comparison, setting = given[0]
    return "ne" if setting.inverted else comparison, setting.value


def is_negated(match: Match, option: str) -> bool:
    setting = match.get(option)
    return setting is not None and setting.inverted


def check_set(match: Match) -> None:
    if match.get("--match-set") is None:
        raise ValueError("-m set: You must specify `--match-set' with proper arguments")
    for counter in COUNTERS:
        comparison_of(match, counter)


def compile_set(match: Match, code: RuleCode) -> None:
    lookup = match["--match-set"]
    code.tests.append(SetTest(
        lookup.value.name, lookup.value.sides, lookup.inverted, return_nomatch=match.get("--return-nomatch") is not None,
        update=not is_negated(match, "--update-counters"), update_members=not is_negated(match, "--update-subcounters"),
        packets=comparison_of(match, "packets"), bytes=comparison_of(match, "bytes")))


def show_setting(setting: Setting) -> str:
    value = "" if setting.value is True else f" {setting.value}"
    return f"{'! ' if setting.inverted else ''}{setting.option.removeprefix('--')}{value}"


def show_settings(part: Match | Target, numeric: bool) -> str:
    return " ".join(show_setting(setting) for setting in part.settings)


def check_action(target: Target, rule: Rule) -> None:
    if not target.get("--add-set") and not target.get("--del-set"):
        raise ValueError("You must specify either `--add-set' or `--del-set'")
    for option in ("--exist", "--timeout"):
        if target.get(option) and not target.get("--add-set"):
            raise ValueError(f"Flag `{option}' can be used with `--add-set' only")


def compile_action(target: Target, code: RuleCode) -> None:
    lookups = {option: (setting.value.name, setting.value.sides)
               for option in ("--add-set", "--del-set") if (setting := target.get(option))}
    timeout = target.get("--timeout")
    timeout_s = None if timeout is None else min(timeout.value, MAX_TIMEOUT_S)
    code.perform(SetAction(lookups.get("--add-set"), lookups.get("--del-set"), timeout_s,
                           target.get("--exist") is not None))


def refuse_map(name: str, sides: str) -> SetLookup:
    raise ValueError("skbinfo of sets is mapped in the kernel's mangle table; keep this rule there")


def update_option(name: str) -> Option:
    """It is said to be negated: without `!` it changes nothing."""
    return Option(name, lambda: True, words=0, print=lambda value: "", says_nothing_plain=True)


MATCHES = (
    MatchKind("set", compile=compile_set, check=check_set, show=show_settings, options=(
        Option("--match-set", parse_lookup, words=2, print=print_lookup),
        flag("--return-nomatch"), update_option("--update-counters"), update_option("--update-subcounters"), *counter_options(),
    )),
)
TARGETS = (
    TargetKind("SET", compile_action, check=check_action, show=show_settings, options=(
        Option("--add-set", parse_lookup, words=2, negatable=False, print=print_lookup),
        flag("--exist"),
        Option("--timeout", lambda text: values.parse_number(text, 2 ** 32 - 2, "timeout"), negatable=False),
        Option("--del-set", parse_lookup, words=2, negatable=False, print=print_lookup),
        Option("--map-set", refuse_map, words=2, negatable=False),
    )),
)
