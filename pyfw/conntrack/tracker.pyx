# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The tracker: to which connection a packet belongs, and in which state that makes it.

May know: the table, the expectations, every protocol's module.  Must not know: rules, helpers' code, sockets, the clock.

Laws:
  - A first packet's connection is `fresh` until commit().  A packet that is not accepted leaves no entry.
  - A packet changes an existing entry before the rules judge it, whatever they decide.  The kernel does the same: its
    conntrack hook comes before its rules.
"""
from libc.string cimport memcmp, memcpy, memset, strncmp

from pyfw.conntrack.conn cimport (CONN_ANSWERED, CONN_ASSURED, CONN_CONFIRMED, CONN_EXPECTED, CONN_ONE_SIDED, CONN_SEEN_REPLY,
                                  CONN_UNTOLD_SHIFT, Conn, Key, is_over)
from pyfw.conntrack.datagram cimport datagram_update, udp_datagram_ok
from pyfw.conntrack.events cimport CHANGED_ASSURED, CHANGED_REPLY, CHANGED_STATE, EVENT_NEW, EVENT_UPDATE
from pyfw.conntrack.expect cimport EXPECT_ADDED, Expect, ExpectResult, Expectations
from pyfw.conntrack.first_seen cimport is_other_side
from pyfw.conntrack.icmp cimport (ICMP_DISCOVERY, ICMP_ERROR, ICMP_REQUEST_OR_REPLY, IcmpKind, icmp_kind, icmp_open,
                                  icmp_quoted_key, icmp_update)
from pyfw.conntrack.protocol cimport (ACTION_INVALID, ACTION_KILL, ACTION_PASS, ACTION_RENEW, ACTION_REOPEN, TIMEOUT_GENERIC,
                                      TIMEOUT_GRE, TIMEOUT_GRE_STREAM, TIMEOUT_ICMP, TIMEOUT_ICMPV6, TIMEOUT_SCTP, TIMEOUT_TCP,
                                      TIMEOUT_UDP, TIMEOUT_UDP_STREAM, Protocol, Settings, TrackerAnswer)
from pyfw.conntrack.sctp cimport SCTP_CLOSED, sctp_open, sctp_packet_ok, sctp_update
from pyfw.conntrack.sources cimport is_completed
from pyfw.conntrack.table cimport Table, invert
from pyfw.conntrack.tcp cimport tcp_open, tcp_update
from pyfw.conntrack.tcp_segment cimport tcp_segment_ok
from pyfw.enums cimport (DIR_ORIGINAL, DIR_REPLY, HOOK_FORWARD, HOOK_INPUT, REASON_ICMP_NO_REQUEST, REASON_ICMP_OUTER,
                         REASON_ICMP_QUOTE, REASON_ICMP_TYPE, REASON_ICMP_UNKNOWN, REASON_INTERNAL, REASON_NONE, REASON_TABLE_FULL,
                         REASON_TO_ITSELF, STATE_ESTABLISHED, STATE_INVALID, STATE_NEW, STATE_RELATED, STATE_UNTRACKED)
from pyfw.lock cimport assert_locked
from pyfw.wire.packet cimport (FAMILY_IPV4, IFNAMSIZ, PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP,
                               PROTO_UDPLITE, TH_RST, Address, Packet, be32)

from pyfw.conntrack.timeouts import DEFAULTS

cdef Protocol[256] PROTOCOLS    # by number

cdef int number
for number in range(256):
    PROTOCOLS[number] = Protocol(NULL, NULL, datagram_update)
PROTOCOLS[<int> PROTO_TCP] = Protocol(tcp_segment_ok, tcp_open, tcp_update)
PROTOCOLS[<int> PROTO_UDP] = PROTOCOLS[<int> PROTO_UDPLITE] = Protocol(udp_datagram_ok, NULL, datagram_update)
PROTOCOLS[<int> PROTO_SCTP] = Protocol(sctp_packet_ok, sctp_open, sctp_update)
PROTOCOLS[<int> PROTO_ICMP] = PROTOCOLS[<int> PROTO_ICMPV6] = Protocol(NULL, NULL, icmp_update)


cdef class Tracker:
    """Connections and expectations in one piece of memory, and the settings that hold for them; see Engine."""

    def __init__(self, uint32_t max_entries, uint32_t expect_max, memory, bytes boot_id, bytes secret, previous=None):
        self.table = Table(max_entries, expect_max, memory, boot_id, secret)
        self.expectations = Expectations(self.table, expect_max, memoryview(memory)[Table.space(max_entries):],
                                         self.table.adopted > 0)
        if previous is not None:
            self.table.copy_from(previous)

    @staticmethod
    def space(max_entries: int, expect_max: int) -> int:
        """Bytes of memory for so many connections and expectations."""
        return Table.space(max_entries) + Expectations.space(expect_max)

    def configure(self, choices) -> None:
        """Take over TrackingSettings."""
        for position, (name, default) in enumerate(DEFAULTS.items()):
            self.settings.timeout_ns[position] = int(choices.timeouts.get(name, default) * 1_000_000_000)
        self.settings.accounting = choices.accounting
        self.settings.checksum = choices.checksum
        self.settings.tcp_loose = choices.tcp.loose
        self.settings.tcp_liberal = choices.tcp.liberal
        self.settings.tcp_max_retrans = choices.tcp.max_retrans
        self.settings.tcp_ignore_invalid_rst = choices.tcp.ignore_invalid_rst

    def number_helpers(self, bindings) -> None:
        """Give each helper its number, and number those of adopted entries anew: a predecessor may have had others."""
        cdef HelperRow *row
        cdef uint8_t[HELPERS_MAX + 1] renumbered
        cdef uint32_t slot
        if len(bindings) > HELPERS_MAX:
            raise ValueError(f"at most {HELPERS_MAX} helpers, not {len(bindings)}")
        for helper in (binding.helper for binding in bindings):
            if len(helper.name.encode()) > 16 or helper.max_expected < 1 or helper.timeout_s < 1:
                raise ValueError(f"helper {helper.name}: its name must have 16 bytes at most, "
                                 "max_expected and timeout_s must be 1 at least")
        names = [binding.helper.name.encode().ljust(16, b"\0") for binding in bindings]
        renumbered[0] = 0
        for position in range(HELPERS_MAX):
            former = self.table.header.helper_names[position][:16]
            renumbered[position + 1] = names.index(former) + 1 if former in names else 0
        for slot in range(1, self.table.header.used + 1):
            self.table.conns[slot].helper = renumbered[known_helper(self.table.conns[slot].helper)]
            self.table.conns[slot].master_helper = renumbered[known_helper(self.table.conns[slot].master_helper)]
        for slot in range(1, self.expectations.used + 1):
            self.expectations.slots[slot].helper = renumbered[known_helper(self.expectations.slots[slot].helper)]
        memset(self.table.header.helper_names, 0, sizeof(self.table.header.helper_names))
        for position, binding in enumerate(bindings):
            if len(binding.ports) > HELPER_PORTS_MAX:
                raise ValueError(f"helper {binding.helper.name}: at most {HELPER_PORTS_MAX} ports")
            memcpy(self.table.header.helper_names[position], <const char *> names[position], 16)
            row = &self.helper_rows[position]
            row.timeout_ns = binding.helper.timeout_s * 1_000_000_000
            row.max_expected = binding.helper.max_expected
            row.protocol = binding.helper.protocol
            row.ports = len(binding.ports)
            for i, port in enumerate(binding.ports):
                row.port[i] = port
        self.table.publish()

    cdef void track(self, Packet *packet, uint8_t helper, uint64_t now_ns, Found *found) noexcept nogil:
        """Find the packet's connection or begin one: fills in `found` (conn == &self.fresh: a new one)."""
        cdef Key key
        cdef uint32_t slot
        cdef uint8_t direction = DIR_ORIGINAL
        cdef IcmpKind kind
        assert_locked()
        found.state = STATE_INVALID
        if not packet.has_tuple:
            found.reason.number = packet.reason
            return
        if packet.protocol == PROTO_ICMP or packet.protocol == PROTO_ICMPV6:
            if (packet.protocol == PROTO_ICMP) != (packet.family == FAMILY_IPV4):
                found.reason.number = REASON_ICMP_TYPE
                return
            kind = icmp_kind(packet, &found.reason.number)
            if kind == ICMP_DISCOVERY:
                found.state = STATE_UNTRACKED
            elif kind == ICMP_ERROR:
                self.relate(packet, now_ns, found)
            if kind != ICMP_REQUEST_OR_REPLY:
                return
        key_of(packet, &key)
        slot = self.table.find(&key, now_ns, &direction)
        self.follow(slot, &key, packet, helper, direction, now_ns, found)

    cdef void relate(self, Packet *packet, uint64_t now_ns, Found *found) noexcept nogil:
        """An ICMP error is RELATED to the connection whose packet it quotes, and goes against that packet's direction.

        It must be addressed to the quoted packet's source: else any host could have errors about others'
        connections let through to third parties.
        """
        cdef Key quoted, answer
        cdef uint8_t direction = DIR_ORIGINAL
        cdef uint32_t slot
        if not icmp_quoted_key(packet, &quoted):
            found.reason.number = REASON_ICMP_QUOTE
            return
        invert(&quoted, &answer)
        slot = self.table.find(&answer, now_ns, &direction)
        if slot == 0:
            found.reason.number = REASON_ICMP_UNKNOWN
        elif memcmp(&packet.dst, &answer.dst, sizeof(Address)) != 0:
            found.reason.number = REASON_ICMP_OUTER
            if packet.family == FAMILY_IPV4:
                found.reason.argument[0] = be32(packet.dst.bytes)
                found.reason.argument[1] = be32(answer.dst.bytes)
        else:
            found.state = STATE_RELATED
            found.direction = direction
            found.slot = slot
            found.conn = &self.table.conns[slot]

    cdef void follow(self, uint32_t slot, const Key *key, Packet *packet, uint8_t helper, uint8_t direction,
                     uint64_t now_ns, Found *found) noexcept nogil:
        """Let the protocol judge a packet of the connection in `slot`, or of one that it begins (slot 0)."""
        cdef const Protocol *protocol = &PROTOCOLS[packet.protocol]
        cdef TrackerAnswer answer
        cdef Conn *subject
        cdef uint64_t expires_ns
        cdef uint32_t status
        if slot:
            subject = &self.table.conns[slot]
        else:
            subject = &self.fresh
            if not self.begin(key, packet, helper, now_ns, found):
                return
        memset(&answer, 0, sizeof(TrackerAnswer))
        status, expires_ns = subject.status, subject.expires_ns
        answer.reason.number = packet.reason
        if packet.reason == REASON_NONE and (protocol.is_sound == NULL or protocol.is_sound(packet, &answer.reason.number)):
            if slot or protocol.open == NULL or protocol.open(subject, packet, &self.settings, &answer):
                protocol.update(subject, direction, packet, now_ns, &self.settings, &answer)
        if slot:
            self.weigh_answer(subject, status, direction, packet, &answer)
            if self.table.sources is not None or self.table.timers != NULL or self.table.counts.heads != NULL:
                self.note_changes(slot, status, expires_ns, now_ns)
        if answer.action == ACTION_REOPEN:
            self.table.remove(slot, now_ns)
            self.follow(0, key, packet, helper, DIR_ORIGINAL, now_ns, found)
            return
        if answer.state_changed and self.table.events.count:
            subject.status |= CHANGED_STATE << CONN_UNTOLD_SHIFT
        found.reason = answer.reason
        if answer.action > ACTION_KILL:
            found.reason.number = REASON_INTERNAL
            return
        if answer.action == ACTION_INVALID:
            return
        found.direction = direction
        found.state = state_of(subject, direction)
        found.slot = slot
        found.conn = subject
        if answer.action == ACTION_RENEW:
            subject.expires_ns = self.table.deadline(slot, now_ns, answer.timeout_ns)
        if answer.action != ACTION_PASS:
            self.account(subject, direction, packet)
        if answer.action == ACTION_KILL:
            self.ended = subject[0]             # which the rules see once more, as it was
            self.table.remove(slot, now_ns)
            subject = &self.ended
            found.slot, found.conn = 0, subject
        if direction == DIR_REPLY:
            subject.status |= CONN_SEEN_REPLY
        if self.table.events.count:
            subject.status |= changes_of(subject.status & ~status) << CONN_UNTOLD_SHIFT

    cdef void account(self, Conn *conn, uint8_t direction, const Packet *packet) noexcept nogil:
        if self.settings.accounting:
            conn.packets[direction] += 1
            conn.bytes[direction] += packet.length

    cdef void weigh_answer(self, Conn *conn, uint32_t status, uint8_t direction, const Packet *packet,
                           const TrackerAnswer *answer) noexcept nogil:
        """Note whether an entry, whose status was `status` before this packet, is ASSURED by one side alone.

        A host that sends both directions from one side makes entries ASSURED without an answer, here as in the kernel.  The
        latest reply decides, since a forged one may come after the true one and put its own numbers in place of those.  A
        refusal is no answer: a host that knows of no connection sends one.
        """
        if status & CONN_ASSURED and not status & CONN_ONE_SIDED:
            return
        if direction == DIR_REPLY and answer.action == ACTION_RENEW and not is_refusal(conn, packet):
            if is_other_side(&self.table.header, conn.origin, packet.hook, packet.indev):
                conn.status |= CONN_ANSWERED
            else:
                conn.status &= ~<uint32_t> CONN_ANSWERED
        if conn.status & CONN_ANSWERED:
            conn.status &= ~<uint32_t> CONN_ONE_SIDED
        elif conn.status & CONN_ASSURED:
            conn.status |= CONN_ONE_SIDED

    cdef void note_changes(self, uint32_t slot, uint32_t status, uint64_t expires_ns, uint64_t now_ns) noexcept nogil:
        """Tell the table's accounts what the protocol has done to an entry that was so before."""
        cdef Conn *conn = &self.table.conns[slot]
        if (self.table.sources is not None and is_completed(conn.key.protocol, conn.status)
                and not is_completed(conn.key.protocol, status)):
            self.table.sources.note_completed(slot, now_ns)
        if self.table.counts.heads != NULL:
            self.table.counts.note_over(slot, is_over(conn))
        if self.table.timers != NULL and conn.expires_ns < expires_ns:
            conn.expires_ns = self.table.deadline(slot, now_ns, conn.expires_ns - now_ns)

    cdef bint begin(self, const Key *key, const Packet *packet, uint8_t helper, uint64_t now_ns,
                    Found *found) noexcept nogil:
        """Make `fresh` the connection that this packet would begin; False if there is no room for one.

        An expectation that fits is used up here, before anything else is known of the packet, as in the kernel.
        """
        cdef uint32_t expected
        cdef Expect *expect
        if (packet.protocol == PROTO_ICMP or packet.protocol == PROTO_ICMPV6) and not icmp_open(packet):
            found.reason.number = REASON_ICMP_NO_REQUEST
            return False
        if is_to_itself(packet):
            found.reason.number = REASON_TO_ITSELF
            return False
        if not self.table.has_room(key, now_ns):
            self.table.counters.table_full += 1
            found.reason.number = REASON_TABLE_FULL
            return False
        memset(&self.fresh, 0, sizeof(Conn))
        self.fresh.key = key[0]
        self.fresh.created_ns = now_ns
        expected = self.expectations.find(key, now_ns)
        if expected:
            expect = &self.expectations.slots[expected]
            self.fresh.status = CONN_EXPECTED
            self.fresh.master_id = expect.master_id
            self.fresh.master_helper = expect.helper
            self.fresh.mark = self.table.conns[expect.master].mark
            self.expectations.counters.used += 1
            self.expectations.remove(expected)
        elif helper and self.helper_rows[helper - 1].protocol == packet.protocol:
            self.fresh.helper = helper
        else:
            self.fresh.helper = self.helper_for(packet)
        return True

    cdef uint8_t helper_for(self, const Packet *packet) noexcept nogil:
        """The helper that a connection has by its first packet's destination port; 0: none."""
        cdef HelperRow *row
        cdef int i, j
        for i in range(HELPERS_MAX):
            row = &self.helper_rows[i]
            if row.ports and row.protocol == packet.protocol:
                for j in range(row.ports):
                    if row.port[j] == packet.dport:
                        return <uint8_t> (i + 1)
        return 0

    cdef bint commit(self, uint64_t now_ns, Found *found) noexcept nogil:
        """Enter an accepted packet's fresh connection into the table; False if there is no room left."""
        assert_locked()
        found.slot = self.table.insert(&self.fresh, now_ns)
        if found.slot:
            self.table.note_begun(found.slot, now_ns)
        return found.slot != 0

    cdef void tell(self, uint64_t now_ns, const Found *found) noexcept nogil:
        """Tell the listeners what an accepted packet's connection has to tell: that it began, or what has changed.

        What a packet changes that is dropped is told with the next one that is not (nf_conntrack_confirm()).
        """
        cdef Conn *conn = &self.table.conns[found.slot]
        cdef bint begins = found.conn == &self.fresh
        cdef uint32_t changes = conn.status >> CONN_UNTOLD_SHIFT
        assert_locked()
        if begins or changes:
            conn.status ^= changes << CONN_UNTOLD_SHIFT
            self.table.events.tell(EVENT_NEW if begins else EVENT_UPDATE, <uint8_t> changes, conn, now_ns)

    cdef ExpectResult expect(self, Expect *wanted, uint32_t slot, uint32_t id, uint64_t now_ns) noexcept nogil:
        """Enter what the helper of the connection in `slot` found, if that is still the connection `id`."""
        cdef const Conn *master = &self.table.conns[slot]
        cdef const HelperRow *row = &self.helper_rows[wanted.helper - 1]
        assert_locked()
        if master.id != id or not master.status & CONN_CONFIRMED:
            return EXPECT_ADDED                 # it has gone meanwhile, and with it what it expected
        wanted.master = slot
        wanted.master_id = id
        wanted.family = master.key.family
        wanted.deadline_ns = now_ns + row.timeout_ns
        return self.expectations.add(wanted, row.max_expected, now_ns)

    cdef void bound_lives(self, uint32_t first, uint32_t end, uint64_t now_ns) noexcept nogil:
        """No connection and no expectation in these slots began in the future, or lives longer than one that is renewed now.

        A predecessor's clock may have been ahead of this one.
        """
        cdef uint32_t slot
        cdef uint64_t limit_ns
        cdef Conn *conn
        cdef Expect *expect
        assert_locked()
        for slot in range(first, end):
            conn = &self.table.conns[slot]
            if slot <= self.table.header.used and conn.status & CONN_CONFIRMED:
                conn.created_ns = min(conn.created_ns, now_ns)
                conn.expires_ns = min(conn.expires_ns, now_ns + longest_life(conn, &self.settings))
            if slot <= self.expectations.used:
                expect = &self.expectations.slots[slot]
                limit_ns = self.settings.timeout_ns[TIMEOUT_GENERIC]        # of one whose helper is gone
                if expect.helper:
                    limit_ns = self.helper_rows[expect.helper - 1].timeout_ns
                expect.deadline_ns = min(expect.deadline_ns, now_ns + limit_ns)


