# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tracing live packets: a filter, a ring, and at most so many packets a second.

May know: the engine's lock, rules as filters, what an observer sees.  Must not know: text, sockets, the clock.

Laws: the packet path allocates nothing and never waits: a full ring or a spent second counts the packet as
suppressed.  What stands between tail and head is the reader's.  Without a trace, a packet pays one comparison.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from pyfw.engine.engine cimport Engine
from pyfw.engine.observer cimport keep_passed, packet_trace_of
from pyfw.lock cimport assert_locked
from pyfw.rules.program.flat cimport TABLE_FILTER, TABLE_RAW
from pyfw.token_bucket cimport TokenRate, take_token

MOST = TRACERS
PROGRAMS_KEPT = 4


class TooMany(Exception):
    """As many tracers as can be are at work."""


cdef class Tracer:
    """Keeps the packets that `filter` accepts, `limit` of them and `rate` a second at most, until take() fetches them.

    filter: its raw chains are asked before a packet is judged; its filter chains, if it has that table, afterwards, when the
    packet's connection is known: then the way of every packet that the raw chains accept must be noted.
    """

    def __cinit__(self):
        self.packets = <TracedPacket *> calloc(TRACED_PACKETS, sizeof(TracedPacket))
        if self.packets == NULL:
            raise MemoryError("no memory for a trace")

    def __init__(self, Program filter not None, uint32_t limit, uint32_t rate):
        self.filter = filter
        self.asks_twice = filter.ruleset.table("filter") is not None
        self.left = limit
        self.rate = TokenRate(1000000000 // rate, 1000000000)
        self.bucket.credit_ns = self.rate.full_ns
        self.programs = {}

    def __dealloc__(self):
        free(self.packets)

    # -- the packet path ----------------------------------------------------------------------------------------------

    cdef bint wants(self, Context *context) noexcept nogil:
        """Where nothing is left to ask afterwards, a packet too many is known here, and its way is not even noted."""
        return self.left != 0 and self.filter.fits(TABLE_RAW, context) and (self.asks_twice or self.has_room(context.now_ns))

    cdef void keep(self, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil:
        cdef TracedPacket *packet
        cdef uint32_t steps, length
        if self.asks_twice and not (self.filter.fits(TABLE_FILTER, context) and self.has_room(context.now_ns)):
            return
        packet = &self.packets[self.head % TRACED_PACKETS]
        keep_passed(&packet.passed, context, judgement, program)
        steps = min(context.trace.met, <uint32_t> TRACED_STEPS)
        length = min(context.packet.captured, <uint32_t> TRACED_BYTES)
        memcpy(packet.steps, context.trace.steps, steps * sizeof(RuleStep))
        memcpy(packet.data, context.packet.data, length)
        self.head += 1
        self.left -= 1

    cdef bint has_room(self, uint64_t now_ns) noexcept nogil:
        if self.head - self.tail < TRACED_PACKETS and take_token(&self.bucket, &self.rate, now_ns):
            return True
        self.suppressed += 1
        return False

    # -- the reader -----------------------------------------------------------------------------------------------------

    def arm(self, Engine engine not None) -> None:
        """Begin.  Raises TooMany."""
        cdef Tracers tracers
        cdef bint added
        if not isinstance(engine.observer, Tracers):
            engine.observer = Tracers()         # not used yet: engine.observing is 0
        tracers = engine.observer
        tracers.tracers.append(self)
        with nogil:
            engine.lock_background()
            added = tracers.count < TRACERS
            if added:
                tracers.armed[tracers.count] = <void *> self
                tracers.count += 1
                engine.observing = True
            engine.unlock()
        if not added:
            tracers.tracers.remove(self)
            raise TooMany(f"{TRACERS} traces are under way, and more would slow the packets down; try again later")
        self.engine = engine
        self.note_program()

    def disarm(self) -> None:
        """End; nothing happens if it has not begun."""
        cdef Engine engine = self.engine
        cdef Tracers tracers
        if engine is None:
            return
        tracers = engine.observer
        with nogil:
            engine.lock_background()
            tracers.drop(<void *> self)
            engine.observing = tracers.count != 0
            engine.unlock()
        tracers.tracers.remove(self)
        self.engine = None

    def note_program(self) -> None:
        """Remember the rules that serve, and the last few before them: packets refer to them by number, and are read later."""
        program = self.engine.program
        if program is not None:
            self.programs[program.serial] = program
        if len(self.programs) > PROGRAMS_KEPT:
            del self.programs[min(self.programs)]

    def take(self) -> list:
        """The Passages since the last call, oldest first."""
        cdef Engine engine = self.engine
        cdef TracedPacket *packet
        cdef uint32_t head, at
        with nogil:
            engine.lock_background()
            head = self.head
            engine.unlock()
        self.note_program()
        traces = []
        for at in range(self.tail, head):
            packet = &self.packets[at % TRACED_PACKETS]
            data = (<const char *> packet.data)[:min(packet.passed.packet.captured, <uint32_t> TRACED_BYTES)]
            traces.append(packet_trace_of(&packet.passed, packet.steps, TRACED_STEPS, data,
                                       self.programs.get(packet.passed.program), engine.environment.helpers,
                                       &engine.tracker.settings))
        with nogil:
            engine.lock_background()
            self.tail = head
            engine.unlock()
        return traces

    @property
    def is_over(self) -> bool:
        """Whether no packet will come any more."""
        return self.left == 0 and self.head == self.tail


cdef class Tracers(Observer):
    """The tracers at work.  Changes with the engine's lock held."""

    def __cinit__(self):
        self.tracers = []
        self.trace.steps = <RuleStep *> calloc(TRACED_STEPS, sizeof(RuleStep))
        if self.trace.steps == NULL:
            raise MemoryError("no memory for a trace")
        self.trace.room = TRACED_STEPS

    def __dealloc__(self):
        free(self.trace.steps)

    cdef void begin(self, Context *context) noexcept nogil:
        cdef uint32_t i
        assert_locked()
        self.interested = 0
        for i in range(self.count):
            self.interested |= <uint32_t> (<Tracer> self.armed[i]).wants(context) << i
        if self.interested:
            self.trace.met = self.trace.tracked = self.trace.reason.number = 0
            context.trace = &self.trace

    cdef void end(self, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil:
        cdef uint32_t i
        assert_locked()
        for i in range(self.count):
            if self.interested >> i & 1:
                (<Tracer> self.armed[i]).keep(context, judgement, program)

    cdef void drop(self, void *tracer) noexcept nogil:
        cdef uint32_t i, kept = 0
        assert_locked()
        for i in range(self.count):
            if self.armed[i] != tracer:
                self.armed[kept] = self.armed[i]
                kept += 1
        self.count = kept
