"""nfnetlink_queue's messages: what is read from the kernel's bytes, and that no bytes do harm."""
from __future__ import annotations

import random
import struct

import pytest

from pyfw.edge.queue.messages import describe_message, sound_verdict_bytes, verdict_message

PACKET_HDR, VERDICT_HDR, MARK, INDEV, OUTDEV, PAYLOAD, CAP_LEN, SKB_INFO = 1, 2, 3, 5, 6, 10, 13, 14
FORWARD = 2


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def header(packet_id: int, hook: int = FORWARD) -> bytes:
    return attribute(PACKET_HDR, struct.pack("!IHB", packet_id, 0x0800, hook))


def message(*attributes: bytes, kind: int = 0x300) -> bytes:
    body = b"\2\0\0\0" + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def error(number: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 0, 0, number) + bytes(16)


WHOLE = message(header(7), number(INDEV, 3), number(OUTDEV, 4), number(MARK, 0xDEADBEEF), number(SKB_INFO, 4),
                attribute(PAYLOAD, b"E-packet"))


def test_a_packet_with_all_that_comes_along():
    assert describe_message(WHOLE) == {"kind": "packet", "id": 7, "hook": FORWARD, "indev": 3, "outdev": 4,
                                       "mark": 0xDEADBEEF, "skb_info": 4, "length": 8, "payload": b"E-packet"}


def test_the_length_of_a_packet_that_the_kernel_cut():
    described = describe_message(message(header(1), number(CAP_LEN, 65535), attribute(PAYLOAD, bytes(65531))))
    assert (described["length"], len(described["payload"])) == (65535, 65531)


def test_flags_in_attribute_types_do_not_matter():
    assert describe_message(message(header(1), number(MARK | 0x4000, 5), attribute(PAYLOAD | 0x8000, b"x")))["mark"] == 5


@pytest.mark.parametrize(("data", "seen"), [
    pytest.param(b"", {"kind": "malformed"}, id="empty"),
    pytest.param(WHOLE[:15], {"kind": "malformed"}, id="half a header"),
    pytest.param(message(header(9)), {"kind": "malformed", "id": 9}, id="no payload"),
    pytest.param(message(attribute(PAYLOAD, b"x")), {"kind": "malformed"}, id="no packet header"),
    pytest.param(message(attribute(PACKET_HDR, b"short"), attribute(PAYLOAD, b"x")), {"kind": "malformed"},
                 id="short packet header"),
    pytest.param(message(header(9, hook=5), attribute(PAYLOAD, b"x")), {"kind": "malformed", "id": 9}, id="no such hook"),
    pytest.param(message(header(9), attribute(MARK, b"ab"), attribute(PAYLOAD, b"x")), {"kind": "malformed", "id": 9},
                 id="short mark"),
    pytest.param(message(header(9), struct.pack("=HH", 3, MARK)), {"kind": "malformed", "id": 9},
                 id="attribute shorter than its header"),
    pytest.param(message(header(9), struct.pack("=HH", 5, PAYLOAD)), {"kind": "malformed", "id": 9},
                 id="attribute longer than the message"),
    pytest.param(WHOLE[:-1], {"kind": "malformed", "id": 7}, id="cut off in the payload"),
    pytest.param(message(header(9), kind=0x303), {"kind": "other"}, id="another message of the subsystem"),
    pytest.param(error(-2), {"kind": "error", "error": 2}, id="ENOENT"),
    pytest.param(error(0), {"kind": "other"}, id="acknowledgement"),
    pytest.param(error(17), {"kind": "error", "error": 1}, id="an error of the wrong sign"),
    pytest.param(error(-2)[:18], {"kind": "malformed"}, id="half an error"),
])
def test_what_is_no_packet(data: bytes, seen: dict):
    assert describe_message(data) == seen


def test_random_bytes_do_no_harm():
    chance = random.Random(1)
    kinds = set()
    for _ in range(50_000):
        data = bytearray(chance.choice((WHOLE, WHOLE, error(-2), chance.randbytes(chance.randrange(120)))))
        for _ in range(chance.randrange(6) if data else 0):
            data[chance.randrange(len(data))] = chance.randrange(256)
        described = describe_message(bytes(data[:chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data))
        kinds.add(described["kind"])
        if described["kind"] == "packet":
            assert described["hook"] <= 4
            assert described["payload"] in bytes(data)
    assert kinds == {"packet", "error", "malformed", "other"}


@pytest.mark.parametrize(("mark", "attributes"), [
    (None, [(VERDICT_HDR, struct.pack("!II", 1, 0xFFFFFFFE))]),
    (0, [(VERDICT_HDR, struct.pack("!II", 1, 0xFFFFFFFE)), (MARK, bytes(4))]),
    (77, [(VERDICT_HDR, struct.pack("!II", 1, 0xFFFFFFFE)), (MARK, struct.pack("!I", 77))]),
])
def test_a_verdict(mark: int | None, attributes: list[tuple[int, bytes]]):
    body = struct.pack("!BBH", 0, 0, 300) + b"".join(attribute(kind, value) for kind, value in attributes)
    assert verdict_message(300, 0xFFFFFFFE, 1, mark) == struct.pack("=IHHII", 16 + len(body), 0x301, 1, 0, 0) + body


def test_verdicts_that_a_predecessor_wrote_are_known_again():
    verdicts = [verdict_message(7, 1, 1), verdict_message(7, 2, 0), verdict_message(7, 0xFFFFFFFF, 1, 0x1234)]
    assert sound_verdict_bytes(b"".join(verdicts), 7) == (104, 3)
    assert sound_verdict_bytes(b"".join(verdicts)[:103], 7) == (64, 2)
    assert sound_verdict_bytes(b"", 7) == (0, 0)


@pytest.mark.parametrize("damaged", [
    verdict_message(8, 3, 1), verdict_message(7, 3, 2), verdict_message(7, 3, 5), b"\xFF" * 40, bytes(40),
], ids=["of another queue", "stolen", "stopped", "no length", "empty"])
def test_what_is_no_verdict_is_not_sent_again(damaged: bytes):
    """The memory it comes from is sent to a socket that may tell the kernel everything about its packet filter."""
    before = verdict_message(7, 1, 1)
    assert sound_verdict_bytes(before + damaged + before, 7) == (len(before), 1)


@pytest.mark.parametrize("message", [verdict_message(7, 3, 1), verdict_message(7, 3, 1, 9)], ids=["plain", "marked"])
def test_a_verdict_with_one_bit_changed_is_another_verdict_or_none(message: bytes):
    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        known = sound_verdict_bytes(bytes(changed), 7)
        if (bit // 8 >= 28 and not 32 <= bit // 8 < 36) or bit == 8 * 27:
            assert known == (len(message), 1), "its number, its mark, accept or drop"
        else:
            assert known in ((0, 0), (32, 1)), "of a marked one, all but the mark may be left"
