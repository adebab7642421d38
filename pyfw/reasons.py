"""What each Reason means, in the words of the kernel's own log where it has any.

DATA.  `{0}` to `{3}` are the reason's arguments (`CJudgement.argument`).
"""
from ipaddress import IPv4Address

from pyfw.enums import Reason, TcpState

_TEXTS: dict[Reason, str] = {
    Reason.NONE: "",
    Reason.RULE: "dropped by a rule",
    Reason.POLICY: "dropped by the chain's policy",
    Reason.RULE_STEPS: "walks too many rules",
    Reason.RULE_MEMORY: "no room for what a rule remembers",
    Reason.NOT_IP: "not IP",
    Reason.IP_TRUNCATED: "IP packet shorter than its header says",
    Reason.IP_HEADER: "bad IP header",
    Reason.FRAGMENT: "fragment",
    Reason.NO_TRANSPORT: "no transport header",
    Reason.TCP_TRUNCATED: "truncated packet",
    Reason.TCP_CHECKSUM: "bad checksum",
    Reason.TCP_FLAGS: "invalid tcp flag combination",
    Reason.TCP_NEW: "invalid new",
    Reason.TCP_STATE: "packet (index {0}) in dir {1} invalid, state {state}",
    Reason.TCP_RST: "invalid rst",
    Reason.TCP_SEQ_OVER: "SEQ is over upper bound {0} (over the window of the receiver)",
    Reason.TCP_ACK_OVER: "ACK is over upper bound {0} (ACKed data not seen yet)",
    Reason.UDP_TRUNCATED: "short packet",
    Reason.UDP_LENGTH: "truncated/malformed packet",
    Reason.UDP_CHECKSUM: "bad checksum",
    Reason.UDPLITE_COVERAGE: "invalid checksum coverage",
    Reason.UDPLITE_NO_CHECKSUM: "checksum missing",
    Reason.ICMP_TRUNCATED: "short packet",
    Reason.ICMP_CHECKSUM: "bad hw icmp checksum",
    Reason.ICMPV6_CHECKSUM: "ICMPv6 checksum failed",
    Reason.ICMP_TYPE: "invalid icmp type",
    Reason.ICMP_NO_REQUEST: "icmp reply without request",
    Reason.ICMP_REDIRECT: "invalid saddr or hoplimit for redirect",
    Reason.ICMP_REDIRECT_SHORT: "short redirect",
    Reason.ICMP_REDIRECT_BARE: "redirect without options",
    Reason.ICMP_QUOTE: "icmp error without a usable quote",
    Reason.ICMP_UNKNOWN: "icmp error about no known connection",
    Reason.ICMP_OUTER: "outer daddr {outer} != inner {inner}",
    Reason.SCTP_TRUNCATED: "nf_ct_sctp: short packet",
    Reason.SCTP_CHECKSUM: "nf_ct_sctp: bad CRC",
    Reason.SCTP_CHUNK: "do_basic_checks failed. chunk num {0}, type {1}, len {2} flag {3:x}",
    Reason.SCTP_EMPTY: "no chunk",
    Reason.SCTP_NEW: "invalid new",
    Reason.SCTP_VTAG: "verification tag check failed {0:x} vs {1:x} for dir {2}",
    Reason.SCTP_STATE: "Invalid, old_state {0}, dir {1}, type {2}",
    Reason.GRE_PROTOCOL: "GRE version 1 without PPP",
    Reason.TO_ITSELF: "from an address to itself",
    Reason.TABLE_FULL: "table full",
    Reason.SOURCE_STATES: "source has {0} connections (max_states {1})",
    Reason.SOURCE_NEW: "source has begun {0} connections within the window (max_new {1})",
    Reason.HELPER_PARTIAL: "helper: partial line",
    Reason.HELPER_CLASH: "helper: cannot add expectation",
    Reason.HELPER_ERROR: "helper failed",
    Reason.TTL: "TTL exceeded",
    Reason.INTERNAL: "internal error",
    Reason.TCP_IGNORED: "packet (index {0}) in dir {1} ignored, state {state}",
    Reason.TCP_CHALLENGE_ACK: "challenge-ack ignored",
    Reason.TCP_OVERSHOT: "{0} bytes more than expected",
    Reason.TCP_SEQ_UNDER: "SEQ is under lower bound {0} (already ACKed data retransmitted)",
    Reason.TCP_ACK_UNDER: "ignored ACK under lower bound {0} (possible overly delayed)",
    Reason.HELPER_REFUSED: "helper: announcement opens nothing",
    Reason.HELPER_BUSY: "helper: too many segments, this connection is inspected no more",
}


def reason_text(reason: int, arguments: tuple[int, ...] = (0, 0, 0, 0)) -> str:
    """The reason in words with its numbers; "" for none."""
    text = _TEXTS[Reason(reason)]
    if reason == Reason.ICMP_OUTER and not any(arguments):
        return "outer daddr != inner saddr"     # IPv6 addresses are too long for the arguments
    if reason == Reason.ICMP_OUTER:
        return text.format(outer=IPv4Address(arguments[0]), inner=IPv4Address(arguments[1]))
    if "{state}" in text:
        return text.format(*arguments, state=TcpState(arguments[2]).name)
    return text.format(*arguments)
