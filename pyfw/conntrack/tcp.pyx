# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP: one look into the transition table, then the windows.

May know: its own track in the Conn, the packet, the settings.  Must not know: the table, rules, other protocols.

Everything that changes a TCP track is in this file; what a segment says is read in tcp_segment.pyx.
Facts: RFC 9293, 7323 (window scale), 2018 (SACK), 5961 (challenge ACK); G. van Rooij, "Real stateful TCP packet
filtering in IP Filter" (2000); behaviour and names of Linux nf_conntrack_proto_tcp.
"""
from libc.stdint cimport INT16_MAX, INT16_MIN, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from pyfw.conntrack import tcp_states
from pyfw.conntrack.conn cimport CONN_ASSURED, CONN_SEEN_REPLY, Conn, TcpPeer, TcpTrack
from pyfw.conntrack.protocol cimport (ACTION_INVALID, ACTION_KILL, ACTION_PASS, ACTION_RENEW, ACTION_REOPEN, TIMEOUT_TCP,
                                      TIMEOUT_TCP_CLOSE, TIMEOUT_TCP_MAX_RETRANS, TIMEOUT_TCP_UNACKNOWLEDGED, Settings,
                                      TrackerAnswer)
from pyfw.conntrack.tcp_segment cimport (CLASSES, CLASS_ACK, CLASS_FIN, CLASS_NONE, CLASS_RST, CLASS_SYN, CLASS_SYNACK,
                                         PEER_CLOSED, PEER_LIBERAL, PEER_MAXACK, PEER_RELEARNT, PEER_SACK, PEER_SCALE,
                                         PEER_UNACKED, Segment, after, before, read_sack, read_segment, read_syn_options)
from pyfw.enums cimport (DIR_ORIGINAL, DIR_REPLY, REASON_NONE, REASON_TCP_ACK_OVER, REASON_TCP_ACK_UNDER,
                         REASON_TCP_CHALLENGE_ACK, REASON_TCP_IGNORED, REASON_TCP_NEW, REASON_TCP_OVERSHOT, REASON_TCP_RST,
                         REASON_TCP_SEQ_OVER, REASON_TCP_SEQ_UNDER, REASON_TCP_STATE, TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT,
                         TCP_IGNORE, TCP_INVALID, TCP_LAST_ACK, TCP_NONE, TCP_STATES, TCP_SYN_RECV, TCP_SYN_SENT, TCP_SYN_SENT2,
                         TCP_TIME_WAIT)
from pyfw.wire.packet cimport TH_ACK, TH_RST, TH_SYN, Packet

from pyfw.enums import TcpState

cdef enum LastFlag:             # TcpTrack.last_flags, with the PEER_SCALE and PEER_SACK of a SYN we ignored
    LAST_CHALLENGE = 0x40       # it may draw a challenge ACK (RFC 5961, 4)
    LAST_SIMULTANEOUS = 0x80    # both sides sent a SYN

cdef enum:
    ACK_WINDOW = 66000          # MAXACKWINCONST: an ACK may be this much too old
    SHORTENED_AFTER_S = 120

cdef enum Position:             # where a segment lies, seen from the windows
    IN_WINDOW
    IGNORED
    OUT_OF_WINDOW

cdef enum RstBelief:            # how far an RST is believed
    RST_UNKNOWN                 # no sequence number to compare with
    RST_EXACT                   # it comes from the real end
    RST_INEXACT                 # it may: pass it and keep the state
    RST_FORGED

cdef uint8_t[2][CLASSES][TCP_STATES] TRANSITION


cdef void load_transitions():
    cdef int d, c, s
    for d, rows in enumerate((tcp_states.ORIGINAL, tcp_states.REPLY)):
        for packet_class, before_state, result, _ in tcp_states.cells(rows):
            c = tcp_states.CLASSES.index(packet_class)
            s = TcpState[before_state]
            TRANSITION[d][c][s] = TcpState[result]


load_transitions()


# -- the first packet ----------------------------------------------------------------------------------------------

cdef bint tcp_open(Conn *conn, const Packet *packet, const Settings *settings, TrackerAnswer *answer) noexcept nogil:
    """Prepare the track of a connection that begins with this packet; False (and answer.reason) if none may."""
    cdef TcpTrack *track = &conn.track.tcp
    cdef TcpPeer *sender = &track.peer[DIR_ORIGINAL]
    cdef Segment segment
    cdef uint8_t state
    read_segment(packet, &segment)
    state = TRANSITION[DIR_ORIGINAL][segment.index][TCP_NONE]
    if state == TCP_INVALID or (state != TCP_SYN_SENT and not settings.tcp_loose):
        answer.reason.number = REASON_TCP_NEW
        return False
    memset(track, 0, sizeof(TcpTrack))
    sender.end = segment.end
    sender.maxwin = segment.window if segment.window else 1
    sender.maxend = sender.end
    if state == TCP_SYN_SENT:
        read_syn_options(packet, &sender.scale, &sender.flags)
    else:
        sender.maxend += sender.maxwin
        sender.flags = track.peer[DIR_REPLY].flags = PEER_SACK | PEER_LIBERAL
    track.last_index = CLASS_NONE
    return True


# -- every packet --------------------------------------------------------------------------------------------------

cdef void tcp_update(Conn *conn, uint8_t direction, const Packet *packet, uint64_t now_ns,
                     const Settings *settings, TrackerAnswer *answer) noexcept nogil:
    """Move the track by one packet and say in `answer` what it means for the entry."""
    cdef TcpTrack *track = &conn.track.tcp
    cdef uint8_t old = track.state
    cdef uint8_t new
    cdef RstBelief belief
    cdef Segment segment
    read_segment(packet, &segment)
    if segment.ack:
        segment.ack -= added_behind_us(&track.peer[1 - direction])
        segment.sack = segment.ack
    new = TRANSITION[direction][segment.index][old]

    if new == TCP_SYN_SENT and old >= TCP_TIME_WAIT:
        if may_reopen(track, direction):
            answer.action = ACTION_REOPEN
            return
        new = TCP_IGNORE
    if new == TCP_IGNORE:
        if not answers_ignored_syn(track, direction, &segment):
            ignore(track, direction, packet, &segment, answer)
            return
        resynchronise(track, direction)
        old = TCP_SYN_SENT
        new = TCP_SYN_RECV
    elif new == TCP_INVALID:
        refuse(answer, REASON_TCP_STATE, segment.index, direction, old)
        return
    elif new == TCP_TIME_WAIT and is_challenge_ack(track, direction, old, &segment):
        track.last_flags &= ~<uint8_t> LAST_CHALLENGE
        answer.action = ACTION_PASS
        answer.reason.number = REASON_TCP_CHALLENGE_ACK
        return
    elif new == TCP_SYN_SENT2:
        track.last_flags |= LAST_SIMULTANEOUS
    elif new == TCP_SYN_RECV:
        if direction == DIR_REPLY and segment.index == CLASS_ACK and track.last_flags & LAST_SIMULTANEOUS:
            new = TCP_ESTABLISHED
    elif new == TCP_CLOSE and segment.index == CLASS_RST:
        if TCP_FIN_WAIT <= old <= TCP_CLOSE:    # it is ending anyhow: an RST can do no harm
            finish(conn, direction, old, new, &segment, settings, answer)
            return
        belief = weigh_rst(conn, direction, &segment, settings)
        if belief == RST_FORGED:
            refuse(answer, REASON_TCP_RST, 0, 0, 0)
            return
        if belief == RST_INEXACT:
            new = old
        if belief != RST_EXACT and rst_answers_ignored(conn, direction, &segment):
            finish(conn, direction, old, new, &segment, settings, answer)
            return
    if windows_allow(conn, direction, packet, &segment, now_ns, settings, answer):
        finish(conn, direction, old, new, &segment, settings, answer)


cdef inline void refuse(TrackerAnswer *answer, uint8_t reason, uint32_t a, uint32_t b, uint32_t c) noexcept nogil:
    answer.action = ACTION_INVALID
    answer.reason.number = reason
    answer.reason.argument[0] = a
    answer.reason.argument[1] = b
    answer.reason.argument[2] = c


cdef inline bint may_reopen(const TcpTrack *track, uint8_t direction) noexcept nogil:
    """A SYN on a closed connection: it was closed in order, or this side's last segment was an RST."""
    return ((track.peer[0].flags | track.peer[1].flags) & PEER_CLOSED
            or (track.last_dir == direction and track.last_index == CLASS_RST))


