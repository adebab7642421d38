# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tests of one packet, beyond ports and types: the kernel's xt_length, xt_hl, xt_dscp, xt_mark, xt_connmark, xt_owner, xt_multiport,
xt_iprange, xt_mac, xt_string, xt_time, xt_addrtype.

May know: the packet as it was parsed, and what the context holds.  Must not know: syntax, other rules.
"""
from libc.string cimport memcmp, memcpy
from pyfw.rules.parts cimport FITS, FITS_DROP, FITS_NOT
from pyfw.rules.xt.addrtype cimport NO_INTERFACE, OWN_INTERFACE, TYPE_MULTICAST, TYPE_UNICAST, TYPE_UNSPEC
from pyfw.wire.packet cimport FAMILY_IPV4, Packet

cdef enum Field:
    FIELD_LENGTH, FIELD_TTL, FIELD_TOS, FIELD_MARK, FIELD_CONNMARK, FIELD_UID, FIELD_GID, FIELD_SOCKET

FIELDS = {"length": FIELD_LENGTH, "ttl": FIELD_TTL, "tos": FIELD_TOS, "mark": FIELD_MARK, "connmark": FIELD_CONNMARK,
          "uid": FIELD_UID, "gid": FIELD_GID, "socket": FIELD_SOCKET}
INTERFACES = {"": NO_INTERFACE, "in": 1, "out": 2}


cdef class FieldTest(PacketMatch):
    """Whether a number of the packet, under `mask`, lies from `low` to `high`."""

    def __init__(self, str field, uint32_t low, uint32_t high, bint inverted=False, uint32_t mask=0xFFFFFFFF):
        self.field, self.mask, self.low, self.high, self.inverted = FIELDS[field], mask, low, high, inverted

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef uint32_t value = 0
        if self.field == FIELD_LENGTH:
            value = packet.length
        elif self.field == FIELD_TTL:
            value = packet.ttl
        elif self.field == FIELD_TOS:
            value = packet.tos
        elif self.field == FIELD_MARK:
            value = packet.mark
        elif self.field == FIELD_CONNMARK:
            if context.conn == NULL:
                return FITS_NOT
            value = context.conn.mark
        elif not packet.has_owner:              # no socket on this machine sent it: it has no owner
            return FITS if self.inverted else FITS_NOT
        elif self.field == FIELD_UID:
            value = packet.uid
        elif self.field == FIELD_GID:
            value = packet.gid
        value &= self.mask
        return FITS if (self.low <= value <= self.high) != self.inverted else FITS_NOT


cdef class PortsTest(PacketMatch):
    """Whether a port is in one of the ranges: the source's, the destination's, or with both set either of them."""

    def __init__(self, ranges, bint source, bint destination, bint inverted):
        self.ranges, self.source, self.destination, self.inverted = len(ranges), source, destination, inverted
        for position, span in enumerate(ranges):
            self.low[<int> position], self.high[<int> position] = span.low, span.high

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef bint found = False
        cdef int i
        if packet.fragment == 2:
            return FITS_NOT
        if not packet.has_tuple:
            return FITS_DROP
        for i in range(self.ranges):
            found |= self.source and self.low[i] <= packet.sport <= self.high[i]
            found |= self.destination and self.low[i] <= packet.dport <= self.high[i]
        return FITS if found != self.inverted else FITS_NOT


cdef class TcpOptionTest(PacketMatch):
    """Whether the TCP header has an option of this kind (tcp_find_option())."""

    def __init__(self, uint8_t kind, bint inverted):
        self.kind, self.inverted = kind, inverted

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef const uint8_t *header = packet.data + packet.transport
        cdef uint32_t at = TCP_HEADER, end
        if packet.fragment == 2:
            return FITS_NOT
        if packet.transport_captured < TCP_HEADER:
            return FITS_DROP
        end = (header[12] >> 4) * 4
        if end > packet.transport_captured:
            return FITS_DROP
        while at < end:
            if header[at] == self.kind:
                return FITS if not self.inverted else FITS_NOT
            if header[at] <= TCP_NO_OPERATION or at + 1 == end or header[at + 1] == 0:
                at += 1
            else:
                at += header[at + 1]
        return FITS if self.inverted else FITS_NOT


cdef enum:
    TCP_HEADER = 20
    TCP_NO_OPERATION = 1        # this option and the end of options, 0, are one byte


cdef class AddressRangeTest(PacketMatch):
    """`low`, `high`: packed addresses of the rule's family, both included."""

    def __init__(self, bint source, bytes low, bytes high, bint inverted):
        self.source, self.inverted = source, inverted
        memcpy(self.low, <const char *> low, len(low))
        memcpy(self.high, <const char *> high, len(high))

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef const Address *address = &packet.src if self.source else &packet.dst
        cdef bint inside = memcmp(address.bytes, self.low, 16) >= 0 and memcmp(address.bytes, self.high, 16) <= 0
        return FITS if inside != self.inverted else FITS_NOT


cdef class HardwareTest(PacketMatch):

    def __init__(self, bytes address, bint inverted):
        self.inverted = inverted
        memcpy(self.address, <const char *> address, 6)

    cdef Fit fits(self, Context *context) noexcept nogil:
        if context.packet.hardware == NULL:
            return FITS_NOT
        return FITS if (memcmp(context.packet.hardware, self.address, 6) == 0) != self.inverted else FITS_NOT