cdef uint64_t longest_life(const Conn *conn, const Settings *settings) noexcept nogil:
    """The longest timeout that a packet could give this connection in its state."""
    if conn.key.protocol == PROTO_TCP:
        return settings.timeout_ns[TIMEOUT_TCP + conn.track.tcp.state]
    if conn.key.protocol == PROTO_SCTP:
        return settings.timeout_ns[TIMEOUT_SCTP + max(conn.track.sctp.state, 1) - 1]
    if conn.key.protocol == PROTO_UDP or conn.key.protocol == PROTO_UDPLITE:
        return max(settings.timeout_ns[TIMEOUT_UDP], settings.timeout_ns[TIMEOUT_UDP_STREAM])
    if conn.key.protocol == PROTO_GRE:
        return max(settings.timeout_ns[TIMEOUT_GRE], settings.timeout_ns[TIMEOUT_GRE_STREAM])
    if conn.key.protocol == PROTO_ICMP:
        return settings.timeout_ns[TIMEOUT_ICMP]
    return settings.timeout_ns[TIMEOUT_ICMPV6 if conn.key.protocol == PROTO_ICMPV6 else TIMEOUT_GENERIC]


cdef inline uint8_t known_helper(uint8_t number) noexcept nogil:
    return number if number <= HELPERS_MAX else 0


