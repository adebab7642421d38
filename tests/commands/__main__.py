"""scripts/commands: random command lines and restored texts to the system's iptables and to pyfw's."""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from random import SystemRandom

from commands.generate import case
from commands.play import shortest
from commands.sides import Ours, Theirs


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/commands", description="Gives the same command lines and texts to the system's "
                                     "iptables in a namespace and to pyfw-iptables, and tells what came out differently.")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 31), help="where cases begin (default: anew, printed)")
    parser.add_argument("--count", type=int, default=5000, help="how many cases (default: %(default)s)")
    options = parser.parse_args()
    print(f"seeds from {options.seed}", flush=True)
    count = 0
    with tempfile.TemporaryDirectory() as directory, Theirs() as theirs, Ours(Path(directory)) as ours:
        for seed in range(options.seed, options.seed + options.count):
            if found := shortest(ours, theirs, case(seed)):
                count += 1
                print(f"\nseed {seed}\n{found}", flush=True)
    print(f"\n{options.count} cases, {count} differences")
    return 1 if count else 0


if __name__ == "__main__":
    raise SystemExit(main())
