"""What is measured.  Each measure takes the contenders' guards and adds its samples, round by round, in turns."""
from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import network
from bench.guards import RULES, Guard
from bench.programs import DAEMON_CORE, STOP_TIMEOUT_S, TRAFFIC_CORE, ProgramError, cpu_ns, on_core, output, running
from bench.results import Results

WARM_UP_S = 0.3                 # flows are made, caches filled, the queue reaches its usual length
WARM_UP_PACKETS = 50_000
FEW = 64                        # flows
MILLION = 1_000_000
FILL_RATE = 100_000             # packets per second that no contender drops on a machine that does nothing else
FILL_ATTEMPTS = 6
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
CONNTRACK_ROOM = 4 * MILLION
SETTLE_S = 0.2                  # what is still queued after a flood gets its verdict


@dataclass
class Bench:
    """What a measure has at hand."""

    guards: dict[str, Guard]    # by contender, in the order of a round
    directory: Path             # with the compiled programs
    rounds: int
    seconds: float              # per measurement
    results: Results
    own_bytes_when_empty: int = field(init=False, default=0)    # of pyfw, once packets have passed its buffers

    def turns(self, only: Sequence[str] = ()) -> Iterator[tuple[str, Guard]]:
        """Every contender (or those named) in turn, as often as there are rounds."""
        for _ in range(self.rounds):
            for name, guard in self.guards.items():
                if not only or name in only:
                    yield name, guard

    def program(self, name: str) -> Path:
        return self.directory / name


def flood_command(bench: Bench, guard: Guard, flows: int, rate: int = 0, count: int = 0) -> list[object]:
    ends = ("eth0", network.LAN_MAC, network.FLOOD_SOURCE, network.DISCARD_ADDRESS)
    return [bench.program("udp_flood"), guard.net.client, *ends, flows, rate, count]


def warm_up(bench: Bench) -> None:
    """Proves that each contender lets traffic through, and notes what pyfw's memory is before there are connections."""
    for name, guard in bench.guards.items():
        before = guard.net.arrived()
        output(TRAFFIC_CORE, flood_command(bench, guard, FEW, count=WARM_UP_PACKETS))
        time.sleep(SETTLE_S)
        if guard.net.arrived() - before < FEW:
            raise ProgramError(f"{name} lets no traffic through")
    bench.own_bytes_when_empty = bench.guards["pyfw"].own_bytes()


def measure_flood(bench: Bench, flows: int, key: str, only: Sequence[str] = ()) -> None:
    """Packets per second that arrive when more are sent than can, and the daemon's CPU time for each."""
    for name, guard in bench.turns(only):
        with running(TRAFFIC_CORE, flood_command(bench, guard, flows)):
            time.sleep(WARM_UP_S)
            bench.results.add(f"packets_{key}", name, packets_per_second(bench, name, guard))
            if guard.pid:
                bench.results.add(f"cpu_{key}", name, cpu_ns_per_packet(bench, guard))
        time.sleep(SETTLE_S)


def packets_per_second(bench: Bench, name: str, guard: Guard) -> float:
    """What arrives of the flood under way."""
    began_s, before = time.monotonic(), guard.net.arrived()
    time.sleep(bench.seconds)
    took_s, packets = time.monotonic() - began_s, guard.net.arrived() - before
    if packets == 0:
        raise ProgramError(f"no packet of the flood got through {name}")
    return packets / took_s


def cpu_ns_per_packet(bench: Bench, guard: Guard) -> float:
    """The daemon's CPU time for a packet of the flood under way, while it has more than it can do.

    A daemon that is as fast as the sender finds few packets at a time and spends what it has to spare on asking for
    them: all daemons would seem to cost the same.  So a spinning process takes half of its core, and the queue never
    runs empty.
    """
    with running(DAEMON_CORE, ["sh", "-c", "while :; do :; done"]):
        time.sleep(WARM_UP_S)
        used_ns, before = cpu_ns(guard.pid), guard.net.arrived()
        time.sleep(bench.seconds)
        return (cpu_ns(guard.pid) - used_ns) / (guard.net.arrived() - before)


def packets_64(bench: Bench) -> None:
    measure_flood(bench, FEW, "64")


def packets_50000(bench: Bench) -> None:
    measure_flood(bench, 50_000, "50000")


def stream(bench: Bench) -> None:
    """What the receiver of one TCP stream gets."""
    for name, guard in bench.turns():
        server = ["iperf3", "--server", "--one-off", "--forceflush"]
        client = ["iperf3", "--client", network.SERVER_ADDRESS, "--time", max(1, round(bench.seconds)), "--json"]
        with running(TRAFFIC_CORE, server, guard.net.server, until="Server listening") as process:
            report = json.loads(output(TRAFFIC_CORE, client, guard.net.client))
            process.communicate(timeout=STOP_TIMEOUT_S)     # it ends by itself once it has said its part
        bench.results.add("stream", name, report["end"]["sum_received"]["bits_per_second"] / 1e9)


def between_ends(bench: Bench, program: str, guard: Guard) -> dict[str, float]:
    """Runs one of the programs that play client and server, and returns its report."""
    command = [bench.program(program), guard.net.client, guard.net.server, network.SERVER_ADDRESS, bench.seconds]
    return json.loads(output(TRAFFIC_CORE, command))


def connections(bench: Bench) -> None:
    """TCP connections per second that client and server both saw open."""
    for name, guard in bench.turns():
        report = between_ends(bench, "connections", guard)
        bench.results.add("connections", name, min(report["opened"], report["accepted"]) / report["seconds"])


