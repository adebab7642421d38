"""Targets of the raw table: whether and how a packet is tracked.  iptables-extensions(8): CT, NOTRACK."""
from __future__ import annotations

from functools import partial

from pyfw.rules import values
from pyfw.rules.code import Action, RuleCode
from pyfw.rules.language.kinds import Option, TargetKind, act, flag
from pyfw.rules.model import Rule, Target


def check_ct(target: Target, rule: Rule) -> None:
    if len(target.settings) != 1:
        raise ValueError("CT takes one of --notrack and --helper NAME")


def compile_ct(target: Target, code: RuleCode) -> None:
    helper = target.get("--helper")
    code.action = Action.HELPER if helper else Action.NOTRACK
    code.helper = helper.value if helper else ""


def show_ct(target: Target, numeric: bool) -> str:
    helper = target.get("--helper")
    return f"CT helper {helper.value}" if helper else "CT notrack"


TARGETS = (
    TargetKind("TRACE", act(Action.TRACE), tables=("raw",)),
    TargetKind("NOTRACK", act(Action.NOTRACK), tables=("raw",), listed_as="CT", show=lambda target, numeric: "NOTRACK"),
    TargetKind("CT", compile_ct, show=show_ct, tables=("raw",), check=check_ct, options=(
        flag("--notrack"),
        Option("--helper", partial(values.parse_text, longest=15, what="the helper's name"), negatable=False,
               print=values.quote),
    )),
)
