"""What a rule is made of, as the packet path runs it: tests, actions, and what they may look at.

The tests that nearly every rule has (the IP header's, ports, ICMP types, states) stand in the rule itself (program.pxd).
All others are objects of a class derived from PacketMatch: a new match needs no change here.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.reasons cimport CReason
from pyfw.wire.packet cimport Packet

cdef enum Fit:                  # what a test says of a packet
    FITS_NOT = 0
    FITS = 1
    FITS_DROP = 2               # the packet cannot be what the test asks about: it is dropped, as the kernel's matches do
    FITS_NO_ROOM = 3            # there is no room for what the test has to remember: it is dropped, too

cdef enum FailedTest:           # what RuleStep.failed says besides the bits of program.pxd's HeaderTest
    FAILED_STATE = 1 << 15
    FAILED_TEST_SHIFT = 16      # above: 1 + position of the test that failed

cdef struct RuleStep:           # a rule that a packet met
    uint32_t number             # as Program.rule_name() takes it
    uint32_t failed             # 0: it matched; else HeaderTest bits, FAILED_STATE or a test's position
    uint8_t fit                 # Fit
    uint8_t table               # TableNumber

cdef struct Trace:              # the way of one packet through the rules
    RuleStep *steps
    uint32_t room               # steps there is room for
    uint32_t met                # steps there were
    uint8_t tracked             # tracking saw the packet: raw's rules let it through
    CReason reason              # what tracking had to say of it

cdef struct Context:            # what a rule may look at, and change
    Packet *packet
    Conn *conn                  # its connection, in the table or about to be; NULL: none
    uint8_t state               # CtStateNumber
    uint8_t direction           # DirectionNumber
    uint8_t dry                 # only a question: counters, tokens, sets stay as they are; packet and conn are copies
    uint8_t shadow              # these rules are not in force: sets stay as they are; packet and conn are copies
    uint8_t unlimited           # as if no other packet came: limits have room, and no share is drawn
    uint64_t now_ns
    uint64_t wall_ns            # UTC, since 1970
    int32_t zone_offset_s       # local time less UTC
    uint8_t traced              # TRACE was met: every rule that matches is logged
    Trace *trace                # where the way is noted; NULL: nowhere

cdef struct Outcome:            # what a walk through a base chain came to
    uint8_t verdict             # VerdictNumber
    uint8_t reject              # RejectNumber; not 0 only where verdict is DROP
    uint8_t notrack             # raw table: NOTRACK or CT --notrack was met
    uint8_t helper              # CT --helper: 1 + position among the engine's helpers; 0: none said
    uint8_t reason              # ReasonNumber, where a drop has another than that a rule or the policy says so
    uint8_t by_policy           # no rule decided: the base chain's policy did
    uint32_t rule               # the rule that decided, as Program.rule_name() takes it; NO_RULE: chain without rules

cdef struct Fullness:           # how often there was no room for what a rule had to remember; one writer, with the engine's lock
    uint64_t hashlimit
    uint64_t recent             # how often the address that was not seen for longest made room
    uint64_t sets

cdef class RuleEnvironment:
    """What rules may refer to by name.  One for the life of an engine."""
    cdef public tuple helpers       # names, in the engine's order
    cdef public object sets         # SetStore; None: there are none
    cdef public object table        # the connection table; None: no connection is ever found
    cdef public object addresses    # LocalAddresses; None: no address is local
    cdef readonly object named      # (kind, name) -> what rules share by name, for as long as there are such rules: lists of
                                    # -m recent, tables of -m hashlimit
    cdef Fullness full

cdef class PacketMatch:
    """A test of packets.  fits() runs with the engine's lock held, and without the GIL."""
    cdef Fit fits(self, Context *context) noexcept nogil

cdef class PacketAction:
    """What a rule does besides a verdict; the packet then goes on to the next rule."""
    cdef void act(self, Context *context, Outcome *outcome) noexcept nogil
