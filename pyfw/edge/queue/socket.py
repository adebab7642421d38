"""The netlink socket that a queue belongs to: its options, its settings as messages, and why it cannot be had."""
from __future__ import annotations

import os
import socket
import struct

from pyfw.edge.queue_counters import queue_owner

SOL_NETLINK = 270
NETLINK_NO_ENOBUFS = 5
KERNEL = (0, 0)                             # its netlink port, and no multicast group
SO_RCVBUFFORCE = 33
RECEIVE_BYTES_PER_PACKET = 8192
MESSAGE_HEADER = struct.Struct("=IHHII")    # struct nlmsghdr: length, type, flags, sequence, port
NLM_F_REQUEST = 1
NFQNL_MSG_CONFIG = 3 << 8 | 2               # of NFNL_SUBSYS_QUEUE
NFQA_CFG_QUEUE_MAXLEN, NFQA_CFG_MASK, NFQA_CFG_FLAGS = 3, 4, 5


class QueueError(Exception):
    """The queue cannot be opened: one line that says which and what to do."""


def set_options(descriptor: int, length: int, wakeup_ms: int) -> None:
    """Room for a queue of `length` packets; receive within `wakeup_ms` or fail with EAGAIN; hear the kernel alone."""
    with socket.socket(fileno=os.dup(descriptor)) as netlink:
        netlink.connect(KERNEL)         # who else sends to it is refused, were it another program of root's
        netlink.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer_bytes(length))
        netlink.settimeout(None)
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(wakeup_ms))


def port_of(descriptor: int) -> int:
    """The socket's netlink port, which the kernel shows as the queue's owner."""
    with socket.socket(fileno=os.dup(descriptor)) as netlink:
        return int(netlink.getsockname()[0])


def receive_buffer_bytes(length: int) -> int:
    """Bytes of socket buffer for a queue of this length: room for as many packets of an Ethernet MTU, with what the
    kernel's buffers cost besides.  Offloaded packets of 64 KiB fill it sooner; what is lost then is counted."""
    return min(max(length * RECEIVE_BYTES_PER_PACKET, 1 << 22), (1 << 30) - 1)


def settings_message(number: int, length: int, flags: int, mask: int) -> bytes:
    """NFQNL_MSG_CONFIG for a queue that is bound: how many packets may wait, and the flags of `mask`."""
    attributes = b"".join(struct.pack("=HH", 8, attribute) + value.to_bytes(4, "big") for attribute, value in (
        (NFQA_CFG_QUEUE_MAXLEN, length), (NFQA_CFG_MASK, mask), (NFQA_CFG_FLAGS, flags)))
    body = struct.pack("=BB", socket.AF_UNSPEC, 0) + number.to_bytes(2, "big") + attributes
    return MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(body), NFQNL_MSG_CONFIG, NLM_F_REQUEST, 0, 0) + body


def timeval(milliseconds: int) -> bytes:
    return (milliseconds // 1000).to_bytes(8, "little") + (milliseconds % 1000 * 1000).to_bytes(8, "little")


def why_not_opened() -> str:
    if os.path.exists("/proc/thread-self/net/netfilter/nfnetlink_queue"):
        return "run as root (CAP_NET_ADMIN)"
    return "the kernel lacks nfnetlink_queue (CONFIG_NETFILTER_NETLINK_QUEUE): load it with `modprobe nfnetlink_queue`"


def why_not_bound(number: int) -> str:
    owner = queue_owner(number)
    if owner is None:
        return f"NFQUEUE {number} cannot be bound: run as root (CAP_NET_ADMIN)"
    return (f"NFQUEUE {number} belongs to another program (netlink port {owner}, as a rule its process id): "
            "stop it, or choose another queue.number")
