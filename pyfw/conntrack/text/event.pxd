from libc.stdint cimport int64_t, uint8_t, uint64_t
from pyfw.conntrack.events cimport Event
from pyfw.conntrack.protocol cimport Settings

cdef enum:
    EVENT_LINE_MAX = 640        # no line is longer
    HELPER_NAME = 16            # bytes of a helper's name at most

cdef struct EventLook:          # what else a line has: `-o` of conntrack(8)
    uint8_t timestamp
    uint8_t family              # its -o extended
    uint8_t id

cdef char *write_event(char *out, const Event *event, const EventLook *look, int64_t wall_offset_ns, const char *helper_names,
                       const Settings *settings) noexcept nogil
