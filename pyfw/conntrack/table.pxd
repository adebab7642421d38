"""The state table: fixed-size entries in one piece of memory, found by a keyed symmetric hash."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn, Key
from pyfw.conntrack.conncount cimport ConnCounts
from pyfw.conntrack.events cimport Events
from pyfw.conntrack.sources cimport Sources

cdef enum:
    LINK_NUMBERS = 128

cdef struct Header:             # first bytes of the memory; a successor process checks all of it
    char magic[8]
    uint32_t layout
    uint32_t conn_size
    uint8_t boot_id[16]         # /proc/sys/kernel/random/boot_id: the clock means nothing in another boot
    uint64_t hash_key[2]        # of the chains, which are no part of what is taken over
    uint32_t max_entries
    uint32_t expect_max
    uint32_t next_id
    uint32_t used               # slots 1..used were in use at some time
    char helper_names[8][16]    # what Conn.helper numbers meant
    char link_names[LINK_NUMBERS][16]   # and the numbers in Conn.origin; 0: no interface

cdef struct TableCounters:
    uint64_t created
    uint64_t destroyed
    uint64_t expired
    uint64_t early_drop         # entries that gave way to new ones
    uint64_t table_full         # packets refused because none would
    uint64_t ended_early        # expired entries that would live but for adaptive timeouts
    uint64_t unnumbered         # entries whose interfaces have no number: entries bear all there are (first_seen.pyx)

cdef struct AdaptiveTimer:      # of an entry: since when it runs, and how long where nothing is scaled
    uint64_t since_ns
    uint64_t timeout_ns

cdef void invert(const Key *key, Key *inverse) noexcept nogil

cdef class Table:
    cdef Header header          # what holds
    cdef Header *published      # at the beginning of the memory, for a successor: read when a table is taken over, then only written
    cdef Conn *conns            # by slot; slot 0 is never used
    cdef uint32_t *buckets
    cdef uint32_t mask
    cdef uint32_t free          # first free slot below header.used; 0: none
    cdef uint32_t count
    cdef uint32_t sweep_slot
    cdef TableCounters counters
    cdef bint evicts            # a full table gives up entries that are not ASSURED
    cdef uint32_t link_uses[LINK_NUMBERS]   # how often entries bear each number of an interface
    cdef Sources sources        # told of every entry that comes and goes; None: there are no limits per source
    cdef bint counts_all        # not only the entries marked CONN_COUNTED
    cdef ConnCounts counts      # likewise, for rules that count connections
    cdef AdaptiveTimer *timers  # by slot, 0: the connection that is about to be entered; NULL: nothing is scaled
    cdef uint32_t adaptive_start    # timeouts shrink when there are more entries than this,
    cdef uint32_t adaptive_end      # and would be nothing with so many
    cdef uint32_t elsewhere     # entries that count though they are not here: this table stands for another
    cdef readonly uint32_t adopted
    cdef Events events          # who is told of what comes and goes
    cdef object memory          # keeps the buffer alive

    cdef uint32_t find(self, const Key *key, uint64_t now_ns, uint8_t *direction) noexcept nogil
    cdef bint has_room(self, const Key *key, uint64_t now_ns) noexcept nogil
    cdef uint32_t insert(self, const Conn *fresh, uint64_t now_ns) noexcept nogil
    cdef void remove(self, uint32_t slot, uint64_t now_ns) noexcept nogil
    cdef uint32_t sweep(self, uint64_t now_ns, uint32_t slots) noexcept nogil
    cdef uint32_t end_doomed(self, uint64_t now_ns, uint32_t most) noexcept nogil
    cdef uint64_t deadline(self, uint32_t slot, uint64_t now_ns, uint64_t timeout_ns) noexcept nogil
    cdef bint is_adapting(self) noexcept nogil
    cdef void note_begun(self, uint32_t slot, uint64_t now_ns) noexcept nogil

    cdef bint take_header(self) noexcept
    cdef void publish(self) noexcept nogil
    cdef void initialise(self, uint32_t max_entries, uint32_t expect_max, bytes boot_id, bytes secret)
    cdef void take_over(self) noexcept
    cdef void relink(self) noexcept
    cdef uint32_t *bucket(self, const Key *key) noexcept nogil
    cdef void link(self, uint32_t slot) noexcept nogil
    cdef void use_links(self, uint16_t origin, int32_t times) noexcept nogil
    cdef void give_back(self, uint32_t slot) noexcept nogil
    cdef uint32_t victim_near(self, const Key *key, uint64_t now_ns) noexcept nogil
    cdef uint64_t scaled(self, uint64_t timeout_ns) noexcept nogil
    cdef void expire(self, uint32_t slot, uint64_t now_ns) noexcept nogil
