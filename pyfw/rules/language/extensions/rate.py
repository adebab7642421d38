"""How often, how many, how recently.  iptables-extensions(8): limit, hashlimit, connlimit, recent, statistic."""
from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyfw.rules import values
from pyfw.rules.code import RuleCode
from pyfw.rules.language.kinds import MatchKind, Option, flag
from pyfw.rules.model import Match, NotInPyfw, Setting
from pyfw.rules.xt.rate import COMMANDS, MODES, ConnLimitTest, HashLimitTest, LimitTest, RecentTest, StatisticTest

UNITS = {"day": 86400, "hour": 3600, "min": 60, "sec": 1}
FULL_UNITS = {"day": "day", "hour": "hour", "minute": "min", "second": "sec"}
LIMIT_SCALE = 10_000            # XT_LIMIT_SCALE: periods are in 1/10,000 s
HASHLIMIT_SCALE = 1_000_000     # XT_HASHLIMIT_SCALE_v2
DEFAULT_BURST = 5
WHOLE_ADDRESS = {4: 32, 6: 128}
MAX_32 = 2 ** 32 - 1


def parse_rate(text: str, scale: int) -> int:
    """`3/hour`: how many in a unit, which is a second if left out; as the period between two in 1/scale s."""
    number, slash, unit = text.partition("/")
    units = [full for full in FULL_UNITS if unit and full.startswith(unit.lower())]
    if not re.fullmatch(r"[0-9]{1,9}", number) or (slash and not units):
        raise ValueError(f"bad rate {text!r}; write a number and a unit, as 5/second, 3/minute, 10/hour, 1/day")
    seconds = UNITS[FULL_UNITS[units[0]]] if units else 1
    if int(number) == 0 or int(number) / seconds > scale:
        raise ValueError(f"rate {text} is {'none' if int(number) == 0 else 'too fast'}; the largest is {scale}/second")
    return scale * seconds // int(number)


def print_rate(period: int, scale: int) -> str:
    """In the smallest unit in which it is a whole number, as iptables prints it."""
    unit = unit_of(period, scale)
    return f"{UNITS[unit] * scale // period}/{unit}"


def unit_of(period: int, scale: int) -> str:
    chosen, *others = UNITS
    for unit in others:
        if period > UNITS[unit] * scale or UNITS[unit] * scale // period < UNITS[unit] * scale % period:
            break
        chosen = unit
    return chosen


parse_limit, print_limit = partial(parse_rate, scale=LIMIT_SCALE), partial(print_rate, scale=LIMIT_SCALE)
print_hash_rate = partial(print_rate, scale=HASHLIMIT_SCALE)


def parse_hash_rate(text: str) -> int:
    if re.fullmatch(r"[0-9]+[km]?b(/.*)?", text.lower()):
        raise NotInPyfw(f"{text!r} counts bytes; pyfw's hashlimit counts packets")
    return parse_rate(text, HASHLIMIT_SCALE)


def parse_burst(text: str) -> int:
    burst = values.parse_number(text, 10_000, "burst")
    if burst == 0:
        raise ValueError("a burst is 1 at least")
    return burst


def with_defaults(match: Match, options: tuple[Option, ...], defaults: dict[str, Any]) -> Match:
    """The match with settings that were left out, in the order of its options."""
    given = {setting.option: setting for setting in match.settings}
    given = {option: Setting(option, value) for option, value in defaults.items()} | given
    return replace(match, settings=tuple(given[option.name] for option in options if option.name in given))


def value_of(match: Match, option: str, default: Any = None) -> Any:
    setting = match.get(option)
    return default if setting is None else setting.value


# -- limit --------------------------------------------------------------------------------------------------------------

DEFAULT_PERIOD = parse_limit("3/hour")


