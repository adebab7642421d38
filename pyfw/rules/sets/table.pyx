# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The hash table of an address set.  Knows neither packets nor what kinds of sets there are, and takes no lock: its user holds one."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset
from pyfw.conntrack.siphash cimport siphash

cdef extern from *:
    """
    #define pyfw_tally(place, value) ((void) __atomic_add_fetch((place), (value), __ATOMIC_RELAXED))
    #define pyfw_told(place) __atomic_load_n((place), __ATOMIC_RELAXED)
    """
    void pyfw_tally(uint32_t *place, int value) noexcept nogil      # what a lock guards, and what is freed without it
    uint32_t pyfw_told(const uint32_t *place) noexcept nogil

UNTOLD = ~<uint64_t> 0


# -- memory ----------------------------------------------------------------------------------------------------------------


cdef SetTable *new_table(const uint64_t *secret, SetMemory *memory) noexcept nogil:
    cdef SetTable *table = <SetTable *> calloc(1, sizeof(SetTable))
    cdef Chunk *chunk = new_chunk(memory)
    cdef Chunk **directory = <Chunk **> malloc(sizeof(Chunk *))
    if table == NULL or chunk == NULL or directory == NULL:
        free(table)
        free_chunk(chunk, memory)
        free(directory)
        return NULL
    table.memory = memory
    memcpy(table.secret, secret, sizeof(table.secret))
    attach_chunk(table, chunk, directory)
    table.buckets = CHUNK
    table.mask = CHUNK - 1
    return table


cdef void free_table(SetTable *table) noexcept nogil:
    cdef uint32_t i
    if table == NULL:
        return
    for i in range(table.chunk_count):
        free_chunk(table.chunks[i], table.memory)
    pyfw_tally(&table.memory.comments, -<int> table.commented)
    free(table.chunks)
    free(table)


cdef void move_table(SetTable *table, SetMemory *memory) noexcept nogil:
    pyfw_tally(&table.memory.chunks, -<int> table.chunk_count)
    pyfw_tally(&table.memory.comments, -<int> table.commented)
    table.memory = memory
    pyfw_tally(&memory.chunks, <int> table.chunk_count)
    pyfw_tally(&memory.comments, <int> table.commented)


cdef Chunk *new_chunk(SetMemory *memory) noexcept nogil:
    """A chunk whose buckets are empty; its elements are not touched before they are used."""
    cdef Chunk *chunk = <Chunk *> malloc(sizeof(Chunk))
    if chunk != NULL:
        memset(chunk.heads, 0, sizeof(chunk.heads))
        pyfw_tally(&memory.chunks, 1)
    return chunk


cdef void free_chunk(Chunk *chunk, SetMemory *memory) noexcept nogil:
    if chunk != NULL:
        pyfw_tally(&memory.chunks, -1)
        free(chunk)


cdef uint32_t chunks_in(const SetMemory *memory) noexcept nogil:
    return pyfw_told(&memory.chunks)


cdef uint32_t comments_in(const SetMemory *memory) noexcept nogil:
    return pyfw_told(&memory.comments)


cdef Chunk **attach_chunk(SetTable *table, Chunk *chunk, Chunk **directory) noexcept nogil:
    """Give the table a chunk, and a directory with room for it; returns the old directory, for the caller to free."""
    cdef Chunk **old = table.chunks
    if table.chunk_count:
        memcpy(directory, old, table.chunk_count * sizeof(Chunk *))
    directory[table.chunk_count] = chunk
    table.chunks = directory
    table.chunk_count += 1
    return old


# -- buckets ---------------------------------------------------------------------------------------------------------------


cdef inline uint32_t hash_of(const SetTable *table, const Key *key) noexcept nogil:
    cdef uint64_t words[3]
    words[0] = key.high
    words[1] = key.low
    words[2] = <uint64_t> key.port | <uint64_t> key.protocol << 16 | <uint64_t> key.prefix << 24
    return <uint32_t> siphash(table.secret, words, 3)


