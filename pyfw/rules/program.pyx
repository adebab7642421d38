# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ruleset -> flat C arrays, and the walk of a packet through them.

May know: packets as they were parsed, connection states.  Must not know: syntax, sockets, clocks; the table of
connections only through what Context hands in.

Laws: the walk allocates nothing and ends, since jumps lead to no loop (checked when a ruleset is read) and
no deeper than MAX_DEPTH; the end of a base chain is its policy; a rule counts a packet when all its tests hold.
A Program serves one engine: its counters and its log have one writer.
"""
from collections.abc import Sequence
from typing import NamedTuple

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strncpy

from pyfw.enums cimport *
from pyfw.packet cimport (CHECKSUM_TRUSTED, FAMILY_IPV4, FAMILY_IPV6, IFNAMSIZ, PROTO_NONE, parse)
from pyfw.rules.logring cimport LogEntry, log_done, log_init, log_next, log_packet

from pyfw.enums import Hook, Reject, Verdict
from pyfw.rules.check import check_ruleset
from pyfw.rules.code import Action, IcmpTest, StateTest, TransportTest
from pyfw.rules.iptables import print_rule
from pyfw.rules.linker import Numbering, link
from pyfw.rules.log import LogRecord
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.values import suggestion

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef enum:
    CACHE_LINE = 64
    LARGEST_INDEX = 0xFFFF

cdef enum Fit:                  # what a test says of a packet
    FITS_NOT = 0
    FITS = 1
    FITS_DROP = 2               # the packet cannot be what the test asks about: it is dropped, as the kernel's matches do

cdef dict ACTIONS = {
    Action.CONTINUE: ACTION_CONTINUE, Action.ACCEPT: ACTION_ACCEPT, Action.DROP: ACTION_DROP,
    Action.RETURN: ACTION_RETURN, Action.JUMP: ACTION_JUMP, Action.GOTO: ACTION_GOTO, Action.LOG: ACTION_LOG,
    Action.NOTRACK: ACTION_NOTRACK, Action.HELPER: ACTION_HELPER,
}
cdef dict HEADER_TESTS = {
    "source": TEST_SRC, "destination": TEST_DST, "protocol": TEST_PROTOCOL, "indev": TEST_INDEV, "outdev": TEST_OUTDEV,
    "fragment": TEST_FRAGMENT,
}
cdef tuple TABLE_NUMBERS = (("raw", TABLE_RAW), ("filter", TABLE_FILTER))
DEFAULT_LOG_RATE = 10           # packets a second
DEFAULT_LOG_BURST = 20


class Walk(NamedTuple):
    """What one packet came to in one table; `rule` as rule_name() says it."""

    verdict: Verdict
    rule: str | None
    reject: Reject
    notrack: bool
    mark: int
    helper: str | None


cdef class Program:
    """A ruleset, ready to judge packets.

    `helpers` are the names that CT --helper may say, in the engine's order.  LOG prints `log_rate` packets a second on
    the average and `log_burst` at once; the others are only counted.  log_rate 0: no limit but the ring's size.
    """

    def __cinit__(self):
        memset(self.flat, 0, sizeof(self.flat))
        self.counts = NULL
        self.zeroed = NULL

    def __init__(self, ruleset: Ruleset, *, helpers: Sequence[str] = (), log_rate: int = DEFAULT_LOG_RATE,
                 log_burst: int = DEFAULT_LOG_BURST) -> None:
        self.ruleset = check_ruleset(ruleset)
        self.helpers = tuple(helpers)
        self.numbering = Numbering(ruleset)
        self.log_settings = {}
        check_helpers(ruleset, self.helpers)
        log_init(&self.ring, log_rate, log_burst)
        self.counts = <Counter *> allocate(len(self.numbering), sizeof(Counter))
        self.zeroed = <Counter *> allocate(len(self.numbering), sizeof(Counter))
        for family in range(FAMILIES):
            fill_program(self, family, link(ruleset, self.numbering, (4, 6)[family]))

    def __dealloc__(self):
        for family in range(FAMILIES):
            free(self.flat[family].rules)
            free(self.flat[family].tests)
            free(self.flat[family].addresses)
            free(self.flat[family].interfaces)
        free(self.counts)
        free(self.zeroed)

    # -- the walk -------------------------------------------------------------------------------------------------------

    cdef void run(self, int table, Context *context, Outcome *outcome) noexcept nogil:
        """Walk the base chain of context.packet's hook in `table`; always leaves a verdict in `outcome`."""
        cdef Packet *packet = context.packet
        cdef const FlatProgram *flat = &self.flat[packet.family == FAMILY_IPV6]
        cdef const BaseChain *base = &flat.base[table][packet.hook % HOOKS]
        cdef const FlatRule *rule
        cdef uint32_t stack[MAX_DEPTH]
        cdef uint32_t depth = 0, at = base.first
        cdef View view
        cdef Fit fit
        memset(outcome, 0, sizeof(Outcome))
        outcome.mark = packet.mark
        if not base.present:
            outcome.verdict = VERDICT_ACCEPT
            outcome.rule = NO_RULE
            return
        look(&view, table, packet)
        while True:
            rule = &flat.rules[at]
            at += 1
            fit = rule_fits(rule, flat, &view, context)
            if fit == FITS_NOT:
                continue
            outcome.rule = rule.number
            if fit == FITS_DROP:
                return                      # verdict 0: drop; no rule counts it, as in the kernel
            outcome.by_policy = at - 1 == base.end
            self.counts[rule.number].packets += 1
            self.counts[rule.number].bytes += packet.length
            if rule.action == ACTION_ACCEPT:
                outcome.verdict = VERDICT_ACCEPT
                return
            elif rule.action == ACTION_DROP:
                outcome.reject = rule.reject
                return
            elif rule.action == ACTION_JUMP:
                stack[depth] = at
                depth += 1
                at = rule.target
            elif rule.action == ACTION_GOTO:
                at = rule.target
            elif rule.action == ACTION_RETURN:
                if depth:
                    depth -= 1
                    at = stack[depth]
                else:
                    at = base.end
            elif rule.action == ACTION_LOG:
                log_packet(&self.ring, packet, <const char *> view.outdev, rule.number, context.now_ns)
            elif not outcome.notrack and not outcome.helper:     # the first of NOTRACK and CT decides
                outcome.notrack = rule.action == ACTION_NOTRACK
                outcome.helper = <uint8_t> rule.helper

    # -- asking -----------------------------------------------------------------------------------------------------------

    def rule_name(self, index: int) -> str | None:
        """`filter:FORWARD:rule:3` or `filter:FORWARD:policy:7`, as the kernel's TRACE target says; None for NO_RULE."""
        return None if index == <uint32_t> NO_RULE else self.numbering.name(index)

    def rule_text(self, index: int) -> str | None:
        """The rule as `iptables -S` prints it, `-A FORWARD ...` or `-P FORWARD DROP`; None for NO_RULE."""
        if index == <uint32_t> NO_RULE:
            return None
        _, chain, position = self.numbering.places[index]
        if position < len(chain.rules):
            return f"-A {chain.name} {print_rule(chain.rules[position])}".rstrip()
        return f"-P {chain.name} {chain.policy}" if chain.policy else f"-N {chain.name}"

    def counters(self) -> dict[tuple[str, str], tuple[tuple[int, int] | None, list[tuple[int, int]]]]:
        """(table, chain) -> ((packets, bytes) of the policy, None for one's own chain; (packets, bytes) of each rule)."""
        found = {}
        for table, chain in self.ruleset.chains():
            first = self.numbering.first[table.name, chain.name]
            counted = [counted_since_zero(self, first + index) for index in range(len(chain.rules) + 1)]
            end = counted.pop()
            found[table.name, chain.name] = (end if chain.policy else None, counted)
        return found

    def zero(self) -> None:
        """Count from nothing again.  The packet path's own numbers are left alone: it may be writing them."""
        memcpy(self.zeroed, self.counts, len(self.numbering) * sizeof(Counter))

    def logs(self, most: int = 128) -> list[LogRecord]:
        """What LOG met since the last call, at most `most` packets, oldest first."""
        cdef LogEntry *entry
        records = []
        while len(records) < most:
            entry = log_next(&self.ring)
            if entry == NULL:
                break
            records.append(LogRecord(
                settings=self.log_settings[entry.number], rule=self.numbering.name(entry.number), now_ns=entry.now_ns,
                hook=Hook(entry.hook), indev=device_name(entry.indev), outdev=device_name(entry.outdev),
                mark=entry.mark, length=entry.length, data=(<char *> entry.data)[:entry.captured]))
            log_done(&self.ring)
        return records

    @property
    def logs_suppressed(self) -> int:
        """Packets that LOG met and did not keep, since the program was made."""
        return self.ring.suppressed

    def walk(self, table: str, data: bytes, hook: Hook, indev: str = "", outdev: str = "", state: int = STATE_NEW, *,
             mark: int = 0, now_ns: int = 0, on_wire: int = 0) -> Walk | None:
        """Send one packet's bytes through one table, as the engine would; None for bytes that are no IP packet."""
        cdef Packet packet
        cdef Context context
        cdef Outcome outcome
        cdef char devices[2][IFNAMSIZ]
        cdef bytes indev_name = indev.encode(), outdev_name = outdev.encode()
        memset(&packet, 0, sizeof(packet))
        strncpy(devices[0], indev_name, IFNAMSIZ)
        strncpy(devices[1], outdev_name, IFNAMSIZ)
        packet.data = data
        packet.captured = len(data)
        packet.on_wire = on_wire
        packet.mark = mark
        packet.hook = hook
        packet.checksum = CHECKSUM_TRUSTED
        packet.indev = devices[0]
        packet.outdev = devices[1]
        if parse(&packet):
            return None
        context = Context(&packet, NULL, state, DIR_NONE, now_ns)
        self.run(dict(TABLE_NUMBERS)[table], &context, &outcome)
        return Walk(Verdict(outcome.verdict), self.rule_name(outcome.rule), Reject(outcome.reject), bool(outcome.notrack),
                    outcome.mark, self.helpers[outcome.helper - 1] if outcome.helper else None)