def compile_limit(match: Match, code: RuleCode) -> None:
    period = value_of(match, "--limit", DEFAULT_PERIOD)
    code.tests.append(LimitTest(period * (10 ** 9 // LIMIT_SCALE), value_of(match, "--limit-burst", DEFAULT_BURST)))


def show_limit(match: Match, numeric: bool) -> str:
    return (f"limit: avg {print_limit(value_of(match, '--limit', DEFAULT_PERIOD))} "
            f"burst {value_of(match, '--limit-burst', DEFAULT_BURST)}")


# -- hashlimit ----------------------------------------------------------------------------------------------------------

def parse_modes(text: str) -> tuple[str, ...]:
    parts = text.lower().split(",")
    unknown = [part for part in parts if part not in MODES]
    if unknown:
        raise ValueError(f"unknown mode {unknown[0]!r}; there are {', '.join(MODES)}")
    return tuple(mode for mode in MODES if mode in parts)


def parse_prefix(text: str) -> int:
    return values.parse_number(text, 128, "prefix length")


def prefix_mask(prefix: int | None) -> bytes:
    """Of an address in the first bytes of 16."""
    bits = 128 if prefix is None else prefix
    return (((1 << bits) - 1) << (128 - bits)).to_bytes(16, "big")


def check_hashlimit(match: Match) -> None:
    given = [name for name in ("--hashlimit-upto", "--hashlimit-above") if match.get(name)]
    if len(given) != 1 or not match.get("--hashlimit-name"):
        raise ValueError("hashlimit needs --hashlimit-name and one of --hashlimit-upto and --hashlimit-above")


def settle_hashlimit(match: Match, family: int | None) -> Match:
    """A key is forgotten after a unit of its rate, unless a time is given."""
    expires = default_expiry_ms(match)
    kept = replace(match, settings=tuple(setting for setting in match.settings
                                         if (setting.option, setting.value) != ("--hashlimit-htable-expire", expires)))
    return with_defaults(kept, HASHLIMIT_OPTIONS, {"--hashlimit-burst": DEFAULT_BURST})


def default_expiry_ms(match: Match) -> int:
    rate = match.get("--hashlimit-upto") or match["--hashlimit-above"]
    return 1000 * UNITS[unit_of(rate.value, HASHLIMIT_SCALE)]


def compile_hashlimit(match: Match, code: RuleCode) -> None:
    above = match.get("--hashlimit-above") is not None
    period = value_of(match, "--hashlimit-above" if above else "--hashlimit-upto")
    size = value_of(match, "--hashlimit-htable-size", 8192)
    code.tests.append(HashLimitTest(
        match["--hashlimit-name"].value, period * (10 ** 9 // HASHLIMIT_SCALE),
        value_of(match, "--hashlimit-burst", DEFAULT_BURST), value_of(match, "--hashlimit-mode", ()),
        prefix_mask(value_of(match, "--hashlimit-srcmask")), prefix_mask(value_of(match, "--hashlimit-dstmask")),
        max(size, value_of(match, "--hashlimit-htable-max", 8 * size)),
        value_of(match, "--hashlimit-htable-expire", default_expiry_ms(match)) * 1_000_000, above))


def show_hashlimit(match: Match, numeric: bool) -> str:
    above = match.get("--hashlimit-above")
    rate = print_hash_rate((above or match["--hashlimit-upto"]).value)
    words = [f"limit: {'above' if above else 'up to'} {rate}", f"burst {value_of(match, '--hashlimit-burst', DEFAULT_BURST)}"]
    for option, word in SHOWN_HASHLIMIT.items():
        if setting := match.get(option):
            words.append(f"{word} {'-'.join(setting.value) if option == '--hashlimit-mode' else setting.value}")
    return " ".join(words)


SHOWN_HASHLIMIT = {
    "--hashlimit-mode": "mode", "--hashlimit-htable-size": "htable-size", "--hashlimit-htable-max": "htable-max",
    "--hashlimit-htable-gcinterval": "htable-gcinterval", "--hashlimit-htable-expire": "htable-expire",
    "--hashlimit-srcmask": "srcmask", "--hashlimit-dstmask": "dstmask",
}


# -- connlimit ----------------------------------------------------------------------------------------------------------

def check_connlimit(match: Match) -> None:
    if bool(match.get("--connlimit-upto")) == bool(match.get("--connlimit-above")):
        raise ValueError("connlimit needs one of --connlimit-upto and --connlimit-above")
    if match.get("--connlimit-saddr") and match.get("--connlimit-daddr"):
        raise ValueError("connlimit counts by --connlimit-saddr or by --connlimit-daddr")


def connlimit_parts(match: Match) -> tuple[int, int | None, bool, bool]:
    """(limit, prefix length or None for the whole address, by source, above)"""
    above = match.get("--connlimit-above")
    given = match.get("--connlimit-upto") or match["--connlimit-above"]
    return (given.value, value_of(match, "--connlimit-mask"), match.get("--connlimit-daddr") is None,
            (above is not None) != given.inverted)


def settle_connlimit(match: Match, family: int | None) -> Match:
    side = "--connlimit-daddr" if match.get("--connlimit-daddr") else "--connlimit-saddr"
    settled = with_defaults(match, CONNLIMIT_OPTIONS, ({"--connlimit-mask": WHOLE_ADDRESS[family]} if family else {}) | {side: True})
    return replace(settled, settings=tuple(plain_connlimit(setting, family) for setting in settled.settings))


def plain_connlimit(setting: Setting, family: int | None) -> Setting:
    """As iptables-save has it: `! --connlimit-above` is --connlimit-upto, and a mask is no longer than the address."""
    if setting.inverted:
        return Setting({"--connlimit-above": "--connlimit-upto", "--connlimit-upto": "--connlimit-above"}[setting.option], setting.value)
    if setting.option == "--connlimit-mask" and family and setting.value > WHOLE_ADDRESS[family]:
        return Setting(setting.option, WHOLE_ADDRESS[family])
    return setting


def compile_connlimit(match: Match, code: RuleCode) -> None:
    limit, prefix, by_source, above = connlimit_parts(match)
    code.tests.append(ConnLimitTest(limit, prefix_mask(prefix), by_source, above))


def show_connlimit(match: Match, numeric: bool) -> str:
    limit, prefix, by_source, above = connlimit_parts(match)
    return f"#conn {'src' if by_source else 'dst'}/{32 if prefix is None else prefix} {'>' if above else '<='} {limit}"


# -- recent -------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class AddressMask:
    """In the first bytes of 16; of one family, as an address is."""

    family: int
    bits: bytes

    def __str__(self) -> str:
        return str(ipaddress.IPv4Address(self.bits[:4]) if self.family == 4 else ipaddress.IPv6Address(self.bits))


def parse_recent_mask(text: str) -> AddressMask:
    """An address, of which inet_aton() reads `24` as 0.0.0.24."""
    try:
        plain = int(text) if re.fullmatch("[0-9]{1,10}", text) else text
        address = ipaddress.IPv4Address(plain) if isinstance(plain, int) else ipaddress.ip_address(plain)
    except ValueError:
        raise ValueError(f"mask {text!r} is not an address, as 255.255.255.0") from None
    return AddressMask(address.version, address.packed.ljust(16, b"\0"))


def whole_mask(family: int) -> AddressMask:
    return AddressMask(family, prefix_mask(WHOLE_ADDRESS[family]))


def check_recent(match: Match) -> None:
    commands = [name for name in COMMANDS if match.get(name)]
    if len(commands) != 1:
        raise ValueError(f"recent needs one of {', '.join(COMMANDS)}")
    asks = commands[0] in ("--rcheck", "--update")
    if not asks and (match.get("--seconds") or match.get("--hitcount") or match.get("--rttl")):
        raise ValueError("--seconds, --hitcount and --rttl go with --rcheck and --update")
    if match.get("--reap") and not match.get("--seconds"):
        raise ValueError("--reap needs --seconds")


def settle_recent(match: Match, family: int | None) -> Match:
    side = "--rdest" if match.get("--rdest") else "--rsource"
    mask = {"--mask": whole_mask(family)} if family else {}
    return with_defaults(match, RECENT_OPTIONS, mask | {"--name": "DEFAULT", side: True})


def compile_recent(match: Match, code: RuleCode) -> None:
    command = next(setting for name in COMMANDS if (setting := match.get(name)))
    code.tests.append(RecentTest(
        value_of(match, "--name", "DEFAULT"), command.option, value_of(match, "--mask", whole_mask(6)).bits,
        match.get("--rdest") is None, value_of(match, "--seconds", 0), value_of(match, "--hitcount", 0),
        match.get("--rttl") is not None, match.get("--reap") is not None, command.inverted))


def show_recent(match: Match, numeric: bool) -> str:
    command = next(setting for name in COMMANDS if (setting := match.get(name)))
    shown = {"--set": "SET", "--rcheck": "CHECK", "--update": "UPDATE", "--remove": "REMOVE"}[command.option]
    words = [f"{'! ' if command.inverted else ''}recent: {shown}"]
    words += [f"{word} {match[option].value}" for option, word in (("--seconds", "seconds:"), ("--hitcount", "hit_count:"))
              if match.get(option)]
    words += [word for option, word in (("--reap", "reap"), ("--rttl", "TTL-Match")) if match.get(option)]
    words.append(f"name: {value_of(match, '--name', 'DEFAULT')}")
    words.append(f"side: {'dest' if match.get('--rdest') else 'source'}")
    words.append(f"mask: {value_of(match, '--mask', whole_mask(4))}")
    return " ".join(words)


# -- statistic ------------------------------------------------------------------------------------------------------------

PROBABILITY_ONE = 0x80000000


def parse_probability(text: str) -> int:
    if not re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]{1,3})?", text) or not 0 <= float(text) <= 1:
        raise ValueError(f"probability {text!r} is not a number from 0 to 1")
    return round(float(text) * PROBABILITY_ONE)


def print_probability(value: int) -> str:
    return f"{value / PROBABILITY_ONE:.11f}"


def parse_statistic_mode(text: str) -> str:
    if text not in ("random", "nth"):
        raise ValueError(f"unknown mode {text!r}; there are random and nth")
    return text


def check_statistic(match: Match) -> None:
    mode: str | None = value_of(match, "--mode")
    wanted = {"random": "--probability", "nth": "--every"}.get(mode or "")
    if wanted is None or not match.get(wanted):
        raise ValueError("statistic needs --mode random with --probability, or --mode nth with --every")
    if (mode == "random" and (match.get("--every") or match.get("--packet"))) or (mode == "nth" and match.get("--probability")):
        raise ValueError("--every and --packet go with --mode nth, --probability with --mode random")
    if mode == "nth" and (not match.get("--packet") or match["--packet"].value >= match["--every"].value):
        raise ValueError("--mode nth needs --packet, which counts from 0 to one less than --every")


def compile_statistic(match: Match, code: RuleCode) -> None:
    inverted = any(setting.inverted for setting in match.settings)
    code.tests.append(StatisticTest(value_of(match, "--probability", 0), value_of(match, "--every", 0),
                                    value_of(match, "--packet", 0), inverted))


def show_statistic(match: Match, numeric: bool) -> str:
    sign = "! " if any(setting.inverted for setting in match.settings) else ""
    if probability := match.get("--probability"):
        return f"statistic mode random {sign}probability {print_probability(probability.value)}"
    packet = value_of(match, "--packet", 0)
    return f"statistic mode nth {sign}every {match['--every'].value}" + (f" packet {packet}" if packet else "")


def positive(what: str, largest: int = MAX_32) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = values.parse_number(text, largest, what)
        if number == 0:
            raise ValueError(f"{what} is 1 at least")
        return number
    return parse


def parse_file_name(text: str, longest: int) -> str:
    """The kernel makes a file of this name in /proc."""
    if "/" in text or text in ("", ".", ".."):
        raise ValueError(f"{text!r} cannot be a list's name: it is to be a file's name, too")
    return values.parse_text(text, longest, "the name")

LIMIT_OPTIONS = (
    Option("--limit", parse_limit, negatable=False, print=print_limit),
    Option("--limit-burst", parse_burst, negatable=False, trivial=DEFAULT_BURST.__eq__),
)
HASHLIMIT_OPTIONS = (
    Option("--hashlimit-upto", parse_hash_rate, ("--hashlimit",), negatable=False, print=print_hash_rate),
    Option("--hashlimit-above", parse_hash_rate, negatable=False, print=print_hash_rate),
    Option("--hashlimit-burst", parse_burst, negatable=False),
    Option("--hashlimit-mode", parse_modes, negatable=False, print=",".join),
    Option("--hashlimit-name", partial(parse_file_name, longest=254), negatable=False, print=values.quote),
    Option("--hashlimit-htable-size", positive("size", 1 << 20), negatable=False),
    Option("--hashlimit-htable-max", positive("number of entries", 1 << 20), negatable=False),
    Option("--hashlimit-htable-gcinterval", positive("interval in ms"), negatable=False),
    Option("--hashlimit-htable-expire", positive("time in ms"), negatable=False),
    Option("--hashlimit-srcmask", parse_prefix, negatable=False),
    Option("--hashlimit-dstmask", parse_prefix, negatable=False),
)
CONNLIMIT_OPTIONS = (
    Option("--connlimit-upto", partial(values.parse_number, largest=MAX_32, what="number of connections")),
    Option("--connlimit-above", partial(values.parse_number, largest=MAX_32, what="number of connections")),
    Option("--connlimit-mask", parse_prefix, negatable=False),
    flag("--connlimit-saddr"), flag("--connlimit-daddr"),
)
RECENT_OPTIONS = (
    *(Option(name, lambda: True, words=0, print=lambda value: "") for name in COMMANDS),
    Option("--seconds", positive("seconds"), negatable=False),
    flag("--reap"),
    Option("--hitcount", positive("hit count", 255), negatable=False),
    flag("--rttl"),
    Option("--name", partial(parse_file_name, longest=63), negatable=False, print=values.quote),
    Option("--mask", parse_recent_mask, negatable=False),
    flag("--rsource"), flag("--rdest"),
)

MATCHES: tuple[MatchKind, ...] = (
    MatchKind("limit", LIMIT_OPTIONS, compile_limit, show=show_limit, needs_option=False,
              settle=lambda match, family: with_defaults(match, LIMIT_OPTIONS, {"--limit": DEFAULT_PERIOD})),
    MatchKind("hashlimit", HASHLIMIT_OPTIONS, compile_hashlimit, show=show_hashlimit, check=check_hashlimit, settle=settle_hashlimit),
    MatchKind("connlimit", CONNLIMIT_OPTIONS, compile_connlimit, show=show_connlimit, check=check_connlimit, settle=settle_connlimit),
    MatchKind("recent", RECENT_OPTIONS, compile_recent, show=show_recent, check=check_recent, settle=settle_recent),
    MatchKind("statistic", compile=compile_statistic, show=show_statistic, check=check_statistic, options=(
        Option("--mode", parse_statistic_mode, negatable=False),
        Option("--probability", parse_probability, print=print_probability),
        Option("--every", positive("every")),
        Option("--packet", partial(values.parse_number, largest=MAX_32, what="packet"), negatable=False),
    )),
)
