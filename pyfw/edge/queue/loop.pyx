# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: libraries = netfilter_queue
"""The queue loop: one thread that takes packets from NFQUEUE in batches, has them judged, and answers.

May know: the netlink socket, nfnetlink_queue's messages, interface names, the clock.  Must not know: what a
connection or a rule is.

NetfilterQueue opens the socket and binds the queue; nothing else of it is used, because its run() takes one packet
per system call and loses those over 4,000 bytes.  From recvmmsg to send the loop holds no GIL and allocates nothing.
Nothing that the kernel sends ends it: whatever goes wrong is counted.

A queue outlives its reader as long as a process keeps its socket: packets wait in the kernel.  Those that the reader had
in hand when it died would wait for ever.  So the loop writes each verdict to memory that outlives it before it sends
any, and the number up to which all is done.  A successor sends those verdicts again, which does no harm.  It drops the
packets that were received and have no verdict: their numbers never come again.  It checks that memory: damage costs
the packets that were in hand.  The loop receives no packet before the verdicts on the former ones are sent.
"""
import os
from collections.abc import Mapping
from typing import Any

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOENT, errno
from libc.string cimport memset
from netfilterqueue._impl cimport nfq_q_handle, nfq_set_mode

from pyfw.edge.queue.latency cimport latency_counters, observe
from pyfw.edge.queue.link_names cimport NO_LINK, find_link, free_link_names, hand_over_names, learn_link, take_new_names
from pyfw.edge.queue.messages cimport (MESSAGE_ERROR, MESSAGE_MALFORMED, MESSAGE_PACKET, SKB_CSUM_NOTVERIFIED, VERDICT_MAX_BYTES,
                                       QueuedPacket, put_verdict, read_message, sound_verdicts)
from pyfw.edge.queue.rings cimport BATCH, Held, HeldPacket, Rings, free_rings, mmsghdr, new_rings
from pyfw.engine.judgement cimport CJudgement
from pyfw.enums cimport DIR_ORIGINAL, DIR_REPLY, HOOK_OUTPUT, VERDICT_ACCEPT, VERDICT_DROP
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, CHECKSUM_VERIFY, FAMILY_IPV4, Packet

from pyfw.edge.queue import socket as queue_socket
from pyfw.edge.queue.sequence_offsets import SequenceOffsets
from pyfw.edge.queue.socket import QueueError
from pyfw.edge.queue_counters import read_kernel_counters

cdef extern from "<libnetfilter_queue/libnetfilter_queue.h>":
    int nfq_set_queue_flags(nfq_q_handle *, uint32_t mask, uint32_t flags)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int nanosleep(const timespec *, timespec *)
    int CLOCK_MONOTONIC

cdef extern from "<sys/socket.h>" nogil:
    int recvmmsg(int, mmsghdr *, unsigned int, int, timespec *)
    ssize_t send(int, const void *, size_t, int)
    int MSG_WAITFORONE

cdef extern from *:
    """
    static void pyfw_publish(uint32_t *place, uint32_t value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }
    """
    void pyfw_publish(uint32_t *, uint32_t) nogil       # after all that was written before, for who reads on when we are dead

cdef enum:
    COPY_RANGE = 0xFFFF
    NFQNL_COPY_NONE = 0
    NFQNL_COPY_PACKET = 2
    NFQA_CFG_F_FAIL_OPEN = 1 << 0
    NFQA_CFG_F_GSO = 1 << 2
    NFQA_CFG_F_UID_GID = 1 << 3
    WAKEUP_MS = 100             # how long stop() may take to be noticed
    IN_HAND_VERSION = 1
    FARTHEST_ORPHAN = 0xFFFF    # no queue is longer

IN_HAND_BYTES = sizeof(InHand)


# -- the loop -----------------------------------------------------------------------------------------------------

