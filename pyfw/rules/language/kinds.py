"""What an extension is: the options of a match or a target, how they are read, printed and compiled.

Knows no match and no target: those stand in `extensions/`, and in one table in matches.py.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyfw.rules.code import Action, RuleCode
from pyfw.rules.model import Match, Rule, Target


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a match or target.

    `parse` takes as many words as `words` says and returns the value, or raises ValueError.  A value for which
    `trivial` is true says nothing: it is left out, as iptables does, and negating it is an error.
    """

    name: str
    parse: Callable[..., Any]
    aliases: tuple[str, ...] = ()
    words: int = 1
    negatable: bool = True
    print: Callable[..., str] = str
    trivial: Callable[..., bool] = lambda value: False
    several: bool = False           # parse returns a tuple of values, each of which makes its own rule
    free_text: bool = False         # a value may begin with `-`
    stored_as: str = ""             # another option's name, of which this one is a short form
    says_nothing_plain: bool = False    # left out unless it is negated
    not_in: tuple[str, ...] = ()    # built-in chains where it cannot be used
    printed_as: Callable[..., str] | None = None    # the option's name for a value, where that is not always its own

    @property
    def stored(self) -> str:
        return self.stored_as or self.name


def flag(name: str) -> Option:
    return Option(name, lambda: True, words=0, negatable=False, print=lambda value: "")


@dataclass(frozen=True, slots=True)
class MatchKind:
    """A match module.  `show` gives the words of `iptables -L` for it, of `iptables -L -n` if told to be numeric.

    `protocol`: what -p must say for it, `protocols`: one of which -p must say; `family`: the only one it exists in;
    `chains`: the built-in chains where alone it can be used.  `check` raises ValueError for settings that do not go together;
    `settle` makes it canonical in the rule's family, with the defaults that iptables-save prints.
    """

    name: str
    options: tuple[Option, ...]
    compile: Callable[[Match, RuleCode], None]
    show: Callable[[Match, bool], str] = lambda match, numeric: ""
    aliases: tuple[str, ...] = ()
    protocol: int | None = None
    family: int | None = None
    needs_option: bool = True
    protocols: tuple[int, ...] = ()
    chains: tuple[str, ...] = ()
    check: Callable[[Match], None] = lambda match: None
    settle: Callable[[Match, int | None], Match] = lambda match, family: match


@dataclass(frozen=True, slots=True)
class TargetKind:
    """A target.  `show` gives the words of `iptables -L` behind the matches.

    `check` raises ValueError for a rule it does not fit; `settle` makes it canonical in
    the rule's family.
    """

    name: str
    compile: Callable[[Target, RuleCode], None]
    options: tuple[Option, ...] = ()
    show: Callable[[Target, bool], str] = lambda target, numeric: ""
    listed_as: str = ""                 # the name that `iptables -L` has for it, where that is another
    tables: tuple[str, ...] = ("raw", "filter")
    needs_option: bool = False
    check: Callable[[Target, Rule], None] = lambda target, rule: None
    settle: Callable[[Target, int | None], Target] = lambda target, family: target


def option_named(options: tuple[Option, ...], name: str) -> Option | None:
    return next((option for option in options if name == option.name or name in option.aliases), None)


def act(action: Action) -> Callable[[Target, RuleCode], None]:
    """The compile function of a target that is one action."""
    def compile_action(target: Target, code: RuleCode) -> None:
        code.action = action
    return compile_action
