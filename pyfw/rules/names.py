"""DATA: the names that iptables uses for numbers.

Sources: IANA protocol numbers as /etc/protocols of Debian 12 abbreviates them (iptables prints these names);
RFC 792, 950, 1812 and RFC 4443, 4861 for ICMP types, under iptables' names; syslog(2) for levels.
"""
from __future__ import annotations

from pyfw.enums import CtState, Reject

PROTOCOLS: dict[str, int] = {
    "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "st": 5, "tcp": 6, "egp": 8, "igp": 9, "pup": 12, "udp": 17,
    "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36, "ddp": 37, "idpr-cmtp": 38,
    "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51,
    "skip": 57, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "eigrp": 88,
    "ospf": 89, "ax.25": 93, "ipip": 94, "etherip": 97, "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112,
    "l2tp": 115, "isis": 124, "sctp": 132, "fc": 133, "mobility-header": 135, "udplite": 136,
    "mpls-in-ip": 137, "manet": 138, "hip": 139, "shim6": 140, "wesp": 141, "rohc": 142, "ethernet": 143,
}
PROTOCOL_ALIASES: dict[str, int] = {"icmpv6": 58, "ipv6-mh": 135, "mh": 135, "all": 0, "ip": 0}
PROTOCOL_NAMES: dict[int, str] = {number: name for name, number in PROTOCOLS.items()}

ANY_ICMP_TYPE = 255
"""Type of `--icmp-type any`.  ICMPv6 has no such wildcard: there 255 is a type as any other."""

# name: (type, code); code None: any code
ICMP_TYPES: dict[str, tuple[int, int | None]] = {
    "any": (ANY_ICMP_TYPE, None),
    "echo-reply": (0, None), "pong": (0, None),
    "destination-unreachable": (3, None),
    "network-unreachable": (3, 0), "host-unreachable": (3, 1), "protocol-unreachable": (3, 2),
    "port-unreachable": (3, 3), "fragmentation-needed": (3, 4), "source-route-failed": (3, 5),
    "network-unknown": (3, 6), "host-unknown": (3, 7), "network-prohibited": (3, 9),
    "host-prohibited": (3, 10), "TOS-network-unreachable": (3, 11), "TOS-host-unreachable": (3, 12),
    "communication-prohibited": (3, 13), "host-precedence-violation": (3, 14), "precedence-cutoff": (3, 15),
    "source-quench": (4, None),
    "redirect": (5, None),
    "network-redirect": (5, 0), "host-redirect": (5, 1), "TOS-network-redirect": (5, 2), "TOS-host-redirect": (5, 3),
    "echo-request": (8, None), "ping": (8, None),
    "router-advertisement": (9, None), "router-solicitation": (10, None),
    "time-exceeded": (11, None), "ttl-exceeded": (11, None),
    "ttl-zero-during-transit": (11, 0), "ttl-zero-during-reassembly": (11, 1),
    "parameter-problem": (12, None), "ip-header-bad": (12, 0), "required-option-missing": (12, 1),
    "timestamp-request": (13, None), "timestamp-reply": (14, None),
    "address-mask-request": (17, None), "address-mask-reply": (18, None),
}
ICMPV6_TYPES: dict[str, tuple[int, int | None]] = {
    "destination-unreachable": (1, None),
    "no-route": (1, 0), "communication-prohibited": (1, 1), "beyond-scope": (1, 2), "address-unreachable": (1, 3),
    "port-unreachable": (1, 4), "failed-policy": (1, 5), "reject-route": (1, 6),
    "packet-too-big": (2, None),
    "time-exceeded": (3, None), "ttl-exceeded": (3, None),
    "ttl-zero-during-transit": (3, 0), "ttl-zero-during-reassembly": (3, 1),
    "parameter-problem": (4, None), "bad-header": (4, 0), "unknown-header-type": (4, 1), "unknown-option": (4, 2),
    "echo-request": (128, None), "ping": (128, None), "echo-reply": (129, None), "pong": (129, None),
    "router-solicitation": (133, None), "router-advertisement": (134, None),
    "neighbour-solicitation": (135, None), "neighbor-solicitation": (135, None),
    "neighbour-advertisement": (136, None), "neighbor-advertisement": (136, None),
    "redirect": (137, None),
}

