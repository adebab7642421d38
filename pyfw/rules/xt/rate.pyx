# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Matches that remember: the kernel's xt_limit, xt_statistic, xt_hashlimit, xt_connlimit, xt_recent.

May know: packets, connections by the table that they were bound to, the context's clock.  Must not know: syntax.

Laws: what is remembered has a place of fixed size, found by a keyed hash, and an end; with no place left a packet is dropped, as
the kernel does when it has no memory, and counted (RULE_MEMORY).  What a packet costs does not depend on how much is remembered.
A dry context changes nothing.  For a packet that is `unlimited`, limits have room, and none is drawn by lot.
"""
import os

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from pyfw.conntrack.conn cimport Key, is_over
from pyfw.conntrack.conncount cimport abandon, find_group, group_of, member_of, renew_oldest, slot_of
from pyfw.conntrack.siphash cimport siphash
from pyfw.enums cimport DIR_REPLY
from pyfw.wire.packet cimport (PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PROTO_UDPLITE, Address, Packet)
from pyfw.rules.parts cimport FITS, FITS_DROP, FITS_NO_ROOM, FITS_NOT
from pyfw.token_bucket cimport TokenBucket, TokenRate, take_token

cdef enum:
    PROBES = 32                 # places that a key may have
    COLLECTED = 128             # places of a full table that one packet looks through for what has expired
    LOOKED_AT = 16              # counted connections that one packet looks at for what has expired (CONNCOUNT_GC_MAX_NODES: 8)

cdef enum HashMode:             # bits of --hashlimit-mode
    BY_SRC = 1
    BY_DST = 2
    BY_SPORT = 4
    BY_DPORT = 8

MODES = {"srcip": BY_SRC, "dstip": BY_DST, "srcport": BY_SPORT, "dstport": BY_DPORT}

cdef enum RecentCommand:
    RECENT_SET, RECENT_CHECK, RECENT_UPDATE, RECENT_REMOVE

COMMANDS = {"--set": RECENT_SET, "--rcheck": RECENT_CHECK, "--update": RECENT_UPDATE, "--remove": RECENT_REMOVE}


cdef void draw_seed(uint64_t *seed):
    cdef bytes raw = os.urandom(16)
    memcpy(seed, <const char *> raw, 16)


cdef class LimitTest(PacketMatch):
    """A token bucket: one packet every `period_ns` on the average, `burst` at once."""

    def __init__(self, uint64_t period_ns, uint32_t burst):
        self.rate = TokenRate(period_ns, period_ns * burst)
        self.bucket.credit_ns = self.rate.full_ns

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef TokenBucket bucket = self.bucket
        cdef bint fits = context.unlimited or take_token(&bucket, &self.rate, context.now_ns)
        if not context.dry:
            self.bucket = bucket
        return FITS if fits else FITS_NOT


cdef class StatisticTest(PacketMatch):
    """With `every`: each so many packets, beginning with number `packet` (from 0); else with a probability in 1 / 2^31."""

    def __init__(self, uint32_t probability, uint32_t every, uint32_t packet, bint inverted):
        self.probability, self.every, self.inverted = probability, every, inverted
        self.count = every - packet - 1 if every else 0
        draw_seed(self.seed)

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef bint fits
        cdef uint32_t count
        if context.unlimited:
            return FITS if self.inverted else FITS_NOT
        if self.every:
            count = self.count + 1
            fits = count == self.every
            if not context.dry:
                self.count = 0 if fits else count
        else:
            fits = siphash(self.seed, &self.drawn, 1) & 0x7FFFFFFF < self.probability
            if not context.dry:
                self.drawn += 1
        return FITS if fits != self.inverted else FITS_NOT


# -- hashlimit ------------------------------------------------------------------------------------------------------------

cdef class BucketTable:
    """Token buckets by key; `most` of them (--hashlimit-htable-max)."""

    def __cinit__(self, uint32_t most):
        cdef uint32_t places = 1
        while places < 4 * most:                # a quarter full at most: PROBES find a place for all but one key in 10^8
            places *= 2
        self.buckets = <Bucket *> calloc(places, sizeof(Bucket))
        if self.buckets == NULL:
            raise MemoryError
        self.mask, self.most = places - 1, most
        draw_seed(self.seed)

    def __dealloc__(self):
        free(self.buckets)

    cdef Bucket *find(self, const uint64_t *words, uint64_t now_ns) noexcept nogil:
        """The key's bucket, or one that is free or expired; NULL: there is none."""
        cdef Bucket *bucket = self.bucket_of(words, now_ns)
        if bucket == NULL and self.count >= self.most:
            self.collect(now_ns)
            bucket = self.bucket_of(words, now_ns)
        return bucket

    cdef void collect(self, uint64_t now_ns) noexcept nogil:
        cdef uint32_t i
        cdef Bucket *bucket
        for i in range(min(COLLECTED, self.mask + 1)):
            bucket = &self.buckets[self.collected & self.mask]
            self.collected += 1
            if 0 < bucket.expires_ns <= now_ns:
                bucket.expires_ns = 0
                self.count -= 1

    cdef Bucket *bucket_of(self, const uint64_t *words, uint64_t now_ns) noexcept nogil:
        cdef uint32_t at = <uint32_t> siphash(self.seed, words, KEY_WORDS)
        cdef uint32_t probe
        cdef Bucket *bucket
        cdef Bucket *vacant = NULL
        for probe in range(min(PROBES, self.mask + 1)):
            bucket = &self.buckets[(at + probe) & self.mask]
            if bucket.expires_ns > now_ns:
                if memcmp(bucket.words, words, KEY_WORDS * 8) == 0:
                    return bucket
            elif vacant == NULL and (bucket.expires_ns or self.count < self.most):
                vacant = bucket
        return vacant


