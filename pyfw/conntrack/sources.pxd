"""Who began the connections in the table: how many each source address has, and how fast it begins others."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_ONE_SIDED, Conn
from pyfw.wire.packet cimport PROTO_TCP, Address

cdef enum:
    WINDOW_PARTS = 8
    WINDOW_COUNTS = WINDOW_PARTS + 1    # the parts that are over, and the one that is under way

cdef struct Source:             # an address, or a network of them that counts as one
    Address network
    uint64_t part               # number of the part of the window that the newest counts are of
    uint16_t begun[WINDOW_COUNTS]       # connections, by number of the part; at most 65535 in one
    uint16_t completed[WINDOW_COUNTS]   # TCP handshakes
    uint8_t family
    uint8_t doomed              # all its connections are to end
    uint32_t hash
    uint32_t states             # connections in the table
    uint32_t established        # of these, TCP connections whose handshake was completed
    uint32_t first              # slot of its youngest connection; 0: none
    uint32_t older              # neighbours in the queue it stands in, `older` also in the free list; 0: none
    uint32_t newer

cdef struct Belonging:          # of a connection, by its slot
    uint32_t source             # 0: it is not counted
    uint32_t younger            # the source's other connections, by slot; 0: none
    uint32_t older

cdef struct Queue:
    uint32_t oldest
    uint32_t newest

cdef struct SourceCounters:
    uint64_t forgotten          # sources without connections that gave way before their window was over
    uint64_t flushed            # connections that ended with all others of their source

cdef inline bint is_completed(uint8_t protocol, uint32_t status) noexcept nogil:
    """A TCP handshake that was completed is proof that the source is who it says: it has heard the answer of another side."""
    return protocol == PROTO_TCP and status & CONN_ASSURED != 0 and not status & CONN_ONE_SIDED

cdef class Sources:
    cdef Source *sources        # by number; 0 is never used
    cdef Belonging *belongings
    cdef uint32_t *places       # open addressing: numbers of sources
    cdef uint32_t mask
    cdef uint32_t capacity
    cdef uint32_t used          # sources 1..used were in use at some time
    cdef uint32_t free
    cdef readonly uint32_t count
    cdef uint64_t secret[2]
    cdef Address masks[2]       # IPv4, IPv6
    cdef readonly uint64_t window_ns    # 0: there is none
    cdef uint64_t part_ns       # how long a part of it lasts
    cdef Queue idle             # sources without connections, whose window is not over
    cdef Queue doomed
    cdef SourceCounters counters

    cdef uint32_t find(self, const Address *address, uint8_t family) noexcept nogil
    cdef uint32_t begun(self, uint32_t number, uint64_t now_ns) noexcept nogil
    cdef uint32_t completed(self, uint32_t number, uint64_t now_ns) noexcept nogil

    cdef void attach(self, uint32_t slot, const Conn *conn, uint64_t now_ns) noexcept nogil
    cdef void note_begun(self, uint32_t slot, uint64_t now_ns) noexcept nogil
    cdef void note_completed(self, uint32_t slot, uint64_t now_ns) noexcept nogil
    cdef void detach(self, uint32_t slot, const Conn *conn) noexcept nogil
    cdef void doom(self, uint32_t number) noexcept nogil
    cdef uint32_t next_doomed(self) noexcept nogil
    cdef void forget_all(self) noexcept nogil
    cdef void retire(self, uint64_t now_ns, uint32_t most) noexcept nogil

    # Steps of the above.
    cdef void network_of(self, const Address *address, uint8_t family, Address *network) noexcept nogil
    cdef uint32_t hash_of(self, const Address *network, uint8_t family) noexcept nogil
    cdef uint32_t look_up(self, const Address *network, uint8_t family, uint32_t hash) noexcept nogil
    cdef uint32_t enter(self, const Address *network, uint8_t family, uint32_t hash, uint64_t now_ns) noexcept nogil
    cdef uint32_t take_free(self, uint64_t now_ns) noexcept nogil
    cdef void forget(self, uint32_t number) noexcept nogil
    cdef void put_in_window(self, uint32_t number, uint16_t *counts, uint64_t now_ns) noexcept nogil
    cdef uint32_t in_window(self, const Source *source, const uint16_t *counts, uint64_t now_ns) noexcept nogil
    cdef uint64_t part_at(self, uint64_t now_ns) noexcept nogil
    cdef bint is_over(self, const Source *source, uint64_t now_ns) noexcept nogil
    cdef void join(self, Queue *queue, uint32_t number) noexcept nogil
    cdef void leave(self, Queue *queue, uint32_t number) noexcept nogil