TCP_FLAGS: dict[str, int] = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
TCP_FLAG_SETS: dict[str, int] = {"ALL": 0x3F, "NONE": 0}

STATES: dict[str, int] = {name: 1 << CtState[name]
                          for name in ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")}
"""Bits of --state, in the order they are printed."""
ADDRESS_TRANSLATION_STATES: dict[str, int] = {"SNAT": 1 << 6, "DNAT": 1 << 7}
"""Further bits of --ctstate.  pyfw translates no addresses: no packet ever has them."""

LOG_LEVELS: dict[str, int] = {
    "emerg": 0, "alert": 1, "crit": 2, "error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7,
    "panic": 0, "err": 3, "warn": 4,
}

KERNEL_TARGETS: dict[str, str] = {
    **dict.fromkeys(("SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP", "TPROXY"),
                    "addresses are translated by the kernel; keep this rule in its nat table"),
    **dict.fromkeys(("TOS", "DSCP", "TTL", "HL", "ECN", "TCPMSS", "TCPOPTSTRIP", "CHECKSUM", "CLASSIFY", "HMARK"),
                    "packets are changed by the kernel; keep this rule in its mangle table"),
    **dict.fromkeys(("NFQUEUE", "NFLOG", "QUEUE", "ULOG", "TEE", "AUDIT", "SYNPROXY", "SECMARK", "CONNSECMARK", "IDLETIMER",
                     "RATEEST", "LED", "CLUSTERIP"), "pyfw does not do this; keep this rule in the kernel's tables"),
}
"""Targets of iptables that pyfw has not, and where they belong."""

KERNEL_OPTIONS: dict[str, tuple[str, ...]] = {
    "CT": ("--zone", "--zone-orig", "--zone-reply", "--ctevents", "--expevents", "--timeout"),
    "CONNMARK": ("--left-shift-mark", "--right-shift-mark"),
    "hashlimit": ("--hashlimit-rate-match", "--hashlimit-rate-interval"),
    "sctp": ("--chunk-types",),
    "dccp": ("--sport", "--source-port", "--dport", "--destination-port", "--dccp-types", "--dccp-option"),
    "owner": ("--suppl-groups",),
}
"""Options of iptables that pyfw's matches and targets of these names have not."""

ANY_PORT_UNREACHABLE = "port-unreach"
"""The kind of REJECT that exists in both families under one name."""
REJECTS_V4: dict[str, Reject] = {
    "icmp-net-unreachable": Reject.ICMP_NET_UNREACHABLE, "icmp-host-unreachable": Reject.ICMP_HOST_UNREACHABLE,
    "icmp-proto-unreachable": Reject.ICMP_PROTO_UNREACHABLE, "icmp-port-unreachable": Reject.ICMP_PORT_UNREACHABLE,
    "icmp-net-prohibited": Reject.ICMP_NET_PROHIBITED, "icmp-host-prohibited": Reject.ICMP_HOST_PROHIBITED,
    "icmp-admin-prohibited": Reject.ICMP_ADMIN_PROHIBITED,
}
REJECTS_V6: dict[str, Reject] = {
    "icmp6-no-route": Reject.ICMP6_NO_ROUTE, "icmp6-adm-prohibited": Reject.ICMP6_ADM_PROHIBITED,
    "icmp6-addr-unreachable": Reject.ICMP6_ADDR_UNREACHABLE, "icmp6-port-unreachable": Reject.ICMP6_PORT_UNREACHABLE,
    "icmp6-policy-fail": Reject.ICMP6_POLICY_FAIL, "icmp6-reject-route": Reject.ICMP6_REJECT_ROUTE,
}
REJECT_ALIASES: dict[str, str] = {
    "net-unreach": "icmp-net-unreachable", "host-unreach": "icmp-host-unreachable",
    "proto-unreach": "icmp-proto-unreachable", "net-prohib": "icmp-net-prohibited",
    "host-prohib": "icmp-host-prohibited", "admin-prohib": "icmp-admin-prohibited", "tcp-rst": "tcp-reset",
    "no-route": "icmp6-no-route", "adm-prohibited": "icmp6-adm-prohibited", "addr-unreach": "icmp6-addr-unreachable",
    "policy-fail": "icmp6-policy-fail", "reject-route": "icmp6-reject-route",
}
