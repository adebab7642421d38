"""What each target begins with, besides its corpus: texts that the project has anyway, packets, captures; and its language's words."""
from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

from fuzz.packets import GATEWAY, SETS, everything, seeds
from kit.packets import CLIENT, CLIENT6, FRAGMENT, SERVER, SERVER6, UDP, extended, ip
from pyfw.edge.control.table import COMMANDS
from pyfw.edge.queue.messages import verdict_message
from pyfw.enums import CtState
from pyfw.rules.language.matches import MATCHES, TARGETS

TOP = Path(__file__).resolve().parents[2]

QUESTIONS = (
    "tcp 10.0.0.2:1 10.0.1.2:80 --in eth1 --out eth0 --flags SYN", "udp [fd00::2]:1 [fd00:1::2]:53 --in eth1",
    "icmp 10.0.0.2 10.0.1.2 echo-request --id 7", "sctp 10.0.0.2:1 10.0.1.2:9", "proto 47 10.0.0.2 10.0.1.2", "hex 450000",
    "trace -p tcp --dport 443 -s 10.0.0.0/8", "trace -m conntrack --ctstate NEW -6",
)
EDITS = "-A FORWARD -p tcp --dport 22 -j ACCEPT\n-I FORWARD 2 -s 10.0.0.0/8 -j DROP\n-D FORWARD 1\n-N chain\n" \
        "-R FORWARD 1 -j chain\n-P INPUT DROP\n-E chain other\n-F\n-X\n-Z\n*filter\\n:FORWARD DROP [1:2]\\n-A FORWARD -j ACCEPT\\nCOMMIT\n"


def initial_inputs(target: str) -> Iterable[bytes]:
    texts: dict[str, Iterable[bytes]] = {
        "iptables": [everything().encode(), GATEWAY.encode(), *files("tests/cases/*.rules", "config/*.rules")],
        "edits": [EDITS.encode()],
        "config": files("config/*.yaml"),
        "policy": files("config/tests/*.yaml"),
        "sets": [SETS.encode()],
        "question": [text.encode() for text in QUESTIONS],
        "control": [json.dumps({"command": name} | {a.name: EXAMPLES[a.kind] for a in command.arguments}).encode()
                    for name, command in COMMANDS.items()] + [json.dumps({"command": name}).encode() for name in COMMANDS],
        "capture": [pcap(seeds()[:8]), pcapng(seeds()[:8]), pcap(fragments())],
        "reassembly": [b"".join(bytes([len(piece), 1]) + piece for piece in fragments())],
        "packets": [bytes([engine]) + conversation() for engine in range(4)],
        "messages": [message(packet) for packet in seeds()[:3]],
        "hand": [verdict_message(0, 1, 1) + verdict_message(0, 2, 0) + verdict_message(0, 3, 1, 5) + bytes(8)],
        "table": [bytes([0]) + conversation()],
    }
    return texts[target]


EXAMPLES = {str: "x", int: 1, float: 0.1, bool: True, list: ["-L"]}


def files(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(TOP.glob(pattern))]


def words(target: str) -> list[str]:
    """Words that mean something in the target's language."""
    options = [option.name for kind in (*MATCHES.values(), *TARGETS.values()) for option in kind.options]
    rules = [*MATCHES, *TARGETS, *options, *CtState.__members__, "-A", "-m", "-j", "-p", "-s", "-d", "-i", "-o", "!", "*filter", "COMMIT"]
    arguments = sorted({argument.name for command in COMMANDS.values() for argument in command.arguments})
    sets = ["create", "add", "del", "flush", "swap", "rename", "destroy", "hash:ip", "hash:net", "hash:ip,port", "hash:net,port",
            "list:set", "family", "inet6", "timeout", "counters", "comment", "nomatch", "maxelem", "netmask", "bitmask", "-exist"]
    return {"iptables": rules, "edits": rules, "question": rules, "config": ["file:", "rules:", "sets:", "limits:", *rules],
            "control": [*COMMANDS, *arguments], "sets": sets}.get(target, [])


# -- bytes ----------------------------------------------------------------------------------------------------------------

def conversation() -> bytes:
    """Every seed in order, one answering the other, then a listing and a sweep; native.pyx has the language."""
    return b"".join(bytes([0x90, number, 0, 0]) for number in range(len(seeds()))) + bytes([6, 5, 0, 6, 4, 0])


def fragments() -> list[bytes]:
    datagram = struct.pack("!HHHH", 1, 53, 48, 0) + bytes(40)
    first, last = datagram[:24], datagram[24:]
    return [ip(CLIENT, SERVER, UDP, first, fragment=0x2000), ip(CLIENT, SERVER, UDP, last, fragment=3),
            extended(CLIENT6, SERVER6, [FRAGMENT], UDP, first), extended(CLIENT6, SERVER6, [FRAGMENT], UDP, last)]


def pcap(packets: Iterable[bytes]) -> bytes:
    raw_ip = 101
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, raw_ip) + b"".join(
        struct.pack("<IIII", number, 0, len(packet), len(packet)) + packet for number, packet in enumerate(packets))


def pcapng(packets: Iterable[bytes]) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    return block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack("<HHI", 101, 0, 0)) + b"".join(
        block(6, struct.pack("<IIIII", 0, 0, number, len(packet), len(packet)) + packet) for number, packet in enumerate(packets))


def message(payload: bytes) -> bytes:
    """As nfnetlink_queue hands a packet over."""
    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    body = b"\2\0\0\0" + attribute(1, struct.pack("!IHB", 7, 0x0800, 2)) + attribute(5, b"\0\0\0\1") + attribute(10, payload)
    return struct.pack("=IHHII", 16 + len(body), 0x300, 0, 0, 0) + body
