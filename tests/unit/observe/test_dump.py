"""Looking into the table and deleting from it: selections, slices, and packets that go on meanwhile."""
import re
from threading import Thread

import pytest

from kit.packets import CLIENT, CLIENT6, SERVER, SERVER6, gre, icmp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.selection import Selection
from pyfw.enums import CtState
from pyfw.observe.dump import count_entries, dump_records, dump_text
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

LINE = re.compile(r"udp      17 \d+ src=10\.\d+\.\d+\.\d+ dst=10\.0\.1\.2 sport=5000 dport=53 packets=\d+ bytes=\d+ "
                  r"(\[UNREPLIED\] )?src=10\.0\.1\.2 dst=10\.\d+\.\d+\.\d+ sport=53 dport=5000 packets=\d+ bytes=\d+ "
                  r"(\[ASSURED\] )?mark=0 use=1")


def source(number: int) -> str:
    return f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def question(number: int) -> bytes:
    return udp(source(number), SERVER, 5000, 53)


@pytest.fixture
def town(watch):
    """A bit of everything; each connection is named by its line's end of the original tuple."""
    TcpConversation(watch, sport=1).open()
    TcpConversation(watch, sport=2).client.syn()
    TcpConversation(watch, CLIENT6, SERVER6, sport=3).open()
    TcpConversation(watch, "192.168.7.7", SERVER, sport=4, dport=22).open().close()
    watch.send(udp(CLIENT, SERVER, 5, 53))
    watch.send(udp(CLIENT, SERVER, 6, 53))
    watch.send(udp(SERVER, CLIENT, 53, 6))
    watch.send(icmp(CLIENT, SERVER, 8, id=7))
    watch.send(gre(CLIENT, SERVER))
    return watch


def name_of(record: dict) -> str:
    original = record["original"]
    return str(original.get("sport") or original.get("id") or "gre")


@pytest.mark.parametrize(("conditions", "names"), [
    ({}, "1 2 3 4 5 6 7 gre"),
    ({"family": 4}, "1 2 4 5 6 7 gre"), ({"family": 6}, "3"),
    ({"protocol": 6}, "1 2 3 4"), ({"protocol": 17}, "5 6"), ({"protocol": 1}, "7"), ({"protocol": 0}, ""),
    ({"src": CLIENT}, "1 2 5 6 7 gre"), ({"src": "10.0.0.0/8"}, "1 2 5 6 7 gre"),
    ({"src": "10.0.0.0/255.0.0.0"}, "1 2 5 6 7 gre"),
    ({"src": "10.0.0.77/24"}, "1 2 5 6 7 gre"), ({"src": "192.168.0.0/16"}, "4"), ({"src": "0.0.0.0/0"}, "1 2 4 5 6 7 gre"),
    ({"src": "::/0"}, "3"), ({"src": "fd00::/64"}, "3"), ({"src": "fd00:1::/64"}, ""),
    ({"src": SERVER}, ""), ({"dst": SERVER}, "1 2 4 5 6 7 gre"), ({"dst": SERVER6}, "3"), ({"dst": CLIENT}, ""),
    ({"sport": 6}, "6"), ({"dport": 53}, "5 6"), ({"dport": 22}, "4"),
    ({"sport": 7}, ""), ({"dport": 8 << 8}, ""),       # an echo has an id and a type, no ports
    ({"sport": 0}, ""), ({"dport": 0}, ""),            # nor has GRE
    ({"state": "ESTABLISHED"}, "1 3"), ({"state": "established"}, "1 3"), ({"state": "SYN_SENT"}, "2"),
    ({"state": "TIME_WAIT"}, "4"), ({"state": "CLOSE"}, ""),
    ({"status": ["UNREPLIED"]}, "2 5 7 gre"), ({"status": ["assured"]}, "1 3 4"), ({"status": ["SEEN_REPLY"]}, "1 3 4 6"),
    ({"status": ["UNREPLIED", "ASSURED"]}, ""), ({"status": ["SEEN_REPLY", "ASSURED"]}, "1 3 4"), ({"status": ["EXPECTED"]}, ""),
    ({"protocol": 17, "status": ["UNREPLIED"]}, "5"), ({"family": 6, "src": CLIENT}, ""),
    ({"reply_src": SERVER}, "1 2 4 5 6 7 gre"), ({"reply_src": CLIENT}, ""), ({"reply_dst": "192.168.0.0/16"}, "4"),
    ({"src": CLIENT, "reply_dst": "192.168.7.7"}, ""), ({"src": CLIENT, "reply_dst": CLIENT, "reply_sport": 53}, "5 6"),
    ({"reply_sport": 22}, "4"), ({"reply_dport": 6}, "6"), ({"sport": 6, "reply_dport": 5}, ""),
    ({"src": "10.9.0.2", "mask_src": "255.0.255.255"}, "1 2 5 6 7 gre"), ({"src": "10.9.0.2", "mask_src": "255.255.0.0"}, ""),
    ({"dst": "fd00:1::77", "mask_dst": "ffff:ffff::"}, "3"), ({"dst": SERVER, "mask_dst": "0.0.0.0"}, "1 2 4 5 6 7 gre"),
    ({"icmp_type": 8}, "7"), ({"icmp_type": 0}, ""), ({"icmp_code": 0}, "7"), ({"icmp_code": 1}, ""), ({"icmp_id": 7}, "7"),
    ({"icmp_id": 8}, ""), ({"icmp_type": 8, "icmp_id": 7, "src": CLIENT}, "7"),
    ({"id": 3}, "3"), ({"id": 99}, ""),
    ({"mark": (0, 0xFFFFFFFF)}, "1 2 3 4 5 6 7 gre"), ({"mark": (1, 0xFFFFFFFF)}, ""),
])
def test_selections(town, conditions, names):
    selection = Selection(**conditions)
    assert " ".join(name_of(record) for record in town.records(selection)) == names
    assert len(town.lines(selection=selection)) == len(names.split())


