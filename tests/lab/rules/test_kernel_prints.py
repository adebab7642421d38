"""What iptables-save prints is what pyfw prints: the same rules through the kernel's tools and through ours."""
from __future__ import annotations

import pytest

from lab.rules.kernel import Kernel
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset

BOTH = """
*raw
-A PREROUTING -p udp -j NOTRACK
-A PREROUTING -p udp -j CT --notrack
-A PREROUTING -i eth+ -p tcp --dport 514 -j LOG
COMMIT
*filter
:INPUT DROP [0:0]
:zebra - [0:0]
:Ape - [0:0]
:guests - [0:0]
-A INPUT -p 47
-A INPUT -p all -j ACCEPT
-A INPUT ! -p tcp -j ACCEPT
-A INPUT -p ah
-A INPUT -p 4
-A INPUT -p 200
-A INPUT -p 135
-A FORWARD -p sctp --dport 80: -j ACCEPT
-A FORWARD -p sctp ! --dport :80 --sport 5 -j ACCEPT
-A FORWARD -p tcp --syn -j ACCEPT
-A FORWARD -p tcp ! --syn -j ACCEPT
-A FORWARD -p tcp --tcp-flags ALL NONE
-A FORWARD -p tcp --tcp-flags SYN,FIN,ACK SYN
-A FORWARD -p tcp ! --tcp-flags SYN,RST,ACK,FIN SYN
-A FORWARD -p tcp --dport http
-A FORWARD -p tcp --dport ssh:http --sport 0:65535
-A FORWARD -p tcp --dport 0x50
-A FORWARD -p tcp -m tcp
-A FORWARD -p udp --source-port 1 --destination-port 2
-A FORWARD -m state --state new,Established
-A FORWARD -m state ! --state RELATED,ESTABLISHED,INVALID,NEW,UNTRACKED
-A FORWARD -m conntrack ! --ctstate RELATED,ESTABLISHED
-A FORWARD -m conntrack --ctstate SNAT,DNAT,INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED
-A FORWARD -m conntrack --ctstate NEW -m conntrack --ctstate INVALID
-A FORWARD -m comment --comment hello
-A FORWARD -m comment --comment "a \\"b\\" \\\\ c it's"
-A FORWARD -m comment --comment ""
-A FORWARD -m comment --comment x -p tcp -i eth0
-A FORWARD -m conntrack --ctstate NEW -p tcp --dport 5 -j ACCEPT
-A FORWARD -i eth+ -o + -j ACCEPT
-A FORWARD ! -i eth0 ! -o wlan+
-A FORWARD -p tcp -j REJECT --reject-with tcp-reset
-A FORWARD -j REJECT
-A FORWARD -j LOG --log-prefix "x: " --log-level info
-A FORWARD -j LOG --log-level 4
-A FORWARD -j LOG --log-level debug --log-uid --log-tcp-sequence --log-tcp-options --log-ip-options
-A FORWARD -j guests
-A OUTPUT -g guests
-A guests -j RETURN
-A guests -j Ape
-I guests -o eth0 -j DROP
-I guests 2 -p udp
COMMIT
"""
ONLY_V4 = """
*filter
-A INPUT -s 10.0.0.0/255.255.0.0 -d 1.2.3.4,5.6.7.8/8 -p tcp --sport 22
-I INPUT -s 3.3.3.3,4.4.4.4 -d 5.5.5.5,6.6.6.6
-A INPUT -s 10.1.2.3/24
-A INPUT -s 0/0
-A INPUT ! -s 10/8
-A INPUT -s 10.1 -d 10.0.0.0/255.0.255.0
-A INPUT --src 1.1.1.1 --dst 2.2.2.2
-A INPUT -f -j DROP
-A INPUT ! -f -j DROP
-A INPUT -p icmp --icmp-type any
-A INPUT -p icmp --icmp-type echo-request
-A INPUT -p icmp ! --icmp-type 3/1
-A INPUT -p icmp --icmp-type TOS-host-redirect
-A INPUT -p icmp --icmp-type 255/255
-A INPUT -p icmp --icmp-type 8/0
-A INPUT -j REJECT --reject-with host-prohib
-A INPUT -j REJECT --reject-with icmp-admin
-A INPUT -j REJECT --reject-with net-unreach
-A INPUT -j REJECT --reject-with icmp-proto-unreachable
COMMIT
"""
ONLY_V6 = """
*filter
-A INPUT -s fe80::1/64 -d 2001:DB8:0:0::1
-A INPUT -s ::/0 -d ::ffff:1.2.3.4
-A INPUT ! -s fe80::/ffff:ffff::
-A INPUT -d fe80::/ffff:0:ffff::
-A INPUT -s 1::1,2::2/16 -p icmpv6
-A INPUT -p icmpv6 --icmpv6-type echo-request
-A INPUT -p ipv6-icmp --icmpv6-type 1/4
-A INPUT -p 58 ! --icmpv6-type neighbor-solicitation
-A INPUT -p icmpv6 --icmpv6-type 255
-A INPUT -j REJECT --reject-with no-route
-A INPUT -j REJECT --reject-with adm-prohibited
-A INPUT -j REJECT --reject-with addr-unreach
-A INPUT -j REJECT --reject-with icmp6-policy-fail
-A INPUT -j REJECT --reject-with reject-route
COMMIT
"""


@pytest.mark.parametrize(("family", "text"), [(4, BOTH), (6, BOTH), (4, ONLY_V4), (6, ONLY_V6)])
def test_the_same_text_from_both(kernel: Kernel, family: int, text: str) -> None:
    kernel.restore(family, "*raw\nCOMMIT\n*filter\nCOMMIT\n")
    kernel.restore(family, text)
    printed = print_ruleset(parse_save(text), family=family)
    saved = kernel.save(family)
    assert sections(printed) == {name: lines for name, lines in sections(saved).items() if name in sections(printed)}


@pytest.mark.parametrize(("family", "text"), [(4, BOTH), (6, BOTH), (4, ONLY_V4), (6, ONLY_V6)])
def test_the_kernel_takes_what_pyfw_prints(kernel: Kernel, family: int, text: str) -> None:
    printed = print_ruleset(parse_save(text), family=family)
    kernel.restore(family, "*raw\nCOMMIT\n*filter\nCOMMIT\n")
    kernel.restore(family, printed)
    saved = sections(kernel.save(family))
    assert sections(printed) == {name: saved[name] for name in sections(printed)}


def sections(text: str) -> dict[str, list[str]]:
    """Table -> its lines: the order of tables says nothing."""
    return {part.split("\n", 1)[0]: part.splitlines() for part in text.split("*")[1:]}
