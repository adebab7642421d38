"""Tests that remember: how often, how many, how recently."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conncount cimport ConnCounter
from pyfw.conntrack.table cimport Table
from pyfw.rules.parts cimport Context, Fit, PacketMatch, RuleEnvironment
from pyfw.token_bucket cimport TokenBucket, TokenRate
from pyfw.wire.packet cimport Address

cdef enum:
    KEY_WORDS = 5               # two addresses, two ports
    MAX_STAMPS = 256
    LIST_LENGTH = 100           # ip_list_tot

cdef class LimitTest(PacketMatch):
    cdef TokenRate rate
    cdef TokenBucket bucket

cdef class StatisticTest(PacketMatch):
    cdef uint64_t seed[2]
    cdef uint64_t drawn
    cdef uint32_t probability, every, count
    cdef bint inverted

cdef struct Bucket:
    uint64_t words[KEY_WORDS]
    TokenBucket tokens
    uint64_t expires_ns         # 0: free

cdef class BucketTable:
    cdef object __weakref__
    cdef Bucket *buckets
    cdef uint32_t mask, most, count, collected
    cdef uint64_t seed[2]

    cdef Bucket *find(self, const uint64_t *words, uint64_t now_ns) noexcept nogil
    cdef Bucket *bucket_of(self, const uint64_t *words, uint64_t now_ns) noexcept nogil
    cdef void collect(self, uint64_t now_ns) noexcept nogil

cdef class HashLimitTest(PacketMatch):
    cdef BucketTable table
    cdef RuleEnvironment environment
    cdef object name, size
    cdef TokenRate rate
    cdef uint64_t expire_ns
    cdef uint64_t src_mask[2]
    cdef uint64_t dst_mask[2]
    cdef uint8_t mode
    cdef bint above

cdef class ConnLimitTest(PacketMatch):
    cdef Table table
    cdef ConnCounter *counter   # NULL: there is no table
    cdef uint32_t limit
    cdef uint64_t mask[2]
    cdef bint source, above

    cdef uint32_t count(self, Context *context, const uint64_t *words) noexcept nogil
    cdef void let_go(self, uint32_t group, uint64_t now_ns) noexcept nogil

cdef struct Seen:               # an address of a list
    Address address
    uint8_t family
    uint8_t ttl
    uint16_t stamps             # how many there are
    uint16_t next               # where the next goes
    uint64_t last_ns
    uint64_t stamp_ns[MAX_STAMPS]

cdef class RecentList:
    cdef Seen *seen
    cdef uint32_t tags[LIST_LENGTH]     # of each address: the few that are looked at are those of its own
    cdef uint64_t turns[LIST_LENGTH]    # when each was seen last, as `turn` counts; 0: free
    cdef uint64_t turn
    cdef uint64_t seed[2]
    cdef object __weakref__

    cdef uint32_t tag_of(self, const Address *address, uint8_t family) noexcept nogil
    cdef int find(self, const Address *address, uint8_t family) noexcept nogil
    cdef int oldest(self) noexcept nogil
    cdef void forget(self, int place) noexcept nogil
    cdef void reap(self, uint64_t oldest_ns) noexcept nogil
    cdef void stamp(self, int place, uint8_t ttl, uint64_t now_ns) noexcept nogil
    cdef bint enter(self, const Address *address, uint8_t family, uint8_t ttl, uint64_t now_ns) noexcept nogil

cdef class RecentTest(PacketMatch):
    cdef RecentList list
    cdef RuleEnvironment environment
    cdef object name
    cdef int command
    cdef uint64_t seconds_ns
    cdef uint64_t mask[2]
    cdef uint32_t hits
    cdef bint source, same_ttl, reaps, inverted

    cdef bint often_enough(self, const Seen *seen, uint64_t now_ns) noexcept nogil
