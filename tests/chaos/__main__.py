"""scripts/chaos: everything that can happen to a gateway happens, and a probe from outside sees what comes through.  Needs root."""
from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from chaos.scene import ChaosFailure, Scene


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), metavar="N", help="the same order of what happens")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pyfw-chaos-", dir="/run") as directory, Scene(Path(directory), given.seed) as scene:
        try:
            scene.run(given.seconds)
        except ChaosFailure as failure:
            print(failure)
            return 1
        print("\n".join(scene.log))
        print(f"{scene.happened} actions; {scene.probe.sent} forbidden packets sent, none came through; no held connection was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