def round_trip(bench: Bench) -> None:
    """Client to server and back, one packet at a time."""
    for name, guard in bench.turns():
        report = between_ends(bench, "round_trip", guard)
        bench.results.add("round_trip_p50", name, report["p50_ns"] / 1e3)
        bench.results.add("round_trip_p99", name, report["p99_ns"] / 1e3)


def rules(bench: Bench) -> None:
    """What 1,000 rules cost that a packet meets and does not match: the daemon's CPU time; for the kernel, all of it."""
    policy = RULES.read_text()
    texts = {"rules_none": policy, "rules_1000": with_rules(policy, 1000)}
    for name, guard in bench.turns(("kernel", "pyfw")):
        taken_ns = {}
        for key, text in texts.items():
            guard.load_rules(text)
            with running(TRAFFIC_CORE, flood_command(bench, guard, FEW)):
                time.sleep(WARM_UP_S)
                taken_ns[key] = (cpu_ns_per_packet(bench, guard) if guard.pid
                                 else 1e9 / packets_per_second(bench, name, guard))
            bench.results.add(key, name, taken_ns[key])
            time.sleep(SETTLE_S)
        bench.results.add("thousand_rules", name, taken_ns["rules_1000"] - taken_ns["rules_none"])
        guard.load_rules(policy)


def with_rules(policy: str, count: int) -> str:
    """The policy behind `count` rules of the kinds that people have long lists of, which the traffic does not match."""
    listed = [f"-A FORWARD -s 198.18.{number >> 8}.{number & 255}/32 -j DROP" if number % 2 else
              f"-A FORWARD -i lan -p tcp -m tcp --dport {number + 1} -j DROP" for number in range(count)]
    before, first, after = policy.partition("-A FORWARD")
    return "\n".join([before.rstrip("\n"), *listed, first + after])


def reload(bench: Bench) -> None:
    """The longest a packet waits while 10,000 rules are loaded again and again, above the longest that it waits anyway.

    round_trip fails if a packet is lost.  Who asks for the reloads gives way: what it costs to start pyfwctl again and
    again is not the daemon's.
    """
    policy = RULES.read_text()
    for name, guard in bench.turns(("pyfw",)):
        guard.load_rules(with_rules(policy, 10_000))
        calm_us = between_ends(bench, "round_trip", guard)["longest_ns"] / 1e3
        again = f"while {shlex.join(guard.pyfwctl('reload'))} 2>/dev/null; do :; done"
        with running(TRAFFIC_CORE, ["nice", "-n", "19", "sh", "-c", again]):
            time.sleep(WARM_UP_S)
            reloading_us = between_ends(bench, "round_trip", guard)["longest_ns"] / 1e3
        bench.results.add("longest_calm", name, calm_us)
        bench.results.add("longest_reload", name, reloading_us)
        bench.results.add("reload_delay", name, reloading_us - calm_us)
        guard.load_rules(policy)


def million(bench: Bench) -> None:
    """A million connections: what they take, what they slow down, how long listing them takes."""
    listings = {
        "kernel": on_core(TRAFFIC_CORE, ["cat", "/proc/net/nf_conntrack"], bench.guards["kernel"].net.gateway),
        "pyfw": on_core(TRAFFIC_CORE, bench.guards["pyfw"].pyfwctl("list-conntrack", "-o", "nf")),
    }
    output(TRAFFIC_CORE, bench.guards["pyfw"].pyfwctl("flush"))      # its table holds a million and no more
    with room_for_a_million():
        fill(bench, bench.guards["kernel"], listings["kernel"])
        bytes_each = bytes_per_connection(bench, bench.guards["pyfw"], listings["pyfw"])
        bench.results.add("bytes_per_connection", "pyfw", bytes_each)
        measure_flood(bench, MILLION, "million", ("kernel", "c-batch", "pyfw"))
        for name, _ in bench.turns(tuple(listings)):
            bench.results.add("list_million", name, seconds_to_run(listings[name]))


@contextmanager
def room_for_a_million() -> Iterator[None]:
    """The kernel's limit of entries, which all namespaces share, raised for as long as the block lasts."""
    limit = CONNTRACK_MAX.read_text()
    CONNTRACK_MAX.write_text(str(max(int(limit), CONNTRACK_ROOM)))
    try:
        yield
    finally:
        CONNTRACK_MAX.write_text(limit)


def fill(bench: Bench, guard: Guard, listing: Sequence[str]) -> int:
    """Brings a million flows into the guard's table; how many connections it lists then."""
    for _ in range(FILL_ATTEMPTS):
        output(TRAFFIC_CORE, flood_command(bench, guard, MILLION, FILL_RATE, MILLION))
        time.sleep(SETTLE_S)
        if (listed := lines_of(listing)) >= MILLION:
            return listed
    raise ProgramError(f"{listed:,} connections in the table after {FILL_ATTEMPTS} times {MILLION:,} flows")


def bytes_per_connection(bench: Bench, guard: Guard, listing: Sequence[str]) -> float:
    """The state's files, and what the daemon's own memory has grown by since it was empty, per connection."""
    listed = fill(bench, guard, listing)
    return (guard.state_bytes() + guard.own_bytes() - bench.own_bytes_when_empty) / listed


def lines_of(command: Sequence[str]) -> int:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        count = sum(chunk.count(b"\n") for chunk in iter(lambda: process.stdout.read1(1 << 16), b""))
    if process.returncode:
        raise ProgramError(f"{' '.join(command)} ended with status {process.returncode}")
    return count


def seconds_to_run(command: Sequence[str]) -> float:
    began_s = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began_s


MEASURES: dict[str, Callable[[Bench], None]] = {
    "packets-64": packets_64,
    "packets-50000": packets_50000,
    "stream": stream,
    "connections": connections,
    "round-trip": round_trip,
    "rules": rules,
    "reload": reload,
    "million": million,
}