cdef inline bint answers_ignored_syn(const TcpTrack *track, uint8_t direction, const Segment *segment) noexcept nogil:
    return (segment.index == CLASS_SYNACK and track.last_index == CLASS_SYN
            and track.last_dir != direction and segment.ack == track.last_end)


cdef void resynchronise(TcpTrack *track, uint8_t direction) noexcept nogil:
    """Both ends agree on a SYN that we had ignored: they are in step and we were not."""
    cdef TcpPeer *opener = &track.peer[track.last_dir]
    cdef TcpPeer *answerer = &track.peer[direction]
    cdef uint8_t liberal = answerer.flags & PEER_LIBERAL
    opener.end = opener.maxend = track.last_end
    opener.maxwin = track.last_win if track.last_win else 1
    opener.scale = track.last_wscale
    track.last_flags &= ~<uint8_t> LAST_CHALLENGE
    opener.flags = track.last_flags
    memset(answerer, 0, sizeof(TcpPeer))
    answerer.flags = liberal


cdef void ignore(TcpTrack *track, uint8_t direction, const Packet *packet, const Segment *segment,
                 TrackerAnswer *answer) noexcept nogil:
    """Pass a packet that fits our state badly, and remember it: its answer tells who is out of step."""
    track.last_index = segment.index
    track.last_dir = direction
    track.last_seq = segment.seq
    track.last_end = segment.end
    track.last_win = <uint16_t> segment.window
    if segment.index == CLASS_SYN and direction == DIR_ORIGINAL:
        track.last_flags = 0
        track.last_wscale = 0
        read_syn_options(packet, &track.last_wscale, &track.last_flags)
        if track.state == TCP_LAST_ACK:
            track.last_flags |= LAST_CHALLENGE
    if track.state == TCP_SYN_SENT and segment.index == CLASS_ACK and direction == DIR_REPLY:
        track.last_ack = segment.ack            # the RST that follows a challenge ACK bears this number
    refuse(answer, REASON_TCP_IGNORED, segment.index, direction, track.state)
    answer.action = ACTION_PASS


