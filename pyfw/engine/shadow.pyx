# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A shadow: rules that judge every packet which the rules in force are asked about, and decide nothing.

May know: programs, contexts, judgements.  Must not know: the engine, the table, text of packets, sockets, the clock.

Laws:
  - What a shadow's rules do, they do to copies: the packet's mark, its connection.  Sets it may read only.  Lists of recent and
    buckets of hashlimit it has its own, by its own RuleEnvironment; its counters and limits move as if it were in force.
  - Connections are what the rules in force make of them.  A packet of a connection that the shadow would not have let begin is
    ESTABLISHED to the shadow, too.
  - The shadow has its turn before the rules in force, so that nothing they do shows in its judgement.
  - The packet path allocates nothing: differences have DIFFERENCES places, found by the rules that made them; a packet whose
    difference finds no place is counted.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from pyfw.enums cimport DIR_NONE, STATE_UNTRACKED, VERDICT_ACCEPT, VERDICT_DROP
from pyfw.lock cimport assert_locked
from pyfw.rules.program.flat cimport TABLE_FILTER, TABLE_RAW
from pyfw.wire.packet cimport FAMILY_IPV6, device_name

from threading import Lock as Mutex
from typing import NamedTuple

from pyfw.enums import CtState, Hook, Reject, Verdict

MAX_DIFFERENCES = 1024          # differences that are kept for a client to read


class RulesetVerdict(NamedTuple):
    """What one ruleset says of a packet."""
    verdict: Verdict
    reject: Reject              # how a DROP is answered
    rule: str | None            # filter:FORWARD:rule:3; None: no rule has to do with it
    text: str | None            # of the rule, as `iptables -S` prints it


class Example(NamedTuple):
    """The first packet of a difference."""
    now_ns: int
    data: bytes                 # from its IP header; perhaps only the beginning
    length: int
    hook: Hook
    indev: str
    outdev: str
    state: CtState


class Difference(NamedTuple):
    """Packets of which the rules in force say one thing, and the shadow's another."""
    live: RulesetVerdict
    shadow: RulesetVerdict
    packets: int
    bytes: int
    example: Example


