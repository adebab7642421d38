# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a packet finds in an address set, adds to it and removes from it.

Law: runs with the engine's lock held, allocates nothing, and looks up once for each length of prefix in the set.  Behaves as the
kernel's ip_set and xt_set; knows no names.
"""
from libc.stdint cimport uint16_t
from libc.string cimport memset
from pyfw.lock cimport assert_locked
from pyfw.wire.packet cimport (FAMILY_IPV6, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PROTO_UDPLITE,
                          Address)
from pyfw.rules.sets.table cimport (INSERTED, IS_FULL, IS_THERE, NO_ROOM, Element, Insertion, cut_to_prefix, find,
                                   insert, is_expired, remove)

cdef extern from *:
    """
    #define pyfw_be64(x) __builtin_bswap64(x)   /* a word of an address, in network order, on a little-endian machine */
    """
    uint64_t pyfw_be64(uint64_t word) noexcept nogil


cdef bint read_port(const Packet *packet, bint source, Key *key) noexcept nogil:
    """The packet's protocol and port; False: it has none, or they were not readable."""
    key.protocol = packet.protocol
    if packet.family == FAMILY_IPV6 and packet.fragment == 2:
        return False
    if packet.protocol in (PROTO_TCP, PROTO_SCTP, PROTO_UDP, PROTO_UDPLITE):
        key.port = packet.sport if source else packet.dport
    elif packet.protocol in (PROTO_ICMP, PROTO_ICMPV6):
        key.port = <uint16_t> (packet.icmp_type << 8 | packet.icmp_code)
    else:
        return packet.protocol != 0
    return packet.has_transport and packet.fragment != 2


cdef void set_whole_address(Key *key, const Address *address) noexcept nogil:
    """As the highest bits of a number; how many of them count is still to be said."""
    key.high = pyfw_be64(address.halves[0])
    key.low = pyfw_be64(address.halves[1])


cdef bint packet_key(const SetData *data, const Packet *packet, Sides sides, Key *key) noexcept nogil:
    """What to look for; False: the packet has nothing of the set's kind."""
    cdef const Address *address = &packet.src if sides.sources & 1 else &packet.dst
    if sides.dimension < data.dimension or packet.family != data.family:
        return False
    memset(key, 0, sizeof(Key))
    set_whole_address(key, address)
    cut_to_prefix(key, data.netmask)
    key.prefix = host_prefix(data.family)
    if not has_networks(data) and key.high == 0 and key.low == 0:
        return False
    return not has_ports(data) or read_port(packet, sides.sources & 2, key)


cdef inline bint compares(uint64_t counter, uint8_t comparison, uint64_t value) noexcept nogil:
    if comparison == COMPARE_EQUAL:
        return counter == value
    if comparison == COMPARE_UNEQUAL:
        return counter != value
    if comparison == COMPARE_LESS:
        return counter < value
    return comparison != COMPARE_GREATER or counter > value


cdef bint counts(uint64_t *packets, uint64_t *bytes, const SetQuery *query) noexcept nogil:
    """Count the packet; whether the counters are then as the rule wants them."""
    cdef uint64_t packets_then = packets[0] + query.update
    cdef uint64_t bytes_then = bytes[0] + query.update * query.bytes
    if not query.dry:
        packets[0], bytes[0] = packets_then, bytes_then
    return compares(packets_then, query.packets_compare, query.packets_value) \
        and compares(bytes_then, query.bytes_compare, query.bytes_value)


cdef int look_up(const SetData *data, const Key *key, const SetQuery *query) noexcept nogil:
    """FOUND, EXCLUDED (the element says nomatch) or MISSING, for exactly this key."""
    cdef Element *element = find(data.table, key)
    assert_locked()
    if element == NULL or is_expired(element, query.now_ns):
        return 0
    if data.counters and not counts(&element.packets, &element.bytes, query):
        return 0
    return -1 if element.key.nomatch else 1


cdef int look_up_networks(const SetData *data, const Key *key, const SetQuery *query) noexcept nogil:
    """The smallest network with the key's address decides."""
    cdef Key network
    cdef uint32_t i
    cdef int found
    for i in range(data.table.prefix_count):
        network = key[0]
        cut_to_prefix(&network, data.table.prefixes[i])
        found = look_up(data, &network, query)
        if found:
            return found
    return 0