cdef inline bint is_challenge_ack(const TcpTrack *track, uint8_t direction, uint8_t old,
                                  const Segment *segment) noexcept nogil:
    """In LAST_ACK an ACK ends the connection, unless it only challenges a SYN that we let through (RFC 5961, 4)."""
    return (old == TCP_LAST_ACK and segment.index == CLASS_ACK and track.last_dir != direction
            and track.last_index == CLASS_SYN and track.last_flags & LAST_CHALLENGE)


cdef RstBelief weigh_rst(const Conn *conn, uint8_t direction, const Segment *segment, const Settings *settings) noexcept nogil:
    """What an RST's sequence number says about who sent it (RFC 5961, 3)."""
    cdef const TcpTrack *track = &conn.track.tcp
    cdef const TcpPeer *receiver = &track.peer[1 - direction]
    cdef bint established = track.state == TCP_ESTABLISHED and conn.status & CONN_ASSURED
    if receiver.flags & PEER_RELEARNT:
        return RST_INEXACT                      # what it has acknowledged is not known for sure
    if not receiver.flags & PEER_MAXACK or track.last_index == CLASS_SYN:
        return RST_UNKNOWN                      # nothing to go by, or only what was true before that SYN
    if segment.seq == 0 and not established:
        return RST_EXACT                        # answers a SYN that we had let through
    if before(segment.seq, receiver.maxack) and not settings.tcp_ignore_invalid_rst:
        return RST_FORGED
    if not established or segment.seq == receiver.maxack:
        return RST_EXACT
    if track.last_index == CLASS_ACK and track.last_dir == direction and segment.seq == track.last_end:
        return RST_EXACT                        # the end of the train that the sender just sent
    return RST_INEXACT                          # the receiver will challenge it: wait for that


