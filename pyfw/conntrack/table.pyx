# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The state table: find, insert, remove, expire, evict, and taking over what a predecessor left.

May know: keys and when entries expire.  Must not know: protocols (but for ICMP's way to invert a tuple), rules, sockets.

Laws:
  - Entries are linked by slot number, never by pointer, and the links are not part of what is handed over: a
    process may die at any instruction, and its successor builds the chains anew from the entries marked CONFIRMED.
  - CONFIRMED is stored last when an entry is made and cleared first when it goes.
  - What is in memory is checked once (inherited.pyx), when it is taken over: damage costs the entries that it hit.  No size,
    number or key that the memory's header has is read again after that.
  - Expired means invisible.  The sweep only gives memory back.
  - An entry has one key, that of its original direction, and stands in one chain: both directions hash alike.
  - insert() and remove() are the only ways in and out: `sources` and `counts` hear of both, whatever the cause.
  - Adaptive timeouts only ever shorten the life of an entry: what the sweep has shortened stays so until the next packet.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_CONFIRMED, CONN_COUNTED, CONN_ONE_SIDED, Conn, Key
from pyfw.conntrack.conncount cimport ConnCounts
from pyfw.conntrack.events cimport EVENT_DESTROY, Events
from pyfw.conntrack.inherited cimport end_names, make_sound
from pyfw.conntrack.siphash cimport siphash
from pyfw.enums cimport DIR_ORIGINAL, DIR_REPLY
from pyfw.wire.packet cimport FAMILY_IPV4, PROTO_ICMP, PROTO_ICMPV6

cdef extern from *:
    """
    #define pyfw_store_last(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    """
    void pyfw_store_last(uint32_t *place, uint32_t value) noexcept nogil

cdef enum:
    LAYOUT = 1
    HEADER_SPACE = 4096
    MAX_FREED = 128             # entries that a slice of the sweep frees: each is several cache misses
    EVICTION_RANGE = 8          # NF_CT_EVICTION_RANGE: buckets searched for a victim

cdef bytes MAGIC = b"pyfwconn"


cdef inline uint16_t inverse_icmp(uint8_t family, uint16_t type_and_code) noexcept nogil:
    """The type and code that answer a request, and the other way round; 0xFFFF for types that have no counterpart."""
    cdef uint8_t type = type_and_code >> 8
    cdef uint8_t code = type_and_code & 0xFF
    if family == FAMILY_IPV4:
        if type == 8:                                   # echo
            return code
        if type == 0:
            return (8 << 8) | code
        if type == 13 or type == 15 or type == 17:      # timestamp, information, address mask
            return ((type + 1) << 8) | code
        if type == 14 or type == 16 or type == 18:
            return ((type - 1) << 8) | code
    elif type == 128 or type == 139:                    # echo, node information (RFC 4620)
        return ((type + 1) << 8) | code
    elif type == 129 or type == 140:
        return ((type - 1) << 8) | code
    return 0xFFFF


cdef void invert(const Key *key, Key *inverse) noexcept nogil:
    """The tuple that an answer to `key` bears."""
    inverse.src = key.dst
    inverse.dst = key.src
    inverse.protocol = key.protocol
    inverse.family = key.family
    inverse.zero = 0
    if key.protocol == PROTO_ICMP or key.protocol == PROTO_ICMPV6:
        inverse.sport = key.sport
        inverse.dport = inverse_icmp(key.family, key.dport)
    else:
        inverse.sport = key.dport
        inverse.dport = key.sport


cdef inline bint same(const Key *a, const Key *b) noexcept nogil:
    """As five words: a call of memcmp would cost more than the comparison."""
    cdef const uint64_t *p = <const uint64_t *> a
    cdef const uint64_t *q = <const uint64_t *> b
    return (p[0] ^ q[0] | p[1] ^ q[1] | p[2] ^ q[2] | p[3] ^ q[3] | p[4] ^ q[4]) == 0


cdef inline uint64_t hash_key(const uint64_t *secret, const Key *key) noexcept nogil:
    """Alike for a tuple and its inverse: of the two, the smaller is hashed."""
    cdef Key inverse
    cdef uint64_t words[5]
    invert(key, &inverse)
    if memcmp(&inverse, key, sizeof(Key)) < 0:
        key = &inverse
    if key.family == FAMILY_IPV4:
        words[0] = (<uint64_t> key.src.words[0] << 32) | key.dst.words[0]
        memcpy(&words[1], &key.sport, 8)
        return siphash(secret, words, 2)
    memcpy(words, key, sizeof(Key))
    return siphash(secret, words, 5)


def siphash_words(key: tuple, words: list) -> int:
    """SipHash-2-4 of 64-bit words, for the tests against the authors' vectors."""
    cdef uint64_t secret[2]
    cdef uint64_t buffer[16]
    cdef int i
    secret[0], secret[1] = key
    for i in range(len(words)):
        buffer[i] = words[i]
    return siphash(secret, buffer, len(words))


cdef class Table:
    """`max_entries` connections in `memory` (writable, zeros or a predecessor's), or in memory of its own."""

    def __cinit__(self, uint32_t max_entries, uint32_t expect_max, memory, bytes boot_id, bytes secret):
        """secret: 16 random bytes for the hash."""
        cdef unsigned char[::1] view = memory
        cdef uint32_t buckets = 1
        if len(boot_id) != 16 or len(secret) != 16:
            raise ValueError("boot_id and secret are 16 bytes each")
        if not 1 <= max_entries <= 1 << 28:
            raise ValueError(f"max_entries must be 1 to {1 << 28}, not {max_entries}")
        if view.shape[0] < Table.space(max_entries):
            raise ValueError(f"{view.shape[0]} bytes are too few for {max_entries} entries: {Table.space(max_entries)} needed")
        self.memory = memory
        self.events = Events()
        self.counts = ConnCounts(max_entries)
        self.published = <Header *> &view[0]
        self.conns = <Conn *> (&view[0] + HEADER_SPACE)
        while buckets < max_entries:
            buckets *= 2
        self.buckets = <uint32_t *> calloc(buckets, sizeof(uint32_t))
        if self.buckets == NULL:
            raise MemoryError(f"no memory for {buckets} buckets")
        self.mask = buckets - 1
        self.evicts = True
        self.initialise(max_entries, expect_max, boot_id, secret)
        if self.take_header():
            self.take_over()
        else:
            memset(self.conns, 0, sizeof(Conn))
            self.publish()

    def __dealloc__(self):
        free(self.buckets)
        free(self.timers)

    @staticmethod
    def space(max_entries: int) -> int:
        """Bytes of memory that `max_entries` need, header included."""
        return HEADER_SPACE + (max_entries + 1) * sizeof(Conn)

    cdef void initialise(self, uint32_t max_entries, uint32_t expect_max, bytes boot_id, bytes secret):
        memset(&self.header, 0, sizeof(Header))
        memcpy(self.header.magic, <const char *> MAGIC, 8)
        self.header.layout = LAYOUT
        self.header.conn_size = sizeof(Conn)
        memcpy(self.header.boot_id, <const char *> boot_id, 16)
        memcpy(self.header.hash_key, <const char *> secret, 16)
        self.header.max_entries = max_entries
        self.header.expect_max = expect_max
        self.header.next_id = 1

    cdef bint take_header(self) noexcept:
        """Go on with what the memory's header says, if it is that of a table like this one."""
        cdef Header there = self.published[0]
        if (there.magic[:8] != self.header.magic[:8] or there.layout != LAYOUT or there.conn_size != sizeof(Conn)
                or there.boot_id[:16] != self.header.boot_id[:16] or there.max_entries != self.header.max_entries
                or there.expect_max != self.header.expect_max or there.used > there.max_entries):
            return False
        end_names(&there)
        memcpy(there.hash_key, self.header.hash_key, sizeof(there.hash_key))    # the chains are ours, and so is their key
        self.header = there
        return True

    cdef void publish(self) noexcept nogil:
        self.published[0] = self.header

    cdef void take_over(self) noexcept:
        """Link every entry that a predecessor left confirmed and sane; give back the other slots."""
        cdef uint32_t slot, last_id = 0
        cdef uint8_t direction
        for slot in range(self.header.used, 0, -1):
            if make_sound(&self.header, &self.conns[slot]) and self.find(&self.conns[slot].key, 0, &direction) == 0:
                self.link(slot)
                self.adopted += 1
                last_id = max(last_id, self.conns[slot].id)
            else:
                self.give_back(slot)
        self.header.next_id = max(self.header.next_id, last_id + 1, 1)
        self.publish()

    cdef void relink(self) noexcept:
        """Find every entry anew: another process has changed the memory.  If it is no table like ours now, ours is empty."""
        memset(self.buckets, 0, (<size_t> self.mask + 1) * sizeof(uint32_t))
        memset(self.link_uses, 0, sizeof(self.link_uses))
        self.free = self.count = self.adopted = 0
        if not self.take_header():
            self.header.used = 0
        self.counts.forget_all()
        self.take_over()
        if self.timers != NULL:
            memset(self.timers, 0, (self.header.max_entries + <size_t> 1) * sizeof(AdaptiveTimer))

    def copy_from(self, previous) -> None:
        """Enter the connections of a predecessor's table of another size, as far as there is room.

        They keep their ids.  Entries may be shorter or longer than ours: of one LAYOUT, fields are only ever appended,
        and zeros mean what it was like before there was the field.  What is no table of this boot is left alone.
        """
        cdef const unsigned char[::1] view = previous
        cdef const unsigned char *conns
        cdef Header header
        cdef Conn copy
        cdef uint32_t slot, known, last_id = 0
        cdef uint8_t direction
        if view.shape[0] < HEADER_SPACE:
            return
        memcpy(&header, &view[0], sizeof(Header))
        conns = &view[0] + HEADER_SPACE
        if (header.magic[:8] != MAGIC or header.layout != LAYOUT or header.conn_size < sizeof(Key)
                or header.boot_id[:16] != self.header.boot_id[:16]
                or (header.used + <uint64_t> 1) * header.conn_size + HEADER_SPACE > <uint64_t> view.shape[0]):
            return
        known = min(header.conn_size, <uint32_t> sizeof(Conn))
        memset(&copy, 0, sizeof(Conn))
        end_names(&header)
        memcpy(self.header.helper_names, header.helper_names, sizeof(header.helper_names))
        memcpy(self.header.link_names, header.link_names, sizeof(header.link_names))
        for slot in range(1, header.used + 1):
            memcpy(&copy, conns + <size_t> slot * header.conn_size, known)
            if make_sound(&self.header, &copy) and self.find(&copy.key, 0, &direction) == 0:
                copy.status &= ~<uint32_t> CONN_CONFIRMED
                self.header.next_id = copy.id
                self.insert(&copy, 0)
                last_id = max(last_id, copy.id)
        self.header.next_id = max(header.next_id, last_id + 1, 1)
        self.adopted = self.count
        self.publish()

    # -- what is switched on -----------------------------------------------------------------------------------------

    def configure(self, *, bint evicts, adaptive) -> None:
        """evicts: a full table gives up entries that are not ASSURED.  adaptive: (start, end) in entries, or None."""
        self.evicts = evicts
        if adaptive is None:
            return
        start, end = adaptive
        if not 0 <= start < end < 1 << 32:
            raise ValueError(f"adaptive timeouts must start at fewer entries than they end at, not at {start} and {end}")
        self.adaptive_start, self.adaptive_end = start, end
        self.timers = <AdaptiveTimer *> calloc(self.header.max_entries + <size_t> 1, sizeof(AdaptiveTimer))
        if self.timers == NULL:
            raise MemoryError(f"no memory for the timeouts of {self.header.max_entries} entries")

    def count_sources(self, Sources sources not None, bint all_of_them) -> None:
        """Have the sources of the entries counted from now on; all_of_them: not only of those marked CONN_COUNTED.

        For a table that no packet uses yet.
        """
        cdef uint32_t slot
        if sources.capacity < self.header.max_entries:
            raise ValueError(f"{sources.capacity} sources are too few for {self.header.max_entries} entries")
        for slot in range(1, self.header.used + 1):
            if self.conns[slot].status & CONN_CONFIRMED and (all_of_them or self.conns[slot].status & CONN_COUNTED):
                sources.attach(slot, &self.conns[slot], 0)
        self.sources = sources
        self.counts_all = all_of_them

    # -- finding, entering, removing ---------------------------------------------------------------------------------

    cdef uint32_t *bucket(self, const Key *key) noexcept nogil:
        return &self.buckets[hash_key(self.header.hash_key, key) & self.mask]

    cdef uint32_t find(self, const Key *key, uint64_t now_ns, uint8_t *direction) noexcept nogil:
        """The slot of the connection that `key` belongs to and the direction it goes, or 0 and ORIGINAL.

        A tuple that is its own inverse (both ends the same) goes in reply direction from its second packet on.  So it does
        in the kernel, whose chains have the reply first.
        """
        cdef Key inverse
        cdef Conn *conn
        cdef uint32_t slot = self.bucket(key)[0]
        if slot == 0:
            return 0
        invert(key, &inverse)
        while slot:
            conn = &self.conns[slot]
            if same(&conn.key, &inverse):
                direction[0] = DIR_REPLY
                break
            if same(&conn.key, key):
                direction[0] = DIR_ORIGINAL
                break
            slot = conn.next
        if slot and conn.expires_ns <= now_ns:
            self.expire(slot, now_ns)
            slot = 0
        if slot == 0:
            direction[0] = DIR_ORIGINAL
        return slot

    cdef void link(self, uint32_t slot) noexcept nogil:
        cdef uint32_t *bucket = self.bucket(&self.conns[slot].key)
        self.conns[slot].next = bucket[0]
        bucket[0] = slot
        self.count += 1
        self.use_links(self.conns[slot].origin, 1)

    cdef void use_links(self, uint16_t origin, int32_t times) noexcept nogil:
        self.link_uses[origin >> 2 & LINK_NUMBERS - 1] += times
        self.link_uses[origin >> 9] += times

    cdef void give_back(self, uint32_t slot) noexcept nogil:
        pyfw_store_last(&self.conns[slot].status, 0)
        self.conns[slot].next = self.free
        self.free = slot

    cdef uint32_t insert(self, const Conn *fresh, uint64_t now_ns) noexcept nogil:
        """Enter a copy of `fresh`; returns its slot, or 0 where the table is full and no entry can be evicted."""
        cdef uint32_t slot, victim
        cdef Conn *conn
        if self.free == 0 and self.header.used == self.header.max_entries:
            victim = self.victim_near(&fresh.key, now_ns)
            if victim == 0:
                self.counters.table_full += 1
                return 0
            if self.conns[victim].expires_ns <= now_ns:
                self.expire(victim, now_ns)
            else:
                self.remove(victim, now_ns)
                self.counters.early_drop += 1
        slot = self.free
        if slot:
            self.free = self.conns[slot].next
        else:
            slot = self.header.used + 1
            self.conns[slot].status = 0
            self.header.used = self.published.used = slot
        conn = &self.conns[slot]
        memcpy(conn, fresh, sizeof(Conn))       # status comes without CONFIRMED
        conn.id = self.header.next_id
        self.header.next_id += 1
        if self.header.next_id == 0:            # 0 means no connection
            self.header.next_id = 1
        self.published.next_id = self.header.next_id
        self.link(slot)
        self.counters.created += 1
        if self.timers != NULL:
            self.timers[slot].timeout_ns = 0        # not known, unless note_begun() is called
        if self.sources is not None and (self.counts_all or conn.status & CONN_COUNTED):
            self.sources.attach(slot, conn, now_ns)
        if self.counts.heads != NULL:
            self.counts.note_entry(slot, &conn.key)
        pyfw_store_last(&conn.status, fresh.status | CONN_CONFIRMED)
        return slot

    cdef void remove(self, uint32_t slot, uint64_t now_ns) noexcept nogil:
        cdef uint32_t *place = self.bucket(&self.conns[slot].key)
        if self.events.count:
            self.events.tell(EVENT_DESTROY, 0, &self.conns[slot], now_ns)
        while place[0] != slot:
            place = &self.conns[place[0]].next
        if self.sources is not None:
            self.sources.detach(slot, &self.conns[slot])
        if self.counts.heads != NULL:
            self.counts.forget(slot)
        pyfw_store_last(&self.conns[slot].status, 0)
        place[0] = self.conns[slot].next
        self.use_links(self.conns[slot].origin, -1)
        self.give_back(slot)
        self.count -= 1
        self.counters.destroyed += 1

    cdef bint has_room(self, const Key *key, uint64_t now_ns) noexcept nogil:
        """Whether an entry with this key could be inserted now."""
        return (self.free != 0 or self.header.used < self.header.max_entries
                or self.victim_near(key, now_ns) != 0)

    cdef uint32_t victim_near(self, const Key *key, uint64_t now_ns) noexcept nogil:
        """An entry that is expired, or may be evicted, from the chains near the place of `key`; 0: none (early_drop()).

        Of those that may be evicted, one that is not ASSURED comes before one that a side alone has made so.
        """
        cdef uint32_t place = <uint32_t> (hash_key(self.header.hash_key, key) & self.mask)
        cdef uint32_t slot, status, one_sided = 0
        cdef int i
        for i in range(EVICTION_RANGE):
            slot = self.buckets[(place + <uint32_t> i) & self.mask]
            while slot:
                status = self.conns[slot].status
                if (self.evicts and not status & CONN_ASSURED) or self.conns[slot].expires_ns <= now_ns:
                    return slot
                if status & CONN_ONE_SIDED and one_sided == 0:
                    one_sided = slot
                slot = self.conns[slot].next
        return one_sided if self.evicts else 0

    # -- time --------------------------------------------------------------------------------------------------------

    cdef uint32_t sweep(self, uint64_t now_ns, uint32_t slots) noexcept nogil:
        """Free expired entries among the next `slots` slots, MAX_FREED of them at most; returns how many."""
        cdef uint32_t freed = 0, i
        cdef Conn *conn
        cdef AdaptiveTimer *timer
        if slots > self.header.used:
            slots = self.header.used
        for i in range(slots):
            self.sweep_slot = self.sweep_slot % self.header.used + 1
            conn = &self.conns[self.sweep_slot]
            if not conn.status & CONN_CONFIRMED:
                continue
            if self.is_adapting():
                timer = &self.timers[self.sweep_slot]
                if timer.timeout_ns:            # else taken over, and no packet has come since
                    conn.expires_ns = min(conn.expires_ns, timer.since_ns + self.scaled(timer.timeout_ns))
            if conn.expires_ns <= now_ns:
                self.expire(self.sweep_slot, now_ns)
                freed += 1
                if freed == MAX_FREED:
                    break
        return freed

    cdef uint32_t end_doomed(self, uint64_t now_ns, uint32_t most) noexcept nogil:
        """Remove connections of doomed sources; returns how many."""
        cdef uint32_t removed = 0, slot
        while removed < most:
            slot = self.sources.next_doomed()
            if slot == 0:
                break
            self.remove(slot, now_ns)
            removed += 1
        return removed

    cdef void expire(self, uint32_t slot, uint64_t now_ns) noexcept nogil:
        self.counters.expired += 1
        if self.timers != NULL and self.timers[slot].since_ns + self.timers[slot].timeout_ns > now_ns:
            self.counters.ended_early += 1
        self.remove(slot, now_ns)

    cdef void note_begun(self, uint32_t slot, uint64_t now_ns) noexcept nogil:
        """An entry that was inserted was not taken over: it begins now, with its packet."""
        if self.timers != NULL:
            self.timers[slot] = self.timers[0]
        if self.sources is not None:
            self.sources.note_begun(slot, now_ns)

    cdef uint64_t deadline(self, uint32_t slot, uint64_t now_ns, uint64_t timeout_ns) noexcept nogil:
        """When an entry whose timeout runs from now on expires; slot 0: the one that is about to be entered."""
        if self.timers == NULL:
            return now_ns + timeout_ns
        self.timers[slot].since_ns = now_ns
        self.timers[slot].timeout_ns = timeout_ns
        return now_ns + self.scaled(timeout_ns)

    cdef bint is_adapting(self) noexcept nogil:
        return self.timers != NULL and self.count + self.elsewhere > self.adaptive_start

    cdef uint64_t scaled(self, uint64_t timeout_ns) noexcept nogil:
        """A timeout as it is with so many entries: times (end - entries) / (end - start), as pf.conf(5) has it."""
        cdef uint64_t entries = self.count + <uint64_t> self.elsewhere
        cdef uint64_t left, span = self.adaptive_end - self.adaptive_start
        if not self.is_adapting():
            return timeout_ns
        if entries >= self.adaptive_end:
            return 0
        left = self.adaptive_end - entries
        return timeout_ns // span * left + timeout_ns % span * left // span     # the product would not fit
