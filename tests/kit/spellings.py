"""Rules at random out of the table of matches and targets, in any spelling that the table allows, for hypothesis to draw.

Knows no entry of the table by name but for what must exist before a rule can speak of it: a set, a helper.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations, product

from hypothesis import strategies as st

from pyfw.rules.language.iptables import parse_rule
from pyfw.rules.language.kinds import MatchKind, Option, TargetKind
from pyfw.rules.language.matches import IP, MATCHES, TARGETS
from pyfw.rules.model import RulesError
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.sets.store import SetStore
from pyfw.rules.values import quote

Kind = MatchKind | TargetKind

VALUES = """
0 1 2 5 7 8 24 32 46 63 100 128 255 1500 65535 70000 4294967294 010 0x10 0x10/0x1f 1:5 10: :80 3-7 1,2 6,7 1,15 80,443,1000:2000 8/0 3/1
3/hour 10/second 1/day 100/min 0.25 1.0 NEW ESTABLISHED,RELATED INVALID,UNTRACKED DNAT NONE ASSURED,CONFIRMED ORIGINAL REPLY
original reply both bytes packets avgpkt srcip srcip,dstport dstip random nth 10.0.0.1 10.0.0.0/8 192.0.2.0/24 2001:db8::1 2001:db8::/32 255.255.255.0
10.0.0.1-10.0.0.9 2001:db8::1-2001:db8::5 00:16:3e:01:02:03 LOCAL UNICAST,MULTICAST Minimize-Delay EF AF21 bm kmp |0d0a| a|41|b GET -x
08:00 22:00:01 Mon,Tue 2030-01-01 2031-02-03T04:05:06 2029 echo-request ttl-exceeded packet-too-big any tcp udp gre eth0 ppp+ ftp info debug
icmp-host-prohibited tcp-reset port-unreach no-route icmp6-addr-unreachable root
""".split()
PAIRS = [("known", "src"), ("known", "dst,src"), ("SYN,ACK", "SYN"), ("ALL", "NONE"), ("FIN,SYN", "FIN,SYN")]
ONLY_REFUSED = {"--map-set"}    # has a complaint of its own
NAMES_THAT_EXIST = {"--helper": ("ftp",)}

MATCH_KINDS: list[Kind] = [kind for kind in MATCHES.values() if kind is not IP]
TARGET_KINDS: list[Kind] = list(TARGETS.values())
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]), max_size=20)
PORT = st.integers(0, 70000)
ODD_VALUE = st.one_of(st.integers(0, 2 ** 33).map(str), st.tuples(PORT, PORT).map("{0[0]}:{0[1]}".format), TEXT)


def environment() -> RuleEnvironment:
    """What rules refer to by name, there."""
    store = SetStore()
    store.change("create", ["known", "hash:ip"], 0)
    return RuleEnvironment(NAMES_THAT_EXIST["--helper"], store)


def takes(option: Option, words: tuple[str, ...]) -> bool:
    if option.name in NAMES_THAT_EXIST:
        return words == NAMES_THAT_EXIST[option.name]
    try:
        option.parse(*words)
    except ValueError:
        return False
    return True


@cache
def values_of(kind: Kind, name: str) -> list[tuple[str, ...]]:
    """What an option takes of the words above."""
    option = next(option for option in kind.options if option.name == name)
    return [words for words in {0: [()], 1: [(value,) for value in VALUES], 2: PAIRS}[option.words] if takes(option, words)]


def options_of(kind: Kind) -> list[Option]:
    return [option for option in kind.options if option.name not in ONLY_REFUSED]


def head(kind: Kind) -> list[str]:
    if isinstance(kind, TargetKind):
        return ["-j", kind.name]
    protocol = kind.protocol or next(iter(kind.protocols), None)
    return [*(["-p", str(protocol)] if protocol else []), "-m", kind.name]


def tables_of(kind: Kind) -> tuple[str, ...]:
    return kind.tables if isinstance(kind, TargetKind) else ("filter", "raw")


def reads(tokens: list[str], table: str) -> bool:
    try:
        parse_rule(" ".join(tokens), table=table, chain="own")
    except RulesError:
        return False
    return True


def written(name: str, words: tuple[str, ...], negated: bool = False) -> list[str]:
    return [*(["!"] if negated else []), name, *map(quote, words)]


@cache
def beginnings(kind: Kind) -> list[tuple[tuple[Option, ...], list[str]]]:
    """The least that can be said with a match or target: sets of options, of which no part would do, and how one reads."""
    found: list[tuple[tuple[Option, ...], list[str]]] = []
    prefixes = [head(kind), ["-p", "tcp", *head(kind)]] if isinstance(kind, TargetKind) else [head(kind)]
    for size in range(4):
        for options in combinations(options_of(kind), size):
            if any(set(known) <= set(options) for known, _ in found):
                continue
            few = [values_of(kind, option.name)[:2] for option in options]
            lines = ([*prefix, *(token for option, words in zip(options, chosen, strict=True) for token in written(option.name, words))]
                     for prefix in prefixes for chosen in product(*few))
            if line := next((line for line in lines if reads(line, tables_of(kind)[0])), None):
                found.append((options, line))
    return found


@st.composite
def spelled(draw: Callable, kind: Kind, option: Option) -> list[str]:
    odd = option.words == 1 and draw(st.booleans()) and takes(option, (value := draw(ODD_VALUE),))
    words = (value,) if odd else draw(st.sampled_from(values_of(kind, option.name)))
    return written(draw(st.sampled_from((option.name, *option.aliases))), words, option.negatable and draw(st.booleans()))


@st.composite
def part(draw: Callable, kind: Kind, table: str) -> list[str]:
    """A match or a target with some of its options."""
    options, line = draw(st.sampled_from(beginnings(kind)))
    tokens = [*head(kind), *(token for option in options for token in draw(spelled(kind, option)))]
    if not reads(tokens, table):
        tokens = line
    further = st.lists(st.sampled_from(options_of(kind)), max_size=4, unique_by=lambda option: option.name) if kind.options else st.just([])
    for option in draw(further):
        more = [*tokens, *draw(spelled(kind, option))]
        tokens = more if reads(more, table) else tokens
    return tokens


@st.composite
def spelled_rule(draw: Callable, table: str) -> list[str]:
    """The tokens of a rule of chain `own`."""
    tokens: list[str] = []
    targets = [kind for kind in TARGET_KINDS if table in kind.tables]
    kinds = [*draw(st.lists(st.sampled_from(MATCH_KINDS), max_size=3)), *draw(st.lists(st.sampled_from(targets), max_size=1))]
    for kind in kinds:
        more = [*tokens, *draw(part(kind, table))]
        tokens = more if reads(more, table) else tokens
    return ["-A", "own", *tokens]
