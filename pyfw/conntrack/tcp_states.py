"""The TCP transition table.

DATA.  Each row: (result, states before, why).  Every pair of direction, packet class and state stands in exactly one
row; a test proves it.  Checked cell by cell against the connection tracking of Linux 6.x (`tcp_conntracks`).

Classes: a packet is RST if it has that flag, else SYN or SYNACK, else FIN, else ACK, else NONE.

        NO  none yet        ES  ESTABLISHED     LA  LAST_ACK      S2  SYN_SENT2 (simultaneous open)
        SS  SYN_SENT        FW  FIN_WAIT        TW  TIME_WAIT     IG  pass it, change neither state nor timer
        SR  SYN_RECV        CW  CLOSE_WAIT      CL  CLOSE         IV  the packet is INVALID
"""
from collections.abc import Iterator

CODES: dict[str, str] = {
    "NO": "NONE", "SS": "SYN_SENT", "SR": "SYN_RECV", "ES": "ESTABLISHED", "FW": "FIN_WAIT", "CW": "CLOSE_WAIT",
    "LA": "LAST_ACK", "TW": "TIME_WAIT", "CL": "CLOSE", "S2": "SYN_SENT2", "IG": "IGNORE", "IV": "INVALID",
}

CLASSES: tuple[str, ...] = ("SYN", "SYNACK", "FIN", "ACK", "RST", "NONE")

Row = tuple[str, str, str]

ORIGINAL: dict[str, tuple[Row, ...]] = {
    "SYN": (
        ("SS", "NO", "opens a connection"),
        ("SS", "SS", "retransmitted"),
        ("S2", "S2", "retransmitted, simultaneous open"),
        ("IG", "SR", "late retransmission"),
        ("IG", "ES FW CW LA", "the ends may be in step and we not: the answer will tell"),
        ("SS", "TW CL", "reopens a connection that was closed (RFC 1122, 4.2.2.13)"),
    ),
    "SYNACK": (
        ("SR", "S2", "second half of a simultaneous open"),
        ("SR", "SR", "retransmitted, simultaneous open"),
        ("IV", "NO SS ES FW CW LA TW CL", "who opens a connection does not answer its own SYN"),
    ),
    "FIN": (
        ("IV", "NO SS S2", "nothing to close yet"),
        ("FW", "SR ES", "the client closes first"),
        ("LA", "FW CW", "the other side had closed, or this FIN was sent twice"),
        ("LA", "LA", "retransmitted"),
        ("TW", "TW", "retransmitted"),
        ("CL", "CL", "nothing more to wait for"),
    ),
    "ACK": (
        ("ES", "NO", "a connection from before our time, picked up"),
        ("IV", "SS S2", "acknowledges a SYN that we have not seen"),
        ("ES", "SR", "completes the handshake"),
        ("ES", "ES", "data and acknowledgements"),
        ("CW", "FW", "acknowledges the FIN"),
        ("CW", "CW", "data while half closed"),
        ("TW", "LA", "acknowledges the last FIN"),
        ("TW", "TW", "retransmitted"),
        ("CL", "CL", "nothing more to wait for"),
    ),
    "RST": (
        ("IV", "NO", "refuses a connection that does not exist"),
        ("CL", "SS SR ES FW CW LA TW CL S2", "the connection is cut"),
    ),
    "NONE": (
        ("IV", "NO SS SR ES FW CW LA TW CL S2", "every segment after the SYN has an ACK (RFC 9293, 3.1)"),
    ),
}

REPLY: dict[str, tuple[Row, ...]] = {
    "SYN": (
        ("IV", "NO", "a first packet is original by definition"),
        ("S2", "SS", "simultaneous open (RFC 9293, 3.5)"),
        ("S2", "S2", "retransmitted, simultaneous open"),
        ("IV", "SR ES FW CW LA CL", "the server does not open connections within one of the client's"),
        ("SS", "TW", "reopened by what was the server"),
    ),
    "SYNACK": (
        ("IV", "NO", "answers nothing"),
        ("SR", "SS", "accepts the connection"),
        ("SR", "S2", "simultaneous open"),
        ("IG", "SR", "retransmitted"),
        ("IG", "ES FW CW LA TW CL", "may answer a SYN that we ignored"),
    ),
    "FIN": (
        ("IV", "NO SS S2", "nothing to close yet"),
        ("FW", "SR ES", "the server closes first"),
        ("LA", "FW CW", "the other side had closed, or this FIN was sent twice"),
        ("LA", "LA", "retransmitted"),
        ("TW", "TW", "retransmitted"),
        ("CL", "CL", "nothing more to wait for"),
    ),
    "ACK": (
        ("IV", "NO", "a first packet is original by definition"),
        ("IG", "SS S2", "may be the challenge to a SYN within a live connection (RFC 5961, 4)"),
        ("SR", "SR", "simultaneous open, not complete from this side"),
        ("ES", "ES", "data and acknowledgements"),
        ("CW", "FW", "acknowledges the FIN"),
        ("CW", "CW", "data while half closed"),
        ("TW", "LA", "acknowledges the last FIN"),
        ("TW", "TW", "retransmitted"),
        ("CL", "CL", "nothing more to wait for"),
    ),
    "RST": (
        ("IV", "NO", "refuses a connection that does not exist"),
        ("CL", "SS SR ES FW CW LA TW CL S2", "the connection is refused or cut"),
    ),
    "NONE": (
        ("IV", "NO SS SR ES FW CW LA TW CL S2", "every segment after the SYN has an ACK (RFC 9293, 3.1)"),
    ),
}


def cells(direction: dict[str, tuple[Row, ...]]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (class, state before, result, why), names as in `pyfw.enums.TcpState`."""
    for packet_class, rows in direction.items():
        for result, states, why in rows:
            for state in states.split():
                yield packet_class, CODES[state], CODES[result], why
