# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Dropped packets, each with its rule and its reason, on their way to the reader that prints them.

May know: the ring of LOG and its rate limit, judgements, the names of rules.  Must not know: sockets, clocks, the engine.

Law: the packet path alone calls note(), one reader alone read(); follow() and retire() hold the GIL.
"""
from libc.stdint cimport int32_t, uint32_t

from pyfw.engine.judgement cimport words_of
from pyfw.enums cimport REASON_TABLE_FULL
from pyfw.rules.log.ring cimport log_begin, log_done, log_end, log_init, log_next
from pyfw.rules.program.program cimport NO_RULE
from pyfw.wire.packet cimport device_name

from pyfw.enums import Hook, Reason
from pyfw.rules.log.format import LogRecord, drop_settings
from pyfw.rules.program.program import DEFAULT_LOG_BURST, DEFAULT_LOG_RATE


cdef class DropLog:
    """Keeps `log_rate` drops a second on the average and `log_burst` at once, as LOG does; the others are only counted."""

    def __init__(self, log_rate: int = DEFAULT_LOG_RATE, log_burst: int = DEFAULT_LOG_BURST) -> None:
        log_init(&self.ring, log_rate, log_burst)
        self.programs = {}
        self.retired = []

    cdef void note(self, const Packet *packet, const CJudgement *judgement, uint64_t serial, uint64_t now_ns) noexcept nogil:
        """Keep a packet that rules of the program `serial` have judged."""
        cdef LogEntry *entry = log_begin(&self.ring, packet, packet.outdev, deciding_rule(judgement), now_ns)
        if entry == NULL:
            return
        entry.reason = judgement.reason
        entry.serial = serial
        log_end(&self.ring)

    def follow(self, program) -> None:
        """A program is about to judge; None: there will be no rules."""
        if program is not None:
            self.programs[program.serial] = program
            self.retired = [(head, serial) for head, serial in self.retired if serial != program.serial]

    def retire(self, program) -> None:
        """A program judges no more; its rules' names are kept until the last packet that it dropped was read."""
        if program is not None:
            self.retired.append((self.ring.head, program.serial))

    def read(self, most: int = 128) -> list[LogRecord]:
        """What was dropped since the last call, at most `most` packets, oldest first."""
        cdef LogEntry *entry
        records = []
        while len(records) < most:
            entry = log_next(&self.ring)
            if entry == NULL:
                break
            records.append(self.record_of(entry))
            log_done(&self.ring)
        while self.retired and <int32_t> (self.ring.tail - <uint32_t> self.retired[0][0]) >= 0:
            _, serial = self.retired.pop(0)
            del self.programs[serial]
        return records

    cdef object record_of(self, const LogEntry *entry):
        program = self.programs.get(entry.serial)
        rule = program.rule_name(entry.number) if program is not None else None
        return LogRecord(settings=drop_settings(rule, Reason(entry.reason.number), words_of(&entry.reason)), rule=rule,
                         now_ns=entry.now_ns, hook=Hook(entry.hook), indev=device_name(entry.indev), outdev=device_name(entry.outdev),
                         mark=entry.mark, length=entry.length, data=(<char *> entry.data)[:entry.captured])

    @property
    def suppressed(self) -> int:
        """Drops that were not kept."""
        return self.ring.suppressed


cdef inline uint32_t deciding_rule(const CJudgement *judgement) noexcept nogil:
    """What the table, a helper or the TTL refused, a rule may have accepted before."""
    return NO_RULE if judgement.reason.number >= REASON_TABLE_FULL else judgement.rule
