# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The memory of the queue loop, got before its first packet: the loop allocates nothing.

May know: how large a message can be.  Must not know: what is in one.
"""
from libc.stdlib cimport calloc, free

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *, size_t, int, int, int, long)
    int munmap(void *, size_t)
    int madvise(void *, size_t, int)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE
    void *MAP_FAILED

cdef enum:
    # A message is the packet (65,531 bytes at most) and its attributes, some 200 bytes.  The rest staggers the
    # buffers, so that the first cache lines of all of them do not compete for the same cache sets.
    MESSAGE_ROOM = 0xFFFF + 1 + 1024 + 320


cdef Rings *new_rings() except NULL:
    cdef Rings *rings = <Rings *>calloc(1, sizeof(Rings))
    cdef void *messages
    cdef int i
    if rings is NULL:
        raise MemoryError
    messages = mmap(NULL, BATCH * MESSAGE_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if messages is MAP_FAILED:
        free(rings)
        raise MemoryError
    madvise(messages, BATCH * MESSAGE_ROOM, MADV_HUGEPAGE)
    rings.messages = <uint8_t *>messages
    for i in range(BATCH):
        rings.parts[i].iov_base = rings.messages + i * MESSAGE_ROOM
        rings.parts[i].iov_len = MESSAGE_ROOM
        rings.received[i].msg_hdr.msg_iov = &rings.parts[i]
        rings.received[i].msg_hdr.msg_iovlen = 1
    return rings


cdef void free_rings(Rings *rings) noexcept nogil:
    if rings is not NULL:
        munmap(rings.messages, BATCH * MESSAGE_ROOM)
        free(rings)