# -- tests of a packet ------------------------------------------------------------------------------------------------------

cdef inline void look(View *view, int table, const Packet *packet) noexcept nogil:
    """What the rules may see: the raw table runs before routing, where no outgoing interface is known."""
    view.packet = packet
    view.ipv6 = packet.family == FAMILY_IPV6
    view.broken = view.ipv6 and packet.reason == REASON_NO_TRANSPORT and packet.protocol != PROTO_NONE
    memcpy(view.indev, packet.indev, IFNAMSIZ)
    if table == TABLE_RAW and packet.hook != HOOK_OUTPUT:
        memset(view.outdev, 0, IFNAMSIZ)
    else:
        memcpy(view.outdev, packet.outdev, IFNAMSIZ)


cdef inline Fit rule_fits(const FlatRule *rule, const FlatProgram *flat, const View *view, const Context *context) noexcept nogil:
    """The header's tests first, as one comparison; the others in the order in which the rule was written."""
    cdef const Packet *packet = view.packet
    cdef uint32_t differs, at
    cdef Fit fit
    if view.ipv6:
        differs = addresses_differ(&flat.addresses[rule.addresses], packet) if rule.tests & (TEST_SRC | TEST_DST) else 0
    else:
        differs = (((packet.src.words[0] & rule.src_mask) != rule.src) * TEST_SRC
                   | ((packet.dst.words[0] & rule.dst_mask) != rule.dst) * TEST_DST)
    differs |= (packet.protocol != rule.protocol) * TEST_PROTOCOL | (packet.fragment != 2) * TEST_FRAGMENT
    if rule.tests & TEST_INDEV:
        differs |= interface_differs(&flat.interfaces[rule.indev], view.indev) * TEST_INDEV
    if rule.tests & TEST_OUTDEV:
        differs |= interface_differs(&flat.interfaces[rule.outdev], view.outdev) * TEST_OUTDEV
    differs = (differs ^ rule.inverted) & rule.tests
    if view.broken and rule.tests & TEST_PROTOCOL:
        return FITS_NOT if differs & ~<uint32_t> TEST_PROTOCOL else FITS_DROP
    if differs or not rule.states >> (context.state & 7) & 1:
        return FITS_NOT
    if rule.first.kind == KIND_NONE:
        return FITS
    fit = test_fits(&rule.first, context)
    at = rule.more
    while fit == FITS and at < rule.more_end:
        fit = test_fits(&flat.tests[at], context)
        at += 1
    return fit


