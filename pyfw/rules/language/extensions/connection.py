"""What is known of a packet's connection.  iptables-extensions(8): state, conntrack, helper, connbytes."""
from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pyfw.enums import CtState
from pyfw.rules import names, values
from pyfw.rules.code import RuleCode
from pyfw.rules.language.kinds import MatchKind, Option
from pyfw.rules.model import Match, Setting
from pyfw.rules.values import Network, PortRange
from pyfw.rules.xt.connection import STATUSES, ConnAddressTest, ConnBytesTest, ConnTest, HelperTest

MAX_COUNT = 2 ** 64 - 1
MAX_EXPIRY_S = 2 ** 32 - 1
TRACKED = sum(1 << state for state in CtState)
CTSTATES = names.STATES | names.ADDRESS_TRANSLATION_STATES


def require_states(setting: Setting, code: RuleCode) -> None:
    wanted = setting.value & TRACKED
    code.require_state(TRACKED & ~wanted if setting.inverted else wanted)


def negation(setting: Setting) -> str:
    return "! " if setting.inverted else ""


def states_option(name: str, known: Mapping[str, int]) -> Option:
    return Option(name, partial(values.parse_states, known=known), print=partial(values.print_states, known=known))


# -- conntrack ----------------------------------------------------------------------------------------------------------

def parse_ct_protocol(text: str) -> int:
    number = values.parse_protocol(text)
    if number == 0:
        raise ValueError("a connection has a protocol: 1 to 255, or its name")
    return number


def parse_statuses(text: str) -> int:
    """NONE, or names of bits, separated by commas."""
    known = {name: bit for name, bit in STATUSES.items()} | {"NONE": 0}
    bits = 0
    for name in text.split(","):
        if name.upper() not in known:
            raise ValueError(f"unknown status {name!r}{values.suggestion(name, known)}; there are {', '.join(known)}")
        bits |= known[name.upper()]
    return bits


def print_statuses(bits: int) -> str:
    return ",".join(name for name, bit in STATUSES.items() if bits & bit) or "NONE"


def parse_expiry(text: str) -> PortRange:
    """Seconds, or a range low:high of them."""
    low, colon, high = text.partition(":")
    first = values.parse_number(low, MAX_EXPIRY_S, "seconds")
    last = values.parse_number(high, MAX_EXPIRY_S, "seconds") if colon else first
    if first > last:
        raise ValueError(f"range {text} runs backwards; write {last}:{first}")
    return PortRange(first, last)


def parse_direction(text: str) -> str:
    if text.upper() not in DIRECTIONS:
        raise ValueError(f"unknown direction {text!r}; there are ORIGINAL and REPLY")
    return text.upper()


ADDRESSES = {"--ctorigsrc": True, "--ctorigdst": False, "--ctreplsrc": False, "--ctrepldst": True}
"""Whether an option asks for the original source: pyfw translates no addresses, a reply's source is the original destination."""
DIRECTIONS = ("ORIGINAL", "REPLY")
PORTS = {"--ctorigsrcport": "sport", "--ctorigdstport": "dport", "--ctreplsrcport": "reply_sport", "--ctrepldstport": "reply_dport"}


def compile_conntrack(match: Match, code: RuleCode) -> None:
    """A packet without a connection fits, once its state does, whatever else is asked; without --ctstate it fits nothing
    (conntrack_mt())."""
    without = match.get("--ctstate") is not None
    for setting in match.settings:
        if setting.option == "--ctstate":
            require_states(setting, code)
        elif setting.option in ADDRESSES:
            network: Network = setting.value
            size = network.bits // 8
            code.tests.append(ConnAddressTest(ADDRESSES[setting.option], (network.address & network.mask).to_bytes(size, "big"),
                                              network.mask.to_bytes(size, "big"), setting.inverted, without))
        else:
            code.tests.append(ConnTest(*conn_field(setting), setting.inverted, without))


def conn_field(setting: Setting) -> tuple[str, int, int]:
    """The field that a setting asks for, the lowest and the highest value it may have."""
    value = setting.value
    match setting.option:
        case "--ctproto":
            return "protocol", value, value
        case "--ctstatus":
            return "status", value, value
        case "--ctexpire":
            return "expires", value.low, value.high
        case "--ctdir":
            number = DIRECTIONS.index(value)
            return "direction", number, number
        case option:
            return PORTS[option], value.low, value.high


