"""scripts/fuzz: hand the targets what nobody would send, and report what came of it."""
from __future__ import annotations

import argparse
import sys

from fuzz.build import build
from fuzz.run import TARGETS, Outcome, grown, minimise, run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__, epilog=f"Targets: {', '.join(TARGETS)}.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[[], *TARGETS], help="default: all, one after the other")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the changes; 0: another one in each run")
    parser.add_argument("--minimise", action="store_true", help="keep the fewest inputs that reach all that was reached")
    return parser.parse_args()


def report(outcomes: list[Outcome]) -> str:
    lines = [f"{'target':<12}{'executions':>14}{'packets':>16}{'edges':>8}{'features':>10}{'inputs':>8}  findings"]
    lines += [f"{one.target:<12}{one.executions:>14,}{one.packets:>16,}{one.edges:>8,}{one.features:>10,}{one.inputs:>8,}  "
              f"{', '.join(map(str, one.findings)) or 'none'}" for one in outcomes]
    lines.append(f"{'in all':<12}{sum(one.executions for one in outcomes):>14,}{sum(one.packets for one in outcomes):>16,}")
    return "\n".join(lines)


def main() -> int:
    given = arguments()
    build()
    outcomes = []
    for target in given.targets or TARGETS:
        print(f"fuzz: {target}, {given.seconds} s", file=sys.stderr)
        outcomes.append(run(target, given.seconds, given.seed, corpus=grown(target)))
        if outcomes[-1].findings:
            print(outcomes[-1].last_words, file=sys.stderr)
        elif given.minimise:
            minimise(target)
    print(report(outcomes))
    return any(one.findings for one in outcomes)


if __name__ == "__main__":
    sys.exit(main())