cdef inline bint interface_differs(const Interface *pattern, const uint64_t *name) noexcept nogil:
    return ((name[0] ^ pattern.name[0]) & pattern.mask[0] | (name[1] ^ pattern.name[1]) & pattern.mask[1]) != 0


cdef inline bint outside(const uint64_t *address, const uint64_t *network, const uint64_t *mask) noexcept nogil:
    return ((address[0] & mask[0]) ^ network[0] | (address[1] & mask[1]) ^ network[1]) != 0


cdef inline uint32_t addresses_differ(const AddressPair *pair, const Packet *packet) noexcept nogil:
    return (outside(packet.src.halves, pair.src, pair.src_mask) * TEST_SRC
            | outside(packet.dst.halves, pair.dst, pair.dst_mask) * TEST_DST)


cdef Fit test_fits(const FlatTest *test, const Context *context) noexcept nogil:
    if test.kind == KIND_TRANSPORT:
        return transport_fits(&test.args.transport, context.packet)
    elif test.kind == KIND_ICMP:
        return icmp_fits(&test.args.icmp, context.packet)
    elif test.kind == KIND_STATES:
        return FITS if test.args.states >> (context.state & 7) & 1 else FITS_NOT
    return FITS_NOT


cdef inline Fit without_transport(const Packet *packet, bint tcp) noexcept nogil:
    """A later fragment fits no test of ports; a header cut off, or hidden in a TCP fragment at offset 8 (RFC 1858), drops."""
    if packet.fragment != 2:
        return FITS_DROP
    if tcp and packet.family == FAMILY_IPV4 and packet.data[6] & 0x1F == 0 and packet.data[7] == 1:
        return FITS_DROP
    return FITS_NOT


