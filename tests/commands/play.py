"""A case: command lines and restored texts, one after another, to both; what each came to.

    -A INPUT -j DROP ;; 6:-S ;; R-n -c|*filter\\n[1:2] -A INPUT -j ACCEPT\\nCOMMIT\\n

`6:` begins a step of ip6tables, `R` one of iptables-restore: its options, and behind the bar its text, written as Python writes bytes.
"""
from __future__ import annotations

import shlex
from dataclasses import dataclass

from commands.sides import Ours, Outcome, Theirs

Side = Ours | Theirs


@dataclass(frozen=True)
class Difference:
    case: str
    step: str
    ours: tuple[int, str, str]      # status, output, rules
    theirs: tuple[int, str, str]
    errors: tuple[str, str]

    def __str__(self) -> str:
        shown = [f"case: {self.case}", f"step: {self.step}"]
        for name, (status, output, rules), error in (("ours", self.ours, self.errors[0]), ("theirs", self.theirs, self.errors[1])):
            shown.append(f"{name}: {status}\n{output}{error.strip()}\n{rules}")
        return "\n".join(shown)


def difference(ours: Ours, theirs: Theirs, case: str) -> Difference | None:
    """The first step after which they differ: in its status, its output, or the rules and counters that are left.

    A program that crashes says nothing about what it should have done.  What is said before something fails is left aside, and a
    text of several tables that fails ends the case: the tables before the mistake count in the kernel.
    """
    ours.clear()
    theirs.clear()
    for step in case.split(" ;; "):
        family = 6 if step.startswith("6:") else 4
        answers = [carry_out(side, step.removeprefix("6:"), family) for side in (ours, theirs)]
        if answers[1].status < 0:
            return None
        if answers[0].status == answers[1].status != 0 and step.partition("COMMIT\\n")[2]:
            return None
        seen = [(answer.status, answer.output if answer.status == 0 else "", side.save(family))
                for answer, side in zip(answers, (ours, theirs), strict=True)]
        if seen[0] != seen[1]:
            return Difference(case, step, seen[0], seen[1], (answers[0].error, answers[1].error))
    return None


def carry_out(side: Side, step: str, family: int) -> Outcome:
    if not step.startswith("R"):
        return side.command(shlex.split(step), family)
    options, _, text = step[1:].partition("|")
    return side.restore(text.encode().decode("unicode_escape").encode("latin-1"), *shlex.split(options), family=family)


def shortest(ours: Ours, theirs: Theirs, case: str) -> Difference | None:
    """The difference in a case, without the steps that it does not need."""
    found = difference(ours, theirs, case)
    steps = case.split(" ;; ")
    for step in list(steps) if found else ():
        fewer = list(steps)
        fewer.remove(step)
        if fewer and (still := difference(ours, theirs, " ;; ".join(fewer))):
            found, steps = still, fewer
    return found
