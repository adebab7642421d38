"""The answers of REJECT: a TCP RST or an ICMP error, built and sent without the GIL."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pyfw.token_bucket cimport TokenBucket, TokenRate
from pyfw.wire.packet cimport Packet

cdef enum:
    REJECT_MAX_BYTES = 1280     # the longest answer: an ICMPv6 error fills the minimum MTU (RFC 4443, 2.4 c)

cdef uint32_t build_answer(const Packet *packet, uint8_t kind, uint8_t *out) noexcept nogil

cdef class Rejecter:
    cdef tuple sockets
    cdef int raw4, icmp4, raw6, icmp6   # descriptors; -1: this kernel has no IPv6
    cdef uint8_t icmp_tos               # what icmp4 puts into its packets
    cdef TokenRate icmp_rate
    cdef TokenBucket icmp_bucket
    cdef readonly uint64_t sent, suppressed, failed
    cdef void answer(self, const Packet *packet, uint8_t kind, uint32_t indev, uint64_t now_ns) noexcept nogil
    cdef void set_tos(self, uint8_t tos) noexcept nogil