cdef class HashLimitTest(PacketMatch):
    """A token bucket for each source, destination, or port, as `mode` (names of MODES) says.

    Rules that say the same `name` share their buckets, as many as the first of them asked for (`size`).
    """

    def __init__(self, str name, uint64_t period_ns, uint32_t burst, mode, bytes src_mask, bytes dst_mask, uint32_t size,
                 uint64_t expire_ns, bint above):
        self.name, self.size = name, size
        self.expire_ns, self.above = expire_ns, above
        self.rate = TokenRate(period_ns, period_ns * burst)
        self.mode = sum(MODES[part] for part in mode)
        memcpy(self.src_mask, <const char *> src_mask, 16)
        memcpy(self.dst_mask, <const char *> dst_mask, 16)

    def bind(self, environment) -> None:
        self.environment = environment
        self.table = environment.shared("hashlimit", self.name, lambda: BucketTable(self.size))

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef uint64_t words[KEY_WORDS]
        cdef TokenBucket tokens
        cdef Bucket *bucket
        cdef bint within
        memset(words, 0, sizeof(words))
        if self.mode & BY_SRC:
            words[0], words[1] = packet.src.halves[0] & self.src_mask[0], packet.src.halves[1] & self.src_mask[1]
        if self.mode & BY_DST:
            words[2], words[3] = packet.dst.halves[0] & self.dst_mask[0], packet.dst.halves[1] & self.dst_mask[1]
        if self.mode & (BY_SPORT | BY_DPORT) and has_ports(packet.protocol):
            if packet.fragment == 2 or not packet.has_tuple:
                return FITS_DROP
            words[4] = (packet.sport if self.mode & BY_SPORT else 0) | <uint64_t> (packet.dport if self.mode & BY_DPORT else 0) << 16
        if context.unlimited:
            return FITS_NOT if self.above else FITS
        words[4] |= <uint64_t> packet.family << 32
        bucket = self.table.find(words, context.now_ns)
        if bucket == NULL:
            self.environment.full.hashlimit += not context.dry
            return FITS_NO_ROOM
        tokens = bucket.tokens if bucket.expires_ns > context.now_ns else TokenBucket(self.rate.full_ns, context.now_ns)
        within = take_token(&tokens, &self.rate, context.now_ns)
        if not context.dry:
            self.table.count += bucket.expires_ns == 0
            memcpy(bucket.words, words, sizeof(words))
            bucket.tokens = tokens
            bucket.expires_ns = context.now_ns + self.expire_ns
        return FITS if within != self.above else FITS_NOT


cdef inline bint has_ports(uint8_t protocol) noexcept nogil:
    return protocol == PROTO_TCP or protocol == PROTO_UDP or protocol == PROTO_UDPLITE or protocol == PROTO_SCTP


# -- connlimit ------------------------------------------------------------------------------------------------------------