cdef inline Fit transport_fits(const TransportArgs *wanted, const Packet *packet) noexcept nogil:
    cdef uint8_t differs
    if packet.fragment == 2 or not packet.has_transport:
        return without_transport(packet, wanted.tcp)
    differs = ((packet.sport < wanted.sport_low or packet.sport > wanted.sport_high) * INVERT_SPORT
               | (packet.dport < wanted.dport_low or packet.dport > wanted.dport_high) * INVERT_DPORT
               | ((packet.tcp_flags & wanted.flags_mask) != wanted.flags_value) * INVERT_FLAGS)
    return FITS if differs == wanted.inverted else FITS_NOT


cdef inline Fit icmp_fits(const IcmpArgs *wanted, const Packet *packet) noexcept nogil:
    cdef bint fits
    if packet.fragment == 2 or not packet.has_transport:
        return without_transport(packet, False)
    fits = wanted.any_type or (packet.icmp_type == wanted.type
                               and wanted.code_low <= packet.icmp_code <= wanted.code_high)
    return FITS if fits != wanted.inverted else FITS_NOT


# -- writing C from Python ------------------------------------------------------------------------------------------------

cdef void *allocate(size_t count, size_t size) except NULL:
    """Zeroed memory for at least one element, aligned to a cache line."""
    cdef void *memory = NULL
    cdef size_t needed = count * size if count else size
    if posix_memalign(&memory, CACHE_LINE, needed):
        raise MemoryError
    memset(memory, 0, needed)
    return memory


def index_of(things) -> dict:
    """Each different thing -> its position."""
    positions: dict = {}
    for thing in things:
        positions.setdefault(thing, len(positions))
    return positions


cdef fill_program(Program program, int family, linked):
    cdef FlatProgram *flat = &program.flat[family]
    cdef size_t tests = 0
    codes = [rule.code for rule in linked.rules]
    patterns = index_of(device for code in codes for device in (code.indev, code.outdev) if device is not None)
    pairs = index_of((code.source, code.destination) for code in codes) if family else {}
    flat.rules = <FlatRule *> allocate(len(codes), sizeof(FlatRule))
    flat.tests = <FlatTest *> allocate(sum(len(code.tests) for code in codes), sizeof(FlatTest))
    fill_interfaces(flat, patterns)
    fill_addresses(flat, pairs)
    for position, rule in enumerate(linked.rules):
        fill_rule(&flat.rules[<size_t> position], rule, program)
        fill_header(&flat.rules[<size_t> position], rule.code, patterns, pairs)
        tests = fill_tests(flat, &flat.rules[<size_t> position], rule.code.tests, tests)
    for name, table in TABLE_NUMBERS:
        for hook in Hook:
            chain = ("OUTPUT" if hook is Hook.OUTPUT else "PREROUTING") if table == TABLE_RAW else hook.name
            if (name, chain) in linked.chains:
                span = linked.chains[name, chain]
                flat.base[<int> table][<int> hook] = BaseChain(1, span.first, span.end)


cdef fill_interfaces(FlatProgram *flat, dict patterns):
    cdef Interface *interface
    cdef bytes name
    if len(patterns) > LARGEST_INDEX:
        raise RulesError(f"more than {LARGEST_INDEX} interface names in one ruleset")
    flat.interfaces = <Interface *> allocate(len(patterns), sizeof(Interface))
    for pattern, position in patterns.items():
        interface = &flat.interfaces[<size_t> position]
        name = pattern.removesuffix("+").encode()
        memcpy(interface.name, <char *> name, len(name))
        memset(interface.mask, 0xFF, len(name) if pattern.endswith("+") else len(name) + 1)


