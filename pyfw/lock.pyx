# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A mutex that gives way to the packet path.  Knows nothing of what it guards.

Law: nobody takes it while holding the GIL, and nobody but the packet path holds it for more than 100 microseconds.
"""
cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef extern from *:
    """
    #include <sched.h>
    #define pyfw_add(place, value) __atomic_add_fetch((place), (value), __ATOMIC_SEQ_CST)
    #define pyfw_load(place) __atomic_load_n((place), __ATOMIC_SEQ_CST)
    """
    void pyfw_add(uint32_t *place, int value) noexcept nogil
    uint32_t pyfw_load(const uint32_t *place) noexcept nogil
    int sched_yield() noexcept nogil


cdef class Lock:

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef void lock(self) noexcept nogil:
        pyfw_add(&self.waiting, 1)
        pthread_mutex_lock(&self.mutex)
        pyfw_add(&self.waiting, -1)

    cdef void lock_politely(self) noexcept nogil:
        """Let the packet path go first: a mutex is not fair, and a listing takes it thousands of times."""
        while pyfw_load(&self.waiting):
            sched_yield()
        pthread_mutex_lock(&self.mutex)

    cdef void unlock(self) noexcept nogil:
        pthread_mutex_unlock(&self.mutex)
