# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Who began the connections in the table: how many each source address has, and how fast it begins others.

May know: where an entry stands and who began it.  Must not know: what is too many, rules, sets, sockets.

Laws:
  - `states` is what the table has, always: the table attaches every connection it enters and detaches every one it removes.
  - There is room for a source for each connection that the table can have.  So one that begins a connection always finds
    room: in a free place, or in that of the source that has been without connections for longest.  If that one's window
    was not over, it is counted as forgotten; a source that has connections is never forgotten.
  - A window is told in parts, of which nine are kept: a connection counts for the whole window, and at most an eighth
    longer.  So there never is a window with more than were let through, wherever it is laid.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.siphash cimport siphash
from pyfw.wire.packet cimport FAMILY_IPV4, Address

cdef enum:
    MAX_PART = 0xFFFF


cdef int fill_mask(Address *mask, unsigned int prefix) except -1:
    cdef unsigned int i
    memset(mask, 0, sizeof(Address))
    for i in range(prefix):
        mask.bytes[i // 8] |= 0x80 >> (i % 8)
    return 0


cdef class Sources:
    """The sources of a table of `max_entries` connections.

    prefix4, prefix6: bits of an address that tell sources apart.  window_ns: how long a connection that began counts; 0: not
    at all.  secret: 16 random bytes for the hash.
    """

    def __cinit__(self, uint32_t max_entries, unsigned int prefix4, unsigned int prefix6, uint64_t window_ns, bytes secret):
        cdef size_t places = 2
        if not 1 <= prefix4 <= 32 or not 1 <= prefix6 <= 128 or len(secret) != 16:
            raise ValueError("a prefix is 1 to 32 or 1 to 128 bits, a secret 16 bytes")
        self.capacity = max_entries
        self.window_ns = window_ns
        self.part_ns = (window_ns + WINDOW_PARTS - 1) // WINDOW_PARTS
        memcpy(self.secret, <const char *> secret, 16)
        fill_mask(&self.masks[0], prefix4)
        fill_mask(&self.masks[1], prefix6)
        while places < 2 * <size_t> max_entries:    # at most half full: a walk is short
            places *= 2
        self.mask = <uint32_t> (places - 1)
        self.sources = <Source *> calloc(max_entries + <size_t> 1, sizeof(Source))
        self.belongings = <Belonging *> calloc(max_entries + <size_t> 1, sizeof(Belonging))
        self.places = <uint32_t *> calloc(places, sizeof(uint32_t))
        if self.sources == NULL or self.belongings == NULL or self.places == NULL:
            raise MemoryError(f"no memory for the sources of {max_entries} connections")

    def __dealloc__(self):
        free(self.sources)
        free(self.belongings)
        free(self.places)

    cdef void forget_all(self) noexcept nogil:
        """As it was at first, but for the counters."""
        memset(self.sources, 0, (self.capacity + <size_t> 1) * sizeof(Source))
        memset(self.belongings, 0, (self.capacity + <size_t> 1) * sizeof(Belonging))
        memset(self.places, 0, (self.mask + <size_t> 1) * sizeof(uint32_t))
        self.used = self.free = self.count = 0
        memset(&self.idle, 0, sizeof(Queue))
        memset(&self.doomed, 0, sizeof(Queue))

    # -- asking --------------------------------------------------------------------------------------------------------

    cdef uint32_t find(self, const Address *address, uint8_t family) noexcept nogil:
        """The number of the source that an address belongs to; 0: nothing is known of it."""
        cdef Address network
        self.network_of(address, family, &network)
        return self.look_up(&network, family, self.hash_of(&network, family))

    cdef uint32_t begun(self, uint32_t number, uint64_t now_ns) noexcept nogil:
        """Connections that a source has begun within the window."""
        return self.in_window(&self.sources[number], self.sources[number].begun, now_ns)

    cdef uint32_t completed(self, uint32_t number, uint64_t now_ns) noexcept nogil:
        """TCP handshakes that a source has completed within the window."""
        return self.in_window(&self.sources[number], self.sources[number].completed, now_ns)

    cdef uint32_t in_window(self, const Source *source, const uint16_t *counts, uint64_t now_ns) noexcept nogil:
        cdef uint64_t past, part
        cdef uint32_t total = 0
        cdef int i
        if self.part_ns == 0:
            return 0
        part = self.part_at(now_ns)
        past = part - source.part if part > source.part else 0
        if past < WINDOW_COUNTS:
            for i in range(WINDOW_COUNTS - <int> past):
                total += counts[(source.part - i) % WINDOW_COUNTS]
        return total

    cdef uint64_t part_at(self, uint64_t now_ns) noexcept nogil:
        """Parts are numbered from the clock's beginning, and so that there are nine before it."""
        return now_ns // self.part_ns + WINDOW_COUNTS

    cdef bint is_over(self, const Source *source, uint64_t now_ns) noexcept nogil:
        """Whether nothing that a source without connections did counts any more."""
        return self.part_ns == 0 or self.part_at(now_ns) >= source.part + WINDOW_COUNTS

    # -- what the table and the tracker tell ---------------------------------------------------------------------------

    cdef void attach(self, uint32_t slot, const Conn *conn, uint64_t now_ns) noexcept nogil:
        """The connection in `slot` has been entered."""
        cdef Address network
        cdef Belonging *belonging = &self.belongings[slot]
        cdef Source *source
        cdef uint32_t hash, number
        self.network_of(&conn.key.src, conn.key.family, &network)
        hash = self.hash_of(&network, conn.key.family)
        number = self.look_up(&network, conn.key.family, hash)
        if number == 0:
            number = self.enter(&network, conn.key.family, hash, now_ns)
        source = &self.sources[number]
        if source.states == 0:
            self.leave(&self.idle, number)
        source.states += 1
        source.established += is_completed(conn.key.protocol, conn.status)
        belonging.source = number
        belonging.younger = 0
        belonging.older = source.first
        if source.first:
            self.belongings[source.first].younger = slot
        source.first = slot

    cdef void note_begun(self, uint32_t slot, uint64_t now_ns) noexcept nogil:
        """The connection in `slot`, which may be one that is not counted, begins now."""
        cdef uint32_t number = self.belongings[slot].source
        if number:
            self.put_in_window(number, self.sources[number].begun, now_ns)

    cdef void note_completed(self, uint32_t slot, uint64_t now_ns) noexcept nogil:
        """The handshake of the TCP connection in `slot` is completed."""
        cdef uint32_t number = self.belongings[slot].source
        if number:
            self.sources[number].established += 1
            self.put_in_window(number, self.sources[number].completed, now_ns)

    cdef void detach(self, uint32_t slot, const Conn *conn) noexcept nogil:
        """The connection in `slot` goes."""
        cdef Belonging *belonging = &self.belongings[slot]
        cdef uint32_t number = belonging.source
        cdef Source *source = &self.sources[number]
        if number == 0:
            return
        belonging.source = 0
        if belonging.younger:
            self.belongings[belonging.younger].older = belonging.older
        else:
            source.first = belonging.older
        if belonging.older:
            self.belongings[belonging.older].younger = belonging.younger
        source.states -= 1
        source.established -= is_completed(conn.key.protocol, conn.status)
        if source.states:
            return
        if source.doomed:
            source.doomed = False
            self.leave(&self.doomed, number)
        self.join(&self.idle, number)
        if self.part_ns == 0:
            self.forget(number)

    # -- ending all connections of a source ----------------------------------------------------------------------------

    cdef void doom(self, uint32_t number) noexcept nogil:
        """Have next_doomed() tell a source's connections."""
        cdef Source *source = &self.sources[number]
        if source.states and not source.doomed:
            source.doomed = True
            self.join(&self.doomed, number)

    cdef uint32_t next_doomed(self) noexcept nogil:
        """The slot of a connection that is to end, and is counted as ended; 0: there is none."""
        cdef uint32_t number = self.doomed.oldest
        if number == 0:
            return 0
        self.counters.flushed += 1
        return self.sources[number].first

    # -- places --------------------------------------------------------------------------------------------------------

    cdef void retire(self, uint64_t now_ns, uint32_t most) noexcept nogil:
        """Give back the places of sources that are without connections, and whose window is over."""
        cdef uint32_t i
        for i in range(most):
            if self.idle.oldest == 0 or not self.is_over(&self.sources[self.idle.oldest], now_ns):
                return
            self.forget(self.idle.oldest)

    cdef void network_of(self, const Address *address, uint8_t family, Address *network) noexcept nogil:
        cdef const Address *mask = &self.masks[family != FAMILY_IPV4]
        network.halves[0] = address.halves[0] & mask.halves[0]
        network.halves[1] = address.halves[1] & mask.halves[1]

    cdef uint32_t hash_of(self, const Address *network, uint8_t family) noexcept nogil:
        cdef uint64_t words[3]
        words[0] = network.halves[0]
        words[1] = network.halves[1]
        words[2] = family
        return <uint32_t> siphash(self.secret, words, 3)

    cdef uint32_t look_up(self, const Address *network, uint8_t family, uint32_t hash) noexcept nogil:
        cdef uint32_t place = hash & self.mask
        cdef const Source *source
        while self.places[place]:
            source = &self.sources[self.places[place]]
            if (source.hash == hash and source.family == family and source.network.halves[0] == network.halves[0]
                    and source.network.halves[1] == network.halves[1]):
                return self.places[place]
            place = (place + 1) & self.mask
        return 0

    cdef uint32_t enter(self, const Address *network, uint8_t family, uint32_t hash, uint64_t now_ns) noexcept nogil:
        """A place for a source that has none yet; it stands among the idle ones."""
        cdef uint32_t number = self.take_free(now_ns)
        cdef uint32_t place = hash & self.mask
        cdef Source *source = &self.sources[number]
        memset(source, 0, sizeof(Source))
        source.network = network[0]
        source.family = family
        source.hash = hash
        while self.places[place]:
            place = (place + 1) & self.mask
        self.places[place] = number
        self.count += 1
        self.join(&self.idle, number)
        return number

    cdef uint32_t take_free(self, uint64_t now_ns) noexcept nogil:
        cdef uint32_t number
        if self.free == 0 and self.used < self.capacity:
            self.used += 1
            return self.used
        if self.free == 0:
            self.counters.forgotten += not self.is_over(&self.sources[self.idle.oldest], now_ns)
            self.forget(self.idle.oldest)
        number = self.free
        self.free = self.sources[number].older
        return number

    cdef void forget(self, uint32_t number) noexcept nogil:
        """Take an idle source out; those behind it that it kept from their place move up (Knuth 6.4, algorithm R)."""
        cdef uint32_t hole = self.sources[number].hash & self.mask
        cdef uint32_t place, home
        self.leave(&self.idle, number)
        while self.places[hole] != number:
            hole = (hole + 1) & self.mask
        place = (hole + 1) & self.mask
        while self.places[place]:
            home = self.sources[self.places[place]].hash & self.mask
            if ((place - home) & self.mask) >= ((place - hole) & self.mask):
                self.places[hole] = self.places[place]
                hole = place
            place = (place + 1) & self.mask
        self.places[hole] = 0
        self.sources[number].family = 0
        self.sources[number].older = self.free
        self.free = number
        self.count -= 1

    # -- windows -------------------------------------------------------------------------------------------------------

    cdef void put_in_window(self, uint32_t number, uint16_t *counts, uint64_t now_ns) noexcept nogil:
        """Add one to the count of the part that is under way, after emptying the parts that have come since."""
        cdef Source *source = &self.sources[number]
        cdef uint64_t part
        cdef uint32_t place
        cdef int i
        if self.part_ns == 0:
            return
        part = self.part_at(now_ns)
        if part > source.part:
            for i in range(<int> min(part - source.part, <uint64_t> WINDOW_COUNTS)):
                place = (part - i) % WINDOW_COUNTS
                source.begun[place] = source.completed[place] = 0
            source.part = part
        counts += source.part % WINDOW_COUNTS
        if counts[0] < MAX_PART:
            counts[0] += 1

    # -- queues --------------------------------------------------------------------------------------------------------

    cdef void join(self, Queue *queue, uint32_t number) noexcept nogil:
        cdef Source *source = &self.sources[number]
        source.newer = 0
        source.older = queue.newest
        if queue.newest:
            self.sources[queue.newest].newer = number
        else:
            queue.oldest = number
        queue.newest = number

    cdef void leave(self, Queue *queue, uint32_t number) noexcept nogil:
        cdef const Source *source = &self.sources[number]
        if source.older:
            self.sources[source.older].newer = source.newer
        else:
            queue.oldest = source.newer
        if source.newer:
            self.sources[source.newer].older = source.older
        else:
            queue.newest = source.older
