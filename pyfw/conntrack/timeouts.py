"""How long an entry lives after the last packet that renewed it.

DATA.  Names are the kernel's sysctls without `nf_conntrack_` and `_timeout`; seconds; defaults of Linux 6.x.
The order is that of `enum Timeout` in `protocol.pxd`: a test compares them.
"""

DEFAULTS: dict[str, int] = {
    "tcp_none": 0,                  # a state that no entry in the table has
    "tcp_syn_sent": 120,            # 2 min: as long as a client repeats its SYN
    "tcp_syn_recv": 60,
    "tcp_established": 432000,      # 5 days: idle ssh sessions over a long weekend (RFC 5382 asks for 2 h 4 min at least)
    "tcp_fin_wait": 120,
    "tcp_close_wait": 60,
    "tcp_last_ack": 30,
    "tcp_time_wait": 120,           # 2 MSL (RFC 9293)
    "tcp_close": 10,                # after an RST there is nothing to wait for but stray segments
    "tcp_syn_sent2": 120,           # simultaneous open, as syn_sent
    "tcp_max_retrans": 300,         # the same data sent three times unanswered: one side is gone
    "tcp_unacknowledged": 300,      # data without an acknowledgement, or a connection picked up and not answered
    "udp": 30,                      # a question without an answer, or with just one; UDP-Lite likewise
    "udp_stream": 120,              # still talking after two seconds
    "icmp": 30,                     # an echo and its replies
    "icmpv6": 30,
    "generic": 600,                 # no notion of a conversation's end
    "gre": 30,
    "gre_stream": 180,
    "sctp_closed": 10,
    "sctp_cookie_wait": 3,
    "sctp_cookie_echoed": 3,
    "sctp_established": 210,
    "sctp_shutdown_sent": 3,
    "sctp_shutdown_recd": 3,
    "sctp_shutdown_ack_sent": 3,
    "sctp_heartbeat_sent": 30,
}
