# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Helpers at work: which segments they see, what becomes of what they find, and what if they fail.

May know: helpers' code, connections, expectations.  Must not know: rules, verdicts, sockets, the clock.

Law: a helper runs without the lock.  Its connection may be gone when it returns: it is known by its id.
"""
from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport HELPER_MEMORY, Conn
from pyfw.conntrack.expect cimport EXPECT_ACTIVE, EXPECT_ADDED, EXPECT_INACTIVE, Expect, ExpectResult
from pyfw.enums cimport REASON_HELPER_CLASH, REASON_HELPER_ERROR, REASON_HELPER_PARTIAL, REASON_HELPER_REFUSED, VERDICT_DROP
from pyfw.lock cimport assert_locked
from pyfw.wire.packet cimport FAMILY_IPV4, Address, Packet

from pyfw.engine.judgement import DIRECTIONS
from pyfw.helpers import Segment


cdef class HelperRunner:
    """Runs the helpers of `bindings` (HelperBindings) for the engine whose lock is `guard`."""

    def __init__(self, Lock guard not None, Tracker tracker not None, bindings):
        self.guard, self.tracker, self.bindings = guard, tracker, bindings
        self.helpers = [binding.helper for binding in bindings]
        self.budget = HelperBudget()
        tracker.number_helpers(bindings)

    cdef bint takes(self, Conn *conn, const Packet *packet, uint64_t now_ns) noexcept nogil:
        """Where its segments are too many, the connection goes on without a helper, for good.

        A helper that missed a part of a dialogue could take a reply for the answer to another command, and open what it
        must not.  What was announced and is not active yet never will be.
        """
        assert_locked()
        if self.budget.allows(conn.id, packet.payload_length, now_ns):
            return True
        conn.helper = 0
        return False

    cdef uint8_t run(self, const Packet *packet, uint64_t now_ns, CJudgement *judgement) noexcept:
        """A helper that raises loses its connection's packet, not the daemon."""
        try:
            return self.ask(packet, now_ns, judgement)
        except Exception as error:
            if self.on_error is not None:
                self.on_error(error)
            return REASON_HELPER_ERROR

    cdef uint8_t ask(self, const Packet *packet, uint64_t now_ns, CJudgement *judgement) except 255:
        """Show the payload to the helper; what it finds becomes expectations."""
        cdef Conn conn
        cdef uint8_t direction = judgement.direction
        cdef uint8_t reason = 0
        cdef bint activate
        cdef size_t width = 4 if packet.family == FAMILY_IPV4 else 16
        with nogil:
            self.guard.lock()
            conn = self.tracker.table.conns[judgement.conn]
            self.guard.unlock()
        if conn.id != judgement.conn_id or conn.helper == 0:
            return 0                            # its place was given to another connection meanwhile
        memory = bytearray((<const char *> conn.helper_memory)[:HELPER_MEMORY])
        segment = Segment(4 if packet.family == FAMILY_IPV4 else 6, DIRECTIONS[direction], packet.tcp_seq,
                          (<const char *> packet.data)[packet.payload:packet.length],
                          (<const char *> packet.src.bytes)[:width], (<const char *> packet.dst.bytes)[:width],
                          packet.sport, packet.dport)
        finding = self.helpers[conn.helper - 1].inspect(segment, memoryview(memory))
        memcpy(conn.helper_memory, <const char *> memory, HELPER_MEMORY)
        with nogil:
            self.guard.lock()
            if self.tracker.table.conns[judgement.conn].id == judgement.conn_id:
                memcpy(self.tracker.table.conns[judgement.conn].helper_memory, conn.helper_memory, HELPER_MEMORY)
            self.guard.unlock()
        if finding is None:
            return 0
        judgement.announced = bool(finding.expectations or finding.remark)
        activate = finding.activate
        if activate or finding.cancel:
            with nogil:
                self.guard.lock()
                self.tracker.expectations.settle(judgement.conn, activate)
                self.guard.unlock()
        for expectation in finding.expectations:
            reason = self.expect(expectation, &conn, judgement.conn, now_ns)
            if reason:
                return reason
        if finding.verdict == VERDICT_DROP:
            return finding.reason or REASON_HELPER_PARTIAL
        return REASON_HELPER_REFUSED if finding.remark else 0

    cdef uint8_t expect(self, object expectation, const Conn *master, uint32_t slot, uint64_t now_ns) except 255:
        """Enter what a helper found; returns 0 or the reason to drop the packet that announced it."""
        cdef Expect wanted
        cdef ExpectResult result
        cdef uint32_t id = master.id
        memset(&wanted, 0, sizeof(Expect))
        if expectation.source is None:
            wanted.any_src = 1
        else:
            copy_address(&wanted.src, expectation.source)
        copy_address(&wanted.dst, expectation.destination)
        wanted.dport = expectation.port
        wanted.protocol = expectation.protocol
        wanted.helper = master.helper
        wanted.state = EXPECT_ACTIVE if expectation.active else EXPECT_INACTIVE
        with nogil:
            self.guard.lock()
            result = self.tracker.expect(&wanted, slot, id, now_ns)
            self.guard.unlock()
        return 0 if result == EXPECT_ADDED else REASON_HELPER_CLASH


cdef void copy_address(Address *out, bytes raw) except *:
    if len(raw) != 4 and len(raw) != 16:
        raise ValueError(f"a packed address has 4 or 16 bytes, not {len(raw)}")
    memcpy(out, <const char *> raw, len(raw))
