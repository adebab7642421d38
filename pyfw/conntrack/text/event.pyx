# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Events as lines of `conntrack -E`.

May know: the fields of an event.  Must not know: where the text goes.  The bytes are those of libnetfilter_conntrack's
__snprintf_conntrack_default() for what the kernel's ctnetlink_conntrack_event() puts into such a message.
"""
from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_SEEN_REPLY, Conn, Key
from pyfw.conntrack.events cimport CHANGED_MARK, CHANGED_STATE, EVENT_DESTROY, EVENT_UPDATE, Event
from pyfw.conntrack.protocol cimport Settings
from pyfw.conntrack.table cimport invert
from pyfw.conntrack.text.proc cimport protocol_name, protocol_state_name, put_counters, put_ports, seconds_left
from pyfw.conntrack.text.put cimport put, put_field, put_number, put_padded
from pyfw.enums cimport DIR_ORIGINAL, DIR_REPLY
from pyfw.wire.packet cimport FAMILY_IPV4

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET
    int AF_INET6
    enum: INET6_ADDRSTRLEN
    const char *inet_ntop(int family, const void *address, char *text, unsigned int size)


cdef char *write_event(char *out, const Event *event, const EventLook *look, int64_t wall_offset_ns, const char *helper_names,
                       const Settings *settings) noexcept nogil:
    """Write one line, at most EVENT_LINE_MAX bytes; returns its end.

    helper_names: HELPER_NAME bytes for each helper, by number.  A state is named when it is new, counters are when the
    connection goes, as the kernel sends them.
    """
    cdef const Conn *conn = &event.conn
    cdef const char *state = protocol_state_name(conn)
    cdef uint64_t seconds = seconds_left(conn.expires_ns, event.now_ns)
    cdef bint goes = event.kind == EVENT_DESTROY
    cdef bint counts = goes and settings.accounting
    cdef Key reply
    invert(&conn.key, &reply)
    if look.timestamp:
        out = put_time(out, <uint64_t> (<int64_t> event.now_ns + wall_offset_ns) // 1000)
    out = put(out, " [UPDATE] " if event.kind == EVENT_UPDATE else "[DESTROY] " if goes else "    [NEW] ")
    if look.family:
        out = put_padded(out, "ipv4" if conn.key.family == FAMILY_IPV4 else "ipv6")
        out = put_field(out, "", conn.key.family)
    out = put_padded(out, protocol_name(conn.key.protocol))
    out = put_field(out, "", conn.key.protocol)
    if seconds or not goes:
        out = put_field(out, "", seconds)
    if state != NULL and (event.kind != EVENT_UPDATE or event.changes & CHANGED_STATE):
        out = put(put(out, state), " ")
    out = put_counters(put_ports(put_ends(out, &conn.key), &conn.key), conn, DIR_ORIGINAL, counts)
    if not conn.status & CONN_SEEN_REPLY:
        out = put(out, "[UNREPLIED] ")
    out = put_counters(put_ports(put_ends(out, &reply), &reply), conn, DIR_REPLY, counts)
    if conn.status & CONN_ASSURED:
        out = put(out, "[ASSURED] ")
    if conn.mark or event.changes & CHANGED_MARK:
        out = put_field(out, "mark=", conn.mark)
    if conn.helper and not goes:
        out = put_name(put(out, "helper="), helper_names + HELPER_NAME * (conn.helper - 1))
    if look.id:
        out = put_field(out, "id=", conn.id)
    (out - 1)[0] = 10           # instead of the last blank
    return out


cdef inline char *put_time(char *out, uint64_t us) noexcept nogil:
    """`[seconds.microseconds]` and a tabulator, as conntrack's event_cb() prints them."""
    cdef uint64_t digit = 100000
    out = put(put_number(put(out, "["), us // 1000000), ".")
    while digit:
        out[0] = <char> (48 + us // digit % 10)
        out += 1
        digit //= 10
    return put(out, "]\t")


cdef inline char *put_ends(char *out, const Key *key) noexcept nogil:
    """Addresses in their short form, unlike those in /proc."""
    cdef int family = AF_INET if key.family == FAMILY_IPV4 else AF_INET6
    cdef char text[INET6_ADDRSTRLEN]
    inet_ntop(family, &key.src, text, sizeof(text))
    out = put(put(out, "src="), text)
    inet_ntop(family, &key.dst, text, sizeof(text))
    return put(put(put(out, " dst="), text), " ")


cdef inline char *put_name(char *out, const char *name) noexcept nogil:
    cdef int i = 0
    while i < HELPER_NAME and name[i]:
        out[0] = name[i]
        out += 1
        i += 1
    return put(out, " ")
