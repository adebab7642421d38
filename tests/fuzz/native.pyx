# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The targets in C: sequences of packets through an engine, queue messages, images of a table.

An input of the packet path is a byte that chooses the engine, and then steps.  A step begins with a byte:

    bits 0-2    0-4: a packet made of one of the seeds; 5: a packet that stands in the input; 6: something besides packets;
                7: the packet before once more
    bit 3       the other way: addresses and ports are exchanged
    bit 4       TCP numbers follow what went before
    bit 5       checksums stay as they are; else they are put right
    bits 6-7    the hook

So a change of one byte changes one thing, and what is written survives tracking's checks.  Each packet lies in
memory exactly as long as it is: who reads beyond is seen.

Law: what holds after every packet and every input stands in check_ruling() and check_table(); what does not hold ends the process.
"""
from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport CONN_CONFIRMED
from pyfw.conntrack.expect cimport EXPECT_FREE
from pyfw.edge.queue.messages cimport MESSAGE_PACKET, VERDICT_MAX_BYTES, QueuedPacket, put_verdict, read_message, sound_verdicts
from pyfw.edge.queue.reject_sender cimport REJECT_MAX_BYTES, build_answer
from pyfw.engine.engine cimport Engine
from pyfw.engine.judgement cimport CJudgement
from pyfw.enums cimport *
from pyfw.wire.packet cimport *

from pyfw.conntrack.selection import Selection
from pyfw.engine.engine import Engine as make_engine
from pyfw.observe.dump import expect_text, dump_records, dump_text

cdef enum:
    SEEDS_MAX = 128
    PACKET_ROOM = 4096
    ERRANDS_MAX = 4             # calls of Python for an input: they cost as much as thousands of packets
    INPUTS_PER_ENGINE = 5000

cdef uint64_t SECOND = 1000000000
cdef uint64_t REST = 6 * 86400 * SECOND       # passes between two inputs: what was remembered has expired

cdef struct Cursor:
    const uint8_t *data
    size_t left

cdef struct Seed:
    uint8_t *data
    uint32_t length

cdef struct Side:               # what the next TCP packet of a side would bear
    uint32_t seq
    uint32_t ack

cdef Seed[SEEDS_MAX] seeds
cdef uint32_t seed_count = 0
cdef object prepare = None      # number -> Engine, a list of rulesets to change to, SourceLimits or None
cdef list engines = []
cdef uint64_t inputs = 0, judged = 0
cdef uint64_t now_ns = 0
cdef uint8_t[PACKET_ROOM] made, last
cdef uint32_t last_length = 0
cdef Side[2] sides
cdef char[3][IFNAMSIZ] names
cdef uint8_t[6] hardware


# -- reading an input ---------------------------------------------------------------------------------------------

cdef inline uint8_t take(Cursor *cursor) noexcept nogil:
    cdef uint8_t byte = 0
    if cursor.left:
        byte = cursor.data[0]
        cursor.data += 1
        cursor.left -= 1
    return byte


cdef void fail(const char *what) noexcept nogil:
    fprintf(stderr, "fuzz: %s\n", what)
    abort()


# -- packets ------------------------------------------------------------------------------------------------------

cdef void put16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef void put32(uint8_t *at, uint32_t value) noexcept nogil:
    put16(at, value >> 16)
    put16(at + 2, value & 0xFFFF)


cdef void exchange(uint8_t *one, uint8_t *other, uint32_t length) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t byte
    for i in range(length):
        byte = one[i]
        one[i] = other[i]
        other[i] = byte


cdef bint has_ports(const Packet *packet) noexcept nogil:
    return packet.transport_captured >= 4 and packet.fragment < 2 and packet.protocol in (
        PROTO_TCP, PROTO_UDP, PROTO_UDPLITE, PROTO_SCTP)


cdef void turn(uint8_t *data, const Packet *packet) noexcept nogil:
    """Addresses and ports change places."""
    if packet.family == FAMILY_IPV4:
        exchange(data + 12, data + 16, 4)
    else:
        exchange(data + 8, data + 24, 16)
    if has_ports(packet):
        exchange(data + packet.transport, data + packet.transport + 2, 2)


cdef void step_in(uint8_t *data, const Packet *packet, uint8_t side) noexcept nogil:
    """TCP numbers as the side would choose them next."""
    if packet.protocol == PROTO_TCP and packet.fragment < 2 and packet.transport_captured >= 20:
        put32(data + packet.transport + 4, sides[side].seq)
        if data[packet.transport + 13] & TH_ACK:
            put32(data + packet.transport + 8, sides[side].ack)


cdef void note_step(const uint8_t *data, const Packet *packet, uint8_t side) noexcept nogil:
    cdef uint32_t start, end
    if packet.protocol != PROTO_TCP or not packet.has_transport:
        return
    start = packet.payload_length + (packet.tcp_flags & TH_SYN != 0) + (packet.tcp_flags & TH_FIN != 0)
    end = packet.tcp_seq + start
    sides[side].seq = end
    sides[1 - side].ack = end
    if packet.tcp_flags & TH_ACK:
        sides[1 - side].seq = packet.tcp_ack


cdef void put_checksums(uint8_t *data, uint32_t length, const Packet *packet) noexcept nogil:
    """As far as the headers, which may lie, say where they are."""
    cdef uint32_t header = (data[0] & 15) * 4, place, there
    cdef uint8_t tail[4]
    cdef uint8_t *at
    cdef uint64_t total = 0
    if packet.family == FAMILY_IPV4 and 20 <= header <= length:
        put16(data + 10, 0)
        put16(data + 10, <uint16_t>~fold(add_words(0, data, header)))
    place = place_of_checksum(packet.protocol)
    there = packet.transport_length
    if place == 0 or packet.fragment or there < place + 2 or packet.transport + there > length:
        return
    at = data + packet.transport + place
    if packet.protocol == PROTO_UDP and at[0] == 0 and at[1] == 0:
        return
    if packet.protocol != PROTO_ICMP:
        tail[0] = 0
        tail[1] = packet.protocol
        put16(tail + 2, there)
        total = add_words(0, tail, 4)
        total = add_words(total, data + 12, 8) if packet.family == FAMILY_IPV4 else add_words(total, data + 8, 32)
    put16(at, 0)
    put16(at, <uint16_t>~fold(add_words(total, data + packet.transport, there)))


cdef uint32_t place_of_checksum(uint8_t protocol) noexcept nogil:
    if protocol == PROTO_TCP:
        return 16
    if protocol == PROTO_UDP:
        return 6
    return 2 if protocol == PROTO_ICMP or protocol == PROTO_ICMPV6 else 0


cdef void look(Packet *packet, const uint8_t *data, uint32_t length) noexcept nogil:
    """Where its headers are, as far as parse() comes."""
    memset(packet, 0, sizeof(Packet))
    packet.data = data
    packet.captured = length
    packet.checksum = CHECKSUM_TRUSTED
    packet.indev = packet.outdev = names[0]
    parse(packet)


cdef uint32_t make_packet(Cursor *cursor, uint8_t step, uint8_t *out) noexcept nogil:
    """A seed with up to three bytes changed, or bytes of the input, or the packet before; returns its length."""
    cdef const Seed *seed
    cdef Packet packet
    cdef uint8_t how, side = step >> 3 & 1
    cdef uint32_t length, i, at
    cdef bint is_seed = step & 7 < 5
    if step & 7 == 7:
        length = last_length
        memcpy(out, last, length)
    elif is_seed:
        seed = &seeds[take(cursor) % seed_count]
        length = seed.length
        memcpy(out, seed.data, length)
    else:
        length = take(cursor)
        for i in range(length):
            out[i] = take(cursor)
    look(&packet, out, length)
    if packet.family and packet.transport:
        if side:
            turn(out, &packet)
        if step & 16:
            step_in(out, &packet, side)
    if is_seed:
        how = take(cursor)
        for i in range(how & 3):
            at = take(cursor)
            out[at % length] = take(cursor)
        if how & 4:
            length -= min(<uint32_t>take(cursor), length)
        elif how & 8:
            for i in range(how >> 4):
                out[length + i] = take(cursor)
            length += how >> 4
    if length and not step & 32:
        look(&packet, out, length)
        if packet.family and packet.transport:
            put_checksums(out, length, &packet)
    return length


cdef void check_ruling(const Packet *packet, const CJudgement *ruling) noexcept nogil:
    if ruling.verdict > VERDICT_ACCEPT or ruling.state > STATE_UNTRACKED or ruling.direction > DIR_NONE:
        fail("a ruling out of the closed sets")
    if ruling.reason.number >= REASONS or ruling.reject > REJECT_ICMP6_REJECT_ROUTE:
        fail("a reason out of the closed set")
    if ruling.reason.number == REASON_INTERNAL:
        fail("Reason.INTERNAL: an impossible value")
    if ruling.verdict == VERDICT_DROP and ruling.reason.number == REASON_NONE:
        fail("a drop without a reason")
    if ruling.inspect and ruling.verdict != VERDICT_ACCEPT:
        fail("a helper is asked about a packet that was dropped")


cdef void judge_step(Engine engine, Cursor *cursor, uint8_t step) noexcept:
    """Make a packet, have it judged, and answered if the rules reject it."""
    cdef uint8_t *exact
    cdef uint8_t more
    cdef uint8_t[REJECT_MAX_BYTES] answer
    cdef Packet packet
    cdef CJudgement ruling
    cdef uint32_t length
    global last_length, judged
    length = make_packet(cursor, step, made)
    exact = <uint8_t *>malloc(length)
    memcpy(exact, made, length)
    memcpy(last, made, length)
    last_length = length
    memset(&packet, 0, sizeof(Packet))
    more = take(cursor)
    packet.data = exact
    packet.captured = length
    packet.on_wire = length + (1000 if more & 1 else 0)
    packet.mark = more >> 1 & 1
    packet.untouched = more >> 2 & 1
    packet.checksum = CHECKSUM_TRUSTED if more & 8 else CHECKSUM_VERIFY
    packet.hardware = hardware if more & 16 else NULL
    packet.has_owner = more >> 5 & 1
    packet.hook = step >> 6
    if packet.hook == HOOK_PREROUTING:
        packet.hook = HOOK_FORWARD
    packet.indev = names[0 if packet.hook == HOOK_OUTPUT else 1 + (more >> 6 & 1)]
    packet.outdev = names[0 if packet.hook == HOOK_INPUT else 1 + (more >> 7)]
    engine.lock()
    engine.judge_packet(&packet, now_ns, &ruling)
    engine.unlock()
    judged += 1
    check_ruling(&packet, &ruling)
    if ruling.inspect:
        engine.inspect_packet(&packet, now_ns, &ruling)
        if ruling.reason.number == REASON_HELPER_ERROR:
            fail("a helper raised an exception")
        ruling.inspect = False
        check_ruling(&packet, &ruling)
    if ruling.verdict == VERDICT_DROP and ruling.reject and build_answer(&packet, ruling.reject, answer) > REJECT_MAX_BYTES:
        fail("an answer longer than its room")
    note_step(exact, &packet, step >> 3 & 1)
    free(exact)


# -- an engine ----------------------------------------------------------------------------------------------------

cdef void check_table(Engine engine) noexcept:
    """What is counted is there, is found by its key, and stands in its own slot."""
    cdef uint32_t slot, confirmed = 0, expected = 0
    cdef uint8_t direction
    table = engine.tracker.table
    expectations = engine.tracker.expectations
    for slot in range(1, table.header.used + 1):
        if table.conns[slot].status & CONN_CONFIRMED:
            confirmed += 1
            if table.find(&table.conns[slot].key, 0, &direction) != slot:
                fail("a connection that is not found by its key")
    if confirmed != table.count or table.count > table.header.max_entries:
        fail("the table's count is not what stands in it")
    for slot in range(1, expectations.used + 1):
        expected += expectations.slots[slot].state != EXPECT_FREE
    if expected != expectations.count or expectations.count > expectations.limit:
        fail("the count of expectations is not what stands in the table")


def whole_listing(Engine engine, uint64_t at_ns) -> None:
    """Everything that an administrator may ask of the table."""
    for style in ("nf", "proc"):
        cursor = 1
        while cursor:
            _, cursor, _ = dump_text(engine, Selection(), style, cursor, at_ns)
    cursor = 1
    while cursor:
        _, cursor = dump_records(engine, Selection(), cursor, at_ns)
    expect_text(engine, at_ns)


def total_of(Engine engine) -> int:
    counters = engine.counters()
    total = counters["packets"]
    assert sum(counters["drops"].values()) == counters["verdicts"]["DROP"], "each drop has one reason"
    assert counters["table"]["entries"] == counters["table"]["created"] - counters["table"]["destroyed"] + engine.adopted
    return total


cdef class Bench:
    """An engine that judges, the rules it may change to, and who listens."""
    cdef Engine engine
    cdef list programs
    cdef object listener
    cdef uint64_t seen

    def __init__(self, number):
        self.engine, self.programs, self.listener = prepare(number)
        self.seen = 0

    cdef int errand(self, Cursor *cursor) except -1:
        """Something besides packets.  Returns 1 if it was in Python."""
        cdef uint8_t what = take(cursor), size = take(cursor)
        global now_ns
        if what & 7 < 2:
            now_ns += size * 10000000
        elif what & 7 == 2:
            now_ns += size * SECOND
        elif what & 7 == 3:
            now_ns += size * 3600 * SECOND
        elif what & 7 == 4:
            self.engine.sweep(now_ns)
            return 1
        elif what & 7 == 5:
            whole_listing(self.engine, now_ns)
            return 1
        elif what & 7 == 6:
            self.engine.load(self.programs[size % len(self.programs)])
            return 1
        elif self.listener is not None:
            self.listener.take()
            return 1
        return 0

    cdef int run(self, Cursor *cursor) except -1:
        cdef uint32_t errands = 0
        cdef uint64_t before = judged
        cdef uint8_t step
        while cursor.left:
            step = take(cursor)
            if step & 7 != 6:
                judge_step(self.engine, cursor, step)
            elif errands < ERRANDS_MAX:
                errands += self.errand(cursor)
        check_table(self.engine)
        self.seen += judged - before
        if total_of(self.engine) != self.seen:
            fail("a packet that was not counted")
        return 0


cdef int packet_path_input(Cursor *cursor) except -1:
    global inputs, now_ns, last_length
    cdef Bench bench
    if inputs % INPUTS_PER_ENGINE == 0:
        engines[:] = [Bench(number) for number in range(4)]
        now_ns = SECOND
    inputs += 1
    memset(sides, 0, sizeof(sides))
    last_length = 0
    bench = engines[take(cursor) & 3]
    bench.run(cursor)
    now_ns += REST
    bench.engine.sweep(now_ns)
    return 0


cdef int table_image_input(Cursor *cursor) except -1:
    """A table that a predecessor left, with bytes changed: (offset, 2 bytes; value) by threes; then a few packets."""
    global now_ns, last_length
    cdef Engine engine
    cdef uint32_t count = take(cursor), i, at
    memory = bytearray(table_image)
    for i in range(count):
        at = take(cursor)
        at = at << 8 | take(cursor)
        memory[at % len(memory)] = take(cursor)
    now_ns = 2 * SECOND
    last_length = 0
    engine = image_engine(memory)
    check_table(engine)
    whole_listing(engine, now_ns)
    while cursor.left:
        judge_step(engine, cursor, take(cursor))
    check_table(engine)
    whole_listing(engine, now_ns)
    for i in range(3):
        now_ns += REST
        engine.sweep(now_ns)
        check_table(engine)
    return 0


# -- messages -----------------------------------------------------------------------------------------------------

cdef void messages_input(const uint8_t *data, size_t size) noexcept:
    """One message of the queue, in memory of its own, and the verdict about it."""
    cdef QueuedPacket queued
    cdef uint8_t[VERDICT_MAX_BYTES] verdict
    cdef uint8_t *exact = <uint8_t *>malloc(size)
    memcpy(exact, data, size)
    memset(&queued, 0xFF, sizeof(QueuedPacket))
    if read_message(exact, <uint32_t>size, &queued) == MESSAGE_PACKET:
        if queued.payload < exact or queued.payload + queued.captured > exact + size:
            fail("a payload outside its message")
        if queued.hardware != NULL and (queued.hardware < exact or queued.hardware + 6 > exact + size):
            fail("an Ethernet address outside its message")
        if queued.hook > HOOK_POSTROUTING:
            fail("a hook out of the closed set")
        if put_verdict(verdict, 0, queued.id, VERDICT_DROP, &queued.mark) > VERDICT_MAX_BYTES:
            fail("a verdict longer than its room")
    free(exact)


cdef void hand_input(const uint8_t *data, size_t size) noexcept:
    """The record of a batch in hand, as a predecessor left it: what is taken from it is verdicts, whole and in bounds."""
    cdef uint8_t *exact = <uint8_t *>malloc(size)
    cdef uint32_t taken, verdicts, at = 0, message
    memcpy(exact, data, size)
    taken = sound_verdicts(exact, <uint32_t>size, 0, &verdicts)
    if taken > size:
        fail("more verdicts than the record has bytes")
    while at < taken:
        memcpy(&message, exact + at, sizeof(message))
        at += message
        verdicts -= 1
    if at != taken or verdicts:
        fail("verdicts that are not whole")
    free(exact)


# -- what the driver calls ----------------------------------------------------------------------------------------

cdef void packet_path(const uint8_t *data, size_t size) noexcept:
    cdef Cursor cursor
    cursor.data, cursor.left = data, size
    try:
        packet_path_input(&cursor)
    except BaseException:
        report_exception()


cdef void table_image_target(const uint8_t *data, size_t size) noexcept:
    cdef Cursor cursor
    cursor.data, cursor.left = data, size
    try:
        table_image_input(&cursor)
    except BaseException:
        report_exception()


cdef void report_exception() noexcept:
    import traceback
    try:
        traceback.print_exc()
    finally:
        fail("an exception that nobody expects")


cdef bytes table_image = b""
cdef object image_engine = None


def set_seeds(packets) -> None:
    global seed_count
    for packet in packets[:SEEDS_MAX]:
        seeds[seed_count].data = <uint8_t *>malloc(len(packet))
        memcpy(seeds[seed_count].data, <const char *><bytes>packet, len(packet))
        seeds[seed_count].length = len(packet)
        seed_count += 1
    memset(names, 0, sizeof(names))
    memcpy(names[1], b"eth0", 4)
    memcpy(names[2], b"eth1", 4)


def packet_path_target(make):
    """`make`: number from 0 to 3 -> (Engine, [Program or None, ...], Listener or None)."""
    global prepare
    prepare = make
    return judging(packet_path)


def table_image_target_of(bytes image, make):
    """`image`: the memory of an engine; `make`: memory -> Engine that takes it over."""
    global table_image, image_engine
    table_image, image_engine = image, make
    return judging(table_image_target)


cdef void planted_fault(const uint8_t *data, size_t size) noexcept:
    """Reads a byte beyond its memory, if the input says so: the control."""
    cdef uint8_t *exact = <uint8_t *>malloc(size)
    memcpy(exact, data, size)
    if size and exact[0] == 33 and exact[size] == exact[0]:
        fail("the fault was not found")
    free(exact)


def planted_target():
    return PyCapsule_New(<void *>planted_fault, NULL, NULL)


def hand_target():
    return PyCapsule_New(<void *>hand_input, NULL, NULL)


def messages_target():
    return PyCapsule_New(<void *>messages_input, NULL, NULL)


cdef object judging(void (*target)(const uint8_t *, size_t) noexcept):
    """A capsule whose context is the count of judged packets, which the driver reports."""
    capsule = PyCapsule_New(<void *>target, NULL, NULL)
    PyCapsule_SetContext(capsule, &judged)
    return capsule
