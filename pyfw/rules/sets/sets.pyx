# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Named address sets: what the control side does to them.  What packets do stands in lookup.pyx; lists of sets, in lists.pyx.

Law: all this is for one control thread, which takes the lock without the GIL, for SLICE elements at a time.  What a command asks for
may be billions of elements in a line of text: it is done in parts, and memory has a bound, whatever a set's own maxelem says.
Knows no syntax and no wording: those stand in text.py and store.py.
"""
cimport cython
from libc.stdint cimport int64_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from weakref import WeakSet

from pyfw.wire.packet cimport FAMILY_IPV4, FAMILY_IPV6
from pyfw.rules.sets.lookup cimport (KIND_IP, KIND_IP_PORT, KIND_LIST, KIND_NET, KIND_NET_PORT, NANOSECONDS, Member, SetData,
                                     SetQuery, has_networks, has_ports, host_prefix, look_up, look_up_networks)
from pyfw.rules.sets.table cimport (CHUNK, INSERTED, IS_FULL, IS_THERE, NO_ROOM, PRESENT_PERMANENTLY, UNTOLD, Chunk, Key, SetTable,
                                   attach_chunk, chunks_in, comments_in, element_at, find, free_chunk, free_table, insert,
                                   is_expired, move_table, new_chunk, new_table, remove, remove_expired)

cdef enum:
    SLICE = 128                 # elements that are looked up under one lock: some 40 microseconds with cold caches
    STALE_AT_ONCE = 1024        # comments that are looked at when some have been added
    PART = 64                   # slices of a long command that are done at once, before others have their turn
    MAX_CHUNKS = 1 << 14        # of all sets of a store: 16,777,216 elements, 1 GB; while a reload reads, there is a second one
    MAX_COMMENTS = 1 << 20      # of all sets of a store; each is some 300 bytes of Python's
    SWEEP_SLICE = 256           # elements of which most need no more than a glance
    SWEEP_SLICES = 128          # in one call of sweep()
    SPARE = 8 * CHUNK           # elements that a set to which packets add has room for, beyond those it holds

ADDED, EXISTS, FULL, NO_MEMORY = INSERTED, IS_THERE, IS_FULL, NO_ROOM
MISSING, FOUND, EXCLUDED = 0, 1, -1
MAX_STORE, MAX_COMMENTED = MAX_CHUNKS * CHUNK, MAX_COMMENTS             # elements of all sets of a store; those with a comment
KINDS = {"hash:ip": KIND_IP, "hash:net": KIND_NET, "hash:ip,port": KIND_IP_PORT, "hash:net,port": KIND_NET_PORT, "list:set": KIND_LIST}


# -- contents --------------------------------------------------------------------------------------------------------------


cdef object address_number(const SetData *data, const Key *key):
    return key.high >> 32 if data.family == FAMILY_IPV4 else (<object> key.high << 64) | key.low


cdef void set_address(const SetData *data, Key *key, object number) except *:
    if data.family == FAMILY_IPV4:
        key.high = <uint64_t> <uint32_t> number << 32
    else:
        key.high = <uint64_t> (number >> 64)
        key.low = <uint64_t> (number & 0xFFFFFFFFFFFFFFFF)


cdef uint64_t deadline_ns(const SetData *data, object timeout_s, uint64_t now_ns) except *:
    """When something added now with this timeout expires; None: the set's own."""
    cdef uint64_t seconds = data.timeout_s if timeout_s is None else timeout_s
    return now_ns + seconds * NANOSECONDS if data.has_timeout and seconds else PRESENT_PERMANENTLY


