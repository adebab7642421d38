"""Which connections are busiest: rates between two walks, with a clock that only the tests move."""
from __future__ import annotations

from threading import Thread

import pytest

from kit.packets import CLIENT, SERVER, udp
from kit.traffic import TcpConversation, Watch
from pyfw.conntrack.selection import Selection
from pyfw.observe.top import Top

CHUNK = 32 * 512                # slots that one call walks
HEADERS = 28                    # bytes of an empty datagram on the IP layer


def send(watch: Watch, sport: int, count: int = 1, payload: int = 0) -> None:
    for _ in range(count):
        watch.send(udp(CLIENT, SERVER, sport, 53, bytes(payload)))


def answer(watch: Watch, sport: int, count: int = 1, payload: int = 0) -> None:
    for _ in range(count):
        watch.send(udp(SERVER, CLIENT, 53, sport, bytes(payload)))


def look(activity: Top, watch: Watch, key: str = "bytes", lines: int = 10, reverse: bool = False,
         **conditions) -> list[dict]:
    cursor = activity.begin(Selection(**conditions), key, lines, reverse)
    while cursor:
        cursor = activity.walk(cursor, watch.now_ns)
    return activity.first()


def rates(rows: list[dict]) -> list[tuple[int, float, float]]:
    """(source port, bytes/s, packets/s) of each row."""
    return [(row["original"]["sport"], row["rate"]["bytes"], row["rate"]["packets"]) for row in rows]


def ports(rows: list[dict]) -> list[int]:
    return [row["original"]["sport"] for row in rows]


@pytest.fixture
def activity(watch: Watch) -> Top:
    """It has seen three connections, the first and the third of which have been busy."""
    send(watch, 1, 1000)
    send(watch, 2)
    send(watch, 3, 500, 100)
    activity = Top(watch.engine)
    look(activity, watch)
    return activity


# -- rates ---------------------------------------------------------------------------------------------------------


def test_the_first_walk_has_no_rates(watch: Watch) -> None:
    send(watch, 1, 7)
    assert rates(look(Top(watch.engine), watch)) == [(1, 0, 0)]


def test_rates_are_what_came_since_by_the_time_it_took(activity: Top, watch: Watch) -> None:
    send(watch, 1, 10, 72)
    send(watch, 2, 4)
    answer(watch, 2, 6, 172)
    watch.wait(2)
    assert rates(look(activity, watch)) == [(2, (4 * HEADERS + 6 * 200) / 2, 5), (1, 10 * 100 / 2, 5), (3, 0, 0)]
    watch.wait(0.25)
    assert rates(look(activity, watch)) == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_a_new_connection_came_from_nothing(activity: Top, watch: Watch) -> None:
    watch.wait(0.9)
    send(watch, 9, 20)
    watch.wait(0.1)
    assert rates(look(activity, watch))[0] == (9, 20 * HEADERS, 20)


def test_a_slot_that_was_given_to_another_does_not_lie(watch: Watch) -> None:
    """The table has one place: whoever has it now began with nothing, though its predecessor had counted more, or less."""
    watch = Watch(max_entries=1)
    activity = Top(watch.engine)
    for sport, count in ((1, 100), (2, 3), (3, 200)):
        send(watch, sport, count)
        look(activity, watch)
        watch.wait(1)
        send(watch, sport + 10, count + 5)
        watch.wait(1)
        assert rates(look(activity, watch)) == [(sport + 10, (count + 5) * HEADERS / 2, (count + 5) / 2)]
    assert watch.table()["early_drop"] == 5


def test_what_expired_or_was_swept_is_not_shown(activity: Top, watch: Watch) -> None:
    watch.wait(31)
    send(watch, 2)
    assert ports(look(activity, watch)) == [2]
    watch.engine.sweep(watch.now_ns)
    assert ports(look(activity, watch)) == [2]


def test_each_entry_has_the_time_between_the_two_looks_at_it(watch: Watch) -> None:
    """A walk takes its time: the second stretch is looked at 3 s after the first, then 1 s after it."""
    watch = Watch(max_entries=CHUNK + 10)
    for number in range(CHUNK + 5):
        watch.send(udp(f"10.1.{number >> 8}.{number & 255}", SERVER, 7, 53))
    early, late = udp("10.1.0.0", SERVER, 7, 53), udp(f"10.1.{CHUNK >> 8}.{CHUNK & 255}", SERVER, 7, 53)
    activity = Top(watch.engine)

    def stretched(pause_s: float) -> dict[str, float]:
        cursor = activity.begin(Selection(), "packets", 2)
        cursor = activity.walk(cursor, watch.now_ns)
        assert cursor == CHUNK
        watch.wait(pause_s)
        assert activity.walk(cursor, watch.now_ns) == 0
        return {row["original"]["src"]: row["rate"]["packets"] for row in activity.first()}

    stretched(3)
    for _ in range(12):
        watch.send(early)
        watch.send(late)
    watch.wait(3)
    assert stretched(1) == {"10.1.0.0": 12 / 6, "10.1.64.0": 12 / 4}


def test_a_stretch_that_was_empty_has_only_new_connections(watch: Watch) -> None:
    watch = Watch(max_entries=CHUNK + 10)
    activity = Top(watch.engine)
    send(watch, 1)
    look(activity, watch)
    for number in range(CHUNK):
        watch.send(udp(f"10.1.{number >> 8}.{number & 255}", SERVER, 7, 53))
    watch.send(udp(f"10.1.{CHUNK - 1 >> 8}.255", SERVER, 7, 53))
    watch.wait(2)
    first = look(activity, watch)[0]
    assert (first["original"]["src"], first["rate"]) == ("10.1.63.255", {"bytes": HEADERS, "packets": 1})