cdef bint rst_answers_ignored(const Conn *conn, uint8_t direction, const Segment *segment) noexcept nogil:
    """An RST that answers a SYN or an ACK which we let through ends the entry, whatever the windows say."""
    cdef const TcpTrack *track = &conn.track.tcp
    if track.last_index == CLASS_SYN:
        return conn.status & CONN_SEEN_REPLY and track.last_dir != direction and segment.ack == track.last_end
    if track.last_index != CLASS_ACK:
        return False
    if not conn.status & CONN_ASSURED and segment.ack == track.last_end:
        return True
    # the client's answer to a challenge ACK: the number that the challenge asked for (RFC 5961, 4)
    return track.state == TCP_SYN_SENT and track.last_dir == DIR_REPLY and segment.seq == track.last_ack


cdef void finish(Conn *conn, uint8_t direction, uint8_t old, uint8_t new, const Segment *segment,
                 const Settings *settings, TrackerAnswer *answer) noexcept nogil:
    """Enter the new state and choose the timeout."""
    cdef TcpTrack *track = &conn.track.tcp
    track.last_index = segment.index
    track.last_dir = direction
    track.state = new
    answer.state_changed = old != new
    if old != new and new == TCP_FIN_WAIT:
        track.peer[direction].flags |= PEER_CLOSED
    answer.action = ACTION_RENEW
    answer.timeout_ns = timeout_of(track, segment.index, settings)
    if not conn.status & CONN_SEEN_REPLY:
        if segment.index == CLASS_RST:
            answer.action = ACTION_KILL         # the only answer is a refusal: there is no connection to remember
        elif segment.index == CLASS_SYN and old == TCP_SYN_SENT:
            answer.action = ACTION_PASS         # else reuse of the port would keep the entry for ever
        elif new == TCP_ESTABLISHED:            # picked up, and not answered
            answer.timeout_ns = min(answer.timeout_ns, settings.timeout_ns[TIMEOUT_TCP_UNACKNOWLEDGED])
    elif (old == TCP_SYN_RECV or old == TCP_ESTABLISHED) and new == TCP_ESTABLISHED:
        conn.status |= CONN_ASSURED


cdef uint64_t timeout_of(const TcpTrack *track, uint8_t index, const Settings *settings) noexcept nogil:
    cdef uint64_t timeout_ns = settings.timeout_ns[TIMEOUT_TCP + track.state]
    cdef uint64_t retrans_ns = settings.timeout_ns[TIMEOUT_TCP_MAX_RETRANS]
    if track.retrans >= settings.tcp_max_retrans and timeout_ns > retrans_ns:
        return retrans_ns
    if index == CLASS_RST:
        return settings.timeout_ns[TIMEOUT_TCP_CLOSE]
    if (track.peer[0].flags | track.peer[1].flags) & PEER_UNACKED:
        if timeout_ns > settings.timeout_ns[TIMEOUT_TCP_UNACKNOWLEDGED]:
            return settings.timeout_ns[TIMEOUT_TCP_UNACKNOWLEDGED]
    if track.last_win == 0 and timeout_ns > retrans_ns:
        return retrans_ns                       # a closed window: the receiver may be gone
    return timeout_ns


# -- NAT behind us, which changes lengths (edge/queue/sequence_offsets.py) ------------------------------------------

