"""Address sets: what packets find in them and add to them, how they grow, age, are swapped and referred to."""
from __future__ import annotations

import gc
import ipaddress
import itertools
import random

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from pyfw.enums import Hook, Verdict
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.lexer import Place
from pyfw.rules.model import RulesError
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program
from pyfw.rules.sets.store import SetStore, load_sets
from pyfw.rules.sets.text import SetError

SECOND = 10 ** 9


def store_with(*lines: str, now_ns: int = 0) -> SetStore:
    store = SetStore()
    store.restore("\n".join(lines).encode(), now_ns)
    return store


def saved(store: SetStore, name: str | None = None, now_ns: int = 0) -> list[str]:
    return "".join(store.saved(name, now_ns, ordered=True)).splitlines()


def elements(store: SetStore, name: str, now_ns: int = 0) -> list[str]:
    return [line.removeprefix(f"add {name} ") for line in saved(store, name, now_ns)[1:]]


class Firewall:
    """Rules of INPUT over a store, and packets to them."""

    def __init__(self, store: SetStore, *rules: str) -> None:
        self.program = Program(parse_save("*filter\n:INPUT DROP\n" + "".join(f"-A INPUT {rule}\n" for rule in rules) + "COMMIT\n"),
                               RuleEnvironment(sets=store))

    def accepts(self, source: str, now_ns: int = 0, dport: int = 80) -> bool:
        header = IPv6(src=source, dst="fd00::1") if ":" in source else IP(src=source, dst="10.99.0.1")
        walk = self.program.walk("filter", bytes(header / TCP(sport=4000, dport=dport)), Hook.INPUT, "eth0", now_ns=now_ns)
        return walk.verdict == Verdict.ACCEPT


MATCH = "-m set --match-set s src -j ACCEPT"


# -- look-up -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "element", "inside", "outside"), [
    ("hash:ip", "192.0.2.1", "192.0.2.1", "192.0.2.2"),
    ("hash:ip", "192.0.2.0/30", "192.0.2.3", "192.0.2.4"),
    ("hash:ip", "192.0.2.7-192.0.2.9", "192.0.2.9", "192.0.2.10"),
    ("hash:ip netmask 24", "192.0.2.1", "192.0.2.255", "192.0.3.1"),
    ("hash:net", "192.0.2.0/25", "192.0.2.127", "192.0.2.128"),
    ("hash:net", "192.0.2.7-192.0.2.9", "192.0.2.8", "192.0.2.6"),
    ("hash:net", "128.0.0.0/1", "255.255.255.255", "127.255.255.255"),
    ("hash:ip family inet6", "2001:db8::1", "2001:db8::1", "2001:db8::2"),
    ("hash:ip family inet6 netmask 64", "2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
    ("hash:net family inet6", "2001:db8::/32", "2001:db8:ffff::", "2001:db9::"),
    ("hash:net family inet6", "2001:db8::/65", "2001:db8::7fff:0:0:0", "2001:db8::8000:0:0:0"),
    ("hash:net family inet6", "2001:db8::1/128", "2001:db8::1", "2001:db8::"),
])
def test_inside_and_outside(kind: str, element: str, inside: str, outside: str) -> None:
    firewall = Firewall(store_with(f"create s {kind}", f"add s {element}"), MATCH)
    assert firewall.accepts(inside)
    assert not firewall.accepts(outside)


def test_a_set_has_one_family() -> None:
    firewall = Firewall(store_with("create s hash:net", "add s 0.0.0.0/1", "add s 128.0.0.0/1"), MATCH)
    assert firewall.accepts("192.0.2.1")
    assert not firewall.accepts("2001:db8::1")


def test_the_smallest_network_decides() -> None:
    firewall = Firewall(store_with("create s hash:net", "add s 10.0.0.0/8", "add s 10.1.0.0/16 nomatch", "add s 10.1.2.0/24"), MATCH)
    assert [firewall.accepts(source) for source in ("10.9.9.9", "10.1.9.9", "10.1.2.9")] == [True, False, True]


