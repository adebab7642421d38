# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A mutex that gives way to the packet path.  Knows nothing of what it guards.

Law: nobody takes it while holding the GIL, and nobody but the packet path holds it for more than 100 microseconds.

With PYFW_LOCK_TIMES=FILE in the environment, how long each place in the code has held a lock at most is appended to the file when
the process ends: lines of nanoseconds (of processor time), module and offset.  The tests print the longest.

The debug build (PYFW_DEBUG_LOCK, see tests/README.md) ends the process where a function that needs the lock runs without it,
where a thread takes the lock with the GIL, and where one takes a second lock.
"""
import atexit
import os
from contextlib import suppress

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <sched.h>
    #include <time.h>
    #define pyfw_caller() __builtin_return_address(0)
    static uint64_t pyfw_thread_ns(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    /* The module that a place in the code belongs to, and how far into it the place is. */
    static const char *pyfw_module(void *place, size_t *offset)
    {
        Dl_info info;
        if (!dladdr(place, &info))
            return "?";
        *offset = (size_t)((char *)place - (char *)info.dli_fbase);
        return info.dli_fname;
    }
    #ifdef PYFW_DEBUG_LOCK
    static __thread const void *pyfw_held;      /* the lock that this thread has */
    static void pyfw_end(const char *function, const char *what)
    {
        fprintf(stderr, "%s: %s\\n", function, what);
        abort();
    }
    void pyfw_assert_locked(const char *function)
    {
        if (pyfw_held == NULL)
            pyfw_end(function, "the lock is not held");
    }
    static void pyfw_note_taking(void)
    {
        if (PyGILState_Check())
            pyfw_end("lock", "it is taken with the GIL");
        if (pyfw_held != NULL)
            pyfw_end("lock", "it is taken by who holds one");
    }
    #define pyfw_note_held(lock) (pyfw_held = (lock))
    #else
    #define pyfw_note_taking() ((void)0)
    #define pyfw_note_held(lock) ((void)0)
    #endif
    #define pyfw_add(place, value) __atomic_add_fetch((place), (value), __ATOMIC_SEQ_CST)
    #define pyfw_load(place) __atomic_load_n((place), __ATOMIC_SEQ_CST)
    """
    void pyfw_note_taking() noexcept nogil
    void pyfw_note_held(const void *lock) noexcept nogil
    void pyfw_add(uint32_t *place, int value) noexcept nogil
    uint32_t pyfw_load(const uint32_t *place) noexcept nogil
    int sched_yield() noexcept nogil
    void *pyfw_caller() noexcept nogil
    uint64_t pyfw_thread_ns() noexcept nogil
    const char *pyfw_module(void *place, size_t *offset)

cdef bint timed = "PYFW_LOCK_TIMES" in os.environ
locks = []                      # those whose holds are timed


cdef class Lock:

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)
        if timed:
            locks.append(self)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef void lock(self) noexcept nogil:
        pyfw_note_taking()
        pyfw_add(&self.waiting, 1)
        pthread_mutex_lock(&self.mutex)
        pyfw_note_held(&self.mutex)
        pyfw_add(&self.waiting, -1)
        if timed:
            self.caller, self.since_ns = pyfw_caller(), pyfw_thread_ns()

    cdef void lock_background(self) noexcept nogil:
        """Let the packet path go first: a mutex is not fair, and a listing takes it thousands of times."""
        pyfw_note_taking()
        while pyfw_load(&self.waiting):
            sched_yield()
        pthread_mutex_lock(&self.mutex)
        pyfw_note_held(&self.mutex)
        if timed:
            self.caller, self.since_ns = pyfw_caller(), pyfw_thread_ns()

    cdef void unlock(self) noexcept nogil:
        if timed:
            self.note_hold()
        pyfw_note_held(NULL)
        pthread_mutex_unlock(&self.mutex)

    cdef void note_hold(self) noexcept nogil:
        cdef uint64_t held_ns = pyfw_thread_ns() - self.since_ns
        cdef int i
        for i in range(MAX_HOLDERS):
            if self.holders[i].caller == NULL or self.holders[i].caller == self.caller:
                self.holders[i].caller = self.caller
                self.holders[i].longest_ns = max(self.holders[i].longest_ns, held_ns)
                break

    def holds(self) -> list[tuple[int, str, int]]:
        """(longest in ns, module, offset in it) of each place that has taken the lock."""
        cdef size_t offset = 0
        cdef int i
        found = []
        for i in range(MAX_HOLDERS):
            if self.holders[i].caller != NULL:
                module = pyfw_module(self.holders[i].caller, &offset).decode()
                found.append((self.holders[i].longest_ns, module, offset))
        return found


def write_holds() -> None:
    longest: dict[tuple[str, int], int] = {}
    for lock in locks:
        for held_ns, module, offset in lock.holds():
            longest[module, offset] = max(held_ns, longest.get((module, offset), 0))
    with suppress(PermissionError), open(os.environ["PYFW_LOCK_TIMES"], "a") as file:     # a daemon need not be root's
        file.write("".join(f"{held_ns} {module} {offset:#x}\n" for (module, offset), held_ns in longest.items()))


if timed:
    atexit.register(write_holds)
