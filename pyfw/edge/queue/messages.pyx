# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""nfnetlink_queue's messages, read and written.

May know the layout of linux/netfilter/nfnetlink_queue.h and nothing else: no socket, no clock, no
policy.  Lengths are checked here although the kernel wrote them: a mistake must cost a packet, not
the daemon.
"""
from libc.string cimport memcmp, memcpy, memset

from pyfw.enums cimport HOOK_POSTROUTING, VERDICT_ACCEPT, VERDICT_DROP

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
    uint32_t htonl(uint32_t)
    uint32_t ntohl(uint32_t)

cdef enum:
    NLMSG_HEADER_BYTES = 16
    NFGEN_HEADER_BYTES = 20         # with struct nfgenmsg
    ATTRIBUTE_HEADER_BYTES = 4
    PACKET_HDR_BYTES = 7            # struct nfqnl_msg_packet_hdr, packed
    VERDICT_BYTES = 32
    NLM_F_REQUEST = 1
    NLMSG_ERROR = 2
    NLA_TYPE_MASK = 0x3FFF
    NFQNL_MSG_PACKET = 3 << 8       # NFNL_SUBSYS_QUEUE << 8 | number
    NFQNL_MSG_VERDICT = 3 << 8 | 1
    NFQA_PACKET_HDR = 1
    NFQA_VERDICT_HDR = 2
    NFQA_MARK = 3
    NFQA_IFINDEX_INDEV = 5
    NFQA_IFINDEX_OUTDEV = 6
    NFQA_HWADDR = 9
    NFQA_PAYLOAD = 10
    NFQA_CAP_LEN = 13
    NFQA_SKB_INFO = 14
    NFQA_UID = 16
    NFQA_GID = 17
    HARDWARE_BYTES = 10             # of struct nfqnl_msg_packet_hw: length, padding, an Ethernet address
    ETHERNET_BYTES = 6


cdef inline uint16_t load16(const uint8_t *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t load32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline void store16(uint8_t *at, uint16_t value) noexcept nogil:
    memcpy(at, &value, 2)


cdef inline void store32(uint8_t *at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef int read_message(const uint8_t *data, uint32_t length, QueuedPacket *packet) noexcept nogil:
    """Read one netlink datagram of `length` readable bytes; returns a MessageKind.

    `packet` is valid as far as the kind says: all of it but `error` for MESSAGE_PACKET.
    """
    cdef uint32_t message_length
    cdef uint16_t message_type
    memset(packet, 0, sizeof(QueuedPacket))
    if length < NLMSG_HEADER_BYTES:
        return MESSAGE_MALFORMED
    message_length = load32(data)
    message_type = load16(data + 4)
    if message_type == NLMSG_ERROR:
        return read_error(data, length, packet)
    if message_type != NFQNL_MSG_PACKET:
        return MESSAGE_OTHER
    if message_length < NFGEN_HEADER_BYTES:
        return MESSAGE_MALFORMED
    if message_length <= length:
        return read_attributes(data, message_length, packet)
    read_attributes(data, length, packet)       # cut off: worth reading for the id only
    return MESSAGE_MALFORMED


cdef int read_error(const uint8_t *data, uint32_t length, QueuedPacket *packet) noexcept nogil:
    cdef int32_t error
    if length < NLMSG_HEADER_BYTES + 4:
        return MESSAGE_MALFORMED
    memcpy(&error, data + NLMSG_HEADER_BYTES, 4)
    if error == 0:
        return MESSAGE_OTHER                    # an acknowledgement
    packet.error = -error if -4096 < error < 0 else 1
    return MESSAGE_ERROR


cdef int read_attributes(const uint8_t *data, uint32_t length, QueuedPacket *packet) noexcept nogil:
    cdef uint32_t at = NFGEN_HEADER_BYTES
    cdef uint32_t size, room, value_size
    cdef const uint8_t *value
    cdef int kind
    while at + ATTRIBUTE_HEADER_BYTES <= length:
        room = length - at
        size = load16(data + at)
        if size < ATTRIBUTE_HEADER_BYTES or size > room:
            return MESSAGE_MALFORMED
        kind = load16(data + at + 2) & NLA_TYPE_MASK
        value = data + at + ATTRIBUTE_HEADER_BYTES
        value_size = size - ATTRIBUTE_HEADER_BYTES
        at += (size + 3) & ~<uint32_t>3
        if kind == NFQA_PAYLOAD:
            packet.payload = value
            packet.captured = value_size
        elif value_size < 4:
            return MESSAGE_MALFORMED            # no attribute read below is shorter
        elif kind == NFQA_PACKET_HDR:
            if value_size < PACKET_HDR_BYTES:
                return MESSAGE_MALFORMED
            packet.has_id = 1
            packet.id = ntohl(load32(value))
            packet.hook = value[6]
        elif kind == NFQA_MARK:
            packet.mark = ntohl(load32(value))
        elif kind == NFQA_IFINDEX_INDEV:
            packet.indev = ntohl(load32(value))
        elif kind == NFQA_IFINDEX_OUTDEV:
            packet.outdev = ntohl(load32(value))
        elif kind == NFQA_HWADDR:
            if value_size >= HARDWARE_BYTES and value[0] == 0 and value[1] == ETHERNET_BYTES:
                packet.hardware = value + 4
        elif kind == NFQA_UID:
            packet.uid = ntohl(load32(value))
            packet.has_owner = 1
        elif kind == NFQA_GID:
            packet.gid = ntohl(load32(value))
        elif kind == NFQA_SKB_INFO:
            packet.skb_info = <uint8_t>ntohl(load32(value))
        elif kind == NFQA_CAP_LEN:
            packet.length = ntohl(load32(value))
    if not packet.has_id or packet.payload is NULL or packet.hook > HOOK_POSTROUTING:
        return MESSAGE_MALFORMED
    if packet.length < packet.captured:
        packet.length = packet.captured
    return MESSAGE_PACKET


cdef uint32_t put_verdict(uint8_t *out, uint16_t queue, uint32_t packet_id, uint32_t verdict,
                          const uint32_t *mark) noexcept nogil:
    """Write one verdict message (no acknowledgement asked for) and return its bytes.

    `mark`: the packet's new mark; NULL leaves the one it has.
    """
    cdef uint32_t length = VERDICT_BYTES
    memset(out, 0, VERDICT_BYTES)
    store16(out + 4, NFQNL_MSG_VERDICT)
    store16(out + 6, NLM_F_REQUEST)
    store16(out + 18, htons(queue))
    store16(out + 20, 12)
    store16(out + 22, NFQA_VERDICT_HDR)
    store32(out + 24, htonl(verdict))
    store32(out + 28, htonl(packet_id))
    if mark is not NULL:
        store16(out + 32, 8)
        store16(out + 34, NFQA_MARK)
        store32(out + 36, htonl(mark[0]))
        length = VERDICT_MAX_BYTES
    store32(out, length)
    return length


cdef uint32_t sound_verdicts(const uint8_t *data, uint32_t length, uint16_t queue, uint32_t *count) noexcept nogil:
    """How many of these bytes, from the first on, are verdicts on packets of `queue` as put_verdict() writes them, `count` in all.

    The rest is not to be sent: the kernel would take it for whatever else root may tell it.
    """
    cdef uint8_t again[VERDICT_MAX_BYTES]
    cdef uint32_t at = 0, size, verdict, mark = 0
    count[0] = 0
    while length - at >= VERDICT_BYTES:
        size = load32(data + at)
        verdict = ntohl(load32(data + at + 24))
        if size > length - at or verdict != VERDICT_ACCEPT and verdict != VERDICT_DROP:
            break
        if size == VERDICT_MAX_BYTES:
            mark = ntohl(load32(data + at + 36))
        if (size != put_verdict(again, queue, ntohl(load32(data + at + 28)), verdict, &mark if size == VERDICT_MAX_BYTES else NULL)
                or memcmp(again, data + at, size) != 0):
            break
        count[0] += 1
        at += size
    return at


KINDS = {MESSAGE_PACKET: "packet", MESSAGE_ERROR: "error",
         MESSAGE_MALFORMED: "malformed", MESSAGE_OTHER: "other"}


def describe_message(bytes message not None) -> dict:
    """What read_message() makes of `message`, for tests and for people: kind, and the fields that kind has."""
    cdef QueuedPacket packet
    cdef int kind = read_message(message, <uint32_t>len(message), &packet)
    described = {"kind": KINDS[kind]}
    if kind == MESSAGE_ERROR:
        described["error"] = packet.error
    if packet.has_id:
        described["id"] = packet.id
    if kind == MESSAGE_PACKET:
        described.update(hook=packet.hook, skb_info=packet.skb_info, mark=packet.mark,
                         indev=packet.indev, outdev=packet.outdev, length=packet.length,
                         payload=<bytes>packet.payload[:packet.captured])
    return described


def verdict_message(queue: int, packet_id: int, verdict: int, mark: int | None = None) -> bytes:
    """The bytes of one verdict message."""
    cdef uint8_t out[VERDICT_MAX_BYTES]
    cdef uint32_t new_mark = 0 if mark is None else mark
    cdef uint32_t length = put_verdict(out, queue, packet_id, verdict, NULL if mark is None else &new_mark)
    return <bytes>out[:length]


def sound_verdict_bytes(data: bytes, queue: int) -> tuple[int, int]:
    """How many bytes of `data` a successor would send again for `queue`, and how many verdicts they are."""
    cdef uint32_t count
    cdef uint32_t size = sound_verdicts(data, <uint32_t>len(data), queue, &count)
    return size, count