def test_networks_against_a_plain_search() -> None:
    rng = random.Random(4)
    networks = {ipaddress.ip_network((rng.randrange(2 ** 32) & 0x0A0FFFFF, prefix), strict=False): rng.random() < 0.3
                for prefix in (8, 9, 13, 16, 24, 27, 31, 32) for _ in range(40)}
    store = store_with("create s hash:net", *(f"add s {network} {'nomatch' if excluded else ''} -exist"
                                              for network, excluded in networks.items()))
    for gone in rng.sample(sorted(networks), 60):
        store.delete("s", [str(gone)], 0)
        del networks[gone]
    answers = []
    for _ in range(3000):
        address = ipaddress.ip_address(rng.randrange(2 ** 32) & 0x0A0FFFFF)
        smallest = max((network for network in networks if address in network), key=lambda network: network.prefixlen, default=None)
        answers.append(smallest is not None and not networks[smallest])
        assert store.test("s", [str(address)], 0) == answers[-1]
    assert 100 < sum(answers) < 2900


# -- growing -----------------------------------------------------------------------------------------------------------------


def test_a_set_of_a_hundred_thousand_finds_all_and_only_those() -> None:
    rng = random.Random(1)
    chosen = rng.sample(range(2 ** 24, 2 ** 31), 100_000)
    store = store_with("create s hash:ip maxelem 200000", *(f"add s {ipaddress.IPv4Address(number)}" for number in chosen))
    contents = store.find("s").contents
    assert len(contents) == 100_000
    assert contents.memory / len(contents) <= 64
    there = set(chosen)
    for number in [*chosen[:2000], *rng.sample(range(2 ** 24, 2 ** 31), 2000)]:
        assert store.test("s", [str(ipaddress.IPv4Address(number))], 0) == (number in there)
    for number in chosen[:50_000]:
        store.delete("s", [str(ipaddress.IPv4Address(number))], 0)
    memory = contents.memory
    for number in chosen[:50_000]:
        store.add("s", [str(ipaddress.IPv4Address(number))], 0)
    assert contents.memory == memory, "what was freed is used again"
    assert len({row[0] for rows in contents.walk(0) for row in rows} & there) == len(contents) == 100_000


def test_a_full_set_says_so() -> None:
    store = store_with("create s hash:ip maxelem 2", "add s 1.1.1.1", "add s 1.1.1.2")
    with pytest.raises(SetError, match="Hash is full, cannot add more elements"):
        store.add("s", ["1.1.1.3"], 0)
    store.add("s", ["1.1.1.2"], 0, exist=True)


def test_the_expired_make_way_in_a_full_set() -> None:
    store = store_with("create s hash:ip maxelem 2 timeout 5", "add s 1.1.1.1", "add s 1.1.1.2 timeout 0")
    with pytest.raises(SetError, match="full"):
        store.add("s", ["1.1.1.3"], 4 * SECOND)
    store.add("s", ["1.1.1.3"], 5 * SECOND)
    assert elements(store, "s", 5 * SECOND) == ["1.1.1.2 timeout 0", "1.1.1.3 timeout 5"]


# -- time --------------------------------------------------------------------------------------------------------------------


def test_an_element_is_gone_when_its_time_is_over() -> None:
    store = store_with("create s hash:ip timeout 10", "add s 1.1.1.1", "add s 1.1.1.2 timeout 20", "add s 1.1.1.3 timeout 0")
    firewall = Firewall(store, MATCH)
    seen = {second: [firewall.accepts(f"1.1.1.{host}", second * SECOND) for host in (1, 2, 3)] for second in (0, 9, 10, 20)}
    assert seen == {0: [True] * 3, 9: [True] * 3, 10: [False, True, True], 20: [False, False, True]}
    assert elements(store, "s", 10 * SECOND) == ["1.1.1.2 timeout 10", "1.1.1.3 timeout 0"]
    store.add("s", ["1.1.1.1"], 11 * SECOND)        # which is not there any more
    with pytest.raises(SetError, match="it's not added"):
        store.delete("s", ["1.1.1.2"], 30 * SECOND)


def test_a_sweep_frees_what_has_expired() -> None:
    store = store_with("create s hash:ip timeout 10", "add s 10.0.0.0/17", "add s 1.1.1.1 timeout 0")
    contents = store.find("s").contents
    store.sweep(9 * SECOND)
    assert len(contents) == 32769
    for _ in range(3):
        store.sweep(10 * SECOND)
    assert len(contents) == 1
    assert elements(store, "s", 10 * SECOND) == ["1.1.1.1 timeout 0"]


