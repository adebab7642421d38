# cython: language_level=3, boundscheck=False, wraparound=False
"""iptables-legacy's tables, as the kernel copies them out (linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h).

May know: the two socket options, and where an entry has its counters.  Must not know: what an entry means.
"""
import errno
import os
import socket

from libc.errno cimport errno as last_errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    int getsockopt(int, int, int, void *, socklen_t *)

cdef extern from "<linux/netfilter_ipv4/ip_tables.h>" nogil:
    int IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
    struct ipt_getinfo:
        char name[32]
        unsigned int size
    struct ipt_get_entries:
        char name[32]
        unsigned int size

cdef enum:
    NAME_BYTES = 32                     # XT_TABLE_MAXNAMELEN
    SOL_IP = 0
    SOL_IPV6 = 41
    COUNTERS = 16                       # struct xt_counters: packets and bytes
    NEXT4 = 90                          # offsetof(struct ipt_entry, next_offset), and its counters
    COUNTERS4 = 96
    NEXT6 = 142                         # of struct ip6t_entry
    COUNTERS6 = 152
    ENTRIES_OFFSET = 40                 # the entries are aligned to 8 bytes
    ATTEMPTS = 3                        # the table may grow between the question for its size and that for its entries


def table_digest(version: int, name: bytes) -> bytes:
    """Equal for equal tables, whatever their counters; of IP version 4 or 6.  To ask for a table is to make it.

    Raises OSError without CAP_NET_ADMIN, and where there are no such tables.
    """
    import hashlib                      # few have legacy tables
    with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for _ in range(ATTEMPTS):
            entries = read_entries(channel.fileno(), version, name)
            if entries is not None:
                return hashlib.blake2b(entries, digest_size=16).digest()
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


cdef bytearray read_entries(int descriptor, int version, bytes name):
    """None: the table is not as large any more as the kernel has just said."""
    cdef ipt_getinfo info
    cdef socklen_t length = sizeof(info)
    cdef int level = SOL_IPV6 if version == 6 else SOL_IP
    cdef uint8_t[::1] view
    cdef ipt_get_entries *entries
    if len(name) >= NAME_BYTES:
        raise ValueError("a table's name is shorter")
    memset(&info, 0, sizeof(info))
    memcpy(info.name, <char *>name, len(name))
    if getsockopt(descriptor, level, IPT_SO_GET_INFO, &info, &length) < 0:
        raise OSError(last_errno, os.strerror(last_errno))
    data = bytearray(ENTRIES_OFFSET + info.size)
    view = data
    entries = <ipt_get_entries *>&view[0]
    memcpy(entries.name, <char *>name, len(name))
    entries.size = info.size
    length = <socklen_t>len(data)
    if getsockopt(descriptor, level, IPT_SO_GET_ENTRIES, entries, &length) < 0:
        if last_errno == errno.EAGAIN:
            return None
        raise OSError(last_errno, os.strerror(last_errno))
    if version == 6:
        clear_counters(&view[ENTRIES_OFFSET], info.size, NEXT6, COUNTERS6)
    else:
        clear_counters(&view[ENTRIES_OFFSET], info.size, NEXT4, COUNTERS4)
    return data


cdef void clear_counters(uint8_t *entries, uint32_t size, uint32_t next_field, uint32_t counters) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint16_t next_offset
    while size - at >= counters + COUNTERS:
        memcpy(&next_offset, entries + at + next_field, sizeof(next_offset))
        memset(entries + at + counters, 0, COUNTERS)
        if next_offset < counters + COUNTERS or next_offset > size - at:
            return
        at += next_offset