cdef class QueueLoop:
    """Bind NFQUEUE number `number` of the calling thread's network namespace to `engine`.

    length      packets that may wait for a verdict; more are dropped, or with fail_open accepted
    mark        fwmark of the packets that pyfw itself sends
    links       {index: name} of the interfaces, as set_links() takes it
    memory      IN_HAND_BYTES that outlive the process and that a successor gets; None: it will have none
    descriptor  the netlink socket of a predecessor, which owns the queue; its packets wait there.  The caller's to close.

    Raises QueueError when the queue cannot be had.
    """

    def __cinit__(self):
        self.descriptor = -1

    def __init__(self, Engine engine not None, *, number: int, mark: int, length: int = 8192,
                 fail_open: bool = False, links: Mapping[int, str] | None = None, memory=None,
                 descriptor: int | None = None):
        self.engine = engine
        self.number = number
        self.set_links(links or {})
        self.rings = new_rings()
        self.rejecter = open_rejecter(mark)
        self.offsets = SequenceOffsets()
        self.memory = bytearray(IN_HAND_BYTES) if memory is None else memory
        self.hand = in_hand(self.memory)
        if descriptor is None:
            memset(self.hand, 0, sizeof(InHand))
            self.open_queue(length, fail_open)
        else:
            self.take_over(descriptor, length, fail_open)
        self.hand.version, self.hand.queue = IN_HAND_VERSION, self.number

    def __dealloc__(self):
        free_rings(self.rings)
        free_link_names(self.links.names)
        free_link_names(self.links.new_names)

    def open_queue(self, length: int, fail_open: bool) -> None:
        try:
            self.queue = NetfilterQueue()
        except OSError:
            raise QueueError(f"NFQUEUE cannot be opened: {queue_socket.why_not_opened()}") from None
        try:
            # Nothing is delivered while the copy mode is NONE: no packet meets the library's own reader.
            self.queue.bind(self.number, drop_stray, max_len=length, mode=NFQNL_COPY_NONE, range=0,
                            sock_len=queue_socket.receive_buffer_bytes(length))
        except OSError:
            raise QueueError(queue_socket.why_not_bound(self.number)) from None
        set_queue_flag(self, NFQA_CFG_F_GSO, "GSO (Linux 3.10)")
        set_queue_flag(self, NFQA_CFG_F_UID_GID, "UID_GID (Linux 3.14)")
        if fail_open:
            set_queue_flag(self, NFQA_CFG_F_FAIL_OPEN, "FAIL_OPEN (Linux 3.6)")
        self.descriptor = os.dup(self.queue.get_fd())
        queue_socket.set_options(self.descriptor, length, WAKEUP_MS)
        if nfq_set_mode(self.queue.qh, NFQNL_COPY_PACKET, COPY_RANGE) < 0:
            raise QueueError(f"NFQUEUE {self.number}: the kernel refused to copy packets ({os.strerror(errno)})")

    def take_over(self, descriptor: int, length: int, fail_open: bool) -> None:
        """Read on where a predecessor left off, with this daemon's settings."""
        cdef uint32_t flags = NFQA_CFG_F_GSO | NFQA_CFG_F_UID_GID | NFQA_CFG_F_FAIL_OPEN
        counters = read_kernel_counters(self.number)
        if counters is None or counters.portid != queue_socket.port_of(descriptor):
            raise QueueError(f"the socket that was handed over does not own NFQUEUE {self.number}")
        self.descriptor = os.dup(descriptor)
        queue_socket.set_options(descriptor, length, WAKEUP_MS)
        os.write(descriptor, queue_socket.settings_message(
            self.number, length, flags if fail_open else flags & ~<uint32_t>NFQA_CFG_F_FAIL_OPEN, flags))
        self.pick_up(counters.id_sequence)

    def take_back(self) -> None:
        """Go on with a queue that a successor had, and is gone.  Not while run() is under way."""
        counters = read_kernel_counters(self.number)
        if counters is not None:
            self.pick_up(counters.id_sequence)

    def pick_up(self, id_sequence: int) -> None:
        """Settle first the packets up to this number that the queue's former reader left in hand."""
        cdef InHand *hand = self.hand
        cdef uint32_t verdicts
        self.orphaned = hand.version == IN_HAND_VERSION and hand.queue == <uint32_t>self.number
        if not self.orphaned:
            memset(hand, 0, sizeof(InHand))         # what was in hand is not known
        self.unsent = sound_verdicts(hand.verdicts, min(hand.verdict_bytes, <uint32_t>sizeof(hand.verdicts)),
                                     <uint16_t>self.number, &verdicts)
        pyfw_publish(&hand.verdict_bytes, self.unsent)
        self.counted.verdicts_resent += verdicts
        self.newest_id = hand.finished_id
        self.numbered = False
        self.last_queued = id_sequence

    def close(self) -> None:
        """Give the queue back: the kernel drops what still waits in it.  Not while run() is under way."""
        if self.queue is not None:
            self.queue.unbind()
            self.queue = None
        self.leave()

    def hand_on(self) -> None:
        """Let go of the queue for a successor, who has its socket.  Not while run() is under way."""
        if self.queue is not None:
            Py_INCREF(self.queue)       # the library would unbind it when it goes
            self.queue = None
        self.leave()

    def leave(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.rejecter.close()
            self.offsets.close()

    def fileno(self) -> int:
        """The netlink socket; -1 when closed."""
        return self.descriptor

    def set_links(self, links: Mapping[int, str]) -> None:
        """Replace the names of the interfaces, from one batch to the next.  Any thread."""
        hand_over_names(&self.links, links)

    def run(self) -> None:
        """Judge packets until stop() is called."""
        if self.descriptor < 0:
            raise QueueError(f"NFQUEUE {self.number} is closed")
        while not self.stopping:
            with nogil:
                serve(self)
            PyErr_CheckSignals()

    def stop(self) -> None:
        """Have run() return within 100 ms.  Any thread."""
        self.stopping = True

    def resume(self) -> None:
        """Let run() be called again."""
        self.stopping = False

    def drained(self, id_sequence: int) -> bool:
        """Whether every packet that the kernel has numbered up to id_sequence (edge.queue_counters) has its verdict.

        Stays False where the last packets before it were lost on their way here: then the kernel has none queued.
        """
        return id_sequence == 0 or (self.numbered and not self.unsent
                                    and serial_distance(id_sequence, self.hand.finished_id) >= 0)

    @property
    def alive(self) -> int:
        """Grows at least every 100 ms while run() works."""
        return self.counted.wakeups

    @property
    def last_id(self) -> int:
        return self.hand.finished_id

    def counters(self) -> dict[str, int]:
        counters = dict(self.counted)
        counters.update(rejects_sent=self.rejecter.sent, rejects_suppressed=self.rejecter.suppressed,
                        rejects_failed=self.rejecter.failed)
        return counters

    def latency_counters(self) -> dict[str, Any]:
        """How long verdicts took (latency.pyx): not the time that packets waited in the queue."""
        return latency_counters(&self.latency)


cdef inline int serial_distance(uint32_t start, uint32_t end) noexcept nogil:
    """From start to end in a numbering that wraps at 2^32 (RFC 1982)."""
    return <int>(end - start)


cdef void serve(QueueLoop loop) noexcept nogil:
    """Batch after batch, until stop() or a signal that Python must see."""
    cdef Rings *rings = loop.rings
    cdef int received
    while not loop.stopping:
        if loop.unsent:                     # of those who had the queue before, or had to stop while sending failed
            loop.verdict_count = 0
            send_verdicts(loop, 0)
            continue
        received = recvmmsg(loop.descriptor, rings.received, BATCH, MSG_WAITFORONE, NULL)
        loop.counted.wakeups += 1
        if loop.orphaned and (received > 0 or errno == EAGAIN) and not drop_orphans(loop, rings, max(received, 0)):
            return
        if received > 0:
            serve_batch(loop, rings, received)
        elif errno == EINTR:
            return
        elif errno == ENOBUFS:
            loop.counted.enobufs += 1
        elif errno != EAGAIN:
            loop.counted.receive_errors += 1
            pause_1ms()


cdef void serve_batch(QueueLoop loop, Rings *rings, uint32_t received) noexcept nogil:
    cdef uint64_t now_ns = monotonic_ns()
    cdef uint32_t i, announced
    take_new_names(&loop.links)
    loop.verdict_count = 0
    rings.to_inspect.count = 0
    rings.to_reject.count = 0
    loop.engine.lock()
    for i in range(received):
        serve_message(loop, rings, <uint8_t *>rings.parts[i].iov_base, rings.received[i].msg_len, now_ns)
    loop.engine.unlock()
    send_verdicts(loop, now_ns)
    for i in range(rings.to_reject.count):
        reject_packet(loop, &rings.to_reject.packets[i], now_ns)
    if rings.to_inspect.count:
        announced = inspect_packets(loop, rings, now_ns)
        send_verdicts(loop, now_ns)
        if announced:
            learn_offsets(loop, rings)
    pyfw_publish(&loop.hand.finished_id, loop.newest_id)
    loop.counted.batches += 1


cdef inline void serve_message(QueueLoop loop, Rings *rings, const uint8_t *message, uint32_t length,
                               uint64_t now_ns) noexcept nogil:
    cdef QueuedPacket queued
    cdef int kind = read_message(message, length, &queued)
    if kind == MESSAGE_PACKET:
        note_id(loop, queued.id)
        judge(loop, rings, &queued, now_ns)
    elif kind == MESSAGE_ERROR:
        if queued.error == ENOENT:
            loop.counted.verdict_gone += 1
        else:
            loop.counted.verdict_errors += 1
    elif kind == MESSAGE_MALFORMED:
        loop.counted.malformed += 1
        if queued.has_id:
            note_id(loop, queued.id)
            add_verdict(loop, queued.id, VERDICT_DROP, NULL)


cdef inline void note_id(QueueLoop loop, uint32_t packet_id) noexcept nogil:
    cdef int step = serial_distance(loop.newest_id, packet_id)
    if loop.numbered and step > 1:
        loop.counted.id_gaps += step - 1
    loop.newest_id = packet_id
    loop.numbered = True
    loop.counted.packets += 1


cdef inline void judge(QueueLoop loop, Rings *rings, const QueuedPacket *queued, uint64_t now_ns) noexcept nogil:
    cdef Packet packet
    cdef CJudgement judgement
    packet.data = queued.payload
    packet.captured = queued.captured
    packet.on_wire = queued.length
    packet.mark = queued.mark
    packet.hook = queued.hook
    packet.untouched = False
    packet.hardware = queued.hardware
    packet.uid = queued.uid
    packet.gid = queued.gid
    packet.has_owner = queued.has_owner
    packet.checksum = CHECKSUM_TRUSTED
    if queued.skb_info & SKB_CSUM_NOTVERIFIED and queued.hook != HOOK_OUTPUT:
        packet.checksum = CHECKSUM_VERIFY
    packet.indev = link_name(loop, queued.indev)
    packet.outdev = link_name(loop, queued.outdev)
    loop.engine.judge_packet(&packet, now_ns, &judgement)
    if judgement.inspect:
        if hold(loop, &rings.to_inspect, &packet, &judgement, queued):
            return
        judgement.verdict = VERDICT_DROP
    elif judgement.reject and judgement.verdict == VERDICT_DROP:
        hold(loop, &rings.to_reject, &packet, &judgement, queued)
    give_verdict(loop, &judgement, queued.id, queued.mark)


cdef inline void give_verdict(QueueLoop loop, const CJudgement *judgement, uint32_t packet_id,
                              uint32_t mark) noexcept nogil:
    """The mark goes along only when it changed: setting it makes the kernel route a local packet anew."""
    cdef bint accepted = judgement.verdict == VERDICT_ACCEPT
    add_verdict(loop, packet_id, VERDICT_ACCEPT if accepted else VERDICT_DROP,
                &judgement.mark if accepted and judgement.mark != mark else NULL)


cdef inline void add_verdict(QueueLoop loop, uint32_t packet_id, uint32_t verdict,
                             const uint32_t *mark) noexcept nogil:
    if loop.unsent > sizeof(loop.hand.verdicts) - VERDICT_MAX_BYTES:
        loop.counted.internal += 1
        return
    loop.unsent += put_verdict(loop.hand.verdicts + loop.unsent, <uint16_t>loop.number, packet_id, verdict, mark)
    pyfw_publish(&loop.hand.verdict_bytes, loop.unsent)
    loop.verdict_count += 1


cdef bint hold(QueueLoop loop, Held *held, const Packet *packet, const CJudgement *judgement, const QueuedPacket *queued) noexcept nogil:
    cdef HeldPacket *place
    if held.count >= BATCH:
        loop.counted.internal += 1
        return False
    place = &held.packets[held.count]
    place.packet = packet[0]
    place.judgement = judgement[0]
    place.id = queued.id
    place.mark = queued.mark
    place.indev = queued.indev
    held.count += 1
    return True


cdef void reject_packet(QueueLoop loop, HeldPacket *held, uint64_t now_ns) noexcept nogil:
    loop.rejecter.answer(&held.packet, held.judgement.reject, held.indev, now_ns)


cdef uint32_t inspect_packets(QueueLoop loop, Rings *rings, uint64_t now_ns) noexcept with gil:
    """Hand the held packets to their helpers, in the order they came, and write their verdicts.  Returns how many announced."""
    cdef HeldPacket *held
    cdef uint32_t i, announced = 0
    for i in range(rings.to_inspect.count):
        held = &rings.to_inspect.packets[i]
        loop.engine.inspect_packet(&held.packet, now_ns, &held.judgement)
        loop.counted.helper_inspections += 1
        announced += held.judgement.announced
        give_verdict(loop, &held.judgement, held.id, held.mark)
    return announced


cdef void learn_offsets(QueueLoop loop, Rings *rings) noexcept with gil:
    """What NAT has done to the announcements that were sent on a moment ago (edge.queue.sequence_offsets)."""
    cdef HeldPacket *held
    cdef Packet *packet
    cdef int32_t[2] offsets
    cdef uint32_t i
    cdef int width
    for i in range(rings.to_inspect.count):
        held = &rings.to_inspect.packets[i]
        packet = &held.packet
        if held.judgement.announced and held.judgement.verdict == VERDICT_ACCEPT:
            width = 4 if packet.family == FAMILY_IPV4 else 16
            sides = [((<const char *> packet.src.bytes)[:width], packet.sport), ((<const char *> packet.dst.bytes)[:width], packet.dport)]
            if held.judgement.direction == DIR_REPLY:
                sides.reverse()
            answer = loop.offsets.ask(packet.protocol, *sides)
            if answer is not None:
                offsets[DIR_ORIGINAL], offsets[DIR_REPLY] = answer
                with nogil:
                    loop.engine.translate(&held.judgement, offsets)
                loop.counted.offsets_learnt += offsets[DIR_ORIGINAL] != 0 or offsets[DIR_REPLY] != 0


cdef void send_verdicts(QueueLoop loop, uint64_t received_ns) noexcept nogil:
    """All verdicts in one send.  Until the kernel takes them the packets wait: a failure is tried again, until stop()."""
    while loop.unsent:
        if send(loop.descriptor, loop.hand.verdicts, loop.unsent, 0) >= 0:
            observe(&loop.latency, monotonic_ns() - received_ns, loop.verdict_count)
            loop.unsent = loop.verdict_count = 0
            pyfw_publish(&loop.hand.verdict_bytes, 0)
        elif errno != EINTR:
            loop.counted.send_errors += 1
            if loop.stopping:
                return
            pause_1ms()


cdef bint drop_orphans(QueueLoop loop, Rings *rings, int received) noexcept nogil:
    """Drop what a predecessor had received and not judged: what lies between its last verdict and the first packet
    that comes, or the last one that the kernel had queued if none comes.

    False: stopped while sending failed.  Then the packets that were received are orphans, too.
    """
    cdef QueuedPacket queued
    cdef uint32_t packet_id = loop.hand.finished_id + 1, end = loop.last_queued + 1, i
    cdef bint numbered = received == 0
    for i in range(<uint32_t>received):
        read_message(<uint8_t *>rings.parts[i].iov_base, rings.received[i].msg_len, &queued)
        if queued.has_id:
            if not numbered:
                end = queued.id
            numbered = True
            loop.last_queued = queued.id
    if not numbered:
        return True                         # the kernel's answers to verdicts that were sent twice
    if not 0 < serial_distance(packet_id, end) <= FARTHEST_ORPHAN:
        packet_id = end
    while packet_id != end:
        add_verdict(loop, packet_id, VERDICT_DROP, NULL)
        loop.counted.orphans_dropped += 1
        packet_id += 1
        if packet_id == end or loop.unsent > sizeof(loop.hand.verdicts) - VERDICT_MAX_BYTES:
            loop.verdict_count = 0          # how long they have waited is not known
            send_verdicts(loop, 0)
            if loop.unsent:
                pyfw_publish(&loop.hand.finished_id, packet_id - 1)
                return False
    loop.orphaned = False
    return True


cdef inline const char *link_name(QueueLoop loop, uint32_t index) noexcept nogil:
    """The name of an interface; the kernel is asked for one that set_links() has not told of yet."""
    cdef const char *name = find_link(loop.links.names, index)
    if name is NULL:
        name = learn_link(loop.links.names, index)
        if name is NULL:
            loop.counted.unknown_links += 1
            name = NO_LINK
    return name


cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef void pause_1ms() noexcept nogil:
    cdef timespec pause
    pause.tv_sec = 0
    pause.tv_nsec = 1000000
    nanosleep(&pause, NULL)


# -- setting up ---------------------------------------------------------------------------------------------------

cdef set_queue_flag(QueueLoop loop, uint32_t flag, str name):
    if nfq_set_queue_flags(loop.queue.qh, flag, flag) < 0:
        raise QueueError(f"NFQUEUE {loop.number}: this kernel does not know the queue flag {name}")


cdef InHand *in_hand(memory) except NULL:
    cdef uint8_t[::1] view = memory
    if <size_t>view.shape[0] < sizeof(InHand):
        raise ValueError(f"{IN_HAND_BYTES} bytes of memory are needed, not {view.shape[0]}")
    return <InHand *>&view[0]


def drop_stray(packet) -> None:
    """A packet that came while NetfilterQueue waited for the kernel's answer to the last step of binding."""
    packet.drop()


def open_rejecter(mark: int) -> Rejecter:
    try:
        return Rejecter(mark)
    except PermissionError:
        raise QueueError("raw sockets cannot be opened: run as root (CAP_NET_ADMIN and CAP_NET_RAW)") from None