cdef fill_addresses(FlatProgram *flat, dict pairs):
    cdef AddressPair *pair
    flat.addresses = <AddressPair *> allocate(len(pairs), sizeof(AddressPair))
    for (source, destination), position in pairs.items():
        pair = &flat.addresses[<size_t> position]
        set_network(pair.src, pair.src_mask, source, 16)
        set_network(pair.dst, pair.dst_mask, destination, 16)


cdef fill_rule(FlatRule *rule, linked, Program program):
    """What the rule does."""
    code = linked.code
    rule.number = linked.number
    rule.target = linked.target
    rule.action = ACTIONS[code.action]
    rule.reject = code.reject
    if code.helper:
        rule.helper = 1 + program.helpers.index(code.helper)
    if code.log is not None:
        program.log_settings[linked.number] = code.log


cdef fill_header(FlatRule *rule, code, dict patterns, dict pairs):
    """The tests of the IP header, the interfaces and the state."""
    rule.states = code.states
    rule.protocol = code.protocol or 0
    rule.indev = patterns.get(code.indev, 0)
    rule.outdev = patterns.get(code.outdev, 0)
    rule.tests = sum(bit for field, bit in HEADER_TESTS.items() if field in code.tested)
    rule.inverted = sum(bit for field, bit in HEADER_TESTS.items() if field in code.inverted)
    if pairs:
        rule.addresses = pairs[code.source, code.destination]
    else:
        set_network(&rule.src, &rule.src_mask, code.source, 4)
        set_network(&rule.dst, &rule.dst_mask, code.destination, 4)


cdef size_t fill_tests(FlatProgram *flat, FlatRule *rule, list tests, size_t used) except? 0:
    """The other tests, the first of which stands in the rule; returns how many entries of flat.tests are in use."""
    rule.more = used
    for index, test in enumerate(tests):
        if index == 0:
            fill_test(&rule.first, test)
        else:
            fill_test(&flat.tests[used], test)
            used += 1
    rule.more_end = used
    return used


cdef set_network(void *address, void *mask, network, int size):
    """Address and mask in network byte order; all zeros for no network."""
    cdef bytes packed
    if network is not None:
        packed = network.address.to_bytes(size, "big") + network.mask.to_bytes(size, "big")
        memcpy(address, <char *> packed, size)
        memcpy(mask, <char *> packed + size, size)


cdef tuple counted_since_zero(Program program, size_t number):
    return (program.counts[number].packets - program.zeroed[number].packets,
            program.counts[number].bytes - program.zeroed[number].bytes)


cdef fill_test(FlatTest *flat, test):
    if isinstance(test, TransportTest):
        fill_transport(flat, test)
    elif isinstance(test, IcmpTest):
        flat.kind = KIND_ICMP
        flat.args.icmp = IcmpArgs(test.type, test.code_low, test.code_high, test.any_type, test.inverted)
    elif isinstance(test, StateTest):
        flat.kind = KIND_STATES
        flat.args.states = test.states
    else:
        raise TypeError(f"no test of the packet path: {test!r}")


cdef fill_transport(FlatTest *flat, test):
    cdef TransportArgs *wanted = &flat.args.transport
    flat.kind = KIND_TRANSPORT
    wanted.sport_high = wanted.dport_high = 0xFFFF
    if test.sport is not None:
        wanted.sport_low, wanted.sport_high = test.sport.low, test.sport.high
    if test.dport is not None:
        wanted.dport_low, wanted.dport_high = test.dport.low, test.dport.high
    if test.flags is not None:
        wanted.flags_mask, wanted.flags_value = test.flags.mask, test.flags.value
    wanted.inverted = (test.sport_inverted * INVERT_SPORT | test.dport_inverted * INVERT_DPORT
                       | test.flags_inverted * INVERT_FLAGS)
    wanted.tcp = test.tcp


cdef str device_name(const char *name):
    return (<bytes> name[:IFNAMSIZ]).split(b"\0", 1)[0].decode(errors="replace")


def check_helpers(ruleset: Ruleset, helpers: Sequence[str]) -> None:
    """Whether every CT --helper names one of `helpers`."""
    for _, chain in ruleset.chains():
        for rule in chain.rules:
            setting = rule.target.get("--helper") if rule.target else None
            if setting and setting.value not in helpers:
                there = f"there are {', '.join(helpers)}" if helpers else "none is configured under `helpers:`"
                raise RulesError(f"no helper {setting.value!r}{suggestion(setting.value, helpers)}; {there}",
                                 rule.target.location)
