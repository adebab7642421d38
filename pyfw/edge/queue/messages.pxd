"""The messages of nfnetlink_queue as structs: bytes from the kernel, bytes to it."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, int32_t

cdef enum MessageKind:
    MESSAGE_PACKET = 0
    MESSAGE_ERROR = 1           # the kernel refused something that was sent to it
    MESSAGE_MALFORMED = 2       # not what nfnetlink_queue sends; `id` says which packet, if has_id
    MESSAGE_OTHER = 3           # a netlink message of no interest here

cdef enum SkbInfo:              # NFQA_SKB_* in NFQA_SKB_INFO
    SKB_CSUMNOTREADY = 1 << 0   # left to the hardware: valid as far as this machine goes
    SKB_GSO = 1 << 1
    SKB_CSUM_NOTVERIFIED = 1 << 2

cdef enum:
    VERDICT_MAX_BYTES = 40      # the longest message that put_verdict() writes

cdef struct QueuedPacket:
    uint8_t has_id
    uint8_t hook                # HookNumber
    uint8_t skb_info            # SkbInfo bits
    uint32_t id                 # host byte order
    uint32_t mark
    uint32_t indev              # interface indices; 0: none
    uint32_t outdev
    const uint8_t *hardware     # the sender's Ethernet address, 6 bytes; NULL: not told
    uint32_t uid                # of the sending socket, if has_owner
    uint32_t gid
    uint8_t has_owner
    const uint8_t *payload      # from the IP header on; points into the message
    uint32_t captured           # bytes at payload
    uint32_t length             # bytes of the packet before the kernel cut the copy
    int32_t error               # MESSAGE_ERROR: errno, positive

cdef int read_message(const uint8_t *data, uint32_t length, QueuedPacket *packet) noexcept nogil
cdef uint32_t put_verdict(uint8_t *out, uint16_t queue, uint32_t packet_id, uint32_t verdict,
                          const uint32_t *mark) noexcept nogil
cdef uint32_t sound_verdicts(const uint8_t *data, uint32_t length, uint16_t queue, uint32_t *count) noexcept nogil
