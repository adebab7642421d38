# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Looking on while a packet is judged, and telling Python what there was to see.

May know: packets, judgements, the steps through the rules.  Must not know: the engine's insides, sockets, clocks.
"""
from libc.string cimport memcpy

from pyfw.conntrack.conn cimport CONN_CONFIRMED, CONN_EXPECTED, Conn
from pyfw.conntrack.text.proc cimport LINE_MAX, STYLE_NF, write_conn
from pyfw.engine.judgement cimport judgement_of, words_of
from pyfw.rules.parts cimport FAILED_STATE, FAILED_TEST_SHIFT
from pyfw.wire.packet cimport FAMILY_IPV4, IFNAMSIZ, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, Packet, device_name

from ipaddress import ip_address
from typing import NamedTuple

from pyfw.enums import Hook


class Facts(NamedTuple):
    """What rules can ask of a packet itself; None: not known."""
    src: str
    dst: str
    protocol: int
    sport: int
    dport: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    length: int
    ttl: int
    tos: int
    fragment: int               # 0 whole; 1 first fragment; 2 a later one
    has_transport: bool
    indev: str
    outdev: str
    hardware: str | None        # the sender's Ethernet address
    uid: int | None
    gid: int | None


class RuleHit(NamedTuple):
    """A rule, or the end of a chain, that a packet met."""
    number: int                 # as Program.rule_name() takes it
    table: int                  # position in model.BUILTIN_CHAINS
    fit: int                    # parts.Fit
    header: int                 # tests of the header that failed: bits of program.HEADER_FIELDS
    state: bool                 # the state was another
    test: int | None            # position of the test that failed among RuleCode.tests


class PacketTrace(NamedTuple):
    """A packet's way through the engine."""
    now_ns: int
    hook: Hook
    data: bytes                 # of the packet, from its IP header; perhaps only the beginning
    facts: Facts
    judgement: object           # judgement.Judgement
    program: object | None      # rules.program.Program; None: no rules, or they are gone
    steps: list[RuleHit]
    met: int                    # steps there were, of which `steps` may hold the first only
    tracked: bool               # it came as far as tracking
    tracking_text: str          # what tracking had to say of it, in the kernel's words
    connection: str | None      # as the packet leaves it, a line of /proc/net/nf_conntrack; None: it has none, or none any more
    begins: bool                # it begins its connection
    expected: bool              # which a helper expected
    ends: bool                  # it ends its connection at once
    helper: str | None          # its connection's
    inspected: bool             # the helper sees its payload before the verdict


cdef class Observer:
    """Sees nothing."""

    cdef void begin(self, Context *context) noexcept nogil:
        pass

    cdef void end(self, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil:
        pass


cdef void keep_passed(Passed *passed, const Context *context, const CJudgement *judgement, uint64_t program) noexcept nogil:
    cdef const Packet *packet = context.packet
    passed.packet = packet[0]
    passed.judgement = judgement[0]
    passed.has_conn = context.conn != NULL
    if passed.has_conn:
        passed.conn = context.conn[0]
    memcpy(passed.indev, packet.indev, IFNAMSIZ)
    memcpy(passed.outdev, packet.outdev, IFNAMSIZ)
    passed.has_hardware = packet.hardware != NULL
    if passed.has_hardware:
        memcpy(passed.hardware, packet.hardware, 6)
    passed.trace = context.trace[0]
    passed.trace.steps = NULL
    passed.now_ns = context.now_ns
    passed.program = program


cdef object packet_trace_of(const Passed *passed, const RuleStep *steps, uint32_t kept, bytes data, object program, tuple helpers,
                       const Settings *settings):
    """`steps` holds `kept` of them at most; `helpers`: their names by number."""
    cdef const Conn *conn = &passed.conn
    cdef bint begins = passed.has_conn and conn.id == 0
    cdef bint lives = passed.has_conn and (begins or conn.status & CONN_CONFIRMED)
    cdef uint32_t i
    return PacketTrace(
        passed.now_ns, Hook(passed.packet.hook), data, facts_of(passed), judgement_of(&passed.judgement, program), program,
        [step_of(&steps[i]) for i in range(min(kept, passed.trace.met))], passed.trace.met, bool(passed.trace.tracked),
        words_of(&passed.trace.reason),
        connection_line(conn, passed.now_ns, settings) if lives else None,
        begins, bool(begins and conn.status & CONN_EXPECTED), bool(passed.has_conn and not lives),
        helpers[conn.helper - 1] if passed.has_conn and 0 < conn.helper <= len(helpers) else None,
        bool(passed.judgement.inspect))


cdef object step_of(const RuleStep *step):
    test = step.failed >> FAILED_TEST_SHIFT
    return RuleHit(step.number, step.table, step.fit, 0 if test else step.failed & (FAILED_STATE - 1),
                not test and step.failed & FAILED_STATE != 0, test - 1 if test else None)


cdef object facts_of(const Passed *passed):
    cdef const Packet *packet = &passed.packet
    cdef size_t width = 4 if packet.family == FAMILY_IPV4 else 16
    icmp = packet.has_transport and packet.protocol in (PROTO_ICMP, PROTO_ICMPV6)
    tcp = packet.has_transport and packet.protocol == PROTO_TCP
    return Facts(
        str(ip_address((<const char *> packet.src.bytes)[:width])), str(ip_address((<const char *> packet.dst.bytes)[:width])),
        packet.protocol, packet.sport, packet.dport, packet.tcp_flags if tcp else 0,
        packet.icmp_type if icmp else 0, packet.icmp_code if icmp else 0,
        packet.length, packet.ttl, packet.tos, packet.fragment, bool(packet.has_transport),
        device_name(passed.indev), device_name(passed.outdev),
        (<const char *> passed.hardware)[:6].hex(":") if passed.has_hardware else None,
        packet.uid if packet.has_owner else None, packet.gid if packet.has_owner else None)


cdef str connection_line(const Conn *conn, uint64_t now_ns, const Settings *settings):
    """The connection as /proc/net/nf_conntrack shows it, without the line's end."""
    cdef char[LINE_MAX] line
    cdef char *end = write_conn(line, conn, now_ns, STYLE_NF, settings)
    return (<const char *> line)[:end - line].decode("ascii").rstrip("\n")
