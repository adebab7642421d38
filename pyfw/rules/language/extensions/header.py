"""The IP header's own tests, ports, and ICMP types.  iptables(8), iptables-extensions(8): tcp, udp, udplite, sctp, icmp, icmp6."""
from __future__ import annotations

from functools import partial
from typing import Any

from pyfw.rules import names, values
from pyfw.rules.code import IcmpTest, RuleCode, TransportTest
from pyfw.rules.language.kinds import MatchKind, Option
from pyfw.rules.model import Match
from pyfw.rules.values import IcmpType, Network
from pyfw.rules.xt.packet import TcpOptionTest


def is_whole_space(network: Network) -> bool:
    return network.mask == 0


IP_FIELDS = {"-s": "source", "-d": "destination", "-i": "indev", "-o": "outdev", "-p": "protocol", "-f": "fragment"}


def compile_ip(match: Match, code: RuleCode) -> None:
    for setting in match.settings:
        field = IP_FIELDS[setting.option]
        setattr(code, field, setting.value)
        code.tested.add(field)
        if setting.inverted:
            code.inverted.add(field)


IP = MatchKind("ip", needs_option=False, compile=compile_ip, options=(
    Option("-s", values.parse_networks, ("--source", "--src"), trivial=is_whole_space, several=True),
    Option("-d", values.parse_networks, ("--destination", "--dst"), trivial=is_whole_space, several=True),
    Option("-i", values.parse_interface, ("--in-interface", "--in"), trivial="+".__eq__),
    Option("-o", values.parse_interface, ("--out-interface", "--out"), trivial="+".__eq__),
    Option("-p", values.parse_protocol, ("--protocol", "--proto"), print=values.print_protocol, trivial=(0).__eq__),
    Option("-f", lambda: True, ("--fragments", "--fragment"), words=0, print=lambda value: ""),
))


def all_ports(ports: values.PortRange) -> bool:
    return (ports.low, ports.high) == (0, 65535)


SPORT = Option("--sport", values.parse_ports, ("--source-port",), trivial=all_ports)
DPORT = Option("--dport", values.parse_ports, ("--destination-port",), trivial=all_ports)


def compile_transport(match: Match, code: RuleCode) -> None:
    fields: dict[str, Any] = {"tcp": match.name == "tcp"}
    of_option = [TcpOptionTest(setting.value, setting.inverted) for setting in match.settings if setting.option == "--tcp-option"]
    for setting in match.settings:
        if field := {"--sport": "sport", "--dport": "dport", "--tcp-flags": "flags"}.get(setting.option):
            fields |= {field: setting.value, f"{field}_inverted": setting.inverted}
    code.tests += [TransportTest(**fields), *of_option]


def parse_tcp_option(text: str) -> int:
    if kind := values.parse_number(text, 255, "kind of option"):
        return kind
    raise ValueError("kinds of options are 1 to 255")


def show_transport(match: Match, numeric: bool) -> str:
    words = [match.name]
    for setting in match.settings:
        sign = "!" if setting.inverted else ""
        if setting.option == "--tcp-flags":
            flags = (f"0x{setting.value.mask:02X}/0x{setting.value.value:02X}" if numeric
                     else "/".join(map(values.print_flag_set, (setting.value.mask, setting.value.value))))
            words.append(f"flags:{sign}{flags}")
        elif setting.option == "--tcp-option":
            words.append(f"option={sign}{setting.value}")
        else:
            several = "s" if setting.value.low != setting.value.high else ""
            words.append(f"{setting.option[2]}pt{several}:{sign}{values.show_ports(setting.value, match.name, numeric)}")
    return " ".join(words)


def ports_match(name: str) -> MatchKind:
    return MatchKind(name, (SPORT, DPORT), compile_transport, show=show_transport, protocol=names.PROTOCOLS[name],
                     needs_option=False)


def compile_icmp(match: Match, code: RuleCode) -> None:
    setting = match.settings[0]
    value: IcmpType = setting.value
    low, high = (0, 255) if value.code is None else (value.code, value.code)
    any_type = match.name == "icmp" and value.type == names.ANY_ICMP_TYPE
    code.tests.append(IcmpTest(value.type, low, high, any_type, setting.inverted))


def show_icmp(match: Match, numeric: bool) -> str:
    setting, word = match.settings[0], "icmp" if match.name == "icmp" else "ipv6-icmp"
    known = names.ICMP_TYPES if match.name == "icmp" else names.ICMPV6_TYPES
    named = [name for name, meant in known.items() if IcmpType(*meant) == setting.value]
    if named and not numeric:
        return f"{word} {'!' if setting.inverted else ''}{named[0]}"
    code = "" if setting.value.code is None else f" code {setting.value.code}"
    return f"{word} !type {setting.value.type}{code}" if setting.inverted else f"{word}type {setting.value.type}{code}"


MATCHES = (
    IP,
    MatchKind("tcp", compile=compile_transport, show=show_transport, protocol=6, needs_option=False, options=(
        SPORT, DPORT,
        Option("--tcp-option", parse_tcp_option),
        Option("--tcp-flags", values.parse_tcp_flags, words=2),
        Option("--syn", lambda: values.SYN_ONLY, words=0, stored_as="--tcp-flags"),
    )),
    ports_match("udp"),
    ports_match("udplite"),
    ports_match("sctp"),
    MatchKind("icmp", compile=compile_icmp, show=show_icmp, protocol=1, family=4, options=(
        Option("--icmp-type", partial(values.parse_icmp_type, known=names.ICMP_TYPES), print=values.print_icmp_type),
    )),
    MatchKind("icmp6", compile=compile_icmp, show=show_icmp, protocol=58, family=6, aliases=("icmpv6", "ipv6-icmp"), options=(
        Option("--icmpv6-type", partial(values.parse_icmp_type, known=names.ICMPV6_TYPES)),
    )),
)
