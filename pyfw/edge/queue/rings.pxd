"""The memory of the queue loop: what a batch is received into, and what of it is held until its verdicts are sent."""
from libc.stdint cimport uint8_t, uint32_t
from pyfw.engine.judgement cimport CJudgement
from pyfw.wire.packet cimport Packet

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

cdef enum:
    BATCH = 64                  # messages taken from the kernel at once

cdef struct HeldPacket:         # judged, with something left to do once the batch has its verdicts
    Packet packet
    CJudgement judgement
    uint32_t id
    uint32_t mark               # as it came
    uint32_t indev

cdef struct Held:
    uint32_t count
    HeldPacket packets[BATCH]

cdef struct Rings:
    mmsghdr received[BATCH]
    iovec parts[BATCH]
    Held to_inspect
    Held to_reject
    uint8_t *messages           # what `parts` points into

cdef Rings *new_rings() except NULL
cdef void free_rings(Rings *rings) noexcept nogil
