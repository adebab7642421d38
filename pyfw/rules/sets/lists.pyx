# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Lists of sets (list:set): their members, in order.

Law: as in sets.pyx, for the control thread alone.  The packet path sees either the former members or the new ones, whole.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from pyfw.rules.sets.lookup cimport Member, SetSlot, member_expired
from pyfw.rules.sets.sets cimport NamedSet, deadline_ns, remaining_s

cdef enum:
    NEW_MEMBER = 0xFFFFFFFF     # in an order of members: not one of the old ones


cdef class ListContents(Contents):

    def __cinit__(self):
        self.members = []

    def __dealloc__(self):
        free(self.data.members)

    def __len__(self):
        return len(self.members)

    def flush(self) -> None:
        self.comments.clear()
        self.rebuild([], NULL, [])

    def sweep(self, uint64_t now_ns) -> None:
        self.drop_expired_members(now_ns)

    def make_room(self) -> None:
        for named in self.members:
            (<NamedSet> named).contents.make_room()

    def insert_member(self, NamedSet member, uint32_t place, elements, uint64_t now_ns) -> None:
        """Put a set among the members, before number `place`."""
        cdef Member new
        new.expires_ns = deadline_ns(&self.data, elements.timeout_s, now_ns)
        new.packets = elements.packets or 0
        new.bytes = elements.bytes or 0
        self.comment_member(member, elements.comment)
        self.rebuild([*range(place), None, *range(place, self.data.member_count)], &new,
                     [*self.members[:place], member, *self.members[place:]])

    def update_member(self, uint32_t place, elements, uint64_t now_ns) -> None:
        """What adding a member anew with -exist does to it."""
        cdef Member changed = self.data.members[place]
        changed.expires_ns = deadline_ns(&self.data, elements.timeout_s, now_ns)
        if elements.packets is not None:
            changed.packets = elements.packets
        if elements.bytes is not None:
            changed.bytes = elements.bytes
        self.comment_member(self.members[place], elements.comment)
        self.rebuild([*range(place), None, *range(place + 1, self.data.member_count)], &changed, self.members)

    def remove_member(self, uint32_t place) -> None:
        self.comments.pop(self.members[place], None)
        kept = [number for number in range(self.data.member_count) if number != place]
        self.rebuild(kept, NULL, [self.members[number] for number in kept])

    def member_rows(self, uint64_t now_ns) -> list:
        """The members as tuples (name, remaining seconds or None, packets, bytes, comment)."""
        cdef Member member
        cdef uint32_t number
        rows = []
        self.drop_expired_members(now_ns)
        for number in range(self.data.member_count):
            with nogil:
                self.lock.lock_background()
                member = self.data.members[number]
                self.lock.unlock()
            named = self.members[number]
            rows.append((named.name, remaining_s(&self.data, member.expires_ns, now_ns), member.packets, member.bytes,
                         self.comments.get(named)))
        return rows

    def drop_expired_members(self, uint64_t now_ns) -> None:
        kept = [number for number in range(self.data.member_count) if not member_expired(&self.data.members[number], now_ns)]
        if len(kept) < len(self.members):
            self.rebuild(kept, NULL, [self.members[number] for number in kept])

    def point_members(self, dict renewed) -> None:
        """Have members of a list replaced by others: a store takes the names of another over."""
        if not renewed.keys().isdisjoint(self.members):
            self.comments = {renewed.get(named, named): comment for named, comment in self.comments.items()}
            self.rebuild([*range(self.data.member_count)], NULL, [renewed.get(named, named) for named in self.members])

    cdef int comment_member(self, NamedSet member, object comment) except -1:
        self.comments.pop(member, None)
        if comment is not None:
            self.comments[member] = comment
        return 0

    cdef int rebuild(self, list order, const Member *new, list members) except -1:
        """Have the members in a new order, as they are numbered now; None stands for `new`."""
        cdef Member *old = self.data.members
        cdef Member *array = <Member *> malloc(max(1, len(order)) * sizeof(Member))
        cdef uint32_t *numbers = <uint32_t *> malloc(max(1, len(order)) * sizeof(uint32_t))
        cdef uint32_t count = <uint32_t> len(order)
        cdef SetSlot *slot
        cdef uint32_t i
        if array == NULL or numbers == NULL:
            free(array)
            free(numbers)
            raise MemoryError("no memory for the members of a list")
        for i, number in enumerate(order):
            numbers[i] = NEW_MEMBER if number is None else number
            array[i].slot = &(<NamedSet> members[i]).slot
        with nogil:
            self.lock.lock_background()
            for i in range(count):
                slot = array[i].slot
                array[i] = new[0] if numbers[i] == NEW_MEMBER else old[numbers[i]]
                array[i].slot = slot
            self.data.members = array
            self.data.member_count = count
            self.lock.unlock()
            free(old)
            free(numbers)
        for named in self.members:
            (<NamedSet> named).users.discard(self)
        for named in members:
            (<NamedSet> named).users.add(self)
        self.members = members
        return 0