cdef class ConnLimitTest(PacketMatch):
    """Whether an address, under `mask`, has at most `limit` connections, this packet's included; `above`: has more.

    A connection counts from the first packet that asked about it, for as long as it is in the table and not over
    (nf_conncount.c); the table tells when that ends.  It counts for its client's address, or for its server's if packets
    of the reply ask, or for both.
    """

    def __init__(self, uint32_t limit, bytes mask, bint source, bint above):
        self.limit, self.source, self.above = limit, source, above
        memcpy(self.mask, <const char *> mask, 16)

    def __dealloc__(self):
        abandon(self.counter)

    def bind(self, environment) -> None:
        self.table = environment.table
        if self.table is not None:
            self.counter = self.table.counts.new_counter()

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef const Address *address = &packet.src if self.source else &packet.dst
        cdef uint64_t words[2]
        cdef uint32_t count = 1
        if self.counter != NULL and not context.unlimited:
            words[0], words[1] = address.halves[0] & self.mask[0], address.halves[1] & self.mask[1]
            count = self.count(context, words)
        return FITS if (count > self.limit) == self.above else FITS_NOT

    cdef uint32_t count(self, Context *context, const uint64_t *words) noexcept nogil:
        """How many connections the address has; from now on the packet's own is one of them."""
        cdef Key own
        cdef uint8_t direction = 0, family = context.packet.family
        cdef uint32_t slot, member, known, group = find_group(self.counter, words, family)
        cdef bint over
        own_key(context, &own)
        self.table.counts.await_entry(&own)
        slot = self.table.find(&own, context.now_ns, &direction)
        member = member_of(slot, context.direction == DIR_REPLY)
        if group:
            self.let_go(group, context.now_ns)
        known = self.counter.members[member].group
        group = find_group(self.counter, words, family)
        over = slot and is_over(&self.table.conns[slot])
        if not known and not context.dry:
            known = group = group_of(self.counter, words, family)
            self.table.counts.attach(self.counter, member, group, over)
        if group == 0:
            return 1
        return self.counter.groups[group].counted + (over or known != group)

    cdef void let_go(self, uint32_t group, uint64_t now_ns) noexcept nogil:
        """Let the table know of some of the group's connections that have expired: its sweep may be far from them."""
        cdef uint32_t slot
        cdef int i
        for i in range(LOOKED_AT):
            if self.counter.groups[group].members == 0:
                break
            slot = slot_of(self.counter.groups[group].oldest)
            if slot and self.table.conns[slot].expires_ns <= now_ns:
                self.table.expire(slot, now_ns)
            else:
                renew_oldest(self.counter, group)


cdef inline void own_key(const Context *context, Key *key) noexcept nogil:
    """The original tuple of the packet's connection, or what it would be."""
    cdef const Packet *packet = context.packet
    if context.conn != NULL:
        key[0] = context.conn.key
        return
    memset(key, 0, sizeof(Key))
    key.src, key.dst = packet.src, packet.dst
    key.protocol, key.family = packet.protocol, packet.family
    key.sport, key.dport = packet.sport, packet.dport
    if packet.protocol == PROTO_ICMP or packet.protocol == PROTO_ICMPV6:
        key.sport = packet.icmp_id
        key.dport = <uint16_t> (packet.icmp_type << 8) | packet.icmp_code


# -- recent ---------------------------------------------------------------------------------------------------------------

