"""Connections as Python sees them."""
from libc.stdint cimport uint64_t
from pyfw.conntrack.conn cimport Conn

# What `list-conntrack -o json` says of a copy of an entry.
cdef dict record(const Conn *conn, uint64_t now_ns)
