"""The lock of the engine: one thread at a time reads or writes connections, expectations, sets and what rules remember."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef extern from *:
    """
    #ifdef PYFW_DEBUG_LOCK
    void pyfw_assert_locked(const char *function);
    #define assert_locked() pyfw_assert_locked(__func__)
    #else
    #define assert_locked() ((void)0)
    #endif
    """
    # In the debug build: ends the process, and names the function that calls it, unless this thread holds a lock.
    void assert_locked() noexcept nogil

cdef enum:
    MAX_HOLDERS = 64

cdef struct Holder:             # a place in the code that takes the lock
    void *caller                # where it returns to
    uint64_t longest_ns         # of processor time

cdef class Lock:
    cdef pthread_mutex_t mutex
    cdef uint32_t waiting       # threads of the packet path that want the lock
    cdef void *caller           # of the thread that holds it, if holds are timed
    cdef uint64_t since_ns
    cdef Holder holders[MAX_HOLDERS]

    cdef void note_hold(self) noexcept nogil

    # lock(): for the packet path, which goes first; lock_background(): for everybody else.  Both without the GIL (law 10).
    cdef void lock(self) noexcept nogil
    cdef void lock_background(self) noexcept nogil
    cdef void unlock(self) noexcept nogil
