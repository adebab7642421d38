"""Which rules name something that is not there: a helper, a set."""
from __future__ import annotations

from dataclasses import replace

from pyfw.rules.language.skipping import effect_of
from pyfw.rules.model import Rule, RulesError, Ruleset
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.linker import compile_rule
from pyfw.rules.program.program import bind


def bindable(ruleset: Ruleset, environment: RuleEnvironment, skipped: list[str]) -> Ruleset:
    """The rules that can serve there; `skipped` takes a warning for each other one."""
    apart = RuleEnvironment(environment.helpers, environment.sets)      # nothing is remembered for rules that never serve
    for table in ruleset.tables:
        for chain in table.chains:
            kept = tuple(rule for rule in chain.rules if not is_skipped(rule, apart, skipped))
            if len(kept) < len(chain.rules):
                table = table.with_chain(replace(chain, rules=kept))
        ruleset = ruleset.with_table(table)
    return ruleset


def is_skipped(rule: Rule, environment: RuleEnvironment, skipped: list[str]) -> bool:
    try:
        bind(compile_rule(rule, rule.family or 4), rule, environment)
    except RulesError as error:
        skipped.append(f"{error}; {effect_of(rule.target_name)}")
        return True
    return False
