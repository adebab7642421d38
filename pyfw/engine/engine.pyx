# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The engine: what becomes of a packet, given its bytes and the time.

May know: packets, the tracker, rules, who runs helpers.  Must not know: sockets, files, the clock.

The straight line: parse; raw chain; track (look up or begin, protocol update); filter chain; limits; commit; helper.

Law: what is not `nogil` in this file is for callers in Python; the queue loop and judge() run the same
judge_packet().
"""
import os

from libc.string cimport memcpy, memset

from pyfw.conntrack.conn cimport CONN_UNTOLD_SHIFT, Conn
from pyfw.conntrack.conncount cimport ConnCounter, free_counter
from pyfw.conntrack.events cimport CHANGED_MARK
from pyfw.conntrack.first_seen cimport origin_of
from pyfw.conntrack.tcp cimport tcp_translate
from pyfw.conntrack.tracker cimport Found, Tracker
from pyfw.engine.counters cimport counters_of
from pyfw.engine.helper_runner cimport HelperRunner
from pyfw.engine.judgement cimport judgement_of
from pyfw.engine.observer cimport Observer
from pyfw.engine.shadow cimport Shadow
from pyfw.engine.source_limits cimport SourceLimits
from pyfw.enums cimport (DIR_NONE, HOOK_FORWARD, HOOK_OUTPUT, HOOK_POSTROUTING, HOOK_PREROUTING, REASON_HELPER_BUSY,
                         REASON_HELPER_REFUSED, REASON_INTERNAL, REASON_NONE, REASON_POLICY, REASON_RULE, REASON_TABLE_FULL,
                         REASON_TCP_IGNORED, REASON_TTL, STATE_ESTABLISHED, STATE_INVALID, STATE_UNTRACKED, VERDICT_ACCEPT,
                         VERDICT_DROP)
from pyfw.lock cimport assert_locked
from pyfw.rules.parts cimport Context, Outcome, RuleEnvironment, Trace
from pyfw.rules.program.flat cimport TABLE_FILTER, TABLE_RAW
from pyfw.rules.program.program cimport NO_RULE, Program
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, CHECKSUM_VERIFY, IFNAMSIZ, PROTO_TCP, Packet, parse

from pyfw.conntrack.settings import TrackingSettings
from pyfw.engine.judgement import Judgement
from pyfw.rules.sets.store import SetStore
from pyfw.rules.xt.addrtype import LocalAddresses

cdef enum:
    SWEEP_SLOTS = 512           # what a slice of sweeping looks at: well below 100 microseconds
    SWEEP_FREED = 128           # as table.pyx's MAX_FREED
    SWEEP_SLICES = 8
    SWEEP_EXPECTATIONS = 512    # each with a look at its master's entry
    SWEEP_MEMBERS = 256         # likewise, for what rules counted that have gone
    SWEEP_SOURCES = 128         # what a slice of sweeping ends, or gives back, for the limits per source


cdef class Engine:
    """Connection table, expectations and rules behind one lock.

    max_entries: connections at most; expect_max: expectations at most.  memory: a writable buffer of memory_size() bytes
    that outlives the process, with the boot_id (16 bytes) it belongs to; None: memory of its own.  previous: such a
    buffer of another size, whose connections (not its expectations) are copied.  tracking: TrackingSettings.
    adaptive: (start, end) in connections, between which timeouts shrink; None: they do not.
    evict: a full table gives up what is not ASSURED.  helpers: HelperBindings.
    Raises ValueError for settings that cannot be.
    """

    def __init__(self, *, max_entries=262144, expect_max=4096, memory=None, boot_id=bytes(16), previous=None,
                 tracking=TrackingSettings(), adaptive=None, evict=True, helpers=()):
        self.guard = Lock()
        self.observer = Observer()
        if memory is None:
            memory = bytearray(Engine.memory_size(max_entries, expect_max))
        self.tracker = Tracker(max_entries, expect_max, memory, boot_id, os.urandom(16), previous)
        self.tracker.configure(tracking)
        self.tracker.table.configure(evicts=evict, adaptive=adaptive)
        self.helpers = HelperRunner(self.guard, self.tracker, helpers)
        self.environment = RuleEnvironment([binding.helper.name for binding in helpers], SetStore(self.guard), self.tracker.table,
                                           LocalAddresses(self.guard))

    @staticmethod
    def memory_size(max_entries: int, expect_max: int) -> int:
        """Bytes of memory that an engine of this size keeps its connections and expectations in."""
        return Tracker.space(max_entries, expect_max)

    def relink(self) -> None:
        """Begin anew with what is in memory: a successor has been at it, and is gone."""
        with nogil:
            self.lock_background()
        self.tracker.table.relink()
        self.tracker.expectations.relink()
        self.tracker.number_helpers(self.helpers.bindings)
        if self.limits is not None:
            self.limits.sources.forget_all()
            self.limit_sources(self.limits)
        self.unlock()

    def bound_lives(self, uint64_t now_ns) -> None:
        """Let nothing that was taken over live longer than what is renewed now.  Each time that entries were taken over."""
        cdef uint32_t slot = 1, last = max(self.tracker.table.header.used, self.tracker.expectations.used)
        with nogil:
            while slot <= last:
                self.lock_background()
                self.tracker.bound_lives(slot, slot + SWEEP_SLOTS, now_ns)
                self.unlock()
                slot += SWEEP_SLOTS

    def limit_sources(self, SourceLimits limits not None) -> None:
        """Have limits per source from now on; connections that were taken over count.  Before the first packet."""
        self.tracker.table.count_sources(limits.sources, limits.is_about_all)
        self.limits = limits

    @property
    def adopted(self) -> int:
        """Connections taken over from a predecessor's memory."""
        return self.tracker.table.adopted

    # -- one packet --------------------------------------------------------------------------------------------

    def judge(self, bytes data not None, int hook, str indev="", str outdev="", uint64_t now=0, *, uint32_t mark=0,
              length=None, bint trusted=False) -> Judgement:
        """Decide about one packet: bytes from its IP header on, met at `hook` between two interfaces at `now` (ns).

        length: bytes on the wire, where data is only the start of them.  trusted: an IP stack has seen the packet: its
        checksums are right, and if it is to be forwarded, its TTL was counted down.
        Runs the connection's helper, too.  Raises ValueError for a hook or an interface name that cannot be.
        """
        cdef Packet packet
        cdef CJudgement judgement
        cdef char[IFNAMSIZ] names_in
        cdef char[IFNAMSIZ] names_out
        present(&packet, data, hook, length, trusted)
        packet.mark = mark
        copy_name(names_in, indev)
        copy_name(names_out, outdev)
        packet.indev = names_in
        packet.outdev = names_out
        with nogil:
            self.lock()
            self.judge_packet(&packet, now, &judgement)
            self.unlock()
        if judgement.inspect:
            self.inspect_packet(&packet, now, &judgement)
        return judgement_of(&judgement, self.program)

    cdef void judge_packet(self, Packet *packet, uint64_t now_ns, CJudgement *judgement) noexcept nogil:
        """Decide about one packet.  `packet` comes with the caller's fields set, `judgement` is filled in."""
        cdef Context context
        assert_locked()
        if not self.tracker.settings.checksum or packet.hook == HOOK_OUTPUT:
            packet.checksum = CHECKSUM_TRUSTED  # nf_conntrack_checksum; the kernel, too, looks at arriving packets only
        memset(judgement, 0, sizeof(CJudgement))
        judgement.direction = DIR_NONE
        judgement.rule = NO_RULE
        judgement.mark = packet.mark
        judgement.reason.number = parse(packet)
        if judgement.reason.number:
            packet.length = packet.captured     # what its header says is not to be believed
            self.count(packet, now_ns, judgement)
            return
        memset(&context, 0, sizeof(Context))
        context.packet = packet
        context.state = STATE_INVALID           # what rules see before tracking, as in the kernel
        context.direction = DIR_NONE
        context.now_ns = now_ns
        context.wall_ns = now_ns + self.wall_offset_ns
        context.zone_offset_s = self.zone_offset_s
        if self.observing:
            self.observer.begin(&context)
        self.decide(&context, judgement)
        if not judgement.inspect:
            self.count(packet, now_ns, judgement)
        if context.trace != NULL:
            self.observer.end(&context, judgement, self.active_serial())

    cdef void decide(self, Context *context, CJudgement *judgement) noexcept nogil:
        """Raw chain, tracking, filter chain, and what follows if they accept."""
        cdef Packet *packet = context.packet
        cdef Outcome outcome
        cdef Found found
        memset(&outcome, 0, sizeof(Outcome))
        if not self.run_tables(TABLE_RAW, context, &outcome, judgement):
            return
        memset(&found, 0, sizeof(Found))
        found.direction = DIR_NONE
        if outcome.notrack:
            found.state = STATE_UNTRACKED
        else:
            self.tracker.track(packet, outcome.helper, context.now_ns, &found)
        judgement.state = context.state = found.state
        judgement.direction = context.direction = found.direction
        judgement.reason = found.reason
        context.conn = found.conn
        if context.trace != NULL:
            note_tracking(context.trace, &found)
        if found.reason.number == REASON_TABLE_FULL or found.reason.number == REASON_INTERNAL:
            return                              # dropped, whatever the rules say (nf_conntrack_alloc())
        if packet.hook == HOOK_FORWARD and packet.untouched and packet.ttl <= 1:
            judgement.reason.number = REASON_TTL    # ip_forward() sends it back before any rule
        elif self.run_tables(TABLE_FILTER, context, &outcome, judgement):
            self.accept(context, &found, judgement)

    cdef bint run_tables(self, int table, Context *context, Outcome *outcome, CJudgement *judgement) noexcept nogil:
        """Ask the rules, if there are any, and a shadow, if there is one, which does not count."""
        cdef bint accepted
        if not self.shadowing:
            return not self.active or self.run_chain(table, context, outcome, judgement)
        self.shadow.walk(table, context)
        accepted = not self.active or self.run_chain(table, context, outcome, judgement)
        if table == TABLE_FILTER or not accepted:
            self.shadow.compare(context, judgement, accepted, self.active_serial())
        return accepted

    cdef bint run_chain(self, int table, Context *context, Outcome *outcome, CJudgement *judgement) noexcept nogil:
        """Walk the hook's chain; False if it drops the packet."""
        cdef uint32_t mark = context.conn.mark if context.conn != NULL else 0
        if self.active == ACTIVE_FIRST:
            self.first.run(table, context, outcome)
        else:
            self.second.run(table, context, outcome)
        if context.conn != NULL and context.conn.mark != mark and self.tracker.table.events.count:
            context.conn.status |= CHANGED_MARK << CONN_UNTOLD_SHIFT
        judgement.mark = context.packet.mark
        if table == TABLE_FILTER or outcome.verdict == VERDICT_DROP:
            judgement.rule = outcome.rule
        if outcome.verdict == VERDICT_ACCEPT:
            return True
        if outcome.verdict != VERDICT_DROP:
            judgement.reason.number = REASON_INTERNAL
            return False
        judgement.reject = outcome.reject
        if outcome.reason:
            judgement.reason.number = outcome.reason
        elif judgement.reason.number == REASON_NONE or judgement.reason.number >= REASON_TCP_IGNORED:
            judgement.reason.number = REASON_POLICY if outcome.by_policy else REASON_RULE
        return False

    cdef void accept(self, const Context *context, Found *found, CJudgement *judgement) noexcept nogil:
        """Confirm a new connection, and see whether a helper wants the payload."""
        cdef const Packet *packet = context.packet
        if found.conn == &self.tracker.fresh and not self.commit(context, found, judgement):
            judgement.rule = NO_RULE            # that decided nothing
            return
        if found.slot and self.tracker.table.events.count:
            self.tracker.tell(context.now_ns, found)
        judgement.verdict = VERDICT_ACCEPT
        judgement.conn = found.slot
        judgement.conn_id = found.conn.id if found.slot else 0
        if (found.slot != 0 and found.conn.helper != 0 and found.state == STATE_ESTABLISHED
                and packet.payload_length > 0 and packet.captured == packet.length):
            if self.helpers.takes(found.conn, packet, context.now_ns):
                judgement.inspect = True
            elif judgement.reason.number == REASON_NONE:
                judgement.reason.number = REASON_HELPER_BUSY
            else:
                self.tally.reason[REASON_HELPER_BUSY][VERDICT_ACCEPT] += 1

    cdef bint commit(self, const Context *context, Found *found, CJudgement *judgement) noexcept nogil:
        """Enter a fresh connection; False: its source has too many, or the table."""
        cdef const Packet *packet = context.packet
        found.conn.origin = origin_of(self.tracker.table, packet.hook, packet.indev, packet.outdev)
        if self.limits is not None and self.limits.refuses(context, found.conn, &judgement.reason):
            return False
        if not self.tracker.commit(context.now_ns, found):
            judgement.reason.number = REASON_TABLE_FULL
            return False
        return True

    cdef void count(self, const Packet *packet, uint64_t now_ns, const CJudgement *judgement) noexcept nogil:
        """What became of a packet, for good: no counter ever falls."""
        self.tally.packets[judgement.state][judgement.verdict] += 1
        self.tally.bytes[judgement.verdict] += packet.length
        self.tally.reason[judgement.reason.number][judgement.verdict] += 1
        if self.logging_drops and judgement.verdict == VERDICT_DROP:
            self.drops.note(packet, judgement, self.active_serial(), now_ns)

    cdef uint64_t active_serial(self) noexcept nogil:
        """Program.serial of the rules that judge; 0: there are none."""
        if self.active == ACTIVE_NONE:
            return 0
        return self.first.serial if self.active == ACTIVE_FIRST else self.second.serial

    cdef void inspect_packet(self, Packet *packet, uint64_t now_ns, CJudgement *judgement) noexcept:
        """Show an accepted packet's payload to its connection's helper, which may drop it."""
        cdef uint8_t remark = judgement.reason.number
        cdef uint8_t reason = self.helpers.run(packet, now_ns, judgement)
        if reason and reason != REASON_HELPER_REFUSED:
            judgement.verdict = VERDICT_DROP
        if judgement.verdict == VERDICT_DROP or remark == REASON_NONE:
            judgement.reason.number = reason
        self.count(packet, now_ns, judgement)
        if reason and remark:                   # two things to say of one packet; a drop has one reason
            self.tally.reason[remark if judgement.reason.number == reason else reason][VERDICT_ACCEPT] += 1

    cdef void translate(self, const CJudgement *judgement, const int32_t *offset) noexcept nogil:
        """NAT has made longer, by so many bytes, what the two sides of the packet's connection sent; without the lock."""
        cdef Conn *conn = &self.tracker.table.conns[judgement.conn]
        cdef uint8_t side
        self.lock()
        if conn.id == judgement.conn_id and conn.key.protocol == PROTO_TCP:
            for side in range(2):
                tcp_translate(conn, side, offset[side])
        self.unlock()

    # -- the rules, and who looks on ---------------------------------------------------------------------------

    def load(self, program) -> None:
        """Let a ruleset serve from the next packet on; None: track and accept everything.

        A program that was made from the serving one (`previous`) counts on from where that has come to.
        """
        cdef Rulesets next
        cdef Program new = program, old = self.program
        cdef Shadow shadow = self.shadow
        if shadow is not None:
            shadow.note_program(program)
        if self.drops is not None:
            self.drops.follow(new)
        if program is None:
            next = ACTIVE_NONE
        elif self.active == ACTIVE_FIRST:
            next = ACTIVE_SECOND
            self.second = program
        else:
            next = ACTIVE_FIRST
            self.first = program
        with nogil:
            self.lock_background()
            self.active = next
            self.unlock()
        if new is not None and old is not None and new.previous is old:
            new.carry_counters(old)             # before the counters of the new one are read
        if self.drops is not None and old is not new:
            self.drops.retire(old)
        if new is not None:
            new.previous = None
        self.program = program
        if next != ACTIVE_FIRST:
            self.first = None
        if next != ACTIVE_SECOND:
            self.second = None
        if shadow is not None:
            shadow.add(program)

    def load_shadow(self, program) -> None:
        """Let rules judge every packet from the next one on, and decide none (shadow.pyx); None: nothing does."""
        cdef Shadow shadow = None if program is None else Shadow(program, self.guard)
        if shadow is not None:
            shadow.note_program(self.program)
        self.set_shadowing(False)
        self.shadow = shadow
        self.set_shadowing(shadow is not None)

    def set_shadowing(self, bint shadowing) -> None:
        with nogil:
            self.lock_background()
            self.shadowing = shadowing
            self.unlock()

    def log_drops(self) -> DropLog:
        """Where packets that are dropped from now on can be read."""
        if self.drops is None:
            self.drops = DropLog()
            self.drops.follow(self.program)
            with nogil:
                self.lock_background()
                self.logging_drops = True
                self.unlock()
        return self.drops

    # -- time --------------------------------------------------------------------------------------------------

    def sweep(self, uint64_t now_ns) -> int:
        """Free what is expired in the next part of the table, slice by slice; returns the number of connections freed."""
        cdef uint32_t freed = 0, part
        cdef int i
        with nogil:
            i = 0
            while i < SWEEP_SLICES and freed < SWEEP_SLICES * SWEEP_SLOTS:
                self.lock_background()
                part = self.tracker.table.sweep(now_ns, SWEEP_SLOTS)
                self.unlock()
                freed += part
                i += part < SWEEP_FREED         # else the slice ended before its slots did
            for i in range(SWEEP_SLICES):
                self.lock_background()
                self.tracker.expectations.sweep(now_ns, SWEEP_EXPECTATIONS)
                self.unlock()
            self.retire_counts()
            if self.limits is not None:
                for i in range(SWEEP_SLICES):
                    self.lock_background()
                    freed += self.tracker.table.end_doomed(now_ns, SWEEP_SOURCES)
                    self.limits.sources.retire(now_ns, SWEEP_SOURCES)
                    self.unlock()
        return freed

    cdef void retire_counts(self) noexcept nogil:
        """Let go of what rules counted that have gone, slice by slice."""
        cdef ConnCounter *emptied
        cdef int slices = 0
        while slices < SWEEP_SLICES:
            self.lock_background()
            emptied = self.tracker.table.counts.retire(SWEEP_MEMBERS)
            self.unlock()
            if emptied == NULL:
                slices += 1
            else:
                free_counter(emptied)

    def counters(self) -> dict:
        """What was judged since the start, and what the table has room for: see counters.pyx."""
        return counters_of(self.tally, self.tracker, self.limits, self.environment)

    # -- the lock ----------------------------------------------------------------------------------------------

    cdef void lock(self) noexcept nogil:
        self.guard.lock()

    cdef void lock_background(self) noexcept nogil:
        self.guard.lock_background()

    cdef void unlock(self) noexcept nogil:
        self.guard.unlock()


cdef void note_tracking(Trace *trace, const Found *found) noexcept nogil:
    trace.tracked = True
    trace.reason = found.reason


cdef void present(Packet *packet, bytes data, int hook, length, bint trusted) except *:
    """What judge() is told of a packet, but for its interfaces; `data` must outlive it."""
    if not HOOK_PREROUTING <= hook <= HOOK_POSTROUTING:
        raise ValueError(f"{hook!r} is not a hook")
    memset(packet, 0, sizeof(Packet))
    packet.data = data
    packet.captured = len(data)
    packet.on_wire = 0 if length is None else length
    packet.hook = <uint8_t> hook
    packet.untouched = not trusted
    packet.checksum = CHECKSUM_TRUSTED if trusted else CHECKSUM_VERIFY


cdef void copy_name(char *out, str name) except *:
    cdef bytes raw = name.encode()
    if len(raw) >= IFNAMSIZ:
        raise ValueError(f"interface name {name!r} is longer than {IFNAMSIZ - 1} bytes")
    memset(out, 0, IFNAMSIZ)
    memcpy(out, <const char *> raw, len(raw))
