"""The closed sets of pyfw, as C sees them.  `enums.pyx` shows the same to Python.

Nothing but names and numbers stands here, in nameless enums: a C array may be indexed with them.  Where the kernel has
numbers (hooks, verdicts, TCP states) they are the kernel's.
"""

cdef enum:                      # NF_INET_*
    HOOK_PREROUTING = 0
    HOOK_INPUT = 1
    HOOK_FORWARD = 2
    HOOK_OUTPUT = 3
    HOOK_POSTROUTING = 4

cdef enum:                      # NF_DROP, NF_ACCEPT
    VERDICT_DROP = 0
    VERDICT_ACCEPT = 1

cdef enum:
    STATE_INVALID = 0
    STATE_NEW = 1
    STATE_ESTABLISHED = 2
    STATE_RELATED = 3
    STATE_UNTRACKED = 4

cdef enum:                      # an index into everything that has two sides
    DIR_ORIGINAL = 0
    DIR_REPLY = 1
    DIR_NONE = 2                # INVALID and UNTRACKED packets have none

cdef enum:                      # enum tcp_conntrack
    TCP_NONE = 0
    TCP_SYN_SENT = 1
    TCP_SYN_RECV = 2
    TCP_ESTABLISHED = 3
    TCP_FIN_WAIT = 4
    TCP_CLOSE_WAIT = 5
    TCP_LAST_ACK = 6
    TCP_TIME_WAIT = 7
    TCP_CLOSE = 8
    TCP_SYN_SENT2 = 9
    TCP_STATES = 10
    TCP_IGNORE = 11             # transition: pass the packet, change nothing
    TCP_INVALID = 12            # transition: the packet is INVALID

cdef enum:                      # how REJECT answers; the names are iptables' --reject-with
    REJECT_NONE = 0
    REJECT_ICMP_NET_UNREACHABLE
    REJECT_ICMP_HOST_UNREACHABLE
    REJECT_ICMP_PROTO_UNREACHABLE
    REJECT_ICMP_PORT_UNREACHABLE
    REJECT_ICMP_NET_PROHIBITED
    REJECT_ICMP_HOST_PROHIBITED
    REJECT_ICMP_ADMIN_PROHIBITED
    REJECT_TCP_RESET
    REJECT_ICMP6_NO_ROUTE
    REJECT_ICMP6_ADM_PROHIBITED
    REJECT_ICMP6_ADDR_UNREACHABLE
    REJECT_ICMP6_PORT_UNREACHABLE
    REJECT_ICMP6_POLICY_FAIL
    REJECT_ICMP6_REJECT_ROUTE

cdef enum:
    REASON_NONE = 0
    # decided by the rules
    REASON_RULE                 # a rule dropped or rejected it
    REASON_POLICY               # no rule decided: the chain's policy dropped it
    REASON_RULE_STEPS           # its way through the chains was too long
    REASON_RULE_MEMORY          # no room for what a rule would have to remember of it
    # not an IP packet that any stack would take: dropped before the rules
    REASON_NOT_IP
    REASON_IP_TRUNCATED
    REASON_IP_HEADER
    # INVALID: no transport header to be had
    REASON_FRAGMENT
    REASON_NO_TRANSPORT         # IPv6: the chain of extension headers ends in nothing
    # INVALID: TCP
    REASON_TCP_TRUNCATED
    REASON_TCP_CHECKSUM
    REASON_TCP_FLAGS
    REASON_TCP_NEW
    REASON_TCP_STATE            # arguments: packet class, direction, state
    REASON_TCP_RST
    REASON_TCP_SEQ_OVER         # argument: the upper bound
    REASON_TCP_ACK_OVER         # argument: the upper bound
    # INVALID: UDP, UDP-Lite
    REASON_UDP_TRUNCATED
    REASON_UDP_LENGTH
    REASON_UDP_CHECKSUM
    REASON_UDPLITE_COVERAGE
    REASON_UDPLITE_NO_CHECKSUM
    # INVALID: ICMP, ICMPv6
    REASON_ICMP_TRUNCATED
    REASON_ICMP_CHECKSUM
    REASON_ICMPV6_CHECKSUM
    REASON_ICMP_TYPE
    REASON_ICMP_NO_REQUEST
    REASON_ICMP_REDIRECT
    REASON_ICMP_REDIRECT_SHORT
    REASON_ICMP_REDIRECT_BARE
    REASON_ICMP_QUOTE
    REASON_ICMP_UNKNOWN
    REASON_ICMP_OUTER           # arguments, IPv4: outer destination, inner source
    # INVALID: SCTP, GRE, anything whose ports cannot be read
    REASON_SCTP_TRUNCATED
    REASON_SCTP_CHECKSUM
    REASON_SCTP_CHUNK           # arguments: position, type, length, whether it must be alone
    REASON_SCTP_EMPTY
    REASON_SCTP_NEW
    REASON_SCTP_VTAG            # arguments: the packet's tag, the right one, direction
    REASON_SCTP_STATE           # arguments: state, direction, chunk type
    REASON_GRE_PROTOCOL
    REASON_TO_ITSELF            # a host that is not this one claims to speak to itself
    # refused by the table or by a helper
    REASON_TABLE_FULL
    REASON_SOURCE_STATES        # arguments: connections of its source, the limit
    REASON_SOURCE_NEW           # arguments: connections that its source began within the window, the limit
    REASON_HELPER_PARTIAL       # a line cut off in the middle of an announcement
    REASON_HELPER_CLASH         # another connection expects the same
    REASON_HELPER_ERROR         # the helper raised an exception
    REASON_TTL                  # forwarding would discard it: TTL or hop limit spent
    REASON_INTERNAL             # an impossible value: a defect of pyfw
    # remarks about packets that pass: nothing was updated, and why
    REASON_TCP_IGNORED          # arguments: packet class, direction, state
    REASON_TCP_CHALLENGE_ACK
    REASON_TCP_OVERSHOT         # argument: bytes more than expected
    REASON_TCP_SEQ_UNDER        # argument: the lower bound
    REASON_TCP_ACK_UNDER        # argument: the lower bound
    REASON_HELPER_REFUSED       # an announcement that opened nothing
    REASON_HELPER_BUSY          # too much for the helper: the connection goes on without
    REASONS
