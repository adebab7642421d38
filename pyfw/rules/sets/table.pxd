"""A hash table of addresses, networks and ports: what an address set keeps its elements in.

Elements stand in chunks that are never moved.  The table grows by one bucket with every element (linear hashing: Litwin 1980), so that no
insertion pays for the others; the only allocation is that of a chunk, which is made before, by grow().

56 bytes for an element and 4 for its bucket, whatever it holds.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    CHUNK = 1024                # elements, and buckets, in a chunk
    MAX_PREFIX_LENGTH = 128
    PRESENT_PERMANENTLY = 0     # expires_ns

cdef uint64_t UNTOLD            # a counter's value that leaves it as it is

cdef struct Key:
    uint64_t high               # the address as a number, its first bit the highest here: IPv4 has the upper 32 bits
    uint64_t low
    uint16_t port               # ICMP: type << 8 | code
    uint8_t protocol
    uint8_t prefix              # 1 to 128; 0 marks an element that is free
    uint8_t nomatch             # this and what follows is said of the key; keys are compared without
    uint8_t commented

cdef struct Element:
    Key key
    uint32_t hash
    uint32_t next               # 1 + number of the next element in its bucket, or of the next free one; 0: none
    uint64_t expires_ns
    uint64_t packets
    uint64_t bytes

cdef struct Chunk:
    uint32_t heads[CHUNK]       # 1 + number of a bucket's first element; 0: none
    Element elements[CHUNK]

cdef struct SetMemory:          # what the tables of a store have together
    uint32_t chunks
    uint32_t comments           # elements that have one

cdef struct SetTable:
    SetMemory *memory           # where it is counted
    Chunk **chunks
    uint32_t chunk_count
    uint32_t buckets            # in use, at most chunk_count * CHUNK
    uint32_t mask               # of the last doubling that is complete: mask < buckets <= 2 * mask + 2
    uint32_t used               # elements handed out so far, freed ones included
    uint32_t free               # 1 + number of the first that was freed; 0: none
    uint32_t count
    uint32_t commented          # elements that have a comment
    uint64_t secret[2]
    uint32_t by_prefix[MAX_PREFIX_LENGTH + 1]  # elements of each prefix length
    uint8_t prefixes[MAX_PREFIX_LENGTH + 1]  # the lengths there are, longest first
    uint32_t prefix_count

cdef enum Insertion:
    INSERTED = 0
    IS_THERE = 1
    IS_FULL = 2                 # `most` elements are there
    NO_ROOM = 3                 # grow() would help

cdef SetTable *new_table(const uint64_t *secret, SetMemory *memory) noexcept nogil     # NULL: no memory
cdef void free_table(SetTable *table) noexcept nogil
cdef void move_table(SetTable *table, SetMemory *memory) noexcept nogil                # to be counted there
cdef Chunk *new_chunk(SetMemory *memory) noexcept nogil
cdef void free_chunk(Chunk *chunk, SetMemory *memory) noexcept nogil
cdef Chunk **attach_chunk(SetTable *table, Chunk *chunk, Chunk **directory) noexcept nogil

cdef uint32_t chunks_in(const SetMemory *memory) noexcept nogil
cdef uint32_t comments_in(const SetMemory *memory) noexcept nogil

cdef Element *find(const SetTable *table, const Key *key) noexcept nogil
cdef Insertion insert(SetTable *table, const Element *wanted, uint64_t now_ns, bint exist, uint32_t most) noexcept nogil
cdef bint remove(SetTable *table, const Key *key, uint64_t now_ns) noexcept nogil   # whether a living element went
cdef void remove_expired(SetTable *table, uint32_t first, uint32_t last, uint64_t now_ns) noexcept nogil

cdef inline bint is_expired(const Element *element, uint64_t now_ns) noexcept nogil:
    return element.expires_ns != PRESENT_PERMANENTLY and element.expires_ns <= now_ns

cdef inline Element *element_at(const SetTable *table, uint32_t number) noexcept nogil:
    return &table.chunks[number // CHUNK].elements[number % CHUNK]

cdef inline void cut_to_prefix(Key *key, uint8_t prefix) noexcept nogil:
    """Zero the address behind its first `prefix` bits, 1 to 128."""
    key.prefix = prefix
    if prefix <= 64:
        key.high &= ~<uint64_t> 0 << (64 - prefix)
        key.low = 0
    elif prefix < 128:
        key.low &= ~<uint64_t> 0 << (128 - prefix)
