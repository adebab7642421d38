"""A table in a mapped file, with connections of every kind in it."""
from __future__ import annotations

from kit.packets import CLIENT, CLIENT6, SERVER, SERVER6, chunk, gre, icmp, ip, sctp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine
from pyfw.helpers import Expectation, Finding, HelperBinding
from pyfw.observe.dump import expect_text

ENTRIES, EXPECTATIONS = 64, 8
BOOT, OTHER_BOOT = b"this boot's name", b"another boot's n"
HEADER_BYTES, ENTRY_BYTES = 4096, 192
TABLE_BYTES = HEADER_BYTES + (ENTRIES + 1) * ENTRY_BYTES


class Announcer:
    """A helper that expects a connection the same way, whatever it reads."""
    protocol, max_expected, timeout_s = 6, 4, 300

    def __init__(self, name: str = "announcer"):
        self.name = name

    def inspect(self, segment, memory):
        return Finding(expectations=(Expectation(segment.sender, segment.receiver, 7000 + segment.sender_port),))


ANNOUNCER = HelperBinding(Announcer(), (6100,))


def watch_over(memory: bytearray, boot_id: bytes = BOOT, helpers=(ANNOUNCER,), **sizes) -> Watch:
    sizes = {"max_entries": ENTRIES, "expect_max": EXPECTATIONS} | sizes
    return Watch(memory=memory, boot_id=boot_id, helpers=helpers, **sizes)


def busy() -> tuple[Watch, bytearray]:
    """A gateway with connections of every kind, one of which expects others."""
    memory = bytearray(Engine.memory_size(ENTRIES, EXPECTATIONS))
    watch = watch_over(memory)
    TcpConversation(watch, sport=6).open()
    TcpConversation(watch, CLIENT6, SERVER6).open()
    TcpConversation(watch, sport=5).open().close()
    TcpConversation(watch, sport=3).client.syn()
    announcing = TcpConversation(watch, sport=4, dport=6100).open()
    announcing.client.data(10)
    announcing.server.data(10)
    for packet in (udp(CLIENT, SERVER, 5, 53), udp(SERVER, CLIENT, 53, 5), icmp(CLIENT, SERVER, 8, id=9),
                   icmp(CLIENT6, SERVER6, 128, id=9), gre(CLIENT, SERVER), ip(CLIENT6, SERVER6, 103, b""),
                   sctp(CLIENT, SERVER, 9, 9, 1, chunk(4))):
        watch.send(packet)
    assert watch.table()["entries"] == 11
    assert expect_text(watch.engine, watch.now_ns).count("\n") == 2
    return watch, memory


def entry(slot: int) -> int:
    return HEADER_BYTES + slot * ENTRY_BYTES
