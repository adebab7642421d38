# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Expectations: connections that a helper has read about and that do not exist yet.

May know: tuples, masters, deadlines.  Must not know: what the helpers read, rules, sockets.

Laws (nf_conntrack_expect.c):
  - One-shot: the first packet that fits takes it, whatever becomes of that packet.
  - It dies with its master's entry, not with its master's TCP state.  That is looked up, not told: an expectation whose
    master is gone is invisible, and the sweep gives its slot back.
  - What another master expects is not taken over: the later one is refused.
  - What a packet costs does not depend on how many expectations there are.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pyfw.conntrack.conn cimport CONN_CONFIRMED, Conn, Key
from pyfw.conntrack.siphash cimport siphash
from pyfw.conntrack.table cimport Table
from pyfw.wire.packet cimport FAMILY_IPV4, FAMILY_IPV6, Address

cdef enum:
    SWEPT_IF_FULL = 64          # slots that one more expectation looks through, if all are taken
    MAX_ALIKE = 32              # expectations of the same destination, of other sources: two ends may choose both


cdef inline bint same_address(const Address *a, const Address *b) noexcept nogil:
    return a.halves[0] == b.halves[0] and a.halves[1] == b.halves[1]


cdef class Expectations:
    """At most `limit` expectations in `memory` (writable; zeros, or a predecessor's if `take_over`)."""

    def __cinit__(self, Table table, uint32_t limit, memory, bint take_over):
        cdef unsigned char[::1] view = memory
        if limit == 0 or view.shape[0] < Expectations.space(limit):
            raise ValueError(f"{view.shape[0]} bytes are not enough for {limit} expectations")
        self.memory = memory
        self.table = table
        self.slots = <Expect *> &view[0]
        self.conns = table.conns
        self.secret[0] = table.header.hash_key[0]
        self.secret[1] = table.header.hash_key[1]
        self.limit = limit
        self.mask = 255
        while self.mask < limit:
            self.mask = 2 * self.mask + 1
        self.buckets = <uint32_t *> calloc(self.mask + <size_t> 1, sizeof(uint32_t))
        self.master_buckets = <uint32_t *> calloc(self.mask + <size_t> 1, sizeof(uint32_t))
        self.siblings = <uint32_t *> calloc(limit + <size_t> 1, sizeof(uint32_t))
        if self.buckets == NULL or self.master_buckets == NULL or self.siblings == NULL:
            raise MemoryError(f"no memory for {limit} expectations")
        if take_over:
            self.take_over()
        else:
            memset(self.slots, 0, Expectations.space(limit))

    def __dealloc__(self):
        free(self.buckets)
        free(self.master_buckets)
        free(self.siblings)

    @staticmethod
    def space(limit: int) -> int:
        """Bytes of memory that `limit` expectations need."""
        return (limit + 1) * sizeof(Expect)

    cdef void take_over(self) noexcept:
        """Link what a predecessor left; what is damaged or whose master is gone never links."""
        cdef uint32_t slot
        cdef Expect *expect
        self.used = self.limit
        for slot in range(self.limit, 0, -1):
            expect = &self.slots[slot]
            if (expect.state <= EXPECT_ACTIVE and expect.state != EXPECT_FREE and 0 < expect.master <= self.table.header.used
                    and (expect.family == FAMILY_IPV4 or expect.family == FAMILY_IPV6) and self.lives(expect, 0)):
                self.link(slot)
                self.serial = max(self.serial, expect.serial)
            else:
                self.give_back(slot)

    cdef void relink(self) noexcept:
        """As Table.relink()."""
        memset(self.buckets, 0, (self.mask + <size_t> 1) * sizeof(uint32_t))
        memset(self.master_buckets, 0, (self.mask + <size_t> 1) * sizeof(uint32_t))
        self.free = self.count = 0
        self.take_over()

    cdef uint32_t *bucket(self, const Address *dst, uint16_t dport, uint8_t protocol) noexcept nogil:
        cdef uint64_t words[3]
        words[0] = dst.halves[0]
        words[1] = dst.halves[1]
        words[2] = (<uint64_t> dport << 8) | protocol
        return &self.buckets[siphash(self.secret, words, 3) & self.mask]

    cdef uint32_t *master_bucket(self, uint32_t master) noexcept nogil:
        return &self.master_buckets[master & self.mask]

    cdef void link(self, uint32_t slot) noexcept nogil:
        cdef Expect *expect = &self.slots[slot]
        cdef uint32_t *bucket = self.bucket(&expect.dst, expect.dport, expect.protocol)
        expect.next = bucket[0]
        bucket[0] = slot
        bucket = self.master_bucket(expect.master)
        self.siblings[slot] = bucket[0]
        bucket[0] = slot
        self.count += 1

    cdef void give_back(self, uint32_t slot) noexcept nogil:
        self.slots[slot].state = EXPECT_FREE
        self.slots[slot].next = self.free
        self.free = slot

    cdef bint lives(self, const Expect *expect, uint64_t now_ns) noexcept nogil:
        """Whether neither its deadline nor its master has passed away."""
        cdef const Conn *master = &self.conns[expect.master]
        return (expect.deadline_ns > now_ns and master.status & CONN_CONFIRMED
                and master.id == expect.master_id and master.expires_ns > now_ns)

    cdef void remove(self, uint32_t slot) noexcept nogil:
        cdef Expect *expect = &self.slots[slot]
        cdef uint32_t *place = self.bucket(&expect.dst, expect.dport, expect.protocol)
        while place[0] != slot:
            place = &self.slots[place[0]].next
        place[0] = expect.next
        place = self.master_bucket(expect.master)
        while place[0] != slot:
            place = &self.siblings[place[0]]
        place[0] = self.siblings[slot]
        self.give_back(slot)
        self.count -= 1

    cdef uint32_t find(self, const Key *key, uint64_t now_ns) noexcept nogil:
        """The slot of an active expectation that a first packet with this tuple fulfils, or 0."""
        cdef Expect *expect
        cdef uint32_t slot
        if self.count == 0:
            return 0
        slot = self.bucket(&key.dst, key.dport, key.protocol)[0]
        while slot:
            expect = &self.slots[slot]
            if (expect.state == EXPECT_ACTIVE and expect.dport == key.dport and expect.protocol == key.protocol
                    and expect.family == key.family and same_address(&expect.dst, &key.dst)
                    and (expect.any_src or same_address(&expect.src, &key.src)) and self.lives(expect, now_ns)):
                return slot
            slot = expect.next
        return 0

    cdef ExpectResult add(self, const Expect *wanted, uint32_t max_expected, uint64_t now_ns) noexcept nogil:
        """Enter `wanted` (its serial and links are set here); beyond max_expected it replaces the master's oldest."""
        cdef uint32_t slot = self.bucket(&wanted.dst, wanted.dport, wanted.protocol)[0]
        cdef uint32_t following, oldest, alike = 0
        cdef Expect *other
        while slot:
            other = &self.slots[slot]
            following = other.next
            if not self.lives(other, now_ns):
                self.counters.expired += 1
                self.remove(slot)
            elif overlap(other, wanted):
                if other.master_id != wanted.master_id:
                    return EXPECT_CLASH
                self.remove(slot)
            else:
                alike += 1
            slot = following
        if self.of_master(wanted, &oldest) >= max_expected:
            self.remove(oldest)
        if self.free == 0 and self.used == self.limit:
            self.sweep(now_ns, SWEPT_IF_FULL)
        if self.free == 0 and self.used == self.limit or alike >= MAX_ALIKE:
            self.counters.no_room += 1
            return EXPECT_NO_ROOM
        slot = self.free
        if slot:
            self.free = self.slots[slot].next
        else:
            self.used += 1
            slot = self.used
        self.serial += 1
        self.slots[slot] = wanted[0]
        self.slots[slot].serial = self.serial
        self.link(slot)
        self.counters.created += 1
        return EXPECT_ADDED

    cdef uint32_t of_master(self, const Expect *wanted, uint32_t *oldest) noexcept nogil:
        """How many expectations the connection has that `wanted` is of; the slot of the oldest."""
        cdef uint32_t slot = self.master_bucket(wanted.master)[0], found = 0
        while slot:
            if self.slots[slot].master_id == wanted.master_id:
                if found == 0 or self.slots[slot].serial < self.slots[oldest[0]].serial:
                    oldest[0] = slot
                found += 1
            slot = self.siblings[slot]
        return found

    cdef void settle(self, uint32_t master, bint activate) noexcept nogil:
        """Activate the inactive expectations of the connection in slot `master`, or take them back."""
        cdef uint32_t following, slot = self.master_bucket(master)[0]
        while slot:
            following = self.siblings[slot]
            if (self.slots[slot].state == EXPECT_INACTIVE and self.slots[slot].master == master
                    and self.slots[slot].master_id == self.conns[master].id):
                if activate:
                    self.slots[slot].state = EXPECT_ACTIVE
                else:
                    self.remove(slot)
            slot = following

    cdef void sweep(self, uint64_t now_ns, uint32_t slots) noexcept nogil:
        """Give back those of the next `slots` slots whose expectations are over."""
        cdef uint32_t i
        if self.count == 0:
            return
        for i in range(min(slots, self.used)):
            self.swept = self.swept % self.used + 1
            if self.slots[self.swept].state != EXPECT_FREE and not self.lives(&self.slots[self.swept], now_ns):
                self.counters.expired += 1
                self.remove(self.swept)


cdef inline bint overlap(const Expect *a, const Expect *b) noexcept nogil:
    """Whether some packet would fulfil both."""
    return (a.dport == b.dport and a.protocol == b.protocol and a.family == b.family and same_address(&a.dst, &b.dst)
            and (a.any_src or b.any_src or same_address(&a.src, &b.src)))
