"""The rule language: each line is `input;what it is printed as, = for the same;OK` or `input;part of the complaint;FAIL`."""
from __future__ import annotations

import pytest

from pyfw.rules.language.iptables import parse_rule
from pyfw.rules.language.printing import print_rule
from pyfw.rules.model import RulesError

HEADER = """
-s 10.0.0.0/8;=;OK
-s 10.1.2.3;-s 10.1.2.3/32;OK
-s 10.1.2.3/24;-s 10.1.2.0/24;OK
-s 10.0.0.0/255.255.0.0;-s 10.0.0.0/16;OK
-s 10.0.0.0/255.0.255.0;=;OK
-s 10/8;-s 10.0.0.0/8;OK
-s 10.1;-s 10.1.0.0/32;OK
-s 1.1.1.1/0;-4;OK
-s ::/0;-6;OK
! -s 10.0.0.1;! -s 10.0.0.1/32;OK
-s ! 10.0.0.1;! -s 10.0.0.1/32;OK
-s fe80::1/64 -d 2001:DB8:0:0::1;-s fe80::/64 -d 2001:db8::1/128;OK
-s ::ffff:1.2.3.4;-s ::ffff:1.2.3.4/128;OK
-s fe80::/ffff:0:ffff::;=;OK
--source 1.1.1.1 --destination 2.2.2.2;-s 1.1.1.1/32 -d 2.2.2.2/32;OK
--src 1.1.1.1 --dst 2.2.2.2;-s 1.1.1.1/32 -d 2.2.2.2/32;OK
-s 10.0.0.0/33;prefix length 33 is out of range: 0 to 32;FAIL
-s ::1/129;prefix length 129 is out of range: 0 to 128;FAIL
-s 10.0.0.256;not an address;FAIL
-s 10.0.0.0/255.a.0.0;neither a prefix length;FAIL
-s example.org;names are not resolved;FAIL
-s $LAN;variable $LAN has no value;FAIL
-s;-s needs a value;FAIL
-s -d 10.0.0.1;-s needs a value, and -d follows;FAIL
-s 1.1.1.1 -s 2.2.2.2;-s is given twice;FAIL
! -s 1.1.1.1,2.2.2.2;takes one address, not a list;FAIL
! -s 0.0.0.0/0;would never match;FAIL
-s 1.1.1.1,;an address is missing;FAIL
-s 10.0.0.1 -d ::1;different families;FAIL
! ! -s 1.1.1.1;one `!` is enough;FAIL
! -s ! 1.1.1.1;one `!` is enough;FAIL
-s 1.1.1.1 !;before the option it negates;FAIL
-i eth+ -o eth1;=;OK
! -i eth0;=;OK
-i ! eth0;! -i eth0;OK
-i + -o +;;OK
--in-interface eth0 --out-interface eth1;-i eth0 -o eth1;OK
! -i +;would never match;FAIL
-i aaaaaaaaaaaaaaaa;longer than 15 bytes;FAIL
-i "a b";not an interface's name;FAIL
-i "";name is empty;FAIL
-i <interface>;not an interface's name;FAIL
-p tcp;=;OK
-p TCP;-p tcp;OK
-p 6;-p tcp;OK
-p 47;-p gre;OK
-p 200;=;OK
-p icmpv6;-p ipv6-icmp;OK
-p all;;OK
-p 0;;OK
! -p tcp;=;OK
--protocol udp;-p udp;OK
! -p all;would never match;FAIL
-p 256;out of range: 0 to 255;FAIL
-p tcpp;did you mean tcp?;FAIL
-p tcp -p udp;-p is given twice;FAIL
-f;=;OK
! -f;=;OK
-f -s ::1;would never match;FAIL
-j DROP -p tcp -s 1.1.1.1;-s 1.1.1.1/32 -p tcp -j DROP;OK
"""

