"""What came of policy tests, as TAP (version 14) or JUnit XML."""
from __future__ import annotations

from xml.etree import ElementTree

from pyfw.escape import printable
from pyfw.offline.player import Run

SHOWN_FAILURES = 3              # of the packets of one case


def tap(run: Run) -> str:
    """testanything.org: one line a case, failures as YAML below it, rules that no case met as comments."""
    lines = ["TAP version 14", f"1..{len(run.outcomes)}"]
    for number, outcome in enumerate(run.outcomes, 1):
        name = outcome.name.replace("\\", "\\\\").replace("#", "\\#")
        lines.append(f"{'not ok' if outcome.failures else 'ok'} {number} - {name}")
        if outcome.failures:
            lines += ["  ---", f"  at: '{outcome.case.location}'", "  failures:"]
            lines += [f"    - {quoted(failure)}" for failure in shown(outcome.failures)]
            lines.append("  ...")
    lines += [f"# untouched: {rule}" for rule in run.untouched]
    lines.append(f"# {len(run.outcomes) - len(run.failed)} of {len(run.outcomes)} cases passed; "
                 f"{len(run.untouched)} of {len(run.touched)} rules and policies untouched")
    return "".join(f"{printable(line)}\n" for line in lines)


def shown(failures: list[str]) -> list[str]:
    rest = len(failures) - SHOWN_FAILURES
    return [*failures[:SHOWN_FAILURES], *([f"and {rest} more"] if rest > 0 else [])]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def junit(run: Run, suite: str) -> str:
    """The XML that CI systems read: a testcase for each case, the untouched rules in system-out.

    Control characters are escaped: XML cannot write most of them.
    """
    root = ElementTree.Element("testsuite", name=printable(suite), tests=str(len(run.outcomes)), failures=str(len(run.failed)), errors="0")
    for outcome in run.outcomes:
        case = ElementTree.SubElement(root, "testcase", name=printable(outcome.name), classname=printable(suite),
                                      file=printable(outcome.case.location.source), line=str(outcome.case.location.line))
        if outcome.failures:
            failure = ElementTree.SubElement(case, "failure", message=printable(outcome.failures[0]))
            failure.text = "\n".join(map(printable, shown(outcome.failures)))
    if run.untouched:
        ElementTree.SubElement(root, "system-out").text = "\n".join(f"untouched: {printable(rule)}" for rule in run.untouched)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