def test_without_accounting_nothing_has_a_rate() -> None:
    watch = Watch(accounting=False)
    activity = Top(watch.engine)
    look(activity, watch)
    send(watch, 1, 10)
    watch.wait(1)
    assert rates(look(activity, watch)) == [(1, 0, 0)]
    assert not activity.counts
    assert Top(Watch().engine).counts


# -- which, and in what order ----------------------------------------------------------------------------------------


@pytest.fixture
def busy(watch: Watch) -> tuple[Top, Watch]:
    """By bytes 4 3 2 1, by packets 1 3 2 4, by age 2 4 1 3; 5 came last and is idle."""
    for sport in (2, 4, 1, 3, 5):
        send(watch, sport)
        watch.wait(1)
    activity = Top(watch.engine)
    look(activity, watch)
    for sport, count, payload in ((1, 10, 0), (2, 4, 100), (3, 7, 100), (4, 1, 1400)):
        send(watch, sport, count, payload)
    watch.wait(1)
    return activity, watch


@pytest.mark.parametrize(("key", "order"), [("bytes", [4, 3, 2, 1, 5]), ("packets", [1, 3, 2, 4, 5]), ("age", [2, 4, 1, 3, 5])])
@pytest.mark.parametrize("lines", [0, 1, 2, 3, 5, 10])
def test_the_first_so_many_in_order(busy: tuple[Top, Watch], key: str, order: list[int], lines: int) -> None:
    activity, watch = busy
    assert ports(look(activity, watch, key, lines)) == order[:lines]
    assert activity.matched == 5


@pytest.mark.parametrize(("key", "order"), [("bytes", [5, 1, 2, 3, 4]), ("packets", [5, 4, 2, 3, 1]), ("age", [5, 3, 1, 4, 2])])
def test_the_last_come_first_if_reversed(busy: tuple[Top, Watch], key: str, order: list[int]) -> None:
    activity, watch = busy
    assert ports(look(activity, watch, key, 3, reverse=True)) == order[:3]


def test_the_order_of_many_is_that_of_sorting_them(watch: Watch) -> None:
    activity = Top(watch.engine)
    look(activity, watch)
    for number in range(400):
        send(watch, 1000 + number, 1 + number * 37 % 23, number * 11 % 7)
    watch.wait(1)
    everything = look(activity, watch, lines=400)
    watch.wait(1)
    assert len(everything) == 400
    for number in range(400):
        send(watch, 1000 + number, 1 + number * 37 % 23, number * 11 % 7)
    watch.wait(1)
    some = look(activity, watch, lines=50)
    half = [(sport, bytes_rate / 2, packets_rate / 2) for sport, bytes_rate, packets_rate in rates(everything[:50])]
    assert rates(some) == half
    keys = [(-row["rate"]["bytes"], -row["rate"]["packets"], row["id"]) for row in everything]
    assert keys == sorted(keys)


def test_a_filter_leaves_the_others_rates_alone(activity: Top, watch: Watch) -> None:
    send(watch, 1, 10)
    send(watch, 2, 10)
    watch.wait(1)
    assert rates(look(activity, watch, sport=2)) == [(2, 280, 10)]
    assert activity.matched == 1
    assert look(activity, watch, protocol=6) == []
    assert activity.matched == 0
    send(watch, 1, 3)
    watch.wait(1)
    assert rates(look(activity, watch, sport=1)) == [(1, 84, 3)]        # not 13: the filter's walk remembered it, too


def test_a_row_is_a_listings_record(watch: Watch) -> None:
    tcp = TcpConversation(watch).open()
    (row,) = look(Top(watch.engine), watch)
    assert row == {**tcp.record, "rate": {"bytes": 0, "packets": 0}}


# -- misuse, threads, memory -----------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(activity: Top) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        activity.begin(Selection(), "name", 3)
    for cursor in (0, 1025, 2**32 - 1):
        with pytest.raises(ValueError, match="a cursor is 1 to"):
            activity.walk(cursor, 1)


def test_an_empty_table_is_walked_at_once(watch: Watch) -> None:
    activity = Top(watch.engine)
    assert look(activity, watch) == []
    assert activity.matched == 0
    assert activity.first() == []


def test_no_rate_is_wild_while_packets_come_and_entries_go() -> None:
    """Every connection has one packet or two; a rate that belonged to another's counters would be anything."""
    watch = Watch(max_entries=2000)
    activity = Top(watch.engine)
    done = []

    def traffic() -> None:
        for number in range(30_000):
            watch.send(udp(f"10.2.{number >> 8}.{number & 255}", SERVER, 5000, 53))
        done.append(True)

    look(activity, watch)
    thread = Thread(target=traffic)
    thread.start()
    walks = 0
    while thread.is_alive() or not walks:
        walks += 1
        watch.wait(1)
        assert all(row["rate"] in ({"bytes": 28, "packets": 1}, {"bytes": 0, "packets": 0}) for row in look(activity, watch, lines=100))
    thread.join()
    gone = watch.table()
    assert done
    assert gone["early_drop"] + gone["expired"] > 1000
