"""scripts/bench: one run of the benchmark."""
from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import SubprocessError

from bench.guards import CONTENDERS
from bench.measures import MEASURES, Bench, warm_up
from bench.network import PREFIX, network, remove_leftovers
from bench.programs import DAEMON_CORE, TRAFFIC_CORE, ProgramError, build
from bench.results import Results, figures_table, targets_table, to_json

MEMORY_FILES = Path("/dev/shm")     # a tmpfs everywhere, as /run is where pyfw keeps its state
BUSY_LOAD = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if os.geteuid() != 0:
        print("bench: makes network namespaces: run it as root", file=sys.stderr)
        return 2
    if os.cpu_count() < 2:
        print("bench: needs two processor cores, one for the traffic and one for the daemon", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))       # unwinds: nothing is left behind
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        print(f"bench: other programs are running (load {load:.1f}): expect figures that vary", file=sys.stderr)
    results = Results()
    try:
        run(options, results)
    except (ProgramError, SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    names = [contender.name for contender in CONTENDERS]
    print(f"\n{figures_table(results, names)}\n\n{targets_table(results)}\n")
    options.json.write_text(to_json(results, about(options, load)))
    print(f"written to {options.json}")
    return 1 if results.missed() else 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measures pyfw beside accept-everything C programs, the kernel's conntrack and no firewall, "
                    "in turns. "
                    f"Traffic runs on core {TRAFFIC_CORE}, the daemon on core {DAEMON_CORE}. "
                    "Figures are medians over the rounds.",
        epilog="Exit status: 0 all targets that were measured are reached; 1 one is missed, or a program failed; "
               "2 bad usage.")
    parser.add_argument("--rounds", type=int, default=5,
                        help="times that each measurement is taken (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, metavar="NAME",
                        help=f"measure only these: {', '.join(MEASURES)}")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), metavar="FILE",
                        help="where all samples go (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def run(options: argparse.Namespace, results: Results) -> None:
    """Sets every contender up, takes the measurements in turns, takes everything down."""
    remove_leftovers(MEMORY_FILES)
    with ExitStack() as stack:
        own_prefix = f"{PREFIX}{os.getpid()}-"
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=own_prefix, dir=MEMORY_FILES)))
        build(directory)
        guards = {}
        for contender in CONTENDERS:
            net = stack.enter_context(network(contender.name))
            guards[contender.name] = stack.enter_context(contender.install(net, directory))
        bench = Bench(guards, directory, options.rounds, options.seconds, results)
        warm_up(bench)
        for name in options.only or MEASURES:
            print(f"{name} ...", flush=True)
            MEASURES[name](bench)


def about(options: argparse.Namespace, load: float) -> dict[str, object]:
    """What the figures depend on, besides the contenders."""
    return {
        "machine": {"kernel": platform.release(), "processor": processor(), "cores": os.cpu_count(), "load": load},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "contenders": {contender.name: contender.description for contender in CONTENDERS},
    }


def processor() -> str:
    """The processor's name as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
