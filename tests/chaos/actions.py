"""What may happen to the gateway.  Each action says what it may cost; what it says nothing of must hold throughout.

An action is a function of the scene.  A new one is an entry here.
"""
from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyfw.lab import GATEWAY_OUTSIDE, SERVER

if TYPE_CHECKING:
    from chaos.scene import Scene

MARGIN_BYTES = 1 << 20          # of address space that a daemon short of memory has left
RESTORE = "ip6tables-restore"   # the last of iptables' programs that an installation runs: by then the successor judges
FAILS = "exit 4"
HANGS = "sleep 3; exec {real} \"$@\""
FOREIGN_FLUSH = (               # what other programs do to the diversion's tables
    ("iptables", "-t", "security", "-F"), ("ip6tables", "-t", "security", "-F"), ("iptables", "-t", "security", "-F", "FORWARD"),
    ("iptables", "-t", "mangle", "-F"),
    ("nft", "flush", "ruleset"),
)


@dataclass(frozen=True)
class Action:
    run: Callable[[Scene], object]
    may_open: bool = False      # the diversion is gone until the daemon's watch has put it back: the scene gives it OPEN_S
    weight: int = 1

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")


# -- the administrator ----------------------------------------------------------------------------------------------------

def reload_rules(scene: Scene) -> None:
    scene.write_config(scene.random.choice(("plain", "long")))
    scene.ctl("reload", *scene.random.choice(((), ("--kill-states",))))


def reload_bad_rules(scene: Scene) -> None:
    """The old ones stay."""
    good = scene.config.read_text()
    scene.config.write_text(scene.random.choice(("rules: {filter: {FORWARD: {rules: [-j NOWHERE]}}}\n", "rules: [", "", good + "\0")))
    assert scene.ctl("reload").returncode != 0
    scene.config.write_text(good)


def flush_connections(scene: Scene) -> None:
    """Those that go on are taken up again."""
    scene.ctl("flush")


def ask_for_everything(scene: Scene) -> None:
    for words in (("list-conntrack",), ("list-conntrack", "-o", "json"), ("stats", "--json"), ("list-rules", "-v"), ("count",),
                  ("explain", "udp", "198.51.100.2:1", "192.0.2.2:9", "--in", "eth0", "--out", "eth1")):
        scene.ctl(*words)


def take_over(scene: Scene) -> None:
    scene.take_over()


def take_over_and_fail(scene: Scene) -> None:
    """A successor that cannot be leaves the predecessor at work."""
    with instead_of(RESTORE, FAILS) as environment:
        done = subprocess.run([*scene.firewall.argv, "--takeover"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=environment, timeout=60)
    assert done.returncode != 0, done.stderr
    assert RESTORE in done.stderr


def take_over_while_iptables_hangs(scene: Scene) -> None:
    """Only the successor's: it judges long before it may say that it has taken over."""
    with instead_of(RESTORE, HANGS) as environment:
        scene.take_over(environment)


@contextmanager
def instead_of(program: str, script: str) -> Iterator[dict[str, str]]:
    """An environment in which the program is a script, in which {real} stands for its path."""
    with tempfile.TemporaryDirectory(prefix="pyfw-chaos-") as directory:
        path = Path(directory) / program
        path.write_text(f"#!/bin/sh\n{script.format(real=shutil.which(program))}\n")
        path.chmod(0o755)
        yield {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}


# -- the daemon's death ---------------------------------------------------------------------------------------------------

def kill_and_restart(scene: Scene) -> None:
    scene.firewall.kill()
    time.sleep(scene.random.random())
    scene.start()


def kill_and_lose_the_queue(scene: Scene) -> None:
    """As without a service manager: packets that waited are gone, and none passes while nobody listens."""
    scene.firewall.kill()
    scene.firewall.forget()
    time.sleep(scene.random.random())
    scene.start()


def freeze(scene: Scene) -> None:
    scene.firewall.process.send_signal(signal.SIGSTOP)
    time.sleep(scene.random.random() * 2)
    scene.firewall.process.send_signal(signal.SIGCONT)


def jump_of_the_clock(scene: Scene) -> None:
    """The successor's monotonic clock is far from its predecessor's, as its table has it: entries are long over, or not begun."""
    scene.firewall.kill()
    scene.firewall.clock_offset_s = scene.random.choice((0, 3600, 10**6, 10**7))
    scene.start()


# -- shortages ------------------------------------------------------------------------------------------------------------

def shortage_of_memory(scene: Scene) -> None:
    """The daemon's address space ends where it is; commands may fail, and so may the daemon, but nothing opens."""
    process = scene.firewall.process
    size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(process.pid, resource.RLIMIT_AS, (size + MARGIN_BYTES, resource.RLIM_INFINITY))
    for words in (("list-conntrack",), ("reload",), ("stats", "--json"), ("set", "list")):
        scene.ctl(*words)
    if process.poll() is None:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        scene.start()


def full_disk(scene: Scene) -> None:
    """No byte is left where the state is kept; a restart finds its table there all the same."""
    filling = scene.state / "filling"
    with filling.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    scene.random.choice((kill_and_restart, reload_rules, take_over))(scene)
    filling.unlink()


# -- what others do on the gateway -----------------------------------------------------------------------------------------

def interface_comes_and_goes(scene: Scene) -> None:
    for words in ("link add chaos0 type veth peer name chaos1", "address add 203.0.113.1/24 dev chaos0", "link set chaos0 up",
                  "link set chaos0 down", "link set chaos0 name chaos2", "link set chaos2 up", "link delete chaos2"):
        scene.gateway("ip", *words.split())


def interface_goes_down(scene: Scene) -> None:
    """The outside's, and up again: the kernel drops what is queued of it, and forgets its neighbours."""
    name = GATEWAY_OUTSIDE.interface
    scene.gateway("sysctl", "-q", f"net.ipv6.conf.{name}.keep_addr_on_down=1")
    scene.gateway("ip", "link", "set", name, "down")
    time.sleep(scene.random.random())
    scene.gateway("ip", "link", "set", name, "up")
    for family in (4, 6):
        scene.gateway("ip", "neighbour", "replace", SERVER.address(family), "lladdr", SERVER.mac, "dev", name, "nud", "permanent")


def foreign_rules_beside(scene: Scene) -> None:
    """In tables of their own, where they accept everything."""
    for program in ("iptables", "ip6tables"):
        for chain in ("FORWARD", "INPUT"):
            scene.gateway(program, "-I", chain, "-j", "ACCEPT")
            scene.gateway(program, "-D", chain, "-j", "ACCEPT")


def foreign_flush(scene: Scene) -> None:
    scene.gateway(*scene.random.choice(FOREIGN_FLUSH))


def foreign_rules_before(scene: Scene) -> None:
    """An ACCEPT in front of the diversion's jump, in its own table."""
    for program in ("iptables", "ip6tables"):
        scene.gateway(program, "-t", "security", "-I", "FORWARD", "-j", "ACCEPT")


ACTIONS = (
    Action(reload_rules, weight=2), Action(reload_bad_rules), Action(flush_connections), Action(ask_for_everything),
    Action(take_over, weight=2), Action(take_over_and_fail), Action(take_over_while_iptables_hangs),
    Action(kill_and_restart, weight=2), Action(kill_and_lose_the_queue), Action(freeze), Action(jump_of_the_clock),
    Action(shortage_of_memory), Action(full_disk), Action(interface_comes_and_goes), Action(interface_goes_down),
    Action(foreign_rules_beside), Action(foreign_flush, may_open=True, weight=2), Action(foreign_rules_before, may_open=True),
)
