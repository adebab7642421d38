# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fast way for files of many addresses.

    add NAME ADDRESS[/PREFIX][,[tcp:|udp:]PORT] [timeout N] [packets N] [bytes N] [nomatch]

It reads what nearly every line of `ipset save` looks like, and stops at the first line that is anything else: text.py
knows the whole language, and what is wrong with a line.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from pyfw.rules.sets.lookup cimport KIND_LIST, NANOSECONDS, SetData, has_networks, has_ports, host_prefix
from pyfw.rules.sets.sets cimport Contents
from pyfw.rules.sets.table cimport INSERTED, UNTOLD, Element, Key, cut_to_prefix
from pyfw.wire.packet cimport FAMILY_IPV4, PROTO_TCP, PROTO_UDP

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET6
    int inet_pton(int family, const char *text, void *address)

cdef extern from *:
    """
    #define pyfw_be64(x) __builtin_bswap64(x)   /* a word of an address, in network order, on a little-endian machine */
    """
    uint64_t pyfw_be64(uint64_t word) noexcept nogil

cdef enum:
    BATCH = 64                  # lines that are inserted under one lock
    MAX_IPV6_LENGTH = 45
    MAX_TIMEOUT_S = 2147483

cdef enum Letter:
    NEWLINE = 10
    SPACE = 32
    COMMA = 44
    SLASH = 47
    ZERO = 48
    NINE = 57

cdef struct Cursor:             # over bytes: a char of 128 or more is negative, and passes for less than any letter
    const uint8_t *at
    const uint8_t *end


cdef inline bint skip(Cursor *cursor, const char *word) noexcept nogil:
    """Whether `word` comes next, which is then passed."""
    cdef size_t length = strlen(word)
    if <size_t> (cursor.end - cursor.at) < length or memcmp(cursor.at, word, length):
        return False
    cursor.at += length
    return True


cdef bint read_number(Cursor *cursor, uint64_t largest, uint64_t *value) noexcept nogil:
    """A decimal number; one that begins with 0 is left to others, for whom it is octal."""
    cdef const uint8_t *start = cursor.at
    value[0] = 0
    while cursor.at < cursor.end and ZERO <= cursor.at[0] <= NINE and cursor.at - start < 19:
        value[0] = value[0] * 10 + cursor.at[0] - ZERO
        cursor.at += 1
    return cursor.at > start and value[0] <= largest and (start[0] != ZERO or cursor.at == start + 1)


cdef bint read_ipv4(Cursor *cursor, Key *key) noexcept nogil:
    cdef uint64_t address = 0, part
    cdef int i
    for i in range(4):
        if i and not skip(cursor, b"."):
            return False
        if not read_number(cursor, 255, &part):
            return False
        address = address << 8 | part
    key.high = address << 32
    return True


cdef inline bint ends_word(uint8_t letter) noexcept nogil:
    return letter == SPACE or letter == NEWLINE or letter == COMMA or letter == SLASH


cdef bint read_ipv6(Cursor *cursor, Key *key) noexcept nogil:
    cdef char text[MAX_IPV6_LENGTH + 1]
    cdef uint64_t address[2]
    cdef int length = 0
    while cursor.at + length < cursor.end and length < MAX_IPV6_LENGTH and not ends_word(cursor.at[length]):
        text[length] = <char> cursor.at[length]
        length += 1
    text[length] = 0
    cursor.at += length
    if strlen(text) != <size_t> length or inet_pton(AF_INET6, text, address) != 1:
        return False
    key.high, key.low = pyfw_be64(address[0]), pyfw_be64(address[1])
    return True


cdef bint read_key(Cursor *cursor, const SetData *data, Key *key) noexcept nogil:
    cdef uint64_t value = host_prefix(data.family)
    if not (read_ipv4(cursor, key) if data.family == FAMILY_IPV4 else read_ipv6(cursor, key)):
        return False
    cut_to_prefix(key, data.netmask)
    if has_networks(data):
        if skip(cursor, b"/") and not (read_number(cursor, value, &value) and value):
            return False
        cut_to_prefix(key, <uint8_t> value)
    elif key.high == 0 and key.low == 0:
        return False
    key.prefix = <uint8_t> value
    if not has_ports(data):
        return True
    if not skip(cursor, b","):
        return False
    key.protocol = PROTO_UDP if skip(cursor, b"udp:") else PROTO_TCP
    if key.protocol == PROTO_TCP:
        skip(cursor, b"tcp:")
    if not read_number(cursor, 65535, &value):
        return False
    key.port = <uint16_t> value
    return True


cdef bint read_settings(Cursor *cursor, const SetData *data, uint64_t now_ns, Element *element) noexcept nogil:
    """What stands behind the address, to the line's end."""
    cdef uint64_t timeout_s = data.timeout_s
    while not skip(cursor, b"\n"):
        if cursor.at == cursor.end:
            break
        if data.has_timeout and skip(cursor, b" timeout "):
            if not read_number(cursor, MAX_TIMEOUT_S, &timeout_s):
                return False
        elif data.counters and skip(cursor, b" packets "):
            if not read_number(cursor, UNTOLD - 1, &element.packets):
                return False
        elif data.counters and skip(cursor, b" bytes "):
            if not read_number(cursor, UNTOLD - 1, &element.bytes):
                return False
        elif has_networks(data) and skip(cursor, b" nomatch"):
            element.key.nomatch = 1
        else:
            return False
    if data.has_timeout and timeout_s:
        element.expires_ns = now_ns + timeout_s * NANOSECONDS
    return True


cdef bint read_line(Cursor *cursor, const char *start, const SetData *data, uint64_t now_ns, Element *element) noexcept nogil:
    memset(element, 0, sizeof(Element))
    element.packets = element.bytes = UNTOLD
    return skip(cursor, start) and read_key(cursor, data, &element.key) and read_settings(cursor, data, now_ns, element)


def read_plain_lines(Contents contents, str name, bytes text, size_t offset, uint64_t now_ns, bint exist) -> int:
    """Add what the lines from `offset` on say, as long as they are plain and add to the set called `name`.

    Returns the offset of the first line that is not, or cannot be added; the text's length if there is none.
    """
    cdef const uint8_t *begin = text
    cdef bytes start_bytes = f"add {name} ".encode()
    cdef const char *start = start_bytes
    cdef Element batch[BATCH]
    cdef const uint8_t *lines[BATCH]
    cdef Cursor cursor
    cdef uint32_t count, done = 0
    cdef bint plain = contents.data.kind != KIND_LIST
    cursor.at, cursor.end = begin + offset, begin + len(text)
    with nogil:
        while plain and cursor.at < cursor.end:
            count = 0
            while plain and count < BATCH and cursor.at < cursor.end:
                lines[count] = cursor.at
                plain = read_line(&cursor, start, &contents.data, now_ns, &batch[count])
                if plain:
                    count += 1
                else:
                    cursor.at = lines[count]
            if contents.insert_all(batch, count, now_ns, exist, &done) != INSERTED:
                cursor.at = lines[done]
                break
    return cursor.at - begin
