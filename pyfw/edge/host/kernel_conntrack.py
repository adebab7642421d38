"""The kernel's own connection table, as ctnetlink tells it (nfnetlink_conntrack.h, CTA_*)."""
from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from pyfw.engine.import_connections import Foreign

IPS_EXPECTED, IPS_SEEN_REPLY, IPS_ASSURED, IPS_DYING = 1 << 0, 1 << 1, 1 << 2, 1 << 9     # nf_conntrack_common.h
TCP_FLAGS = 0x17                # IP_CT_TCP_FLAG_WINDOW_SCALE, _SACK_PERM, _CLOSE_INIT, _DATA_UNACKNOWLEDGED: what pyfw has, too
ICMP_PROTOCOLS = {1: "ICMP", 58: "ICMPV6"}


class ConntrackUnreadable(Exception):
    """The kernel does not tell its table: one line that says why."""


def read_connections() -> Iterator[Foreign]:
    """Every connection that the kernel tracks in the calling thread's network namespace.

    Of a connection whose addresses are translated, the sides as the FORWARD hook sees them: who opened it from the
    original direction, whom it reached from the reply's.  Raises ConntrackUnreadable.
    """
    try:
        with NFCTSocket(nfgen_family=socket.AF_UNSPEC) as kernel:
            for message in kernel.dump():
                if not (message.get_attr("CTA_STATUS") or 0) & IPS_DYING and message.get_attr("CTA_TIMEOUT"):
                    yield _connection(message)
    except (NetlinkError, OSError) as error:
        raise ConntrackUnreadable(f"the kernel's connection table cannot be read: {error}") from error


def _connection(message: Any) -> Foreign:
    original, reply = (_side(message.get_attr(name)) for name in ("CTA_TUPLE_ORIG", "CTA_TUPLE_REPLY"))
    protocol = original["CTA_PROTO_NUM"]
    if protocol in ICMP_PROTOCOLS:
        kind = ICMP_PROTOCOLS[protocol]
        sport = original[f"CTA_PROTO_{kind}_ID"]
        dport = original[f"CTA_PROTO_{kind}_TYPE"] << 8 | original[f"CTA_PROTO_{kind}_CODE"]
    else:
        sport, dport = original.get("CTA_PROTO_SRC_PORT", 0), reply.get("CTA_PROTO_SRC_PORT", 0)
    status = message.get_attr("CTA_STATUS")
    return Foreign(
        src=original["src"], dst=reply["src"], protocol=protocol, sport=sport, dport=dport,
        seen_reply=bool(status & IPS_SEEN_REPLY), assured=bool(status & IPS_ASSURED), expected=bool(status & IPS_EXPECTED),
        timeout_s=message.get_attr("CTA_TIMEOUT"), mark=message.get_attr("CTA_MARK") or 0,
        helper=_helper(message.get_attr("CTA_HELP")),
        packets=_counts(message, "PACKETS"), bytes=_counts(message, "BYTES"), **_protocol_info(message))


def _side(tuple_: Any) -> dict[str, Any]:
    """Attributes of one direction by name, with its packed source address as `src`."""
    addresses = dict(tuple_.get_attr("CTA_TUPLE_IP")["attrs"])
    source = addresses.get("CTA_IP_V4_SRC") or addresses["CTA_IP_V6_SRC"]
    return {"src": ipaddress.ip_address(source).packed, **dict(tuple_.get_attr("CTA_TUPLE_PROTO")["attrs"])}


def _counts(message: Any, what: str) -> tuple[int, int]:
    sides = (message.get_attr(f"CTA_COUNTERS_{side}") for side in ("ORIG", "REPLY"))
    original, reply = (side.get_attr(f"CTA_COUNTERS_{what}") if side else 0 for side in sides)
    return original, reply


def _helper(text: str | None) -> str | None:
    """pyroute2 takes CTA_HELP for a text: the name stands behind the four bytes of CTA_HELP_NAME's header."""
    return text[4:].split("\0")[0] if text else None


def _protocol_info(message: Any) -> dict[str, Any]:
    info = message.get_attr("CTA_PROTOINFO")
    if tcp := info and info.get_attr("CTA_PROTOINFO_TCP"):
        sides = ("ORIGINAL", "REPLY")
        return {"state": tcp.get_attr("CTA_PROTOINFO_TCP_STATE"),
                "flags": tuple(_first_byte(tcp.get_attr(f"CTA_PROTOINFO_TCP_FLAGS_{side}")) & TCP_FLAGS for side in sides),
                "scale": tuple(tcp.get_attr(f"CTA_PROTOINFO_TCP_WSCALE_{side}") or 0 for side in sides)}
    if sctp := info and info.get_attr("CTA_PROTOINFO_SCTP"):
        tags = ("CTA_PROTOINFO_SCTP_VTAG_ORIGINAL", "CTA_PROTOINFO_SCTP_VTAG_REPLY")
        return {"state": sctp.get_attr("CTA_PROTOINFO_SCTP_STATE"), "tags": tuple(sctp.get_attr(tag) or 0 for tag in tags)}
    return {}


def _first_byte(flags: Any) -> int:
    """Of struct nf_ct_tcp_flags, {flags, mask}."""
    return flags[0] if flags else 0