cdef inline bint is_refusal(const Conn *conn, const Packet *packet) noexcept nogil:
    """Whether a packet, which `conn` has taken in, is an RST, or has closed an SCTP association, as an ABORT does."""
    if packet.protocol == PROTO_TCP:
        return packet.tcp_flags & TH_RST != 0
    return packet.protocol == PROTO_SCTP and conn.track.sctp.state == SCTP_CLOSED


cdef inline bint is_to_itself(const Packet *packet) noexcept nogil:
    """Whether a host that is not this one claims to speak to itself: what it says would count as the answer, too."""
    return ((packet.hook == HOOK_INPUT or packet.hook == HOOK_FORWARD) and packet.indev[0] != 0
            and memcmp(&packet.src, &packet.dst, sizeof(Address)) == 0 and strncmp(packet.indev, "lo", IFNAMSIZ) != 0)


cdef inline uint32_t changes_of(uint32_t gained) noexcept nogil:
    """Change bits for status bits."""
    return (CHANGED_REPLY if gained & CONN_SEEN_REPLY else 0) | (CHANGED_ASSURED if gained & CONN_ASSURED else 0)


cdef inline uint8_t state_of(const Conn *conn, uint8_t direction) noexcept nogil:
    """The state that rules see of a packet on this connection (resolve_normal_ct())."""
    if direction == DIR_REPLY or conn.status & CONN_SEEN_REPLY:
        return STATE_ESTABLISHED
    return STATE_RELATED if conn.status & CONN_EXPECTED else STATE_NEW


cdef void key_of(const Packet *packet, Key *key) noexcept nogil:
    key.src = packet.src
    key.dst = packet.dst
    key.protocol = packet.protocol
    key.family = packet.family
    key.zero = 0
    if packet.protocol == PROTO_ICMP or packet.protocol == PROTO_ICMPV6:
        key.sport = packet.icmp_id
        key.dport = <uint16_t> (packet.icmp_type << 8) | packet.icmp_code
    else:
        key.sport = packet.sport
        key.dport = packet.dport
