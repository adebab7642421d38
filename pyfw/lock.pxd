"""The lock of the engine: one thread at a time reads or writes connections, expectations, sets and what rules remember."""
from libc.stdint cimport uint32_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef class Lock:
    cdef pthread_mutex_t mutex
    cdef uint32_t waiting       # threads of the packet path that want the lock

    # lock(): for the packet path, which goes first; lock_politely(): for everybody else.  Both without the GIL (law 10).
    cdef void lock(self) noexcept nogil
    cdef void lock_politely(self) noexcept nogil
    cdef void unlock(self) noexcept nogil
