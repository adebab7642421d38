"""SipHash-2-4 (Aumasson, Bernstein 2012) over 64-bit words: who chooses the tuples must not choose the chains."""
from libc.stdint cimport uint64_t

cdef inline uint64_t rotl(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))

cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]; v[1] = rotl(v[1], 13); v[1] ^= v[0]; v[0] = rotl(v[0], 32)
    v[2] += v[3]; v[3] = rotl(v[3], 16); v[3] ^= v[2]
    v[0] += v[3]; v[3] = rotl(v[3], 21); v[3] ^= v[0]
    v[2] += v[1]; v[1] = rotl(v[1], 17); v[1] ^= v[2]; v[2] = rotl(v[2], 32)

cdef inline uint64_t siphash(const uint64_t *key, const uint64_t *words, int count) noexcept nogil:
    """SipHash-2-4 of count * 8 bytes, key two words, all little-endian."""
    cdef uint64_t v[4]
    cdef int i
    v[0] = key[0] ^ 0x736f6d6570736575ULL
    v[1] = key[1] ^ 0x646f72616e646f6dULL
    v[2] = key[0] ^ 0x6c7967656e657261ULL
    v[3] = key[1] ^ 0x7465646279746573ULL
    for i in range(count):
        v[3] ^= words[i]
        sip_round(v)
        sip_round(v)
        v[0] ^= words[i]
    v[3] ^= <uint64_t> count << 59
    sip_round(v)
    sip_round(v)
    v[0] ^= <uint64_t> count << 59
    v[2] ^= 0xff
    sip_round(v)
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