cdef class Shadow:
    """`program` as a shadow.  Its RuleEnvironment must not be those of the program in force, but may share their sets.

    guard: the lock of the engine whose packets it sees.
    """

    def __cinit__(self):
        self.differences = <DifferenceSlot *> calloc(DIFFERENCES, sizeof(DifferenceSlot))
        if self.differences == NULL:
            raise MemoryError("no memory for the differences of a shadow")

    def __init__(self, Program program not None, Lock guard not None):
        self.program = program
        self.guard = guard
        self.adding = Mutex()
        self.programs = {}
        self.known = {}

    def __dealloc__(self):
        free(self.differences)

    # -- the packet path ------------------------------------------------------------------------------------------------

    cdef void walk(self, int table, const Context *context) noexcept nogil:
        """Let the packet through the chains of `table`; what the raw table dropped has met its end."""
        cdef Context asked = context[0]
        cdef uint32_t mark = context.packet.mark if table == TABLE_RAW else self.packet.mark
        assert_locked()
        if table == TABLE_FILTER and self.outcome.verdict == VERDICT_DROP:
            return
        self.packet = context.packet[0]
        self.packet.mark = mark
        asked.packet = &self.packet
        asked.shadow = True
        asked.trace = NULL
        asked.traced = False
        if table == TABLE_FILTER and self.notrack:
            asked.state = STATE_UNTRACKED
            asked.direction = DIR_NONE
            asked.conn = NULL
        elif context.conn != NULL:
            self.conn = context.conn[0]
            asked.conn = &self.conn
        self.program.run(table, &asked, &self.outcome)
        if table == TABLE_RAW:
            self.notrack = self.outcome.notrack

    cdef void compare(self, const Context *context, const CJudgement *judgement, bint accepted, uint64_t program) noexcept nogil:
        """Note what the packet would have met otherwise; `program` is the serial of the rules in force."""
        cdef const Packet *packet = context.packet
        cdef DifferenceSlot wanted
        cdef DifferenceSlot *place
        assert_locked()
        self.tally.judged += 1
        if accepted == (self.outcome.verdict == VERDICT_ACCEPT) and (accepted or judgement.reject == self.outcome.reject):
            return
        self.tally.otherwise += 1
        wanted.program = program
        wanted.rule = judgement.rule
        wanted.shadow_rule = self.outcome.rule
        wanted.verdict = VERDICT_ACCEPT if accepted else VERDICT_DROP
        wanted.reject = judgement.reject
        wanted.shadow_verdict = self.outcome.verdict
        wanted.shadow_reject = self.outcome.reject
        wanted.family = packet.family
        place = self.place_of(&wanted)
        if place == NULL:
            self.tally.unkept += 1
            return
        if place.packets == 0:
            wanted.packets = wanted.bytes = 0
            wanted.hook = packet.hook
            wanted.state = context.state
            wanted.length = packet.length
            wanted.captured = min(packet.captured, <uint32_t> EXAMPLE_BYTES)
            wanted.now_ns = context.now_ns
            memcpy(wanted.indev, packet.indev, IFNAMSIZ)
            memcpy(wanted.outdev, packet.outdev, IFNAMSIZ)
            memset(wanted.data, 0, EXAMPLE_BYTES)
            memcpy(wanted.data, packet.data, wanted.captured)
            place[0] = wanted
        place.packets += 1
        place.bytes += packet.length

    cdef DifferenceSlot *place_of(self, const DifferenceSlot *wanted) noexcept nogil:
        """Where this difference stands, or may; NULL: all places are taken by others."""
        cdef uint32_t at = wanted.rule * <uint32_t> 31 + wanted.shadow_rule * <uint32_t> 17
        cdef int probe
        cdef DifferenceSlot *place
        for probe in range(DIFFERENCES):
            place = &self.differences[(at + <uint32_t> probe) & (DIFFERENCES - 1)]
            if place.packets == 0 or (
                    place.rule == wanted.rule and place.shadow_rule == wanted.shadow_rule and place.program == wanted.program
                    and place.verdict == wanted.verdict and place.shadow_verdict == wanted.shadow_verdict
                    and place.reject == wanted.reject and place.shadow_reject == wanted.shadow_reject
                    and place.family == wanted.family):
                return place
        return NULL

    # -- asking -----------------------------------------------------------------------------------------------------------

    def note_program(self, program) -> None:
        """Keep rules that are in force from now on, or soon: differences refer to them by serial number."""
        if program is not None:
            self.programs[program.serial] = program

    def add(self, program) -> None:
        """Put what was found into words, and forget the rules before `program`, which are in force."""
        with self.adding:
            for found in self.take():
                self.add_one(found)
            if program is not None:
                self.programs = {serial: known for serial, known in self.programs.items() if serial >= program.serial}

    def found(self, program) -> list[Difference]:
        """The differences since the last reset, those of most packets first; `program` is in force."""
        self.add(program)
        with self.adding:
            known = list(self.known.values())
        return sorted(known, key=lambda difference: -difference.packets)

    def reset(self) -> None:
        """Count from nothing again."""
        with self.adding:
            self.take()
            self.known = {}
            with nogil:
                self.guard.lock_background()
                memset(&self.tally, 0, sizeof(Tally))
                self.guard.unlock()
            self.program.zero()

    def counters(self) -> dict[str, int]:
        """Packets since the last reset: judged by both rulesets, judged otherwise, and of those not kept."""
        return {"judged": self.tally.judged, "otherwise": self.tally.otherwise, "unkept": self.tally.unkept}

    cdef list take(self):
        """The differences since the last call; the places are free again."""
        cdef DifferenceSlot *copy = <DifferenceSlot *> malloc(DIFFERENCES * sizeof(DifferenceSlot))
        cdef int at
        if copy == NULL:
            raise MemoryError("no memory to read a shadow's differences")
        with nogil:
            self.guard.lock_background()
            memcpy(copy, self.differences, DIFFERENCES * sizeof(DifferenceSlot))
            for at in range(DIFFERENCES):
                self.differences[at].packets = 0
            self.guard.unlock()
        try:
            return [self.difference_of(&copy[at]) for at in range(DIFFERENCES) if copy[at].packets]
        finally:
            free(copy)

    cdef object difference_of(self, const DifferenceSlot *found):
        cdef int family = 6 if found.family == FAMILY_IPV6 else 4
        return Difference(
            ruleset_verdict(self.programs.get(found.program), found.rule, family, found.verdict, found.reject),
            ruleset_verdict(self.program, found.shadow_rule, family, found.shadow_verdict, found.shadow_reject),
            found.packets, found.bytes,
            Example(found.now_ns, (<const char *> found.data)[:found.captured], found.length, Hook(found.hook),
                    device_name(found.indev), device_name(found.outdev), CtState(found.state)))

    def add_one(self, difference) -> None:
        """Add it to what is known under the same words: an edited ruleset has its rules in other places."""
        live, shadow = difference.live, difference.shadow
        key = (table_of(live), live._replace(rule=None), table_of(shadow), shadow._replace(rule=None))
        known = self.known.get(key)
        if known is not None:
            difference = difference._replace(packets=known.packets + difference.packets, bytes=known.bytes + difference.bytes,
                                             example=known.example)
        elif len(self.known) >= MAX_DIFFERENCES:
            self.count_unkept(difference.packets)
            return
        self.known[key] = difference

    def count_unkept(self, uint64_t packets) -> None:
        with nogil:
            self.guard.lock_background()
            self.tally.unkept += packets
            self.guard.unlock()


cdef object ruleset_verdict(program, uint32_t rule, int family, uint8_t verdict, uint8_t reject):
    name = None if program is None else program.rule_name(rule)
    text = None if name is None else program.rule_text(rule, family)
    return RulesetVerdict(Verdict(verdict), Reject(reject), name, text)


def table_of(said: RulesetVerdict) -> str | None:
    return said.rule and said.rule.partition(":")[0]
