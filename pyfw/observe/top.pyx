# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which connections are busiest: the table is walked again and again, and the counters compared with those of the walk before.

May know: the engine's lock, entries, selections.  Must not know: sockets, the clock, how it is shown.

Laws:
  - The packet path does nothing for it.
  - A rate is what was counted, divided by the time between the two looks at this very entry, though a walk takes its time.
  - A slot's numbers are a connection's only while the id is the same: the connection that has the slot now began with nothing.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.stdint cimport uint32_t, uint64_t

from pyfw.conntrack.conn cimport Conn
from pyfw.engine.walk cimport SLICE_SLOTS
from pyfw.observe.dump cimport record

cdef enum:
    CHUNK_SLOTS = 32 * 512      # what one call walks, a millisecond or two; it shares one time

SORT_KEYS = ("bytes", "packets", "age")     # by SortKey


cdef class Top(Walk):
    """The counters of all connections as the last walk saw them: 20 bytes for each that the table has room for.

    A walk is begin(), and walk() until it returns 0; then first().  The first walk only remembers.
    """

    def __cinit__(self, Engine engine not None):
        cdef size_t slots = engine.tracker.table.header.max_entries + 1
        self.ids = <uint32_t *> calloc(slots, sizeof(uint32_t))
        self.packets = <uint64_t *> calloc(slots, sizeof(uint64_t))
        self.bytes = <uint64_t *> calloc(slots, sizeof(uint64_t))
        self.chunk_seen_ns = <uint64_t *> calloc(slots // CHUNK_SLOTS + 1, sizeof(uint64_t))
        if self.ids == NULL or self.packets == NULL or self.bytes == NULL or self.chunk_seen_ns == NULL:
            raise MemoryError("no memory to watch the connections with")

    def __init__(self, Engine engine not None):
        super().__init__(engine)
        self.slots = engine.tracker.table.header.max_entries + 1
        self.selection = Selection()

    def __dealloc__(self):
        free(self.ids)
        free(self.packets)
        free(self.bytes)
        free(self.chunk_seen_ns)
        free(self.rows)
        free(self.heap)

    @property
    def counts(self) -> bool:
        """Whether packets and bytes are counted at all (conntrack.accounting)."""
        return bool(self.engine.tracker.settings.accounting)

    def begin(self, Selection selection not None, str key, uint32_t lines, bint reverse=False) -> int:
        """A new walk, which keeps `lines` of the selected connections; returns the cursor to begin with.

        key: "bytes" or "packets", most per second first, or "age", oldest first; reverse: the other way round.
        """
        if lines != self.most or self.rows == NULL:
            free(self.rows)
            free(self.heap)
            self.rows = <Row *> malloc(max(lines, <uint32_t> 1) * sizeof(Row))
            self.heap = <uint32_t *> malloc(max(lines, <uint32_t> 1) * sizeof(uint32_t))
            self.most = lines
        self.kept = self.matched = 0
        if self.rows == NULL or self.heap == NULL:
            self.most = 0
            raise MemoryError("no memory for the busiest connections")
        self.key = <SortKey> <int> SORT_KEYS.index(key)
        self.reverse = reverse
        self.selection = selection
        return 1

    def walk(self, uint32_t cursor, uint64_t now_ns) -> int:
        """The next chunk of the table, as it is now; returns the next cursor, 0 at the end."""
        cdef uint32_t chunk = cursor // CHUNK_SLOTS
        cdef uint32_t end = min((chunk + 1) * CHUNK_SLOTS, self.slots)
        if not 0 < cursor < self.slots:
            raise ValueError(f"a cursor is 1 to {self.slots - 1}, not {cursor}")
        self.now_ns = now_ns
        self.then_ns = self.chunk_seen_ns[chunk]
        with nogil:
            while cursor and cursor < end:
                cursor = self.go(cursor, min(<uint32_t> SLICE_SLOTS, end - cursor))
        self.chunk_seen_ns[chunk] = now_ns
        if cursor:
            return cursor
        for chunk in range(chunk + 1, self.slots // CHUNK_SLOTS + 1):
            self.chunk_seen_ns[chunk] = now_ns          # empty now: what is in it next time is new
        return 0

    def first(self) -> list[dict]:
        """What the walk kept, first things first: as listing's records, with `rate`: {"bytes", "packets"} per second."""
        cdef const Row *row
        records = []
        while self.kept:
            row = &self.rows[self.heap[0]]
            records.append({**record(&row.conn, row.seen_ns),
                            "rate": {"bytes": row.rank.bytes_rate, "packets": row.rank.packets_rate}})
            self.kept -= 1
            self.heap[0] = self.heap[self.kept]
            self.sift_down()
        records.reverse()
        return records

    cdef void meet(self, uint32_t slot, Conn *conn) noexcept nogil:
        """Remember what the connection has counted, and keep it if it is among the first."""
        cdef uint64_t packets, bytes
        cdef Rank rank
        cdef Row *row
        packets = conn.packets[0] + conn.packets[1]
        bytes = conn.bytes[0] + conn.bytes[1]
        rank.packets_rate = rank.bytes_rate = 0
        rank.created_ns = conn.created_ns
        rank.id = conn.id
        if self.then_ns and self.now_ns > self.then_ns:
            if self.ids[slot] != conn.id:
                self.packets[slot] = self.bytes[slot] = 0
            rank.packets_rate = <double> (packets - self.packets[slot]) * 1e9 / <double> (self.now_ns - self.then_ns)
            rank.bytes_rate = <double> (bytes - self.bytes[slot]) * 1e9 / <double> (self.now_ns - self.then_ns)
        self.ids[slot] = conn.id
        self.packets[slot] = packets
        self.bytes[slot] = bytes
        if not self.selection.takes(conn):
            return
        self.matched += 1
        row = self.place_for(&rank)
        if row != NULL:
            row.conn = conn[0]
            row.seen_ns = self.now_ns

    # -- the first `most` rows -----------------------------------------------------------------------------------

    cdef bint precedes(self, const Rank *a, const Rank *b) noexcept nogil:
        """Whether `a` comes before `b`.  Among equals the busier, then the elder, whichever way is asked for."""
        cdef double first = 0, second = 0
        if self.key == SORT_BYTES:
            first, second = a.bytes_rate, b.bytes_rate
        elif self.key == SORT_PACKETS:
            first, second = a.packets_rate, b.packets_rate
        elif a.created_ns != b.created_ns:
            return (a.created_ns < b.created_ns) != self.reverse
        if first != second:
            return (first > second) != self.reverse
        if a.bytes_rate != b.bytes_rate:
            return a.bytes_rate > b.bytes_rate
        if a.packets_rate != b.packets_rate:
            return a.packets_rate > b.packets_rate
        return a.id < b.id

    cdef Row *place_for(self, const Rank *rank) noexcept nogil:
        """The row for a connection of this rank, with its conn still to be filled in; NULL: it is not among the first."""
        cdef Row *row
        if self.kept < self.most:
            self.heap[self.kept] = self.kept
            row = &self.rows[self.kept]
            row.rank = rank[0]
            self.kept += 1
            self.sift_up()
            return row
        if self.most == 0 or not self.precedes(rank, &self.rows[self.heap[0]].rank):
            return NULL
        row = &self.rows[self.heap[0]]
        row.rank = rank[0]
        self.sift_down()
        return row

    cdef bint row_precedes(self, uint32_t place, uint32_t other) noexcept nogil:
        return self.precedes(&self.rows[self.heap[place]].rank, &self.rows[self.heap[other]].rank)

    cdef void sift_up(self) noexcept nogil:
        """Put the heap in order whose last place is new."""
        cdef uint32_t place = self.kept - 1, above
        while place:
            above = (place - 1) // 2
            if not self.row_precedes(above, place):
                return
            self.heap[above], self.heap[place] = self.heap[place], self.heap[above]
            place = above

    cdef void sift_down(self) noexcept nogil:
        """Put the heap in order whose top is new."""
        cdef uint32_t place = 0, below
        while 2 * place + 1 < self.kept:
            below = 2 * place + 1
            if below + 1 < self.kept and self.row_precedes(below, below + 1):
                below += 1
            if not self.row_precedes(place, below):
                return
            self.heap[place], self.heap[below] = self.heap[below], self.heap[place]
            place = below