MATCHES = """
-p tcp --dport 22;-p tcp -m tcp --dport 22;OK
-p tcp -m tcp --dport 22;=;OK
-p udp --dport 53 --sport 1024:;-p udp -m udp --sport 1024:65535 --dport 53;OK
-p udplite --dport 5;-p udplite -m udplite --dport 5;OK
-p sctp ! --dport :80;-p sctp -m sctp ! --dport 0:80;OK
-p tcp --source-port 1 --destination-port 2;-p tcp -m tcp --sport 1 --dport 2;OK
-p tcp --dport http;-p tcp -m tcp --dport 80;OK
-p tcp --dport ssh:http;-p tcp -m tcp --dport 22:80;OK
-p tcp --dport 0x50;-p tcp -m tcp --dport 80;OK
-p tcp --dport 0:65535;-p tcp -m tcp;OK
--protocol=tcp --dport=22;-p tcp -m tcp --dport 22;OK
-p tcp -m tcp --dport 1:9 -m tcp ! --dport 2;=;OK
-p tcp --dport 70000;port 70000 is out of range: 0 to 65535;FAIL
-p tcp --dport 30:20;write 20:30;FAIL
-p tcp --dport 22,80;is a list;FAIL
-p tcp --dport nonesuch;neither a port;FAIL
-p tcp --dport 09;octal;FAIL
-p tcp --dport 1 --dport 2;--dport is given twice;FAIL
-p tcp ! --dport 0:65535;would never match;FAIL
-p tcp --tcp-option 2;-p tcp -m tcp --tcp-option 2;OK
-p tcp --syn ! --tcp-option 8 --dport 5;-p tcp -m tcp --dport 5 ! --tcp-option 8 --tcp-flags FIN,SYN,RST,ACK SYN;OK
-p tcp --tcp-option 0;1 to 255;FAIL
-m owner --uid-owner 10-0;write 0-10;FAIL
-m string --string x --algo bm --from 10 --to 5;--from 10 is behind --to 5;FAIL
-m hashlimit --hashlimit-upto 5/s --hashlimit-name a/b;cannot be a list's name;FAIL
-m hashlimit --hashlimit-upto 5/s --hashlimit-name "";cannot be a list's name;FAIL
-m recent --set --name ..;cannot be a list's name;FAIL
-m recent --set --rttl;go with --rcheck and --update;FAIL
-m recent --set --mask ٣;is not an address;FAIL
-m connlimit ! --connlimit-above 3 --connlimit-mask 24;-m connlimit --connlimit-upto 3 --connlimit-mask 24 --connlimit-saddr;OK
-m connlimit ! --connlimit-upto 3 --connlimit-mask 24;-m connlimit --connlimit-above 3 --connlimit-mask 24 --connlimit-saddr;OK
-s 1.1.1.1 -m connlimit --connlimit-above 3 --connlimit-mask 33;-s 1.1.1.1/32 -m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr;OK
-m connbytes --connbytes :5 --connbytes-dir both --connbytes-mode bytes;-m connbytes --connbytes 0:5 --connbytes-mode bytes --connbytes-dir both;OK
-m helper --helper "";=;OK
-s 10.0.0.0/11111111111;out of range: 0 to 32;FAIL
--dport 22;--dport needs its protocol before it: -p tcp or;FAIL
--dport 22 -p tcp;--dport needs its protocol before it;FAIL
! -p tcp --dport 22;--dport needs its protocol before it;FAIL
-m tcp --dport 22;match tcp needs -p tcp;FAIL
-p udp -m tcp --dport 22;match tcp needs -p tcp;FAIL
-p icmp --dport 22;--dport needs its protocol before it;FAIL
-p tcp --syn;-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN;OK
-p tcp ! --syn;-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN;OK
-p tcp --tcp-flags ALL NONE;-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE;OK
-p tcp --tcp-flags syn,fin SYN;-p tcp -m tcp --tcp-flags FIN,SYN SYN;OK
-p tcp --tcp-flags ! SYN,RST SYN;-p tcp -m tcp ! --tcp-flags SYN,RST SYN;OK
-p tcp --tcp-flags SYN;--tcp-flags needs a value;FAIL
-p tcp --tcp-flags 3 1;unknown TCP flag '3';FAIL
-p tcp --syn --tcp-flags SYN SYN;given twice;FAIL
-p icmp --icmp-type 8;-p icmp -m icmp --icmp-type 8;OK
-p icmp --icmp-type echo-request;-p icmp -m icmp --icmp-type 8;OK
-p icmp --icmp-type host-unreachable;-p icmp -m icmp --icmp-type 3/1;OK
-p icmp ! --icmp-type 3/1;-p icmp -m icmp ! --icmp-type 3/1;OK
-p icmp --icmp-type any;-p icmp -m icmp --icmp-type any;OK
-p icmp --icmp-type ttl-exc;-p icmp -m icmp --icmp-type 11;OK
-p icmp --icmp-type echo-re;ambiguous: echo-reply, echo-request;FAIL
-p icmp --icmp-type echo-requst;did you mean echo-request?;FAIL
-p icmp --icmp-type 256;out of range;FAIL
-p icmp -m icmp;needs its option --icmp-type;FAIL
-p icmp --icmp-type 8 -s ::1;would never match;FAIL
-p icmpv6 --icmpv6-type echo-request;-p ipv6-icmp -m icmp6 --icmpv6-type 128;OK
-p ipv6-icmp -m icmpv6 --icmpv6-type neighbor-solicitation;-p ipv6-icmp -m icmp6 --icmpv6-type 135;OK
-p icmpv6 --icmpv6-type 1/4;-p ipv6-icmp -m icmp6 --icmpv6-type 1/4;OK
-p icmpv6 --icmpv6-type any;unknown ICMP type 'any';FAIL
-m state --state NEW;=;OK
-m state --state NEW,;-m state --state NEW;OK
-m state --state new,Established;-m state --state NEW,ESTABLISHED;OK
-m state ! --state RELATED,INVALID;-m state ! --state INVALID,RELATED;OK
-m state --state ESTABLISHD;did you mean ESTABLISHED?;FAIL
-m state --state SNAT;unknown state 'SNAT';FAIL
-m state;-m state needs its option --state;FAIL
--state NEW;--state needs its match before it: -m state;FAIL
-m conntrack --ctstate DNAT,RELATED;-m conntrack --ctstate RELATED,DNAT;OK
-m conntrack --ctstate NEW -m conntrack ! --ctstate INVALID;=;OK
-m conntrack --ctstate NEW -p tcp --dport 5;-p tcp -m conntrack --ctstate NEW -m tcp --dport 5;OK
-m comment --comment hello;=;OK
-m comment --comment 'a "b" \\ c';-m comment --comment "a \\"b\\" \\\\ c";OK
-m comment --comment "it's";-m comment --comment "it\\'s";OK
-m comment --comment "";=;OK
-m comment --comment "-x";-m comment --comment -x;OK
! -m comment --comment x;cannot stand before -m;FAIL
-m comment ! --comment x;--comment cannot be negated;FAIL
-m commnt --comment x;did you mean comment?;FAIL
-m nfacct;there is no match 'nfacct';FAIL
--sour 1.1.1.1;-s 1.1.1.1/32;OK
foo;an option is expected here;FAIL
"-p" tcp;-p tcp;OK
–dport 22;begins with a typographic dash; write --dport;FAIL
"""

