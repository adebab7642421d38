"""Packets and the control side at the same sets at once: nothing is lost, nothing is torn."""
from __future__ import annotations

import random
import threading

from scapy.layers.inet import IP, UDP

from pyfw.engine.engine import Engine
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program
from pyfw.rules.sets.store import SetStore

CHANGES = 600
RULES = """*filter
-A FORWARD -m set --match-set all src
-A FORWARD -j SET --add-set a src --exist
-A FORWARD -j SET --del-set b src
COMMIT
"""
SETS = b"""create a hash:ip timeout 5
create b hash:ip timeout 5
create kept hash:net
add kept 192.0.2.0/24
create all list:set
add all a
add all kept
"""


def test_packets_while_sets_change() -> None:
    engine = Engine(max_entries=100)
    engine.environment.sets = store = SetStore(engine.guard)
    store.restore(SETS, 0)
    engine.load(Program(parse_save(RULES), engine.environment))
    packets = [bytes(IP(src=f"10.0.{host >> 8}.{host & 255}", dst="192.0.2.1") / UDP()) for host in range(1, 3000)]
    done = threading.Event()

    def judge() -> None:
        now = 0
        while not done.is_set():
            now += 1_000_000
            engine.judge(packets[now % 2999 - 1], Hook.FORWARD, "eth1", "eth0", now=now)

    threads = [threading.Thread(target=judge) for _ in range(2)]
    for thread in threads:
        thread.start()
    rng = random.Random(1)
    try:
        for change in range(CHANGES):
            now_ns = change * 10_000_000
            match rng.randrange(6):
                case 0:
                    store.flush(rng.choice("ab"))
                case 1:
                    store.swap("a", "b")
                case 2:
                    store.add(rng.choice("ab"), [f"10.0.{rng.randrange(12)}.0/24"], now_ns, exist=True)
                case 3:
                    store.sweep(now_ns)
                case 4:
                    "".join(store.saved(None, now_ns))
                case 5:
                    act = store.delete if store.test("all", ["kept"], now_ns) else store.add
                    act("all", ["kept"], now_ns)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    store.flush("a")
    assert len(store.find("a").contents) == 0
    assert list(store.saved("kept", 0))[1:] == ["add kept 192.0.2.0/24\n"]
