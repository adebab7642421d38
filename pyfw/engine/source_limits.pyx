# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Limits per source, as pf has them (pf.conf(5), source tracking): how many connections, and how many new ones in a time.

May know: the sources, packets, address sets, a filter in the rules' language.  Must not know: the config, sockets, the clock.

Laws:
  - A connection is counted when it is entered: what rules drop, and what is refused here, counts for nothing.
  - A sender can forge its source.  So a refused connection is dropped, and that is all, unless the source exceeds the
    limit by TCP connections alone whose handshake was completed: no other host can do that in its name.  Only then is
    the source added to the overload set, and loses its connections.
  - What this machine begins itself is counted, but never refused.
"""
from libc.string cimport memset

from pyfw.conntrack.conn cimport CONN_COUNTED, Conn
from pyfw.enums cimport HOOK_OUTPUT, REASON_SOURCE_NEW, REASON_SOURCE_STATES
from pyfw.lock cimport assert_locked
from pyfw.reasons cimport CReason
from pyfw.rules.program.flat cimport TABLE_FILTER
from pyfw.rules.sets.lookup cimport KIND_IP, KIND_NET, NANOSECONDS, SetData, host_prefix, set_whole_address
from pyfw.rules.sets.sets cimport NamedSet
from pyfw.rules.sets.table cimport INSERTED, IS_THERE, Element, Insertion, cut_to_prefix, insert
from pyfw.wire.packet cimport FAMILY_IPV4, Packet


cdef class SourceLimits:
    """max_states, max_new: connections that a source may have, and begin within the window of `sources`; 0: any number.

    overload4, overload6: NamedSets that take sources of their family, of type hash:ip or hash:net; None: they are only refused.
    flush: they lose their connections, too.  match: a Program whose filter chains accept the packets whose connections
    are meant; None: all.
    """

    def __init__(self, Sources sources not None, *, max_states=0, max_new=0, NamedSet overload4=None, NamedSet overload6=None,
                 flush=False, Program match=None, prefix4=32, prefix6=64):
        self.sources = sources
        self.max_states, self.max_new = max_states, max_new
        self.flush, self.match = flush, match
        self.prefixes[0], self.prefixes[1] = prefix4, prefix6
        self.overload_slots[0] = &overload4.slot if overload4 is not None else NULL
        self.overload_slots[1] = &overload6.slot if overload6 is not None else NULL
        self.overload_sets = (overload4, overload6)
        for named in self.overload_sets:
            if named is not None:
                named.users.add(self)
                named.expect_packets()

    @property
    def is_about_all(self) -> bool:
        return self.match is None

    @property
    def window_s(self) -> int:
        """How long a connection that began counts; 0: not at all."""
        return self.sources.window_ns // NANOSECONDS

    def statistics(self) -> dict:
        return {"sources": self.sources.count, "forgotten": self.sources.counters.forgotten,
                "overloaded": self.counters.overloaded, "not_listed": self.counters.not_listed,
                "flushed": self.sources.counters.flushed}

    cdef bint refuses(self, const Context *context, Conn *fresh, CReason *reason) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef uint32_t source, states, begun
        cdef bint proven
        assert_locked()
        if self.match is not None and not self.match.fits(TABLE_FILTER, context):
            return False
        fresh.status |= CONN_COUNTED
        source = self.sources.find(&packet.src, packet.family)
        if source == 0 or packet.hook == HOOK_OUTPUT:
            return False
        states = self.sources.sources[source].states
        if self.max_states and states >= self.max_states:
            reason.number = REASON_SOURCE_STATES
            reason.argument[0], reason.argument[1] = states, self.max_states
            proven = self.sources.sources[source].established >= self.max_states
        elif self.max_new == 0:
            return False
        else:
            begun = self.sources.begun(source, context.now_ns)
            if begun < self.max_new:
                return False
            reason.number = REASON_SOURCE_NEW
            reason.argument[0], reason.argument[1] = begun, self.max_new
            proven = self.sources.completed(source, context.now_ns) >= self.max_new
        if proven and not context.dry:
            self.overload(source, packet, context.now_ns)
        return True

    cdef void overload(self, uint32_t source, const Packet *packet, uint64_t now_ns) noexcept nogil:
        """Add a source to the set, unless it is there, and have its connections end."""
        cdef int family = packet.family != FAMILY_IPV4
        cdef SetData *data
        cdef Element element
        cdef Insertion outcome
        if self.overload_slots[family] == NULL:
            return
        data = self.overload_slots[family].data
        if (data.kind != KIND_IP and data.kind != KIND_NET) or data.family != packet.family:
            self.counters.not_listed += 1       # another set has been given its name
            return
        memset(&element, 0, sizeof(Element))
        set_whole_address(&element.key, &packet.src)
        if data.kind == KIND_NET:
            cut_to_prefix(&element.key, self.prefixes[family])
        else:
            cut_to_prefix(&element.key, data.netmask)
            element.key.prefix = host_prefix(data.family)
        if data.has_timeout and data.timeout_s:
            element.expires_ns = now_ns + <uint64_t> data.timeout_s * NANOSECONDS
        outcome = insert(data.table, &element, now_ns, False, data.most)
        if outcome == INSERTED:
            self.counters.overloaded += 1
            if self.flush:
                self.sources.doom(source)
        elif outcome != IS_THERE:
            self.counters.not_listed += 1