TARGETS = """
-j ACCEPT;=;OK
-j DROP;=;OK
-j RETURN;=;OK
--jump ACCEPT;-j ACCEPT;OK
-j guests;=;OK
-g guests;=;OK
--goto guests;-g guests;OK
-j REJECT;=;OK
-j REJECT --reject-with port-unreach;-j REJECT;OK
-s 10.0.0.1 -j REJECT;-s 10.0.0.1/32 -j REJECT --reject-with icmp-port-unreachable;OK
-s ::1 -j REJECT;-s ::1/128 -j REJECT --reject-with icmp6-port-unreachable;OK
-j REJECT --reject-with host-prohib;-j REJECT --reject-with icmp-host-prohibited;OK
-j REJECT --reject-with icmp-admin;-j REJECT --reject-with icmp-admin-prohibited;OK
-j REJECT --reject-with no-route;-j REJECT --reject-with icmp6-no-route;OK
-j REJECT --reject-with icmp6-policy-fail;=;OK
-p tcp -j REJECT --reject-with tcp-reset;=;OK
-p tcp -j REJECT --reject-with tcp-rst;-p tcp -j REJECT --reject-with tcp-reset;OK
-j REJECT --reject-with tcp-reset;say -p tcp;FAIL
! -p tcp -j REJECT --reject-with tcp-reset;say -p tcp;FAIL
-j REJECT --reject-with icmp-port-unreachble;did you mean icmp-port-unreachable?;FAIL
-s ::1 -j REJECT --reject-with icmp-port-unreachable;would never match;FAIL
--reject-with tcp-reset -j REJECT;to be named before it;FAIL
-j LOG;=;OK
-j LOG --log-prefix "x: " --log-level info;-j LOG --log-prefix "x: " --log-level 6;OK
-j LOG --log-level warning;-j LOG;OK
-j LOG --log-uid --log-ip-options --log-tcp-options --log-tcp-sequence;-j LOG --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid;OK
-j LOG --log-prefix aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;longer than 29 bytes;FAIL
-j LOG --log-level 8;out of range: 0 to 7;FAIL
-j LOG --log-level loud;unknown log level;FAIL
-j DROP -j ACCEPT;has DROP already;FAIL
! -j DROP;cannot stand before -j;FAIL
-g ACCEPT;write -j ACCEPT;FAIL
-j MASQUERADE;keep this rule in its nat table;FAIL
-j NOTRACK;belongs in table raw, not in filter;FAIL
-j CT --notrack;belongs in table raw, not in filter;FAIL
-j;-j needs a value;FAIL
"""

RAW = """
-p udp -j NOTRACK;=;OK
-p udp -j CT --notrack;=;OK
-p tcp --dport 21 -j CT --helper ftp;-p tcp -m tcp --dport 21 -j CT --helper ftp;OK
-j LOG;=;OK
-j CT;one of --notrack and --helper;FAIL
-j CT --notrack --helper ftp;one of --notrack and --helper;FAIL
-j REJECT;belongs in table filter, not in raw;FAIL
"""