cdef class RecentList:
    """Addresses and when they were seen; the one not seen for longest makes room for the 101st."""

    def __cinit__(self):
        self.seen = <Seen *> calloc(LIST_LENGTH, sizeof(Seen))
        if self.seen == NULL:
            raise MemoryError
        draw_seed(self.seed)

    def __dealloc__(self):
        free(self.seen)

    cdef uint32_t tag_of(self, const Address *address, uint8_t family) noexcept nogil:
        cdef uint64_t words[3]
        words[0], words[1], words[2] = address.halves[0], address.halves[1], family
        return <uint32_t> siphash(self.seed, words, 3) | 1

    cdef int find(self, const Address *address, uint8_t family) noexcept nogil:
        """Where the address stands, or -1."""
        cdef uint32_t tag = self.tag_of(address, family)
        cdef int i
        for i in range(LIST_LENGTH):
            if self.tags[i] == tag and self.seen[i].family == family and memcmp(&self.seen[i].address, address, 16) == 0:
                return i
        return -1

    cdef int oldest(self) noexcept nogil:
        """Where a place is free, or the address stands that was not seen for longest: packets of a batch have one time."""
        cdef int i, oldest = 0
        for i in range(1, LIST_LENGTH):
            if self.turns[i] < self.turns[oldest]:
                oldest = i
        return oldest

    cdef void forget(self, int place) noexcept nogil:
        self.tags[place] = 0
        self.turns[place] = 0

    cdef void stamp(self, int place, uint8_t ttl, uint64_t now_ns) noexcept nogil:
        cdef Seen *seen = &self.seen[place]
        seen.stamp_ns[seen.next % MAX_STAMPS] = now_ns
        seen.next = (seen.next + 1) % MAX_STAMPS
        seen.stamps += seen.stamps < MAX_STAMPS
        seen.last_ns, seen.ttl = now_ns, ttl
        self.turn += 1
        self.turns[place] = self.turn

    cdef bint enter(self, const Address *address, uint8_t family, uint8_t ttl, uint64_t now_ns) noexcept nogil:
        """Put an address in that is not there; returns whether another had to make room."""
        cdef int place = self.oldest()
        cdef bint full = self.turns[place] != 0
        cdef Seen *seen = &self.seen[place]
        seen.address, seen.family = address[0], family
        seen.stamps = seen.next = 0
        self.tags[place] = self.tag_of(address, family)
        self.stamp(place, ttl, now_ns)
        return full

    cdef void reap(self, uint64_t oldest_ns) noexcept nogil:
        """Let go of the address that was not seen for longest, if that was before `oldest_ns` (recent_entry_reap())."""
        cdef int i, oldest = -1
        for i in range(LIST_LENGTH):
            if self.turns[i] and (oldest < 0 or self.turns[i] < self.turns[oldest]):
                oldest = i
        if oldest >= 0 and self.seen[oldest].last_ns < oldest_ns:
            self.forget(oldest)


cdef class RecentTest(PacketMatch):
    """`command`: a key of COMMANDS.  `seconds`, `hits`: 0 where they are not asked for.  `reaps`: an entry older than that goes."""

    def __init__(self, str name, str command, bytes mask, bint source, uint32_t seconds, uint32_t hits, bint same_ttl,
                 bint reaps, bint inverted):
        self.name, self.command, self.source, self.reaps = name, COMMANDS[command], source, reaps
        self.seconds_ns, self.hits = <uint64_t> seconds * 1000000000, hits
        self.same_ttl, self.inverted = same_ttl, inverted
        memcpy(self.mask, <const char *> mask, 16)

    def bind(self, environment) -> None:
        self.environment = environment
        self.list = environment.shared("recent", self.name, RecentList)

    cdef Fit fits(self, Context *context) noexcept nogil:
        cdef const Packet *packet = context.packet
        cdef const Address *there = &packet.src if self.source else &packet.dst
        cdef Address address
        cdef int place
        cdef bint found
        address.halves[0], address.halves[1] = there.halves[0] & self.mask[0], there.halves[1] & self.mask[1]
        place = self.list.find(&address, packet.family)
        if place < 0 or self.same_ttl and self.list.seen[place].ttl != packet.ttl:
            if self.command == RECENT_SET and not context.dry:
                self.environment.full.recent += self.list.enter(&address, packet.family, packet.ttl, context.now_ns)
            found = self.command == RECENT_SET
            return FITS if found != self.inverted else FITS_NOT
        found = self.command in (RECENT_SET, RECENT_REMOVE) or self.often_enough(&self.list.seen[place], context.now_ns)
        found = found != self.inverted
        if not context.dry:
            if self.command == RECENT_REMOVE:
                self.list.forget(place)
            elif self.reaps:
                self.list.reap(context.now_ns - self.seconds_ns if context.now_ns > self.seconds_ns else 0)
            if self.list.turns[place] and (self.command == RECENT_SET or self.command == RECENT_UPDATE and found):
                self.list.stamp(place, packet.ttl, context.now_ns)
        return FITS if found else FITS_NOT

    cdef bint often_enough(self, const Seen *seen, uint64_t now_ns) noexcept nogil:
        cdef uint32_t i, hits = 0
        for i in range(seen.stamps):
            if self.seconds_ns and now_ns > self.seconds_ns and seen.stamp_ns[i] < now_ns - self.seconds_ns:
                continue
            hits += 1
            if not self.hits or hits >= self.hits:
                return True
        return False
