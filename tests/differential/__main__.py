"""scripts/differential: random packets, or those of capture files, through the kernel's tracking and pyfw's."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

from differential import captures, recorded
from differential.examine import Examination, examine, keep
from differential.generate_exhaustive import batches
from differential.generate_mix import FLOWS, PACKETS, Scenario, scenario
from kit.witness import Settings, WitnessError
from pyfw.edge.capture.pcap import CaptureError

KINDS = {generator.__name__: (generator, weight) for generator, weight in FLOWS}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/differential",
        description="Sends the same packets through a namespace that the kernel tracks and through pyfw's engine, "
                    "compares packet by packet and table line by table line, and tells the first difference.")
    parser.add_argument("captures", nargs="*", type=Path, metavar="FILE", help="captures (.pcap, .pcapng, .gz) or recorded "
                        "scenarios (.txt) to send instead of random packets")
    parser.add_argument("--seed", type=int, help="where random packets start from (default: a new one, printed)")
    parser.add_argument("--packets", type=int, default=200_000, help="how many random packets (default: %(default)s)")
    parser.add_argument("--only", metavar="KIND", choices=sorted(KINDS),
                        help=f"random packets of one kind: {', '.join(sorted(KINDS))}")
    parser.add_argument("--exhaustive", type=int, metavar="DEPTH", help="every TCP packet in every order instead")
    parser.add_argument("--strict", action="store_true", help="captures: tcp_loose off")
    parser.add_argument("--liberal", action="store_true", help="captures: tcp_be_liberal on")
    parser.add_argument("--ftp", action="store_true", help="captures: with the FTP helper on port 21")
    parser.add_argument("--shrink", metavar="FILE", type=Path, help="write the shortest list that shows the first difference")
    return parser


def scenarios(options: argparse.Namespace) -> Iterator[tuple[str, Scenario]]:
    """(what it is, what to send)."""
    settings = Settings(tcp_loose=not options.strict, tcp_be_liberal=options.liberal, ftp=options.ftp)
    if options.exhaustive:
        for number, packets in enumerate(batches(options.exhaustive), 1):
            yield f"exhaustive, part {number}", Scenario(settings, packets)
    elif options.captures:
        for path in options.captures:
            if path.suffix == ".txt":
                yield str(path), recorded.read(path)
                continue
            packets, cut = captures.read(path)
            left_out = f" ({cut} cut packets left out)" if cut else ""
            yield f"{path}{left_out}", Scenario(settings, packets)
    else:
        first = options.seed if options.seed is not None else SystemRandom().randrange(1 << 31)
        for number in range(-(-options.packets // PACKETS)):
            flows = (KINDS[options.only],) if options.only else FLOWS
            yield f"seed {first + number}", scenario(first + number, min(PACKETS, options.packets), flows)


def main(argv: list[str] | None = None) -> int:
    """0: no difference; 1: some; 2: could not ask."""
    options = arguments().parse_args(argv)
    total = different = 0
    told: Examination | None = None
    try:
        for title, chosen in scenarios(options):
            examination = examine(chosen)
            total += len(chosen.packets)
            different += len(examination.found)
            print(f"{title}: {len(chosen.packets)} packets, {len(examination.found)} differences", flush=True)
            if examination.found and told is None:
                told = examination
                print(examination.report(), flush=True)
    except (OSError, ValueError, CaptureError, WitnessError) as error:
        print(f"differential: {error}", file=sys.stderr)
        return 2
    if told is not None and options.shrink is not None:
        print(keep(told, options.shrink))
    print(f"{total} packets, {different} differences")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