# -- packets that change sets -------------------------------------------------------------------------------------------------


def test_packets_ban_and_unban() -> None:
    store = store_with("create s hash:ip timeout 60")
    firewall = Firewall(store, MATCH, "-p tcp --dport 22 -j SET --add-set s src", "-p tcp --dport 23 -j SET --del-set s src")
    assert not firewall.accepts("192.0.2.1", dport=80)
    assert not firewall.accepts("192.0.2.1", dport=22)
    assert firewall.accepts("192.0.2.1", dport=80)
    assert not firewall.accepts("192.0.2.1", 60 * SECOND, dport=80)
    firewall.accepts("192.0.2.2", dport=22)
    firewall.program.walk("filter", bytes(IP(src="192.0.2.2", dst="10.0.0.1") / UDP()), Hook.INPUT)
    assert elements(store, "s") == ["192.0.2.1 timeout 60", "192.0.2.2 timeout 60"]


@pytest.mark.parametrize(("exist", "left"), [("", 50), (" --exist", 60)])
def test_only_with_exist_does_a_packet_renew(exist: str, left: int) -> None:
    store = store_with("create s hash:ip timeout 60")
    firewall = Firewall(store, f"-j SET --add-set s src{exist}")
    firewall.accepts("192.0.2.1", 0)
    firewall.accepts("192.0.2.1", 10 * SECOND)
    assert elements(store, "s", 10 * SECOND) == [f"192.0.2.1 timeout {left}"]


@pytest.mark.slow
def test_without_room_a_packet_is_refused_and_counted_until_the_next_sweep() -> None:
    store = store_with("create s hash:ip maxelem 1000000")
    firewall = Firewall(store, "-j SET --add-set s src")
    sources = [str(ipaddress.IPv4Address(0x0A000000 + number)) for number in range(1, 10_001)]
    for source in sources:
        firewall.accepts(source)
    contents = store.find("s").contents
    assert contents.refused == 10_000 - len(contents) > 0
    store.sweep(0)
    for source in sources:
        firewall.accepts(source)
    assert len(contents) == 10_000


def test_counters_count_what_matched() -> None:
    store = store_with("create s hash:ip counters", "add s 192.0.2.1 packets 5 bytes 1000")
    firewall = Firewall(store, "-m set --match-set s src ! --update-counters", "-m set --match-set s src --packets-gt 6 -j ACCEPT")
    assert [firewall.accepts("192.0.2.1") for _ in range(3)] == [False, True, True]
    assert elements(store, "s") == ["192.0.2.1 packets 8 bytes 1120"]


# -- names -------------------------------------------------------------------------------------------------------------------


def test_swap_exchanges_what_rules_see() -> None:
    store = store_with("create s hash:ip", "add s 1.1.1.1", "create new hash:ip comment", 'add new 2.2.2.2 comment "as of today"')
    firewall = Firewall(store, MATCH)
    store.swap("s", "new")
    assert (firewall.accepts("1.1.1.1"), firewall.accepts("2.2.2.2")) == (False, True)
    assert elements(store, "s") == ['2.2.2.2 comment "as of today"']
    store.destroy("new")
    assert firewall.accepts("2.2.2.2")


def test_a_set_in_use_stays_until_the_rules_are_gone() -> None:
    store = store_with("create s hash:ip")
    firewall = Firewall(store, MATCH)
    for act in (lambda: store.destroy("s"), store.destroy, lambda: store.rename("s", "t")):
        with pytest.raises(SetError, match="it is in use"):
            act()
    del firewall
    gc.collect()
    store.rename("s", "t")
    store.destroy("t")
    assert len(store) == 0


def test_a_rule_on_an_unknown_set_is_an_error_with_its_place() -> None:
    with pytest.raises(RulesError, match=r"rules:3:.*Set s doesn't exist"):
        Firewall(store_with("create t hash:ip"), MATCH)