cdef void tcp_translate(Conn *conn, uint8_t side, int32_t offset) noexcept nogil:
    """From now on, acknowledgements of what this side sent count so many bytes too many.  Beyond 16 bits no window counts."""
    cdef TcpTrack *track = &conn.track.tcp
    if INT16_MIN <= offset <= INT16_MAX:
        track.peer[side].offset = <int16_t> offset
    else:
        track.peer[0].flags |= PEER_LIBERAL
        track.peer[1].flags |= PEER_LIBERAL


cdef inline uint32_t added_behind_us(const TcpPeer *peer) noexcept nogil:
    return <uint32_t> <int32_t> peer.offset


# -- windows -------------------------------------------------------------------------------------------------------
#
# What may be sent lies between what the receiver has acknowledged and the end of the window it announced:
#
#        sender.end - receiver.maxwin                sender.end        sender.maxend
#   ------------|----------------------------------------|--------------------|------------> seq
#     too old:  |  seen before: retransmissions,         |   new data         |  beyond the window:
#     ignored   |  and everything may be                 |                    |  INVALID, but for an overshot of
#               |                                        |                    |  at most one window: ignored
#
# and an acknowledgement between what may still be under way and what was really sent:
#
#      receiver.end - max(ACK_WINDOW, sender.maxwin)              receiver.end
#   ------------|-------------------------------------------------------|------------------> ack, sack
#     too old:  |                    good                               |  data not seen yet: INVALID
#     ignored

cdef void start_peer(TcpPeer *sender, TcpPeer *receiver, uint8_t direction, const Packet *packet,
                     const Segment *segment) noexcept nogil:
    """Begin with a SYN or SYN/ACK.  Window scaling needs the offer of both (RFC 7323, 2.2)."""
    sender.end = sender.maxend = segment.end
    sender.maxwin = segment.window if segment.window else 1
    read_syn_options(packet, &sender.scale, &sender.flags)
    if direction == DIR_REPLY and not sender.flags & receiver.flags & PEER_SCALE:
        sender.scale = receiver.scale = 0


cdef void guess_peer(TcpPeer *sender, TcpPeer *receiver, const Segment *segment) noexcept nogil:
    """Begin in mid-stream: take the packet's own numbers for the whole truth."""
    cdef uint32_t window = segment.window << sender.scale
    if sender.flags & PEER_RELEARNT and segment.index != CLASS_RST:
        sender.flags &= ~<uint8_t> PEER_MAXACK  # what it has acknowledged may have gone round since
    sender.end = segment.end
    sender.maxwin = window if window else 1
    sender.maxend = segment.end + sender.maxwin
    if receiver.maxwin == 0:
        receiver.end = receiver.maxend = segment.sack
    elif segment.sack == receiver.end + 1:
        receiver.end += 1                       # an answer to a keep-alive


cdef bint meet_sender(TcpTrack *track, uint8_t direction, const Packet *packet, const Segment *segment) noexcept nogil:
    """Bring the sender's numbers up to date with a first segment or a new SYN of its; True: no window to check yet."""
    cdef TcpPeer *sender = &track.peer[direction]
    cdef TcpPeer *receiver = &track.peer[1 - direction]
    cdef bint syn = packet.tcp_flags & TH_SYN != 0
    cdef bint ack = packet.tcp_flags & TH_ACK != 0
    if sender.maxwin == 0:
        if syn:
            start_peer(sender, receiver, direction, packet, segment)
            return not ack                      # simultaneous open
        guess_peer(sender, receiver, segment)
    elif syn and (track.state == TCP_SYN_SENT or track.state == TCP_SYN_RECV) and after(segment.end, sender.end):
        start_peer(sender, receiver, direction, packet, segment)    # begins anew, with higher numbers
        return direction == DIR_REPLY and not ack
    return False


