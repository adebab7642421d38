# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Listening to what happens to connections: beginning, ending, and fetching what was heard.

May know: the engine's lock, rings of events, their formats.  Must not know: sockets, the clock.

Law: the lock is held for a few words, never while text is made.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from cpython.bytes cimport PyBytes_FromStringAndSize

from pyfw.conntrack.events cimport (CHANGED_ASSURED, CHANGED_MARK, CHANGED_REPLY, CHANGED_STATE, EVENTS_KEPT, EVENT_DESTROY,
                                    EVENT_NEW, EVENT_UPDATE, LISTENERS, Event, EventRing, Events)
from pyfw.conntrack.selection cimport Selection
from pyfw.conntrack.text.event cimport EVENT_LINE_MAX, write_event
from pyfw.observe.dump cimport record

from enum import IntFlag
from typing import NamedTuple

MOST = LISTENERS
KEPT = EVENTS_KEPT

cdef enum:
    CHUNK = 512                 # events per call

CHANGES = {CHANGED_STATE: "state", CHANGED_REPLY: "seen_reply", CHANGED_ASSURED: "assured", CHANGED_MARK: "mark"}


class Kind(IntFlag):
    """Events, as conntrack(8) calls them."""
    NEW = EVENT_NEW
    UPDATE = EVENT_UPDATE
    DESTROY = EVENT_DESTROY


class TooMany(Exception):
    """As many listeners as can be are there."""


class Heard(NamedTuple):
    """The next events."""
    lost: int                   # that came before these and found no room
    shown: object               # text of whole lines (bytes), or a list of records; empty: nothing came


cdef class Listener:
    """Hears of connections that `selection` takes, from arm() to disarm().

    timestamp, family, id: what else a line of text has; records: dictionaries instead.
    """

    def __init__(self, Selection selection not None, kinds, *, bint records=False, bint timestamp=False, bint family=False,
                 bint id=False):
        self.ring = EventRing(selection, kinds)
        self.as_records = records
        self.look.timestamp, self.look.family, self.look.id = timestamp, family, id

    def arm(self, Engine engine not None) -> None:
        """Begin.  Raises TooMany."""
        cdef Events events = engine.tracker.table.events
        cdef EventRing ring = self.ring
        cdef bint added
        events.listening.append(ring)
        with nogil:
            engine.lock_background()
            added = events.add(ring)
            engine.unlock()
        if not added:
            events.listening.remove(ring)
            raise TooMany(f"{LISTENERS} listen to events already, and more would slow the packets down; try again later")
        self.engine = engine

    def disarm(self) -> None:
        """End; nothing happens if it has not begun."""
        cdef Engine engine = self.engine
        cdef Events events
        cdef EventRing ring = self.ring
        if engine is None:
            return
        events = engine.tracker.table.events
        with nogil:
            engine.lock_background()
            events.drop(ring)
            engine.unlock()
        events.listening.remove(ring)
        self.engine = None

    def take(self) -> Heard:
        """The next events, oldest first: as many as one call may show, and none beyond a gap."""
        cdef Engine engine = self.engine
        cdef EventRing ring = self.ring
        cdef uint32_t count, lost = 0
        with nogil:
            engine.lock_background()
            count = ring.head - ring.tail
            if count == 0:
                lost = ring.lost
                ring.lost = 0
            engine.unlock()
            if count:
                lost = ring.events[ring.tail % EVENTS_KEPT].lost
                count = ring.before_gap(min(count, <uint32_t> CHUNK))
        try:
            return Heard(lost, self.records(count) if self.as_records else self.text(count))
        finally:
            with nogil:
                engine.lock_background()
                ring.tail += count
                engine.unlock()

    cdef bytes text(self, uint32_t count):
        cdef char *text = <char *> malloc(count * EVENT_LINE_MAX + 1)
        cdef char *end = text
        cdef uint32_t i
        if text == NULL:
            raise MemoryError("no memory for events")
        with nogil:
            for i in range(count):
                end = write_event(end, &self.ring.events[(self.ring.tail + i) % EVENTS_KEPT], &self.look,
                                  self.engine.wall_offset_ns, self.engine.tracker.table.header.helper_names[0],
                                  &self.engine.tracker.settings)
        try:
            return PyBytes_FromStringAndSize(text, end - text)
        finally:
            free(text)

    cdef list records(self, uint32_t count):
        return [self.event_record(&self.ring.events[(self.ring.tail + i) % EVENTS_KEPT]) for i in range(count)]

    cdef dict event_record(self, const Event *event):
        helpers = self.engine.environment.helpers
        return {
            "event": Kind(event.kind).name,
            "time": (<int64_t> event.now_ns + self.engine.wall_offset_ns) / 1e9,
            "changed": [name for bit, name in CHANGES.items() if event.kind == EVENT_UPDATE and event.changes & bit],
            **record(&event.conn, event.now_ns),
            "helper": helpers[event.conn.helper - 1] if 0 < event.conn.helper <= len(helpers) else None,
        }