def parse_conn_address(text: str) -> Network:
    """Bits outside the mask are kept, as the kernel keeps them, and compared with nothing."""
    network = values.parse_network(text)
    return Network(network.family, values.parse_address(text.partition("/")[0])[0], network.mask)


def plain_address(network: Network) -> str:
    text = str(network)
    host, _, prefix = text.partition("/")
    return host if prefix == str(network.bits) else text


CONNTRACK = MatchKind("conntrack", compile=compile_conntrack, show=lambda match, numeric: show_conntrack(match), options=(
    states_option("--ctstate", CTSTATES),
    Option("--ctproto", parse_ct_protocol),
    *(Option(name, parse_conn_address, print=plain_address) for name in ADDRESSES),
    *(Option(name, values.parse_ports) for name in PORTS),
    Option("--ctstatus", parse_statuses, print=print_statuses),
    Option("--ctexpire", parse_expiry),
    Option("--ctdir", parse_direction, negatable=False),
))


def show_conntrack(match: Match) -> str:
    printers = {option.name: option.print for option in CONNTRACK.options}
    return " ".join(f"{negation(setting)}{setting.option[2:]} {printers[setting.option](setting.value)}" for setting in match.settings)


# -- connbytes ----------------------------------------------------------------------------------------------------------

def parse_count_range(text: str) -> PortRange:
    low, colon, high = text.partition(":")
    first = values.parse_number(low, MAX_COUNT, "count") if low or not colon else 0
    last = values.parse_number(high, MAX_COUNT, "count") if high else MAX_COUNT
    if first > last:
        raise ValueError(f"range {text} runs backwards; write {last}:{first}")
    return PortRange(first, last)


def print_count_range(span: PortRange) -> str:
    return str(span.low) if span.high == MAX_COUNT else f"{span.low}:{span.high}"


def choice(text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ValueError(f"{text!r} is none of {', '.join(known)}")
    return text


def check_connbytes(match: Match) -> None:
    if len(match.settings) != 3:
        raise ValueError("connbytes needs --connbytes, --connbytes-dir and --connbytes-mode")


def compile_connbytes(match: Match, code: RuleCode) -> None:
    span, mode, direction = (match[f"--connbytes{part}"] for part in ("", "-mode", "-dir"))
    code.tests.append(ConnBytesTest(span.value.low, span.value.high, mode.value, direction.value != "reply",
                                    direction.value != "original", span.inverted))


def show_connbytes(match: Match, numeric: bool) -> str:
    span, mode, direction = (match[f"--connbytes{part}"] for part in ("", "-mode", "-dir"))
    return (f"{negation(span)}connbytes {print_count_range(span.value)} connbytes mode {mode.value} "
            f"connbytes direction {direction.value}")


def compile_helper(match: Match, code: RuleCode) -> None:
    code.tests.append(HelperTest(match.settings[0].value, match.settings[0].inverted))


def show_states(match: Match, numeric: bool) -> str:
    setting = match.settings[0]
    return f"{negation(setting)}{setting.option[2:]} {values.print_states(setting.value, names.STATES)}"


MATCHES = (
    MatchKind("state", (states_option("--state", names.STATES),), lambda match, code: require_states(match.settings[0], code),
              show=show_states),
    CONNTRACK,
    MatchKind("helper", compile=compile_helper, options=(
        Option("--helper", partial(values.parse_text, longest=29, what="the helper's name"), print=values.quote),
    ), show=lambda match, numeric: f"helper match {negation(match.settings[0])}\"{match.settings[0].value}\""),
    MatchKind("connbytes", compile=compile_connbytes, show=show_connbytes, check=check_connbytes, options=(
        Option("--connbytes", parse_count_range, print=print_count_range),
        Option("--connbytes-mode", partial(choice, known=("packets", "bytes", "avgpkt")), negatable=False),
        Option("--connbytes-dir", partial(choice, known=("original", "reply", "both")), negatable=False),
    )),
)