cdef object remaining_s(const SetData *data, uint64_t expires_ns, uint64_t now_ns):
    """None: the set knows no time.  What is left of a second counts as one."""
    if not data.has_timeout:
        return None
    return 0 if expires_ns == PRESENT_PERMANENTLY else max(<uint64_t> 1, (expires_ns - now_ns) // NANOSECONDS)


cdef inline Key key_at(const Run *run, uint64_t number) noexcept nogil:
    """Of element `number` of a run."""
    cdef Key key = run.first.key
    key.high += (number // run.ports * run.step) << 32
    key.port += <uint16_t> (number % run.ports)
    return key


cdef inline bint belongs_to(const SetData *data, const Run *run, const Key *key) noexcept nogil:
    cdef const Key *first = &run.first.key
    cdef uint64_t offset = (key.high - first.high) >> 32
    if key.protocol != first.protocol or key.prefix != first.prefix or <uint16_t> (key.port - first.port) >= run.ports:
        return False
    if data.family != FAMILY_IPV4:
        return key.high == first.high and key.low == first.low
    return offset % run.step == 0 and offset // run.step < run.count // run.ports


cdef tuple comment_key(const Key *key):
    return key.high, key.low, key.port, key.protocol, key.prefix


cdef class Allowance:

    def fits(self, Allowance fresh, outgoing) -> bool:
        """Whether there is room for all that `fresh` counts, once the contents `outgoing` have gone."""
        chunks = chunks_in(&self.used) + <object> chunks_in(&fresh.used)
        comments = comments_in(&self.used) + <object> comments_in(&fresh.used)
        for contents in outgoing:
            if (<Contents> contents).data.table != NULL:
                chunks -= (<Contents> contents).data.table.chunk_count
                comments -= (<Contents> contents).data.table.commented
        return chunks <= MAX_CHUNKS and comments <= MAX_COMMENTS


@cython.no_gc_clear     # its table, which ends with it, is counted in the allowance
cdef class Contents:

    def __cinit__(self, options, Lock lock, Allowance allowance, bytes secret):
        cdef uint64_t words[2]
        self.options = options
        self.lock = lock
        self.allowance = allowance
        self.comments = {}
        self.suspects = []
        self.data.kind = KINDS[options.type]
        self.data.family = {0: 0, 4: FAMILY_IPV4, 6: FAMILY_IPV6}[options.family]
        self.data.dimension = 1 + has_ports(&self.data)
        self.data.counters = options.counters
        self.data.has_timeout = options.timeout_s is not None
        self.data.timeout_s = options.timeout_s or 0
        self.data.most = options.maxelem
        self.data.netmask = options.netmask or host_prefix(self.data.family)
        if self.data.kind == KIND_LIST:
            return                              # it has members, and no table: ListContents
        memcpy(words, <const char *> secret, 16)
        if chunks_in(&allowance.used) < MAX_CHUNKS:
            self.data.table = new_table(words, &allowance.used)
        if self.data.table == NULL:
            raise MemoryError(f"no memory for a set of type {options.type}")

    def __dealloc__(self):
        free_table(self.data.table)

    def share(self, Lock lock, Allowance allowance) -> None:
        """Be guarded by another lock and counted elsewhere from now on.  No other thread may know these contents yet."""
        self.lock = lock
        self.count_in(allowance)

    def count_in(self, Allowance allowance) -> None:
        if self.data.table != NULL:
            with nogil:
                self.lock.lock_background()
                move_table(self.data.table, &allowance.used)
                self.lock.unlock()
        self.allowance = allowance

    def __len__(self):
        return self.data.table.count

    @property
    def refused(self) -> int:
        """Additions by packets for which there was no room."""
        return self.data.refused

    @property
    def memory(self) -> int:
        """Bytes."""
        cdef size_t size = sizeof(SetData) + self.data.member_count * sizeof(Member)
        if self.data.table != NULL:
            size += sizeof(SetTable) + self.data.table.chunk_count * (sizeof(Chunk) + sizeof(Chunk *))
        return size

    # -- elements of a hash ------------------------------------------------------------------------------------------------

    def add_some(self, elements, uint64_t done, uint64_t now_ns, bint exist) -> tuple:
        """Add a part of the elements that a set_text.Elements stands for, from number `done` on.

        Returns ADDED, EXISTS, FULL or NO_MEMORY, and the number to go on from; elements.count is the end.  Like the kernel, it ends
        at the first that cannot be added, and leaves those before.
        """
        cdef Element pending[SLICE]
        cdef Run run
        cdef uint32_t count, slices = 0
        cdef Insertion outcome = INSERTED
        self.read_run(&run, elements, now_ns)
        while outcome == INSERTED and done < run.count and slices < PART:
            count = <uint32_t> min(<uint64_t> SLICE, run.count - done)
            for i in range(count):
                pending[i] = run.first
                pending[i].key = key_at(&run, done + i)
            outcome = self.commit(pending, count, now_ns, exist, elements.comment)
            done += count
            slices += 1
        return outcome, done

    cdef int read_run(self, Run *run, elements, uint64_t now_ns) except -1:
        cdef Element *first = &run.first
        memset(run, 0, sizeof(Run))
        run.count = elements.count
        run.ports = elements.last_port - elements.first_port + 1
        run.step = elements.step
        set_address(&self.data, &first.key, elements.first)
        first.key.prefix = elements.prefix
        first.key.protocol = elements.protocol
        first.key.port = elements.first_port
        first.key.nomatch = elements.nomatch
        first.key.commented = elements.comment is not None
        first.packets = UNTOLD if elements.packets is None else elements.packets
        first.bytes = UNTOLD if elements.bytes is None else elements.bytes
        first.expires_ns = deadline_ns(&self.data, elements.timeout_s, now_ns)
        return 0

    cdef Insertion commit(self, const Element *elements, uint32_t count, uint64_t now_ns, bint exist, object comment) except *:
        """Insert elements, all with the same comment, or None."""
        cdef Insertion outcome
        cdef uint32_t done, i
        if comment is not None and comments_in(&self.allowance.used) + count > MAX_COMMENTS:
            return NO_ROOM
        with nogil:
            outcome = self.insert_all(elements, count, now_ns, exist, &done)
        if comment is not None:
            for i in range(done):
                self.comments[comment_key(&elements[i].key)] = comment
            self.forget_stale_comments()
        return outcome

    cdef int forget_stale_comments(self) except -1:
        """An element that expires, or that a packet removes, leaves its comment; when they are many, some of them go."""
        cdef uint32_t looked_at = 0
        while <size_t> len(self.comments) > 2 * <size_t> self.data.table.commented + CHUNK and looked_at < STALE_AT_ONCE:
            self.suspects = self.suspects or list(self.comments)
            key = self.suspects.pop()
            if key in self.comments and not self.is_commented(key):
                del self.comments[key]
            looked_at += 1
        return 0

    cdef bint is_commented(self, tuple comment_key) except *:
        cdef Key key
        cdef Element *element
        cdef bint commented
        key.high, key.low, key.port, key.protocol, key.prefix = comment_key
        with nogil:
            self.lock.lock_background()
            element = find(self.data.table, &key)
            commented = element != NULL and element.key.commented
            self.lock.unlock()
        return commented

    cdef Insertion insert_all(self, const Element *elements, uint32_t count, uint64_t now_ns, bint exist,
                              uint32_t *done) noexcept nogil:
        """Insert elements under one lock, or more when the table has to grow; `done` of them if one could not be."""
        cdef Insertion outcome = INSERTED
        cdef bint swept = False
        done[0] = 0
        while done[0] < count:
            self.lock.lock_background()
            while done[0] < count:
                outcome = insert(self.data.table, &elements[done[0]], now_ns, exist, self.data.most)
                if outcome != INSERTED:
                    break
                done[0] += 1
            self.lock.unlock()
            if outcome == NO_ROOM and self.grow():
                continue
            if outcome == IS_FULL and self.data.has_timeout and not swept:
                swept = True
                self.sweep_all(now_ns)
                continue
            break
        return outcome

    cdef bint grow(self) noexcept nogil:
        """Room for CHUNK more elements; False: there is no memory for them, or it is all that sets may have."""
        cdef SetMemory *used = &self.allowance.used
        if chunks_in(used) >= MAX_CHUNKS:
            return False
        cdef Chunk *chunk = new_chunk(used)
        cdef Chunk **directory = <Chunk **> malloc((self.data.table.chunk_count + 1) * sizeof(Chunk *))
        if chunk == NULL or directory == NULL:
            free_chunk(chunk, used)
            free(directory)
            return False
        self.lock.lock_background()
        directory = attach_chunk(self.data.table, chunk, directory)
        self.lock.unlock()
        free(directory)
        return True

    def delete_some(self, elements, int64_t cursor, uint64_t now_ns, bint missing_ok) -> tuple:
        """Delete a part of the elements that a set_text.Elements stands for.  Begin with cursor 0.

        Returns whether all of the part were there, or `missing_ok`, and the cursor to go on with; elements.count is the end.  It ends
        at the first that is not there.
        """
        cdef Key gone[SLICE]
        cdef Run run
        cdef uint64_t former, done
        cdef uint32_t count, slices = 0
        cdef bint within
        self.read_run(&run, elements, now_ns)
        # What may be missing is looked for from the shorter side: a range may stand for billions.  Then the cursor is the number
        # of an element in the table, and negative.
        within = cursor < 0 or cursor == 0 and missing_ok and run.count > self.data.table.used
        done = <uint64_t> (-cursor if within else cursor)
        while done < run.count and slices < PART:
            former = done
            with nogil:
                if within:
                    count = self.remove_within(&run, &done, now_ns, gone)
                else:
                    count = self.remove_slice(&run, &done, now_ns, missing_ok, gone)
            self.forget_comments(gone, count)
            if done == former:
                return False, cursor
            slices += 1
        return True, -<int64_t> done if within and done < run.count else <int64_t> done

    cdef uint32_t remove_slice(self, const Run *run, uint64_t *done, uint64_t now_ns, bint missing_ok, Key *gone) noexcept nogil:
        """Remove up to SLICE of a run from number `done` on, into `gone`; `done` does not move if the first is missing."""
        cdef uint64_t end = min(done[0] + SLICE, run.count)
        cdef uint32_t count = 0
        self.lock.lock_background()
        while done[0] < end:
            gone[count] = key_at(run, done[0])
            if not remove(self.data.table, &gone[count], now_ns) and not missing_ok:
                break
            count += 1
            done[0] += 1
        self.lock.unlock()
        return count

    cdef uint32_t remove_within(self, const Run *run, uint64_t *cursor, uint64_t now_ns, Key *gone) noexcept nogil:
        """Remove what belongs to a run among the next SLICE elements of the table; at the end of it, `cursor` is the run's."""
        cdef SetTable *table = self.data.table
        cdef uint64_t end
        cdef uint32_t count = 0
        self.lock.lock_background()
        end = min(cursor[0] + SLICE, <uint64_t> table.used)
        while cursor[0] < end:
            gone[count] = element_at(table, <uint32_t> cursor[0]).key
            if gone[count].prefix and belongs_to(&self.data, run, &gone[count]):
                remove(table, &gone[count], now_ns)
                count += 1
            cursor[0] += 1
        if end == table.used:
            cursor[0] = run.count
        self.lock.unlock()
        return count

    cdef int forget_comments(self, const Key *keys, uint32_t count) except -1:
        cdef uint32_t i
        if self.comments:
            for i in range(count):
                self.comments.pop(comment_key(&keys[i]), None)
        return 0

    def test(self, elements, uint64_t now_ns) -> int:
        """FOUND, MISSING, or EXCLUDED by an element that says nomatch.  A host is looked for in the networks of a set of such."""
        cdef Run run
        cdef SetQuery query
        cdef int found
        memset(&query, 0, sizeof(query))
        query.now_ns = now_ns
        self.read_run(&run, elements, now_ns)
        with nogil:
            self.lock.lock_background()
            if has_networks(&self.data) and run.first.key.prefix == host_prefix(self.data.family):
                found = look_up_networks(&self.data, &run.first.key, &query)
            else:
                found = look_up(&self.data, &run.first.key, &query)
            self.lock.unlock()
        return found

    def rows(self, uint32_t cursor, uint64_t now_ns) -> tuple:
        """Some of the elements as tuples (address, prefix, protocol, port, nomatch, remaining seconds or None, packets, bytes,
        comment), and the cursor for the next ones; 0: there are none.  Begin with 0."""
        cdef Element copied[SLICE]
        cdef Element *element
        cdef uint32_t count = 0, last, number
        with nogil:
            self.lock.lock_background()
            last = min(cursor + SLICE, self.data.table.used)
            for number in range(cursor, last):
                element = element_at(self.data.table, number)
                if element.key.prefix and not is_expired(element, now_ns):
                    copied[count] = element[0]
                    count += 1
            if last >= self.data.table.used:
                last = 0
            self.lock.unlock()
        return [self.row(&copied[number], now_ns) for number in range(count)], last

    def walk(self, uint64_t now_ns):
        """Yields all elements, as rows() gives them."""
        rows, cursor = self.rows(0, now_ns)
        yield rows
        while cursor:
            rows, cursor = self.rows(cursor, now_ns)
            yield rows

    cdef tuple row(self, const Element *element, uint64_t now_ns):
        cdef const Key *key = &element.key
        comment = self.comments.get(comment_key(key)) if key.commented else None
        return (address_number(&self.data, key), key.prefix, key.protocol, key.port, bool(key.nomatch),
                remaining_s(&self.data, element.expires_ns, now_ns), element.packets, element.bytes, comment)

    def flush(self) -> None:
        cdef SetTable *old = self.data.table
        cdef SetTable *new
        self.comments.clear()
        self.suspects.clear()
        new = new_table(old.secret, old.memory)
        if new == NULL:
            raise MemoryError("no memory for an empty set")
        with nogil:
            self.lock.lock_background()
            self.data.table = new
            self.lock.unlock()
            free_table(old)

    # -- upkeep ------------------------------------------------------------------------------------------------------------

    def sweep(self, uint64_t now_ns) -> None:
        """Free what has expired among the next SWEEP_SLICES * SWEEP_SLICE elements, from call to call all of them."""
        if self.data.has_timeout:
            with nogil:
                self.sweep_slices(SWEEP_SLICES, now_ns)

    cdef void sweep_slices(self, uint32_t slices, uint64_t now_ns) noexcept nogil:
        cdef uint32_t i
        for i in range(slices):
            if self.swept >= self.data.table.used:
                self.swept = 0
                return
            self.lock.lock_background()
            remove_expired(self.data.table, self.swept, self.swept + SWEEP_SLICE, now_ns)
            self.lock.unlock()
            self.swept += SWEEP_SLICE

    cdef void sweep_all(self, uint64_t now_ns) noexcept nogil:
        self.swept = 0
        self.sweep_slices(self.data.table.used // SWEEP_SLICE + 1, now_ns)

    def make_room(self) -> None:
        """For SPARE elements that packets may add, or as many as the set may still take."""
        cdef uint32_t wanted = min(self.data.most, self.data.table.count + <uint32_t> SPARE)
        with nogil:
            while self.data.table.chunk_count * CHUNK < wanted and self.grow():
                pass


# -- names -----------------------------------------------------------------------------------------------------------------


cdef class NamedSet:

    def __cinit__(self, str name, Contents contents):
        self.name = name
        self.users = WeakSet()
        self.contents = contents
        self.slot.data = &contents.data

    @property
    def references(self) -> int:
        """Rules and lists that refer to it."""
        return len(self.users)

    def rename(self, str name) -> None:
        """For the store: names are its keys."""
        self.name = name

    def swap(self, NamedSet other) -> None:
        """Exchange what two names stand for: what refers to one of them finds the other's contents."""
        cdef Contents mine = self.contents
        cdef Contents theirs = other.contents
        with nogil:
            mine.lock.lock_background()
            self.slot.data = &theirs.data
            other.slot.data = &mine.data
            mine.lock.unlock()
        self.contents, other.contents = theirs, mine

    def expect_packets(self) -> None:
        """A rule will add to it: keep room, from now on."""
        self.fed_by_packets = True
        self.make_room()

    def make_room(self) -> None:
        """Called from time to time: the packet path cannot get memory."""
        if self.fed_by_packets:
            self.contents.make_room()
