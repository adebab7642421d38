from libc.stdint cimport uint8_t, uint64_t
from pyfw.conntrack.conn cimport Conn, Key
from pyfw.conntrack.expect cimport Expect
from pyfw.conntrack.protocol cimport Settings

cdef enum:
    LINE_MAX = 512              # no line is longer

cdef enum Style:
    STYLE_PROC = 0              # /proc/net/ip_conntrack (Linux 2.6.18)
    STYLE_NF = 1                # /proc/net/nf_conntrack

cdef char *write_conn(char *out, const Conn *conn, uint64_t now_ns, Style style, const Settings *settings) noexcept nogil
cdef char *write_expect(char *out, const Expect *expect, const char *helper, uint64_t now_ns) noexcept nogil

# Of which a line is made, for other formats with the same words.
cdef const char *protocol_name(uint8_t protocol) noexcept nogil
cdef const char *protocol_state_name(const Conn *conn) noexcept nogil
cdef uint64_t seconds_left(uint64_t deadline_ns, uint64_t now_ns) noexcept nogil
cdef char *put_ports(char *out, const Key *key) noexcept nogil
cdef char *put_counters(char *out, const Conn *conn, uint8_t direction, bint accounting) noexcept nogil
