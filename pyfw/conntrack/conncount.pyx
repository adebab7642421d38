# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How many connections in the table belong together: the kernel's nf_conncount, without its walk.

May know: where an entry stands, its key.  Must not know: what is too many, rules, when entries expire.

Laws:
  - A counter has a place for every connection that the table can have, in both directions, and for the one that is about to
    be entered (slot 0): so there always is room, and what is counted ends with its entry, since the table tells.
  - A connection that was asked about and then not entered counts until the next one is asked about, and no longer.
  - What one packet costs does not depend on how many are counted.
"""
import os

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from pyfw.conntrack.siphash cimport siphash

cdef extern from *:
    """
    #define pyfw_store_heads(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    """
    void pyfw_store_heads(uint16_t **place, uint16_t *value) noexcept nogil

cdef enum:
    PLACES = 512                # that are searched under one lock


cdef class ConnCounts:
    """The counters of a table of `max_entries` connections."""

    def __cinit__(self, uint32_t max_entries):
        self.max_entries = max_entries

    def __dealloc__(self):
        cdef int number
        for number in range(MAX_COUNTERS):
            if self.counters[number] == NULL:
                continue
            if self.counters[number].abandoned:
                free_counter(self.counters[number])
            else:
                self.counters[number].orphaned = True
        free(self.heads)

    cdef ConnCounter *new_counter(self) except NULL:
        """A counter for a rule that no packet has met yet.  The rule calls abandon(); retire() then lets go of it.

        Raises ValueError for one too many.
        """
        cdef size_t members = 2 * <size_t> self.max_entries + 3
        cdef uint32_t number = 0, buckets = 2
        cdef ConnCounter *counter
        cdef uint16_t *heads
        cdef bytes seed = os.urandom(16)
        while number < MAX_COUNTERS and self.counters[number] != NULL:
            number += 1
        if number == MAX_COUNTERS:
            raise ValueError("connlimit of rules that have gone is still being let go of: try again in some seconds")
        while buckets < self.max_entries:
            buckets *= 2
        if self.heads == NULL:
            heads = <uint16_t *> calloc(self.max_entries + <size_t> 1, sizeof(uint16_t))
            if heads == NULL:
                raise MemoryError("no memory to count connections")
            pyfw_store_heads(&self.heads, heads)
        counter = <ConnCounter *> calloc(1, sizeof(ConnCounter))
        if counter == NULL:
            raise MemoryError("no memory to count connections")
        counter.members = <Member *> calloc(members, sizeof(Member))
        counter.groups = <Group *> calloc(members, sizeof(Group))
        counter.buckets = <uint32_t *> calloc(buckets, sizeof(uint32_t))
        if counter.members == NULL or counter.groups == NULL or counter.buckets == NULL:
            free_counter(counter)
            raise MemoryError("no memory to count connections")
        counter.mask = buckets - 1
        counter.number = number
        memcpy(counter.seed, <const char *> seed, sizeof(counter.seed))
        self.counters[number] = counter
        self.used = max(self.used, number + 1)
        return counter

    # -- what rules ask ------------------------------------------------------------------------------------------------

    cdef void attach(self, ConnCounter *counter, uint32_t member, uint32_t group, bint over) noexcept nogil:
        """Let a connection be a member of a group; the counter has it in no other."""
        cdef uint32_t slot = slot_of(member)
        counter.members[member].over = over
        counter.members[member].next = self.heads[slot]
        join(counter, member, group)
        self.heads[slot] = code_of(counter, member)

    cdef void await_entry(self, const Key *key) noexcept nogil:
        """Slot 0 stands for the connection with this key from now on; the one before was not entered, or is counted by its own."""
        if self.heads[0] and memcmp(&self.awaited, key, sizeof(Key)) != 0:
            self.forget(0)
        self.awaited = key[0]

    # -- what the table tells ------------------------------------------------------------------------------------------

    cdef void note_entry(self, uint32_t slot, const Key *key) noexcept nogil:
        """A connection was entered: what was counted for slot 0 is counted for its own, if it is the one."""
        cdef uint32_t code = self.heads[0], member, known
        cdef ConnCounter *counter
        if code == 0:
            return
        if memcmp(&self.awaited, key, sizeof(Key)) != 0:
            self.forget(0)
            return
        while code:
            counter = self.counters[(code - 1) >> 1]
            known = member_of(0, (code - 1) & 1)
            member = member_of(slot, (code - 1) & 1)
            code = counter.members[known].next
            self.attach(counter, member, counter.members[known].group, False)
            leave(counter, known)
        self.heads[0] = 0

    cdef void note_over(self, uint32_t slot, bint over) noexcept nogil:
        """The connection in `slot` is over, or is not: a SYN may open one anew that was reset."""
        cdef uint32_t code = self.heads[slot], member
        cdef ConnCounter *counter
        while code:
            counter = self.counters[(code - 1) >> 1]
            member = member_of(slot, (code - 1) & 1)
            if counter.members[member].over == over:
                break                           # and so it is wherever else it is counted
            counter.members[member].over = over
            counter.groups[counter.members[member].group].counted += 1 - 2 * over
            code = counter.members[member].next

    cdef void forget(self, uint32_t slot) noexcept nogil:
        """The connection in `slot` has gone."""
        cdef uint32_t code = self.heads[slot], member
        cdef ConnCounter *counter
        self.heads[slot] = 0
        while code:
            counter = self.counters[(code - 1) >> 1]
            member = member_of(slot, (code - 1) & 1)
            code = counter.members[member].next
            leave(counter, member)

    cdef void forget_all(self) noexcept nogil:
        cdef uint32_t slot
        if self.heads != NULL:
            for slot in range(self.max_entries + 1):
                self.forget(slot)

    # -- rules that have gone ------------------------------------------------------------------------------------------

    cdef ConnCounter *retire(self, uint32_t most) noexcept nogil:
        """Let go of up to `most` members of a counter without a rule; returns it once it has none, to be freed without the lock."""
        cdef uint32_t i
        cdef ConnCounter *counter = self.next_abandoned()
        if counter == NULL:
            return NULL
        for i in range(most):
            if counter.used == 0:
                break
            if counter.groups[counter.used].members:
                self.unlink(counter, counter.groups[counter.used].oldest)
            else:
                counter.used -= 1
        if counter.used:
            return NULL
        self.counters[counter.number] = NULL
        return counter

    cdef ConnCounter *next_abandoned(self) noexcept nogil:
        """A counter without a rule in one of the next PLACES; NULL: there is none."""
        cdef uint32_t i
        for i in range(min(self.used, <uint32_t> PLACES)):
            if self.looked_at >= self.used:
                self.looked_at = 0
            if self.counters[self.looked_at] != NULL and self.counters[self.looked_at].abandoned:
                return self.counters[self.looked_at]
            self.looked_at += 1
        return NULL

    cdef void unlink(self, ConnCounter *counter, uint32_t member) noexcept nogil:
        cdef uint32_t slot = slot_of(member)
        cdef uint16_t code = code_of(counter, member)
        cdef uint16_t *link = &self.heads[slot]
        while link[0] != code:
            link = &self.counters[(link[0] - 1) >> 1].members[member_of(slot, (link[0] - 1) & 1)].next
        link[0] = counter.members[member].next
        leave(counter, member)