def test_a_store_takes_another_in_place_of_its_sets() -> None:
    store = store_with("create s hash:ip", "add s 1.1.1.1", "create all list:set", "add all s", "create mine hash:ip")
    firewall = Firewall(store, "-m set --match-set all src -j ACCEPT")
    store.replace(store_with("create s hash:net", "add s 2.0.0.0/8", "create more hash:ip", "add more 3.3.3.3",
                             "create all list:set", "add all s", "add all more"))
    assert [firewall.accepts(source) for source in ("1.1.1.1", "2.2.2.2", "3.3.3.3")] == [False, True, True]
    store.add("s", ["4.0.0.0/8"], 0)
    assert firewall.accepts("4.4.4.4")
    assert "create mine" in "".join(saved(store))
    with pytest.raises(SetError, match="in use"):
        store.destroy("s")


# -- lists, comments -----------------------------------------------------------------------------------------------------------


def test_a_list_matches_by_any_member() -> None:
    store = store_with("create a hash:ip", "create b hash:net", "create s list:set timeout 5", "add a 1.1.1.1", "add b 2.0.0.0/8",
                       "add s a timeout 0", "add s b before a")
    firewall = Firewall(store, MATCH)
    assert elements(store, "s") == ["b timeout 5", "a timeout 0"]
    assert (firewall.accepts("1.1.1.1"), firewall.accepts("2.2.2.2"), firewall.accepts("3.3.3.3")) == (True, True, False)
    assert not firewall.accepts("2.2.2.2", 5 * SECOND)
    store.sweep(5 * SECOND)
    store.destroy("b")
    with pytest.raises(SetError, match="in use"):
        store.destroy("a")


def test_comments_of_the_gone_are_forgotten() -> None:
    store = store_with("create s hash:ip timeout 5 comment", "add s 1.1.1.1 comment old")
    firewall = Firewall(store, "-j SET --add-set s src")
    firewall.accepts("1.1.1.1", 6 * SECOND)
    assert elements(store, "s", 6 * SECOND) == ["1.1.1.1 timeout 5"]


# -- texts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "complaint"), [
    ("create s hash:ip\nadd s 1.1.1.1\nadd s 1.1.1.1\n", "f:3:7: Element cannot be added to the set: it's already added"),
    ("create s hash:ip\n\n# note\n  add t 1.1.1.1\n", "f:4:9: The set with the given name does not exist"),
    ("create s hash:ip\nadd s 1.1.1\nadd s 1.1.1.256\n", "f:3:7: Syntax error: cannot parse 1.1.1.256: resolving to IPv4"),
    ("create s hash:ip\nadd s 0.0.0.0\n", "f:2:7: Null-valued element"),
    ("create s hash:net\nadd s 10.0.0.0/33\n", "f:2:7: Syntax error: '33' is out of range 0-32"),
    ("create s hash:ip\nadd s\n", "f:2:5: Missing second mandatory argument to command add"),
    ('create s hash:ip comment\nadd s 1.1.1.1 comment "open\n', "f:2:1: Syntax error: a quotation mark"),
    ("list\n", "f:1:1: Command `list' is invalid in restore mode"),
    ("frobnicate\n", "f:1:1: No command specified: unknown argument frobnicate"),
])
def test_an_error_has_its_place(text: str, complaint: str) -> None:
    with pytest.raises(SetError) as error:
        load_sets([(Place("f"), text.encode())], 0)
    assert str(error.value).startswith(complaint)


def test_what_is_saved_loads_to_the_same() -> None:
    store = store_with("create s hash:net,port family inet6 timeout 9 counters comment maxelem 5",
                       'add s 2001:db8::/32,udp:53 nomatch timeout 3 packets 1 bytes 2 comment "a b"', "add s ::1,icmpv6:ping timeout 0",
                       "create l list:set counters", "add l s")
    assert saved(store_with(*saved(store))) == saved(store)


@pytest.mark.parametrize("seed", range(200))
def test_no_text_is_worse_than_an_error(seed: int) -> None:
    rng = random.Random(seed)
    words = ["create", "add", "del", "test", "swap", "rename", "destroy", "flush", "s", "t", "l", "hash:ip", "hash:net,port", "list:set",
             "1.1.1.1", "1.1.1.0/24", "::1", "1.1.1.1,80", "1.1.1.1-1.1.1.9,udp:1-9", "timeout", "9", "-1", "comment", '"', "\xff", "nomatch",
             "counters", "family", "inet6", "before", "0/0", "99999999999999999999", "packets", "-exist", "\x00", "netmask"]
    store = store_with("create s hash:net,port timeout 5 comment counters", "create t hash:ip", "create l list:set")
    for _ in range(50):
        line = " ".join(rng.choices(words, k=rng.randrange(6)))
        try:
            store.restore(line.encode("latin-1"), 0)
        except SetError as error:
            assert "\n" not in str(error)
    assert saved(store_with(*saved(store))) == saved(store)


