"""The SCTP transition table.

DATA.  One column per state, one row per chunk type that moves the state; all other chunks leave it as it is.
Facts: RFC 9260; behaviour of Linux 6.x (`sctp_conntracks`), checked cell by cell against it.

        NO  none yet        CE  COOKIE_ECHOED   SR  SHUTDOWN_RECD       HS  HEARTBEAT_SENT (a secondary path)
        CL  CLOSED          ES  ESTABLISHED     SA  SHUTDOWN_ACK_SENT   IV  the packet is INVALID
        CW  COOKIE_WAIT     SS  SHUTDOWN_SENT
"""

STATES: tuple[str, ...] = ("NO", "CL", "CW", "CE", "ES", "SS", "SR", "SA", "HS")

NAMES: tuple[str, ...] = ("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
                          "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT")

CHUNKS: dict[str, int] = {      # RFC 9260, 3.2
    "INIT": 1, "INIT_ACK": 2, "ABORT": 6, "SHUTDOWN": 7, "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10,
    "COOKIE_ACK": 11, "SHUTDOWN_COMPLETE": 14, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5,
}

ORIGINAL: dict[str, str] = {
    #                     NO CL CW CE ES SS SR SA HS
    "INIT":              "CL CL CW CE ES CL CL SA CW",  # opens; after the end of one, begins another
    "INIT_ACK":          "CL CL CW CE ES SS SR SA CL",  # the answer comes from the other side: changes nothing
    "ABORT":             "CL CL CL CL CL CL CL CL CL",  # the end, at any time
    "SHUTDOWN":          "CL CL CW CE SS SS SR SA CL",  # the client has no more to send
    "SHUTDOWN_ACK":      "SA CL CW CE ES SA SA SA SA",  # nor has the other side
    "ERROR":             "CL CL CW CE ES SS SR SA CL",  # a stale cookie is told by the server
    "COOKIE_ECHO":       "CL CL CE CE ES SS SR SA CL",  # the client returns what INIT ACK gave it
    "COOKIE_ACK":        "CL CL CW ES ES SS SR SA CL",  # only where both sides opened at once
    "SHUTDOWN_COMPLETE": "CL CL CW CE ES SS SR CL CL",  # the last word
    "HEARTBEAT":         "HS CL CW CE ES SS SR SA HS",  # probes a path; unknown to us: a secondary one
    "HEARTBEAT_ACK":     "CL CL CW CE ES SS SR SA HS",  # answers the other side's probe
}

REPLY: dict[str, str] = {
    #                     NO CL CW CE ES SS SR SA HS
    "INIT":              "IV CL CW CE ES SS SR SA IV",  # both sides open at once
    "INIT_ACK":          "IV CW CW CE ES SS SR SA IV",  # the server hands out its cookie
    "ABORT":             "IV CL CL CL CL CL CL CL IV",  # the end, at any time
    "SHUTDOWN":          "IV CL CW CE SR SS SR SA IV",  # the server has no more to send
    "SHUTDOWN_ACK":      "IV CL CW CE ES SA SA SA IV",  # nor has the client
    "ERROR":             "IV CL CW CL ES SS SR SA IV",  # the cookie was stale: begin anew
    "COOKIE_ECHO":       "IV CL CE CE ES SS SR SA IV",  # only where both sides opened at once
    "COOKIE_ACK":        "IV CL CW ES ES SS SR SA IV",  # completes the handshake
    "SHUTDOWN_COMPLETE": "IV CL CW CE ES SS SR CL IV",  # the last word
    "HEARTBEAT":         "IV CL CW CE ES SS SR SA HS",  # probes a path
    "HEARTBEAT_ACK":     "IV CL CW CE ES SS SR SA ES",  # the secondary path works
}
