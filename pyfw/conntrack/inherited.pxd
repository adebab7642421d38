"""What a predecessor's memory holds, checked before anything else reads it."""
from pyfw.conntrack.conn cimport Conn
from pyfw.conntrack.table cimport Header

cdef bint make_sound(const Header *header, Conn *conn) noexcept nogil
cdef void end_names(Header *header) noexcept nogil