@pytest.mark.parametrize(("family", "element"), [
    *((4, element) for element in (b"1.2.3.\xff", b"1.2.3.1\xfe", b"\xb0.2.3.4", b"1.2.3.4/2\xf8", b"1.2.3.4 timeout 1\xb0",
                                   b"1.2.3.4 packets \xff", b"1.2.3.4\0", b"1.2.3.4\0.5")),
    *((6, element) for element in (b"2001:db8::\xb1", b"2001:db8::1\0", b"2001:db8::1\x00:2", b"2001:db8::1/6\xff")),
])
def test_no_damaged_byte_is_a_digit(family: int, element: bytes) -> None:
    store = store_with(f"create s hash:net family inet{'6' * (family == 6)} timeout 0 counters")
    with pytest.raises(SetError):
        store.restore(b"add s " + element + b"\n", 0)
    assert elements(store, "s") == []


class SlowStore(SetStore):
    """Reads every line word by word."""

    def _read_plain(self, line: bytes, text: bytes, offset: int, now_ns: int, exist: bool) -> int:
        return offset


@pytest.mark.parametrize(("kind", "line"), [
    ("hash:ip", b"add s 192.0.2.17 timeout 300 packets 1 bytes 60"),
    ("hash:ip netmask 24", b"add s 192.0.2.17 timeout 300"),
    ("hash:net", b"add s 192.0.2.16/28 timeout 300 packets 1 bytes 60 nomatch"),
    ("hash:net,port", b"add s 192.0.2.16/28,udp:53 bytes 9"),
    ("hash:ip,port family inet6", b"add s 2001:db8::12,tcp:443 timeout 2147483"),
    ("hash:net family inet6", b"add s 2001:db8:12::/48 timeout 5"),
])
def test_a_plain_line_with_any_byte_is_read_the_same_by_both_readers(kind: str, line: bytes) -> None:
    for position, byte in itertools.product(range(len(line)), (0, 9, *b" ,-./0:59an", 0x7F, 0x80, 0xB0, 0xB1, 0xCF, 0xFF)):
        text = f"create s {kind} timeout 0 counters\n".encode() + line[:position] + bytes([byte]) + line[position + 1:]
        assert outcome(SetStore(), text) == outcome(SlowStore(), text), text


def outcome(store: SetStore, text: bytes) -> tuple[str, list[str]]:
    """The complaint, and what the store holds."""
    try:
        store.restore(text, SECOND)
    except SetError as error:
        return str(error), saved(store, now_ns=SECOND)
    return "", saved(store, now_ns=SECOND)


def test_rules_with_sets_print_back() -> None:
    text = ("-A INPUT -m set --match-set s src -m set ! --match-set t dst,dst --return-nomatch ! --update-counters --bytes-gt 7 -j ACCEPT\n"
            "-A INPUT -j SET --add-set s src --exist --timeout 7 --del-set t src,dst\n")
    assert text in print_ruleset(parse_save(f"*filter\n{text}COMMIT\n"))


@pytest.mark.parametrize(("rule", "complaint"), [
    ("-m set --packets-gt 4", "--match-set"), ("-m set --match-set s sorc", "src"), ("-m set --match-set s " + "src," * 6 + "src", "6"),
    ("-m set --match-set s src --packets-gt 4 --packets-lt 4", "only one of"), ("-m set --match-set s", "--match-set"),
    ("-m set --match-set s src ! --packets-gt 4", "negated"), ("-j SET --exist", "--add-set"), ("-j SET --del-set s src --exist", "--add-set"),
    ("-j SET --map-set s src", "mangle"), ("-j SET", "--add-set"),
])
def test_rules_that_cannot_be(rule: str, complaint: str) -> None:
    with pytest.raises(RulesError, match=complaint):
        Firewall(store_with("create s hash:ip"), rule)