cdef bint match_list(const SetData *data, const Packet *packet, Sides sides, const SetQuery *query) noexcept nogil:
    """A list matches by its first member that does; what the rule says of counters is about the list's own."""
    cdef SetQuery inner = query[0]
    cdef Member *member
    cdef uint32_t i
    inner.packets_compare = inner.bytes_compare = COMPARE_NOT
    inner.update = query.update and query.update_members
    for i in range(data.member_count):
        member = &data.members[i]
        if member_expired(member, query.now_ns):
            continue
        if match_packet(member.slot, packet, sides, &inner) <= 0:
            continue
        if not data.counters or counts(&member.packets, &member.bytes, query):
            return True
    return False


cdef int match_packet(const SetSlot *slot, const Packet *packet, Sides sides, const SetQuery *query) noexcept nogil:
    """Above 0: the set has the packet."""
    cdef SetData *data = slot.data
    cdef Key key
    cdef int found
    assert_locked()
    if data.kind == KIND_LIST:
        return match_list(data, packet, sides, query)
    if not packet_key(data, packet, sides, &key):
        return 0
    if not has_networks(data):
        return look_up(data, &key, query)
    found = look_up_networks(data, &key, query)
    return -found if query.return_nomatch else found


cdef inline void widen_to_smallest_network(const SetData *data, Key *key) noexcept nogil:
    """A packet's address stands for the smallest kind of network in the set."""
    if has_networks(data) and data.table.prefix_count:
        cut_to_prefix(key, data.table.prefixes[0])


cdef Insertion add_to(SetData *data, const Packet *packet, Sides sides, const SetQuery *query, int64_t timeout_s,
                      bint exist) noexcept nogil:
    """A packet without the set's kind of key has no element: nothing is to be added, as if it were there."""
    cdef Element element
    cdef Insertion outcome
    cdef int64_t seconds = timeout_s if timeout_s >= 0 else data.timeout_s
    memset(&element, 0, sizeof(Element))
    if not packet_key(data, packet, sides, &element.key):
        return IS_THERE
    widen_to_smallest_network(data, &element.key)
    element.packets = 1
    element.bytes = query.bytes
    if data.has_timeout and seconds:
        element.expires_ns = query.now_ns + <uint64_t> seconds * NANOSECONDS
    outcome = insert(data.table, &element, query.now_ns, exist, data.most)
    data.refused += outcome == IS_FULL or outcome == NO_ROOM
    return outcome


cdef bint add_packet(const SetSlot *slot, const Packet *packet, Sides sides, const SetQuery *query, int64_t timeout_s,
                     bint exist) noexcept nogil:
    """SET --add-set; to a list: to its first member that takes it.  `timeout_s` below 0: the set's own.

    Returns whether there was no room for it.
    """
    cdef SetData *data = slot.data
    cdef Insertion outcome = IS_THERE
    cdef uint32_t i
    assert_locked()
    if data.kind != KIND_LIST:
        outcome = add_to(data, packet, sides, query, timeout_s, exist)
        return outcome == IS_FULL or outcome == NO_ROOM
    for i in range(data.member_count):
        if member_expired(&data.members[i], query.now_ns):
            continue
        outcome = add_to(data.members[i].slot.data, packet, sides, query, timeout_s, exist)
        if outcome == INSERTED:
            break
    return outcome == IS_FULL or outcome == NO_ROOM


cdef bint remove_from(SetData *data, const Packet *packet, Sides sides, uint64_t now_ns) noexcept nogil:
    cdef Key key
    if not packet_key(data, packet, sides, &key):
        return False
    widen_to_smallest_network(data, &key)
    return remove(data.table, &key, now_ns)


cdef void remove_packet(const SetSlot *slot, const Packet *packet, Sides sides, uint64_t now_ns) noexcept nogil:
    """SET --del-set; from a list: from its first member that has it."""
    cdef SetData *data = slot.data
    cdef uint32_t i
    assert_locked()
    if data.kind != KIND_LIST:
        remove_from(data, packet, sides, now_ns)
        return
    for i in range(data.member_count):
        if member_expired(&data.members[i], now_ns):
            continue
        if remove_from(data.members[i].slot.data, packet, sides, now_ns):
            return
