"""A ruleset as the packet path runs it, of one family: flat arrays, no Python."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum TableNumber:
    TABLE_RAW = 0
    TABLE_FILTER = 1

cdef enum:
    TABLES = 2
    HOOKS = 5
    FAMILIES = 2                # IPv4, IPv6
    MAX_DEPTH = 64              # as check.py's
    MAX_STEPS = 1 << 17         # likewise

cdef enum HeaderTest:           # bits of FlatRule.tests and .inverted
    TEST_SRC = 1
    TEST_DST = 2
    TEST_PROTOCOL = 4
    TEST_INDEV = 8
    TEST_OUTDEV = 16
    TEST_FRAGMENT = 32

cdef enum TestKind:
    KIND_NONE = 0
    KIND_TRANSPORT = 1
    KIND_ICMP = 2
    KIND_STATES = 3
    KIND_OBJECT = 4             # a PacketMatch

cdef enum TransportBit:         # bits of TransportArgs.inverted
    INVERT_SPORT = 1
    INVERT_DPORT = 2
    INVERT_FLAGS = 4

cdef enum ActionNumber:
    ACTION_CONTINUE = 0
    ACTION_ACCEPT = 1
    ACTION_DROP = 2
    ACTION_RETURN = 3
    ACTION_JUMP = 4
    ACTION_GOTO = 5
    ACTION_LOG = 6
    ACTION_NOTRACK = 7
    ACTION_HELPER = 8
    ACTION_OBJECT = 9           # a PacketAction
    ACTION_TRACE = 10
    ACTION_AUDIT = 11

cdef struct TransportArgs:
    uint16_t sport_low
    uint16_t sport_high
    uint16_t dport_low
    uint16_t dport_high
    uint8_t flags_mask
    uint8_t flags_value
    uint8_t inverted            # TransportBit
    uint8_t tcp                 # of the tcp match

cdef struct IcmpArgs:
    uint8_t type
    uint8_t code_low
    uint8_t code_high
    uint8_t any_type
    uint8_t inverted

cdef union TestArgs:
    TransportArgs transport
    IcmpArgs icmp
    uint8_t states
    uint16_t object[2]          # position among the program's tests of class PacketMatch: low half, high half

cdef struct FlatTest:           # one match beyond the IP header
    uint8_t kind                # TestKind
    TestArgs args

cdef struct FlatRule:           # 64 bytes: one cache line
    uint32_t src                # IPv4, network byte order
    uint32_t src_mask
    uint32_t dst
    uint32_t dst_mask
    uint16_t tests              # HeaderTest: which there are
    uint16_t inverted           # HeaderTest: which of them must not match
    uint8_t protocol
    uint8_t states              # bits of CtStateNumber that match
    uint8_t action              # ActionNumber
    uint8_t reject              # RejectNumber
    uint16_t indev              # position among the interface patterns
    uint16_t outdev
    uint32_t addresses          # IPv6: position among the address pairs
    FlatTest first              # the first test; KIND_NONE: there is none
    uint16_t helper             # ACTION_HELPER: 1 + position; ACTION_OBJECT: position among the program's actions
    uint32_t more               # position of the second test
    uint32_t more_end           # position behind the last
    uint32_t target             # ACTION_JUMP, ACTION_GOTO: position of the chain's first rule
    uint32_t number             # names the rule, and counts for it

cdef struct AddressPair:        # IPv6
    uint64_t src[2]
    uint64_t src_mask[2]
    uint64_t dst[2]
    uint64_t dst_mask[2]

cdef struct Interface:          # a name, or the beginning of one
    uint64_t name[2]
    uint64_t mask[2]

cdef struct Counter:
    uint64_t packets
    uint64_t bytes

cdef struct BaseChain:
    uint8_t present
    uint32_t first
    uint32_t end                # the policy

cdef struct FlatProgram:        # of one family
    FlatRule *rules
    FlatTest *tests             # those that did not fit into their rule
    AddressPair *addresses      # IPv6
    Interface *interfaces
    void **objects              # PacketMatches; the program keeps them
    void **actions              # PacketActions
    Counter *counts             # by number
    Counter *zeroed             # what counts was at the last zero()
    BaseChain base[TABLES][HOOKS]

cdef fill_program(FlatProgram *flat, bint ipv6, linked, size_t numbers, helpers, dict log_settings)
cdef void *allocate(size_t count, size_t size) except NULL