cdef void abandon(ConnCounter *counter) noexcept nogil:
    """The counter's rule is going."""
    if counter == NULL:
        return
    if counter.orphaned:
        free_counter(counter)
    else:
        counter.abandoned = True


cdef void free_counter(ConnCounter *counter) noexcept nogil:
    free(counter.members)
    free(counter.groups)
    free(counter.buckets)
    free(counter)


cdef inline uint16_t code_of(const ConnCounter *counter, uint32_t member) noexcept nogil:
    return <uint16_t> (1 + (counter.number << 1 | (member - 1) & 1))


# -- groups ----------------------------------------------------------------------------------------------------------------

cdef inline uint32_t *bucket_of(const ConnCounter *counter, const uint64_t *words, uint8_t family) noexcept nogil:
    cdef uint64_t hashed[3]
    hashed[0], hashed[1], hashed[2] = words[0], words[1], family
    return &counter.buckets[siphash(counter.seed, hashed, 3) & counter.mask]


cdef uint32_t find_group(const ConnCounter *counter, const uint64_t *words, uint8_t family) noexcept nogil:
    """The number of the address's group; 0: nothing of it is counted."""
    cdef uint32_t number = bucket_of(counter, words, family)[0]
    cdef const Group *group
    while number:
        group = &counter.groups[number]
        if group.words[0] == words[0] and group.words[1] == words[1] and group.family == family:
            break
        number = group.next
    return number


cdef uint32_t group_of(ConnCounter *counter, const uint64_t *words, uint8_t family) noexcept nogil:
    """As find_group(), but makes one, to which a member must be attached at once."""
    cdef uint32_t number = find_group(counter, words, family)
    cdef uint32_t *bucket
    cdef Group *group
    if number:
        return number
    number = counter.free
    if number:
        counter.free = counter.groups[number].next
    else:
        counter.used += 1
        number = counter.used
    group = &counter.groups[number]
    bucket = bucket_of(counter, words, family)
    group.words[0], group.words[1], group.family = words[0], words[1], family
    group.members = group.counted = group.oldest = group.newest = 0
    group.next = bucket[0]
    bucket[0] = number
    return number


cdef void free_group(ConnCounter *counter, uint32_t number) noexcept nogil:
    cdef Group *group = &counter.groups[number]
    cdef uint32_t *link = bucket_of(counter, group.words, group.family)
    while link[0] != number:
        link = &counter.groups[link[0]].next
    link[0] = group.next
    group.next = counter.free
    counter.free = number


cdef void join(ConnCounter *counter, uint32_t number, uint32_t group_number) noexcept nogil:
    cdef Group *group = &counter.groups[group_number]
    cdef Member *member = &counter.members[number]
    member.group = group_number
    member.newer = 0
    member.older = group.newest
    if group.newest:
        counter.members[group.newest].newer = number
    else:
        group.oldest = number
    group.newest = number
    group.members += 1
    group.counted += not member.over


cdef void leave(ConnCounter *counter, uint32_t number) noexcept nogil:
    cdef Member *member = &counter.members[number]
    cdef Group *group = &counter.groups[member.group]
    if member.older:
        counter.members[member.older].newer = member.newer
    else:
        group.oldest = member.newer
    if member.newer:
        counter.members[member.newer].older = member.older
    else:
        group.newest = member.older
    group.members -= 1
    group.counted -= not member.over
    if group.members == 0:
        free_group(counter, member.group)
    member.group = 0


cdef void renew_oldest(ConnCounter *counter, uint32_t group) noexcept nogil:
    """The group's oldest member was looked at, and is there: it is the newest now."""
    cdef Group *found = &counter.groups[group]
    cdef uint32_t member = found.oldest
    if found.members > 1:
        found.oldest = counter.members[member].newer
        counter.members[found.oldest].older = 0
        counter.members[member].newer = 0
        counter.members[member].older = found.newest
        counter.members[found.newest].newer = member
        found.newest = member
