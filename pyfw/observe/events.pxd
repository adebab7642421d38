"""A live stream of connections that begin, change and go, on its way to the client that shows it."""
from libc.stdint cimport uint32_t
from pyfw.conntrack.events cimport Event, EventRing
from pyfw.conntrack.text.event cimport EventLook
from pyfw.engine.engine cimport Engine

cdef class Listener:
    cdef EventRing ring
    cdef Engine engine
    cdef EventLook look
    cdef readonly object as_records

    cdef bytes text(self, uint32_t count)
    cdef list records(self, uint32_t count)
    cdef dict event_record(self, const Event *event)