@pytest.mark.parametrize(("conditions", "words"), [
    ({"family": 5}, "family must be 4 or 6, not 5"),
    ({"protocol": 256}, "protocol must be 0 to 255, not 256"),
    ({"protocol": "tcp"}, "protocol must be 0 to 255, not 'tcp'"),
    ({"sport": 65536}, "sport must be 0 to 65535, not 65536"),
    ({"dport": -1}, "dport must be 0 to 65535, not -1"),
    ({"src": "10.0.0.0/33"}, "src: '10.0.0.0/33' is not an address or a network"),
    ({"dst": "server"}, "dst: 'server' is not an address or a network"),
    ({"state": "OPEN"}, "state: 'OPEN' is not a TCP state; choose one of SYN_SENT, SYN_RECV, ESTABLISHED"),
    ({"state": "NONE"}, "is not a TCP state"),
    ({"state": "IGNORE"}, "is not a TCP state"),
    ({"status": ["MAYBE"]}, "status: 'MAYBE' is not a status; there are ASSURED, SEEN_REPLY, EXPECTED, UNREPLIED"),
    ({"mask_src": "255.0.0.0"}, "mask_src says nothing without src"),
    ({"src": "10.0.0.0/8", "mask_src": "255.0.0.0"}, "src: 10.0.0.0/8 has its mask already; leave mask_src out"),
    ({"dst": "10.0.0.1", "mask_dst": "ffff::"}, "mask_dst: 'ffff::' is no mask of IPv4, such as 255.255.0.0"),
    ({"reply_src": "10.0.0.0/33"}, "reply_src: '10.0.0.0/33' is not an address or a network"),
    ({"reply_dport": 65536}, "reply_dport must be 0 to 65535, not 65536"),
    ({"icmp_type": 256}, "icmp_type must be 0 to 255, not 256"),
    ({"id": 0}, "id must be 1 to 4294967295, not 0"), ({"id": 1 << 32}, "id must be 1 to 4294967295, not 4294967296"),
])
def test_selections_that_cannot_be_say_what_is_wrong(conditions, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Selection(**conditions)


@pytest.mark.parametrize(("mark", "names"), [
    ((0x12, 0xFFFFFFFF), "1"), ((0x10, 0xF0), "1 2"), ((0, 0xF0), "3"), ((0x12, 0xF0), ""), ((0, 0), "1 2 3")])
def test_marks_are_compared_under_their_mask(watch, mark, names):
    rules = "".join(f"-A FORWARD -p udp --sport {port} -j CONNMARK --set-mark {value}\n" for port, value in ((1, 0x12), (2, 0x13)))
    watch.engine.load(Program(parse_save(f"*filter\n{rules}COMMIT\n"), watch.engine.environment))
    for port in (1, 2, 3):
        watch.send(udp(CLIENT, SERVER, port, 53))
    selection = Selection(mark=mark)
    assert " ".join(name_of(record) for record in watch.records(selection)) == names
    assert count_entries(watch.engine, watch.now_ns, selection) == len(names.split())


def test_a_record_says_all(tcp):
    tcp.open()
    tcp.watch.wait(2.5)
    assert tcp.record == {
        "id": 1, "family": "ipv4", "protocol": 6, "state": "ESTABLISHED", "timeout": 431997.5, "age": 2.5,
        "original": {"src": CLIENT, "dst": SERVER, "sport": 40000, "dport": 80, "packets": 2, "bytes": 80},
        "reply": {"src": SERVER, "dst": CLIENT, "sport": 80, "dport": 40000, "packets": 1, "bytes": 40},
        "seen_reply": True, "assured": True, "expected": False, "mark": 0,
    }


# -- deleting ------------------------------------------------------------------------------------------------------

def delete(watch: Watch, selection: Selection) -> tuple[list[str], int]:
    text, cursor, matched = dump_text(watch.engine, selection, "proc", 1, watch.now_ns, True)
    assert cursor == 0
    return text.decode().splitlines(), matched


def test_what_is_deleted_is_listed_and_gone(town):
    lines, matched = delete(town, Selection(protocol=17))
    assert matched == len(lines) == 2
    assert all(line.startswith("udp ") for line in lines)
    assert [name_of(record) for record in town.records()] == ["1", "2", "3", "4", "7", "gre"]
    assert town.send(udp(SERVER, CLIENT, 53, 6)).state is CtState.NEW
    assert town.table()["destroyed"] == 2


def test_records_can_be_deleted_too(town):
    records, cursor = dump_records(town.engine, Selection(family=6), 1, town.now_ns, True)
    assert (len(records), cursor) == (1, 0)
    assert town.records(Selection(family=6)) == []


def test_nothing_to_delete(watch):
    assert delete(watch, Selection()) == ([], 0)


def test_all_can_be_deleted(town):
    delete(town, Selection())
    assert town.records() == []
    assert town.table()["entries"] == 0


# -- large tables come in slices -----------------------------------------------------------------------------------

def test_a_large_table_is_listed_in_pieces_each_entry_once():
    watch = Watch(max_entries=5000)
    for number in range(5000):
        watch.send(question(number))
    pieces, cursor, text, total = 0, 1, b"", 0
    while cursor:
        piece, cursor, matched = dump_text(watch.engine, Selection(), "nf", cursor, watch.now_ns)
        pieces, text, total = pieces + 1, text + piece, total + matched
    sources = [line.split("src=")[1].split()[0] for line in text.decode().splitlines()]
    assert pieces > 1
    assert total == 5000
    assert sorted(sources) == sorted(source(number) for number in range(5000))
    assert count_entries(watch.engine, watch.now_ns) == 5000


@pytest.mark.parametrize("cursor", [2, 5000, 2**32 - 1])
def test_a_cursor_behind_the_end_ends(watch, cursor):
    watch.send(question(1))
    assert dump_text(watch.engine, Selection(), "proc", cursor, watch.now_ns) == (b"", 0, 0)
    assert dump_records(watch.engine, Selection(), cursor, watch.now_ns) == ([], 0)


@pytest.mark.slow
def test_no_line_is_torn_while_packets_come_and_entries_go():
    watch = Watch(max_entries=2000)
    done = []

    def traffic() -> None:
        for number in range(30_000):
            watch.send(question(number % 4000))
            if number % 3 == 0:
                watch.send(udp(SERVER, source(number % 4000), 53, 5000))
        done.append(True)

    thread = Thread(target=traffic)
    thread.start()
    listings = 0
    while thread.is_alive() or not listings:
        listings += 1
        for line in watch.lines():
            assert LINE.fullmatch(line), line
    thread.join()
    assert done
    assert watch.table()["early_drop"] > 1000