def cases(text: str) -> list[tuple[str, str, str]]:
    return [tuple(part.strip() for part in (line.split(";", 1)[0], *line.split(";", 1)[1].rsplit(";", 1)))
            for line in text.strip().splitlines()]


def check(table: str, given: str, expected: str, outcome: str) -> None:
    if outcome == "FAIL":
        with pytest.raises(RulesError) as caught:
            parse_rule(given, table=table)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    rules = parse_rule(given, table=table)
    assert len(rules) == 1
    if expected in ("-4", "-6"):                # says nothing but the family
        assert (print_rule(rules[0]), rules[0].family) == ("", int(expected[1]))
        return
    printed = print_rule(rules[0])
    assert printed == (given if expected == "=" else expected)
    assert parse_rule(f"-A chain {printed}", table=table, family=rules[0].family) == rules


@pytest.mark.parametrize(("given", "expected", "outcome"), cases(HEADER + MATCHES.lstrip() + TARGETS.lstrip()))
def test_filter_rule(given: str, expected: str, outcome: str) -> None:
    check("filter", given, expected, outcome)


@pytest.mark.parametrize(("given", "expected", "outcome"), cases(RAW))
def test_raw_rule(given: str, expected: str, outcome: str) -> None:
    check("raw", given, expected, outcome)


LOCAL_IN, LOCAL_OUT = "-m addrtype --src-type LOCAL --limit-iface-in", "-m addrtype --src-type LOCAL --limit-iface-out"


@pytest.mark.parametrize(("chain", "option", "allowed"), [
    ("INPUT", LOCAL_IN, True), ("INPUT", LOCAL_OUT, False), ("OUTPUT", LOCAL_IN, False), ("OUTPUT", LOCAL_OUT, True),
    ("FORWARD", LOCAL_OUT, True),
    ("INPUT", "-i eth0", True), ("INPUT", "-o eth0", False), ("FORWARD", "-i eth0", True), ("FORWARD", "-o eth0", True),
    ("OUTPUT", "-i eth0", False), ("OUTPUT", "-o eth0", True), ("guests", "-i eth0 -o eth1", True)])
def test_interfaces_of_a_chain(chain: str, option: str, allowed: bool) -> None:
    if allowed:
        assert parse_rule(option, chain=chain)
    else:
        with pytest.raises(RulesError, match=f"cannot be used in {chain}"):
            parse_rule(option, chain=chain)


def test_address_lists_make_a_rule_for_each_pair() -> None:
    rules = parse_rule("-s 10.0.0.0/8,192.0.2.1 -d 1.1.1.1,2.2.2.2 -j DROP")
    assert [print_rule(rule) for rule in rules] == [
        "-s 10.0.0.0/8 -d 1.1.1.1/32 -j DROP", "-s 10.0.0.0/8 -d 2.2.2.2/32 -j DROP",
        "-s 192.0.2.1/32 -d 1.1.1.1/32 -j DROP", "-s 192.0.2.1/32 -d 2.2.2.2/32 -j DROP"]


def test_address_lists_of_both_families_pair_within_each() -> None:
    rules = parse_rule("-s 10.0.0.0/8,fd00::/8 -d 1.1.1.1,2001:db8::1 -j REJECT")
    assert [(rule.family, print_rule(rule)) for rule in rules] == [
        (4, "-s 10.0.0.0/8 -d 1.1.1.1/32 -j REJECT --reject-with icmp-port-unreachable"),
        (6, "-s fd00::/8 -d 2001:db8::1/128 -j REJECT --reject-with icmp6-port-unreachable")]


@pytest.mark.parametrize(("rule", "family"), [
    ("-p tcp", None), ("-s 10.0.0.1", 4), ("-d ::1", 6), ("-p icmp --icmp-type 8", 4), ("-p icmpv6 --icmpv6-type 128", 6),
    ("-p icmp", None), ("-f", 4), ("-j REJECT", None), ("-j REJECT --reject-with icmp-net-prohibited", 4),
    ("-j REJECT --reject-with no-route", 6), ("-4 -p tcp", 4), ("-6 -p tcp", 6)])
def test_family_a_rule_is_bound_to(rule: str, family: int | None) -> None:
    assert parse_rule(rule)[0].family == family


def test_plain_reject_is_printed_for_a_family() -> None:
    rule, = parse_rule("-j REJECT")
    assert [print_rule(rule, family) for family in (4, 6)] == [
        "-j REJECT --reject-with icmp-port-unreachable", "-j REJECT --reject-with icmp6-port-unreachable"]


def test_counters_stand_before_the_target() -> None:
    rule, = parse_rule("-p tcp -j DROP")
    assert print_rule(rule, counters=(3, 180)) == "-p tcp -c 3 180 -j DROP"