cdef class TextTest(PacketMatch):
    """Whether `pattern` stands in the packet's bytes from offset `start` to before `end`, counted from the IP header.

    Every byte is looked at once, whatever the bytes are (Knuth, Morris, Pratt 1977; the kernel's ts_kmp.c).
    """

    def __init__(self, bytes pattern, uint32_t start, uint32_t end, bint ignores_case, bint inverted):
        cdef uint32_t at, begun = 0
        if not 0 < len(pattern) <= MAX_TEXT_LENGTH:
            raise ValueError(f"a text to look for has 1 to {MAX_TEXT_LENGTH} bytes, not {len(pattern)}")
        for at in range(256):
            self.folded[at] = at - 32 if ignores_case and is_lower(at) else at
        self.length = len(pattern)
        for at in range(self.length):
            self.text[at] = self.folded[<uint8_t> pattern[at]]
        for at in range(1, self.length):
            begun = self.follow(begun, self.text[at])
            self.resumes[at] = <uint8_t> begun
        self.start, self.end, self.inverted = start, end, inverted

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef uint32_t end = self.end if self.end < packet.captured else packet.captured
        cdef uint32_t at = self.start, begun = 0
        while at < end and begun < self.length:
            begun = self.follow(begun, self.folded[packet.data[at]])
            at += 1
        return FITS if (begun == self.length) != self.inverted else FITS_NOT

    cdef inline uint32_t follow(self, uint32_t begun, uint8_t byte) noexcept nogil:
        """How much of the text has been met, after so much of it and one byte more."""
        while begun and self.text[begun] != byte:
            begun = self.resumes[begun - 1]
        return begun + (self.text[begun] == byte)


cdef inline bint is_lower(uint32_t byte) noexcept nogil:
    """As the kernel's islower(), which knows Latin-1 (lib/ctype.c)."""
    return 97 <= byte <= 122 or byte >= 223 and byte != 247


cdef class TimeTest(PacketMatch):
    """Seconds of the epoch from `begins_s` to `ends_s`; of the day from `day_begins_s` to `day_ends_s`, over midnight if backwards.

    Bits of `month_days` from 1, of `week_days` from Monday = 1 to Sunday = 7.  `contiguous`: what is past midnight of such a span
    belongs to the day before.  `local`: by this machine's time zone, else UTC.
    """

    def __init__(self, int64_t begins_s, int64_t ends_s, uint32_t day_begins_s, uint32_t day_ends_s, uint32_t month_days,
                 uint32_t week_days, bint local, bint contiguous):
        self.begins_s, self.ends_s = begins_s, ends_s
        self.day_begins_s, self.day_ends_s = day_begins_s, day_ends_s
        self.month_days, self.week_days = month_days, week_days
        self.local, self.contiguous = local, contiguous

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef int64_t stamp_s = <int64_t> (context.wall_ns // 1000000000)
        cdef uint32_t second
        if self.local:
            stamp_s += context.zone_offset_s
        if not self.begins_s <= stamp_s <= self.ends_s:
            return FITS_NOT
        second = <uint32_t> (stamp_s % DAY_SECONDS)
        if self.day_begins_s < self.day_ends_s:
            if not self.day_begins_s <= second <= self.day_ends_s:
                return FITS_NOT
        else:
            if self.day_ends_s < second < self.day_begins_s:
                return FITS_NOT
            if self.contiguous and second <= self.day_ends_s:
                stamp_s -= DAY_SECONDS
        if not self.week_days >> (4 + stamp_s // DAY_SECONDS - 1) % 7 + 1 & 1:        # 1 January 1970 was a Thursday
            return FITS_NOT
        if self.month_days != ALL_MONTH_DAYS and not self.month_days >> month_day(stamp_s) & 1:
            return FITS_NOT
        return FITS


cdef enum:
    DAY_SECONDS = 86400
    ALL_MONTH_DAYS = 0xFFFFFFFE


cdef int month_day(int64_t stamp_s) noexcept nogil:
    """The day of the month, from 1, of a second since 1970 (the civil calendar counted in eras of 400 years)."""
    cdef int64_t days = stamp_s // DAY_SECONDS + 719468
    cdef int64_t of_era = days % 146097
    cdef int64_t year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef int64_t of_year = of_era - (365 * year + year // 4 - year // 100)
    return <int> (of_year - (153 * ((5 * of_year + 2) // 153) + 2) // 5 + 1)


cdef class AddressTypeTest(PacketMatch):
    """Whether an address is of one of `types` (bits of 1 << RTN_*); `interface`: "", or "in", "out" for one of the packet's own."""

    def __init__(self, bint source, uint32_t types, bint inverted, str interface=""):
        self.source, self.types, self.inverted, self.interface = source, types, inverted, INTERFACES[interface]

    def bind(self, environment) -> None:
        self.addresses = environment.addresses or LocalAddresses()

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef const char *interface = NULL
        if self.interface != NO_INTERFACE:
            interface = packet.indev if self.interface == OWN_INTERFACE else packet.outdev
        cdef const Address *address = &packet.src if self.source else &packet.dst
        cdef uint32_t types = self.addresses.types_of(address.bytes, packet.family, interface)
        cdef bint fits
        if packet.family == FAMILY_IPV4:
            fits = types & self.types != 0
        else:
            fits = self.types & OF_THE_ADDRESS & ~types == 0
            if fits and self.types & ~<uint32_t> OF_THE_ADDRESS:
                fits = self.types & types & ~<uint32_t> OF_THE_ADDRESS != 0
        return FITS if fits != self.inverted else FITS_NOT


cdef enum:                      # IPv6: what an address itself says, all of which must hold; routes say the rest
    OF_THE_ADDRESS = 1 << TYPE_UNSPEC | 1 << TYPE_UNICAST | 1 << TYPE_MULTICAST
