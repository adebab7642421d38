"""Writing text without the GIL: each writes at `out` and returns its end.  The caller has made room."""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, strlen


cdef inline char *put(char *out, const char *text) noexcept nogil:
    cdef size_t length = strlen(text)
    memcpy(out, text, length)
    return out + length


cdef inline char *put_number(char *out, uint64_t number) noexcept nogil:
    cdef char digits[20]
    cdef int count = 0
    while True:
        digits[count] = <char> (48 + number % 10)
        count += 1
        number //= 10
        if number == 0:
            break
    while count:
        count -= 1
        out[0] = digits[count]
        out += 1
    return out


cdef inline char *put_field(char *out, const char *name, uint64_t number) noexcept nogil:
    """`name=number `"""
    out = put_number(put(out, name), number)
    out[0] = 32
    return out + 1


cdef inline char *put_padded(char *out, const char *text) noexcept nogil:
    """`%-8s `"""
    cdef char *end = put(out, text)
    while end < out + 8:
        end[0] = 32
        end += 1
    end[0] = 32
    return end + 1


cdef inline char hex_digit(uint16_t number) noexcept nogil:
    """Of its last four bits."""
    number &= 15
    return <char> (48 + number if number < 10 else 87 + number)


cdef inline char *put_hex_field(char *out, const char *name, uint16_t number) noexcept nogil:
    """`name=0x%x `"""
    cdef int shift = 12
    out = put(out, name)
    while shift and number >> shift == 0:
        shift -= 4
    while shift >= 0:
        out[0] = hex_digit(number >> shift)
        out += 1
        shift -= 4
    out[0] = 32
    return out + 1
