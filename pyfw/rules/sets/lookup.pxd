"""An address set as the packet path sees it."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from pyfw.rules.sets.table cimport PRESENT_PERMANENTLY, Key, SetTable
from pyfw.wire.packet cimport FAMILY_IPV4, Address, Packet

cdef enum:
    NANOSECONDS = 1000000000

cdef enum SetKindNumber:
    KIND_IP = 0
    KIND_NET = 1
    KIND_IP_PORT = 2
    KIND_NET_PORT = 3
    KIND_LIST = 4

cdef enum Comparison:           # of a counter with a value
    COMPARE_NOT = 0
    COMPARE_EQUAL = 1
    COMPARE_UNEQUAL = 2
    COMPARE_LESS = 3
    COMPARE_GREATER = 4

cdef struct Member:             # of a list
    SetSlot *slot
    uint64_t expires_ns
    uint64_t packets
    uint64_t bytes

cdef struct SetData:
    uint8_t kind                # SetKindNumber
    uint8_t family              # FAMILY_IPV4, FAMILY_IPV6; 0: a list
    uint8_t dimension           # how many of src and dst a rule has to say
    uint8_t counters
    uint8_t has_timeout
    uint8_t netmask             # KIND_IP, KIND_IP_PORT: bits of an address that count
    uint32_t timeout_s          # of elements for which none is told; 0: they stay
    uint32_t most               # elements
    uint64_t refused            # additions by packets for which there was no room
    SetTable *table             # NULL in a list
    Member *members
    uint32_t member_count

cdef struct SetSlot:            # what rules and lists refer to: swap exchanges the data behind it
    SetData *data

cdef struct Sides:              # --match-set NAME src,dst: what of the packet is looked up
    uint8_t dimension           # how many there are
    uint8_t sources             # bit i: number i is src

cdef struct SetQuery:           # how a packet is looked up
    uint64_t now_ns
    uint64_t bytes              # the packet's
    uint64_t packets_value
    uint64_t bytes_value
    uint8_t packets_compare     # Comparison
    uint8_t bytes_compare
    uint8_t return_nomatch
    uint8_t update              # 1: count the packet in the element that it matches
    uint8_t update_members      # and in that of a list's member
    uint8_t dry                 # only a question: compare as if the packet were counted

cdef int match_packet(const SetSlot *slot, const Packet *packet, Sides sides, const SetQuery *query) noexcept nogil
cdef bint add_packet(const SetSlot *slot, const Packet *packet, Sides sides, const SetQuery *query, int64_t timeout_s,
                     bint exist) noexcept nogil
cdef void remove_packet(const SetSlot *slot, const Packet *packet, Sides sides, uint64_t now_ns) noexcept nogil
cdef void set_whole_address(Key *key, const Address *address) noexcept nogil
cdef int look_up(const SetData *data, const Key *key, const SetQuery *query) noexcept nogil
cdef int look_up_networks(const SetData *data, const Key *key, const SetQuery *query) noexcept nogil

cdef inline uint8_t host_prefix(uint8_t family) noexcept nogil:
    return 32 if family == FAMILY_IPV4 else 128

cdef inline bint has_networks(const SetData *data) noexcept nogil:
    return data.kind == KIND_NET or data.kind == KIND_NET_PORT

cdef inline bint has_ports(const SetData *data) noexcept nogil:
    return data.kind == KIND_IP_PORT or data.kind == KIND_NET_PORT

cdef inline bint member_expired(const Member *member, uint64_t now_ns) noexcept nogil:
    return member.expires_ns != PRESENT_PERMANENTLY and member.expires_ns <= now_ns