cdef inline uint32_t *head_at(const SetTable *table, uint32_t bucket) noexcept nogil:
    return &table.chunks[bucket // CHUNK].heads[bucket % CHUNK]


cdef inline uint32_t *bucket_of(const SetTable *table, uint32_t hash) noexcept nogil:
    cdef uint32_t bucket = hash & (2 * table.mask + 1)
    return head_at(table, bucket if bucket < table.buckets else hash & table.mask)


cdef inline bint same(const Key *a, const Key *b) noexcept nogil:
    return a.high == b.high and a.low == b.low and a.port == b.port and a.protocol == b.protocol and a.prefix == b.prefix


cdef uint32_t *link_to(const SetTable *table, const Key *key, uint32_t hash) noexcept nogil:
    """Where the number of the element with `key` stands; what stands there is 0 if there is none."""
    cdef uint32_t *link = bucket_of(table, hash)
    cdef Element *element
    while link[0]:
        element = element_at(table, link[0] - 1)
        if element.hash == hash and same(&element.key, key):
            break
        link = &element.next
    return link


cdef void split_bucket(SetTable *table) noexcept nogil:
    """Move to the next new bucket what belongs there; all of it stands in one old bucket."""
    cdef uint32_t new = table.buckets
    cdef uint32_t wide = 2 * table.mask + 1
    cdef uint32_t *link = head_at(table, new & table.mask)
    cdef uint32_t *target = head_at(table, new)
    cdef Element *element
    cdef uint32_t number
    while link[0]:
        number = link[0]
        element = element_at(table, number - 1)
        if element.hash & wide == new:
            link[0] = element.next
            element.next = target[0]
            target[0] = number
        else:
            link = &element.next
    table.buckets += 1
    if table.buckets == 2 * (table.mask + 1):
        table.mask = wide


# -- elements --------------------------------------------------------------------------------------------------------------


cdef Element *find(const SetTable *table, const Key *key) noexcept nogil:
    """The element with `key`, be it expired; NULL: there is none."""
    cdef uint32_t number = link_to(table, key, hash_of(table, key))[0]
    return element_at(table, number - 1) if number else NULL


cdef uint32_t take_free(SetTable *table) noexcept nogil:
    """1 + number of an element that is free; 0: there is none."""
    cdef uint32_t number = table.free
    if number:
        table.free = element_at(table, number - 1).next
    elif table.used < table.chunk_count * CHUNK:
        table.used += 1
        number = table.used
    return number


cdef void count_prefix(SetTable *table, uint8_t prefix) noexcept nogil:
    cdef uint32_t place = 0
    table.by_prefix[prefix] += 1
    if table.by_prefix[prefix] > 1:
        return
    while place < table.prefix_count and table.prefixes[place] > prefix:
        place += 1
    memmove(&table.prefixes[place + 1], &table.prefixes[place], table.prefix_count - place)
    table.prefixes[place] = prefix
    table.prefix_count += 1


cdef void uncount_prefix(SetTable *table, uint8_t prefix) noexcept nogil:
    cdef uint32_t place = 0
    table.by_prefix[prefix] -= 1
    if table.by_prefix[prefix]:
        return
    while table.prefixes[place] != prefix:
        place += 1
    table.prefix_count -= 1
    memmove(&table.prefixes[place], &table.prefixes[place + 1], table.prefix_count - place)


cdef inline void count_comments(SetTable *table, int more) noexcept nogil:
    if more:
        table.commented += <uint32_t> more
        pyfw_tally(&table.memory.comments, more)


cdef void overwrite(SetTable *table, Element *element, const Element *wanted) noexcept nogil:
    """Say of an element what `wanted` says; counters only if it tells them."""
    count_comments(table, <int> wanted.key.commented - <int> element.key.commented)
    element.key = wanted.key
    element.expires_ns = wanted.expires_ns
    if wanted.packets != UNTOLD:
        element.packets = wanted.packets
    if wanted.bytes != UNTOLD:
        element.bytes = wanted.bytes


cdef Insertion insert(SetTable *table, const Element *wanted, uint64_t now_ns, bint exist, uint32_t most) noexcept nogil:
    """Add an element; one with its key that is there already is overwritten if it has expired, or `exist` says so."""
    cdef uint32_t hash = hash_of(table, &wanted.key)
    cdef uint32_t *link = link_to(table, &wanted.key, hash)
    cdef Element *element
    cdef uint32_t number = link[0]
    if number:
        element = element_at(table, number - 1)
        if is_expired(element, now_ns):
            element.packets = element.bytes = 0
        elif not exist:
            return IS_THERE
        overwrite(table, element, wanted)
        return INSERTED
    if table.count >= most:
        return IS_FULL
    number = take_free(table)
    if number == 0:
        return NO_ROOM
    element = element_at(table, number - 1)
    memset(element, 0, sizeof(Element))
    overwrite(table, element, wanted)
    element.hash = hash
    link = bucket_of(table, hash)
    element.next = link[0]
    link[0] = number
    table.count += 1
    count_prefix(table, wanted.key.prefix)
    if table.count > table.buckets and table.buckets < table.chunk_count * CHUNK:
        split_bucket(table)
    return INSERTED


cdef void unlink_element(SetTable *table, uint32_t *link) noexcept nogil:
    cdef uint32_t number = link[0]
    cdef Element *element = element_at(table, number - 1)
    link[0] = element.next
    table.count -= 1
    count_comments(table, -<int> element.key.commented)
    uncount_prefix(table, element.key.prefix)
    element.key.prefix = 0
    element.next = table.free
    table.free = number


cdef bint remove(SetTable *table, const Key *key, uint64_t now_ns) noexcept nogil:
    cdef uint32_t *link = link_to(table, key, hash_of(table, key))
    cdef bint lived
    if link[0] == 0:
        return False
    lived = not is_expired(element_at(table, link[0] - 1), now_ns)
    unlink_element(table, link)
    return lived


cdef void remove_expired(SetTable *table, uint32_t first, uint32_t last, uint64_t now_ns) noexcept nogil:
    """Free those of the elements from `first` to before `last` whose time is over."""
    cdef uint32_t number
    cdef Element *element
    for number in range(first, min(last, table.used)):
        element = element_at(table, number)
        if element.key.prefix and is_expired(element, now_ns):
            unlink_element(table, link_to(table, &element.key, element.hash))