cdef bint windows_allow(Conn *conn, uint8_t direction, const Packet *packet, Segment *segment, uint64_t now_ns,
                        const Settings *settings, TrackerAnswer *answer) noexcept nogil:
    """Check a segment against the windows and move them; False if `answer` says INVALID or PASS instead."""
    cdef TcpTrack *track = &conn.track.tcp
    cdef TcpPeer *sender = &track.peer[direction]
    cdef TcpPeer *receiver = &track.peer[1 - direction]
    cdef Position position
    if receiver.flags & PEER_SACK:
        segment.sack += added_behind_us(receiver)
        read_sack(packet, &segment.sack)
        segment.sack -= added_behind_us(receiver)
    if meet_sender(track, direction, packet, segment):
        return True
    if not packet.tcp_flags & TH_ACK or (packet.tcp_flags & TH_RST and segment.ack == 0):
        segment.ack = segment.sack = receiver.end
    if packet.tcp_flags & TH_RST and segment.seq == 0 and track.state == TCP_SYN_SENT:
        segment.seq = segment.end = sender.end  # refuses a SYN: it had no number to go by
    position = locate(sender, receiver, segment, answer)
    if (sender.flags | receiver.flags) & PEER_RELEARNT:
        position = learn(sender, receiver, segment, position, answer)
    if position == IN_WINDOW:
        move_windows(track, direction, packet, segment)
        return True
    if answer.reason.number == REASON_TCP_OVERSHOT:
        note_overshot(sender, segment)
    if sender.flags & PEER_LIBERAL or settings.tcp_liberal:
        answer.reason.number = REASON_NONE
        return True
    if position == IGNORED:
        answer.action = ACTION_PASS
    else:
        answer.action = ACTION_INVALID
        shorten(conn, direction, segment.index, now_ns, settings)
    return False


cdef Position locate(const TcpPeer *sender, const TcpPeer *receiver, const Segment *segment, TrackerAnswer *answer) noexcept nogil:
    """Where the segment lies in the drawing above; outside the window answer gets the reason and its bound."""
    cdef uint32_t oldest_ack = receiver.end - (sender.maxwin if sender.maxwin > ACK_WINDOW else ACK_WINDOW)
    cdef uint32_t oldest_seq = sender.end - receiver.maxwin
    cdef uint32_t overshot
    if after(segment.seq, sender.maxend):
        overshot = segment.end - sender.maxend + 1
        if (receiver.maxwin and after(segment.end, oldest_seq - 1) and after(segment.sack, oldest_ack - 1)
                and overshot <= receiver.maxwin and not after(segment.sack, receiver.end)):
            answer.reason.number = REASON_TCP_OVERSHOT
            answer.reason.argument[0] = overshot
            return IGNORED
        answer.reason.number = REASON_TCP_SEQ_OVER
        answer.reason.argument[0] = sender.maxend + 1
        return OUT_OF_WINDOW
    if after(segment.sack, receiver.end):
        answer.reason.number = REASON_TCP_ACK_OVER
        answer.reason.argument[0] = receiver.end + 1
        return OUT_OF_WINDOW
    if receiver.maxwin and not after(segment.end, oldest_seq - 1):
        answer.reason.number = REASON_TCP_SEQ_UNDER
        answer.reason.argument[0] = oldest_seq - 1
        return IGNORED
    if not after(segment.sack, oldest_ack - 1):
        answer.reason.number = REASON_TCP_ACK_UNDER
        answer.reason.argument[0] = oldest_ack - 1
        return IGNORED
    return IN_WINDOW


cdef bint tcp_relearn(Conn *conn) noexcept nogil:
    """Let the windows be learnt anew from the next packet of each side: packets may have passed unseen.

    Returns whether there is anything to learn: not before both sides have spoken, nor after the connection's end.  All else
    stays, window scales too.  A hostile side gains the windows of its own connection, and nothing more.
    """
    cdef TcpTrack *track = &conn.track.tcp
    cdef int side
    if not TCP_SYN_RECV <= track.state <= TCP_LAST_ACK:
        return False
    for side in range(2):
        track.peer[side].maxwin = 0
        track.peer[side].flags |= PEER_RELEARNT
    return True


