from libc.stdint cimport uint8_t, uint64_t
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.expect cimport Expect
from pyfw.conntrack.track cimport Settings

cdef enum:
    LINE_MAX = 512              # no line is longer

cdef enum Style:
    STYLE_PROC = 0              # /proc/net/ip_conntrack (Linux 2.6.18)
    STYLE_NF = 1                # /proc/net/nf_conntrack

cdef char *write_conn(char *out, const Conn *conn, uint64_t now_ns, Style style, const Settings *settings) noexcept nogil
cdef char *write_expect(char *out, const Expect *expect, const char *helper, uint64_t now_ns) noexcept nogil
