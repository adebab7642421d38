"""What becomes of one packet."""
from libc.stdint cimport uint8_t, uint32_t
from pyfw.reasons cimport CReason

cdef struct CJudgement:
    uint8_t verdict             # VerdictNumber
    uint8_t state               # CtStateNumber
    uint8_t direction           # DirectionNumber
    uint8_t reject              # RejectNumber: how to answer a packet that REJECT dropped
    uint8_t inspect             # accepted, and its helper must see the payload before the verdict is sent
    uint8_t announced           # inspected, and found to announce a connection, whether believed or not
    CReason reason
    uint32_t rule               # the rule that decided (Program.rule_name); NO_RULE: none did
    uint32_t mark               # the mark to set on the packet
    uint32_t conn               # slot and id of its connection; 0: none
    uint32_t conn_id

cdef str words_of(const CReason *reason)
cdef object judgement_of(const CJudgement *judgement, object program)