cdef Position learn(TcpPeer *sender, TcpPeer *receiver, const Segment *segment, Position position, TrackerAnswer *answer) noexcept nogil:
    """Where a segment lies if it replaces what is not confirmed of its side; nothing is learnt from an RST.

    The first segment of a side may repeat old data, or be forged: until the other side's acknowledgements go on within what
    was learnt, a segment that does not fit is believed in its turn.
    """
    if segment.index == CLASS_RST:
        return position
    if position == IN_WINDOW:
        if (receiver.maxwin and segment.index == CLASS_ACK and (segment.ack == receiver.end
                or (sender.flags & PEER_MAXACK and after(segment.ack, sender.maxack)))):
            receiver.flags &= ~<uint8_t> PEER_RELEARNT
        return position
    if sender.flags & PEER_RELEARNT:
        guess_peer(sender, receiver, segment)
    if receiver.flags & PEER_RELEARNT:
        receiver.end = receiver.maxend = segment.sack
    answer.reason.number = REASON_NONE
    return locate(sender, receiver, segment, answer)


cdef inline void note_overshot(TcpPeer *sender, const Segment *segment) noexcept nogil:
    """Data beyond the window that the receiver may still take: else its acknowledgement would look forged."""
    sender.end = segment.end
    sender.flags |= PEER_UNACKED


cdef void move_windows(TcpTrack *track, uint8_t direction, const Packet *packet, const Segment *segment) noexcept nogil:
    cdef TcpPeer *sender = &track.peer[direction]
    cdef TcpPeer *receiver = &track.peer[1 - direction]
    cdef uint32_t window = segment.window
    cdef uint32_t reach
    if not packet.tcp_flags & TH_SYN:
        window <<= sender.scale
    reach = window + (segment.sack - segment.ack)
    if sender.maxwin < reach:
        sender.maxwin = reach
    if after(segment.end, sender.end):
        sender.end = segment.end
        sender.flags |= PEER_UNACKED
    if packet.tcp_flags & TH_ACK and (not sender.flags & PEER_MAXACK or after(segment.ack, sender.maxack)):
        sender.maxack = segment.ack
        sender.flags |= PEER_MAXACK
    if receiver.maxwin and after(segment.end, sender.maxend):
        receiver.maxwin += segment.end - sender.maxend
    if after(segment.sack + window, receiver.maxend - 1):
        receiver.maxend = segment.sack + window
        if window == 0:
            receiver.maxend += 1                # a probe of a closed window carries one byte
    if segment.ack == receiver.end:
        receiver.flags &= ~<uint8_t> PEER_UNACKED
    if segment.index == CLASS_ACK:
        count_retransmission(track, direction, segment)


cdef void count_retransmission(TcpTrack *track, uint8_t direction, const Segment *segment) noexcept nogil:
    if (track.last_dir == direction and track.last_seq == segment.seq and track.last_ack == segment.ack
            and track.last_end == segment.end and track.last_win == segment.window):
        if track.retrans < 255:
            track.retrans += 1
        return
    track.last_dir = direction
    track.last_seq = segment.seq
    track.last_ack = segment.ack
    track.last_end = segment.end
    track.last_win = <uint16_t> segment.window
    track.retrans = 0


cdef void shorten(Conn *conn, uint8_t direction, uint8_t index, uint64_t now_ns, const Settings *settings) noexcept nogil:
    """FINs and RSTs outside the window, from one side and then the other: the ends are done, whatever we believe.

    The second brings the timeout of an ASSURED entry down to `unacknowledged`.
    """
    cdef TcpTrack *track = &conn.track.tcp
    cdef uint64_t limit_ns = settings.timeout_ns[TIMEOUT_TCP_UNACKNOWLEDGED]
    if not conn.status & CONN_ASSURED or (index != CLASS_RST and index != CLASS_FIN):
        return
    if track.last_dir != direction and (track.last_index == CLASS_FIN or track.last_index == CLASS_RST):
        if conn.expires_ns - now_ns >= SHORTENED_AFTER_S * 1000000000ULL and conn.expires_ns - now_ns > limit_ns:
            conn.expires_ns = now_ns + limit_ns
    else:
        track.last_index = index
        track.last_dir = direction
