"""What the packet path's target begins with: packets to be changed, rules that use every match and target, sets."""
from __future__ import annotations

from kit.packets import (
    ACK,
    AH,
    CLIENT,
    CLIENT6,
    DSTOPTS,
    FIN,
    FRAGMENT,
    HOPOPTS,
    ROUTING,
    RST,
    SERVER,
    SERVER6,
    SYN,
    TCP,
    UDP,
    chunk,
    extended,
    gre,
    icmp,
    ip,
    pptp,
    sctp,
    tcp,
    tcp_segment,
    udp,
    udplite,
)
from kit.vocabulary import RULES as SPELLINGS

ENDS, ENDS6 = (CLIENT, SERVER), (CLIENT6, SERVER6)
SYN_OPTIONS = b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\7"

SETS = """
create hosts hash:ip timeout 60 counters maxelem 64
create hosts6 hash:ip family inet6 timeout 60 maxelem 64
create nets hash:net
add nets 10.0.0.0/16
add nets 10.0.1.0/24 nomatch
create services hash:ip,port counters
add services 10.0.1.2,udp:53
create ports hash:net,port
add ports 10.0.0.0/16,tcp:21-80
create all list:set
add all hosts
add all nets
"""

GATEWAY = """
*raw
-A PREROUTING -p udp --dport 514 -j NOTRACK
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
COMMIT
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
-A FORWARD -m state --state ESTABLISHED,RELATED,UNTRACKED -j ACCEPT
-A FORWARD -m state --state INVALID -j DROP
-A FORWARD -p tcp --tcp-flags SYN,RST,ACK SYN -j ACCEPT
-A FORWARD -p udp --dport 1024:65535 -j REJECT
-A FORWARD -p tcp -j REJECT --reject-with tcp-reset
-A FORWARD -j ACCEPT
COMMIT
"""

TARGETS = """
-A FORWARD -p udplite -m udplite --dport 1:2
-A FORWARD -m set --match-set hosts src --packets-gt 3 -j RETURN
-A FORWARD -m set ! --match-set nets dst -m set --match-set services dst,dst -j RETURN
-A FORWARD -m set --match-set all src -m set --match-set ports src,dst
-A FORWARD -p udp -j SET --add-set hosts src --exist --timeout 30
-A FORWARD -p tcp -m tcp --tcp-flags RST RST -j SET --del-set hosts src
-A FORWARD -m state --state ESTABLISHED,RELATED,UNTRACKED -j ACCEPT
-A FORWARD -g other
-A other -p icmp -j ACCEPT
-A other -p tcp -m statistic --mode nth --every 5 --packet 0 -j REJECT --reject-with tcp-reset
-A other -p udp -m statistic --mode nth --every 5 --packet 0 -j REJECT
-A other -j deeper
-A other -j ACCEPT
-A deeper -m mark --mark 1 -j DROP
-A deeper -j RETURN
"""


def everything() -> str:
    """A ruleset with every match and every target, for both families."""
    lines4 = [f"-4 -A {chain} {rule}" for (family, _, chain), rules in SPELLINGS.items() if family == 4
              for rule in rules if not rule.endswith("-j REJECT --reject-with tcp-reset") and not rule.startswith("-j REJECT")]
    lines6 = [f"-6 -A {chain} {rule}" for (family, _, chain), rules in SPELLINGS.items() if family == 6
              for rule in rules if not rule.startswith("-j REJECT")]
    return "\n".join([
        "*raw", "-A PREROUTING -p udp --dport 514 -j NOTRACK", "-A PREROUTING -p tcp --dport 2121 -j CT --helper ftp",
        "-A PREROUTING -p udp --dport 515 -j CT --notrack", "-A PREROUTING -p icmp -m limit -j TRACE", "COMMIT",
        "*filter", ":FORWARD DROP", ":other -", ":deeper -", *lines4, *lines6, TARGETS.strip(), "COMMIT", ""])


def seeds() -> list[bytes]:
    """Good packets, of which the target's are made."""
    found = []
    for client, server in (ENDS, ENDS6):
        v6 = client == CLIENT6
        question = udp(client, server, 5000, 53, b"who?")
        segment = tcp(client, server, 1, 80, ACK, seq=101, ack=901, payload=b"GET /x")
        found += [
            tcp(client, server, 1, 80, SYN, seq=100, options=SYN_OPTIONS),
            tcp(server, client, 80, 1, SYN | ACK, seq=900, ack=101, options=SYN_OPTIONS),
            segment,
            tcp(server, client, 80, 1, ACK, seq=901, ack=107, payload=bytes(64)),
            tcp(client, server, 1, 80, FIN | ACK, seq=107, ack=965),
            tcp(server, client, 80, 1, RST | ACK, seq=965, ack=108),
            tcp(client, server, 2, 21, SYN, seq=100, options=SYN_OPTIONS),
            tcp(client, server, 2, 21, ACK, seq=101, ack=901,
                payload=b"EPRT |2|fd00::2|1025|\r\n" if v6 else b"PORT 10,0,0,2,4,1\r\n"),
            tcp(server, client, 21, 2, ACK, seq=901, ack=120, payload=b"200 done\r\n"),
            tcp(server, client, 21, 2, ACK, seq=901, ack=120, options=b"\1\1\5\x12" + bytes(16),
                payload=b"229 go (|||2000|)\r\n" if v6 else b"227 go (10,0,1,2,7,208)\r\n"),
            tcp(client, server, 2, 21, ACK, seq=101, ack=901, payload=b"EPSV\r\n" if v6 else b"PASV\r\n"),
            tcp(server, client, 20, 1025, SYN, seq=5),
            question, udp(server, client, 53, 5000, b"you"), udplite(client, server, 1, 2, b"voice", coverage=8),
            udp(client, server, 1, 514, b"log"),
            icmp(client, server, 128 if v6 else 8, id=7), icmp(server, client, 129 if v6 else 0, id=7),
            icmp(server, client, 1 if v6 else 3, payload=question), icmp(server, client, 1 if v6 else 3, payload=segment),
            icmp(server, client, 137 if v6 else 5, payload=question),
            sctp(client, server, 9, 9, 0, chunk(1, bytes(16))), sctp(server, client, 9, 9, 0, chunk(5), chunk(0, b"data")),
            sctp(server, client, 9, 9, 0, chunk(2, bytes(16))), sctp(client, server, 9, 9, 0, chunk(10)),
            gre(client, server), pptp(client, server, 77), ip(client, server, 103, b"anything"),
        ]
    segment = tcp_segment(*ENDS6, 1, 80, ACK, seq=101, ack=901, payload=b"x")
    return [*found, extended(*ENDS6, [HOPOPTS, ROUTING, FRAGMENT, AH, DSTOPTS], TCP, segment),
            extended(*ENDS6, [HOPOPTS, DSTOPTS], TCP, segment),
            ip(*ENDS, UDP, bytes(20), options=b"\1" * 12, fragment=0x2000),
            ip(*ENDS, TCP, tcp_segment(*ENDS, 1, 80, ACK, payload=b"x"), options=b"\7\7\4" + bytes(5))]
