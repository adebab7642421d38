"""How many connections in the table belong together, as rules of -m connlimit ask: the kernel's nf_conncount."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Key

cdef enum:
    MAX_COUNTERS = 1 << 14      # of a table: eight rulesets with as many as one may have, for those before and to come count with it

cdef struct Group:              # connections that a counter counts together
    uint64_t words[2]           # their address under the rule's mask
    uint32_t members            # 0: the group is free
    uint32_t counted            # members that are not over
    uint32_t oldest             # member that was looked at least recently; 0: none
    uint32_t newest
    uint32_t next               # the next in its bucket, or among the free; 0: none
    uint8_t family

cdef struct Member:             # a connection in one direction; its number is member_of()
    uint32_t group              # 0: it is not counted
    uint32_t older              # its neighbours in the group; 0: none
    uint32_t newer
    uint16_t next               # where else its connection is counted: 1 + (counter's number << 1 | direction); 0: nowhere
    uint16_t over               # it has ended, though its entry stays for a while: it does not count

cdef struct ConnCounter:        # of one rule
    Member *members             # by number; 0 is never used
    Group *groups               # by number; 0 is never used
    uint32_t *buckets           # numbers of groups
    uint32_t mask
    uint32_t used               # groups 1..used were in use at some time
    uint32_t free
    uint32_t number             # among the counters of its table
    uint64_t seed[2]
    uint8_t abandoned           # its rule has gone
    uint8_t orphaned            # its table has gone

cdef class ConnCounts:
    cdef uint16_t *heads        # by slot: where its connection is counted, as Member.next; NULL: no rule ever counted
    cdef ConnCounter *counters[MAX_COUNTERS]
    cdef uint32_t used          # places that had a counter at some time; never falls, for it is read without the GIL
    cdef uint32_t looked_at     # places that were searched for a counter without a rule, since the search began
    cdef uint32_t max_entries
    cdef Key awaited            # what slot 0 stands for: the connection that is about to be entered

    cdef ConnCounter *new_counter(self) except NULL
    cdef void attach(self, ConnCounter *counter, uint32_t member, uint32_t group, bint over) noexcept nogil
    cdef void await_entry(self, const Key *key) noexcept nogil
    cdef void note_entry(self, uint32_t slot, const Key *key) noexcept nogil
    cdef void note_over(self, uint32_t slot, bint over) noexcept nogil
    cdef void forget(self, uint32_t slot) noexcept nogil
    cdef void forget_all(self) noexcept nogil
    cdef ConnCounter *retire(self, uint32_t most) noexcept nogil
    cdef ConnCounter *next_abandoned(self) noexcept nogil
    cdef void unlink(self, ConnCounter *counter, uint32_t member) noexcept nogil

cdef uint32_t find_group(const ConnCounter *counter, const uint64_t *words, uint8_t family) noexcept nogil
cdef uint32_t group_of(ConnCounter *counter, const uint64_t *words, uint8_t family) noexcept nogil
cdef void renew_oldest(ConnCounter *counter, uint32_t group) noexcept nogil
cdef void abandon(ConnCounter *counter) noexcept nogil
cdef void free_counter(ConnCounter *counter) noexcept nogil

cdef inline uint32_t member_of(uint32_t slot, bint reply) noexcept nogil:
    return 1 + 2 * slot + reply

cdef inline uint32_t slot_of(uint32_t member) noexcept nogil:
    return (member - 1) >> 1
