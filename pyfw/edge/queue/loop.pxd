"""The queue loop: packets from NFQUEUE to the engine, verdicts back."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from netfilterqueue._impl cimport NetfilterQueue
from pyfw.edge.queue.latency cimport Latency
from pyfw.edge.queue.link_names cimport Links
from pyfw.edge.queue.messages cimport VERDICT_MAX_BYTES
from pyfw.edge.queue.reject_sender cimport Rejecter
from pyfw.edge.queue.rings cimport BATCH, Rings
from pyfw.engine.engine cimport Engine

cdef struct InHand:             # the batch in hand, in memory that outlives the process
    uint32_t version            # IN_HAND_VERSION
    uint32_t queue              # number of the queue
    uint32_t finished_id        # every packet up to here has its verdict, if need be among those not sent; a queue's first one is 1
    uint32_t verdict_bytes      # of the verdicts that are written and, as far as is known, not sent
    uint8_t verdicts[BATCH * VERDICT_MAX_BYTES]

cdef struct Counters:
    uint64_t packets
    uint64_t batches
    uint64_t wakeups            # returns from recvmmsg, with or without packets
    uint64_t enobufs
    uint64_t receive_errors
    uint64_t send_errors
    uint64_t verdict_gone       # the kernel had flushed the packet: its interface or hook went away
    uint64_t verdict_errors
    uint64_t malformed
    uint64_t id_gaps            # numbers that never came: the kernel could not deliver those packets
    uint64_t unknown_links      # packets of an interface whose name is not known
    uint64_t helper_inspections
    uint64_t offsets_learnt     # announcements whose connection NAT has given other sequence numbers
    uint64_t verdicts_resent    # that a predecessor had written
    uint64_t orphans_dropped    # packets that a predecessor had received, and not judged
    uint64_t internal           # verdicts and packets for which own memory had no room: always a mistake of ours

cdef class QueueLoop:
    cdef Engine engine
    cdef NetfilterQueue queue
    cdef Rejecter rejecter
    cdef object offsets         # SequenceOffsets
    cdef readonly int number
    cdef int descriptor
    cdef bint stopping
    cdef Rings *rings
    cdef Links links
    cdef Counters counted
    cdef uint32_t unsent        # bytes of verdicts in `hand` that are written and not sent; hand.verdict_bytes only tells of it
    cdef uint32_t verdict_count  # of these, verdicts whose packets' time of receiving is known
    cdef Latency latency        # from the receiving of a batch to the sending of a packet's verdict
    cdef uint32_t newest_id     # of the last packet received
    cdef bint numbered          # newest_id means something
    cdef object memory          # keeps `hand`
    cdef InHand *hand
    cdef bint orphaned          # a predecessor's packets may be left: those from hand.finished_id on that never come
    cdef uint32_t last_queued   # if orphaned: id of the last packet that the kernel had queued by then
