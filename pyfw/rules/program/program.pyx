# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The walk of a packet through a ruleset in flat C arrays, and what it counted.

May know: packets as they were parsed, connection states.  Must not know: syntax, sockets, clocks; the table of
connections only through what Context hands in.

Laws: the walk allocates nothing and ends, since jumps lead to no loop (checked when a ruleset is read) and
no deeper than MAX_DEPTH; a packet that jumps has met MAX_STEPS rules and those of one chain at most, and is then dropped;
the end of a base chain is its policy; a rule counts a packet when all its tests hold.
A Program serves one engine: its counters and its log have one writer.
"""
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strncpy

from pyfw.enums cimport (DIR_NONE, HOOK_OUTPUT, REASON_NONE, REASON_NO_TRANSPORT, REASON_RULE_MEMORY, REASON_RULE_STEPS,
                         STATE_NEW, VERDICT_ACCEPT)
from pyfw.lock cimport Lock, assert_locked
from pyfw.rules.log.ring cimport LogEntry, LogRing, log_done, log_init, log_next, log_packet
from pyfw.rules.parts cimport (FAILED_STATE, FAILED_TEST_SHIFT, FITS, FITS_DROP, FITS_NOT, FITS_NO_ROOM, Context, Fit, Outcome,
                               PacketAction, PacketMatch, RuleEnvironment, RuleStep, Trace)
from pyfw.rules.program.flat cimport (ACTION_ACCEPT, ACTION_AUDIT, ACTION_CONTINUE, ACTION_DROP, ACTION_GOTO, ACTION_JUMP,
                                      ACTION_LOG, ACTION_NOTRACK, ACTION_OBJECT, ACTION_RETURN, ACTION_TRACE, FAMILIES, HOOKS,
                                      INVERT_DPORT, INVERT_FLAGS, INVERT_SPORT, KIND_ICMP, KIND_NONE, KIND_OBJECT, KIND_STATES,
                                      KIND_TRANSPORT, MAX_DEPTH, MAX_STEPS, TABLE_RAW, TEST_DST, TEST_FRAGMENT, TEST_INDEV,
                                      TEST_OUTDEV, TEST_PROTOCOL, TEST_SRC, AddressPair, BaseChain, Counter, FlatProgram,
                                      FlatRule, FlatTest, IcmpArgs, Interface, TransportArgs, allocate, fill_program)
from pyfw.wire.packet cimport CHECKSUM_TRUSTED, FAMILY_IPV4, FAMILY_IPV6, IFNAMSIZ, PROTO_NONE, Packet, device_name, parse

from pyfw.enums import Hook, Reject, Verdict
from pyfw.rules.code import RuleCode
from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.printing import AUDIT, print_rule
from pyfw.rules.log.format import LogRecord, audit_settings, trace_settings
from pyfw.rules.model import Rule, RulesError, Ruleset
from pyfw.rules.program.flat import TABLE_NUMBERS
from pyfw.rules.program.linker import Numbering, compile_rule, link
from pyfw.rules.values import suggestion

SERIALS = count(1)
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

    environment: what rules may refer to by name; an engine's, if the program is for one.  LOG prints `log_rate` packets
    a second on the average and `log_burst` at once; the others are only counted.  log_rate 0: no limit but the ring's size.
    previous: the program that this one is an edited copy of; rules that are the same objects there keep what their tests
    remember, and their counters.  Raises RulesError.
    """

    def __cinit__(self):
        memset(self.flat, 0, sizeof(self.flat))
        self.origins = NULL

    def __init__(self, ruleset: Ruleset, environment: RuleEnvironment | None = None, *, previous: Program | None = None,
                 log_rate: int = DEFAULT_LOG_RATE, log_burst: int = DEFAULT_LOG_BURST) -> None:
        self.ruleset = check_ruleset(ruleset)
        self.environment = environment or RuleEnvironment()
        self.numbering = Numbering(ruleset)
        self.log_settings = {}
        self.codes = {}
        self.texts = {}
        self.serial = next(SERIALS)
        log_init(&self.ring, log_rate, log_burst)
        log_init(&self.traces, 0, 0)
        log_init(&self.audits, log_rate, log_burst)
        for family in range(FAMILIES):
            known = previous.codes if previous is not None else {}
            linked = link(ruleset, self.numbering, (4, 6)[family], partial(code_of, self, known))
            fill_program(&self.flat[family], family, linked, len(self.numbering), self.environment.helpers, self.log_settings)
        self.previous = previous
        if previous is not None:
            find_origins(self, previous)

    def __dealloc__(self):
        for family in range(FAMILIES):
            free(self.flat[family].rules)
            free(self.flat[family].tests)
            free(self.flat[family].addresses)
            free(self.flat[family].interfaces)
            free(self.flat[family].objects)
            free(self.flat[family].actions)
            free(self.flat[family].counts)
            free(self.flat[family].zeroed)
        free(self.origins)

    # -- the walk -------------------------------------------------------------------------------------------------------

    cdef void run(self, int table, Context *context, Outcome *outcome) noexcept nogil:
        """Walk the base chain of context.packet's hook in `table`; always leaves a verdict in `outcome`."""
        cdef Packet *packet = context.packet
        cdef const FlatProgram *flat = &self.flat[packet.family == FAMILY_IPV6]
        cdef const BaseChain *base = &flat.base[table][packet.hook % HOOKS]
        cdef const FlatRule *rule
        cdef uint32_t stack[MAX_DEPTH]
        cdef uint32_t depth = 0, at = base.first, entered = at, steps = 0, failed
        cdef View view
        cdef Fit fit
        assert_locked()
        memset(outcome, 0, sizeof(Outcome))
        if not base.present:
            outcome.verdict = VERDICT_ACCEPT
            outcome.rule = NO_RULE
            return
        look(&view, table, packet)
        while True:
            rule = &flat.rules[at]
            at += 1
            fit = rule_fits(rule, flat, &view, context, &failed)
            if context.trace != NULL:
                note_step(context.trace, table, rule, fit, failed)
            if fit == FITS_NOT or fit >= FITS_DROP and rule.action == ACTION_AUDIT:
                continue
            outcome.rule = rule.number
            if fit >= FITS_DROP:
                outcome.reason = REASON_RULE_MEMORY if fit == FITS_NO_ROOM else REASON_NONE
                return                      # verdict 0: drop; no rule counts it, as in the kernel
            outcome.by_policy = at - 1 == base.end
            if not context.dry:
                flat.counts[rule.number].packets += 1
                flat.counts[rule.number].bytes += packet.length
                if context.traced:
                    log_packet(&self.traces, packet, <const char *> view.outdev, rule.number, context.now_ns)
            if rule.action == ACTION_ACCEPT:
                outcome.verdict = VERDICT_ACCEPT
                return
            elif rule.action == ACTION_DROP:
                outcome.reject = rule.reject
                return
            elif ACTION_RETURN <= rule.action <= ACTION_GOTO:
                steps += at - entered
                if steps > MAX_STEPS:
                    outcome.reason = REASON_RULE_STEPS
                    return
                if rule.action == ACTION_JUMP:
                    stack[depth] = at
                    depth += 1
                    at = rule.target
                elif rule.action == ACTION_GOTO:
                    at = rule.target
                elif depth:
                    depth -= 1
                    at = stack[depth]
                else:
                    at = base.end
                entered = at
            elif rule.action == ACTION_LOG:
                if not context.dry:
                    log_packet(&self.ring, packet, <const char *> view.outdev, rule.number, context.now_ns)
            elif rule.action == ACTION_OBJECT:
                (<PacketAction> flat.actions[rule.helper]).act(context, outcome)
            elif rule.action == ACTION_TRACE:
                context.traced = not context.dry
            elif rule.action == ACTION_AUDIT:
                if not context.dry:
                    log_packet(&self.audits, packet, <const char *> view.outdev, rule.number, context.now_ns)
            elif rule.action == ACTION_CONTINUE:
                pass
            elif not outcome.notrack and not outcome.helper:     # the first of NOTRACK and CT decides
                outcome.notrack = rule.action == ACTION_NOTRACK
                outcome.helper = <uint8_t> rule.helper

    cdef bint fits(self, int table, const Context *context) noexcept nogil:
        """As a filter: whether the packet would be accepted.  A copy of it is asked; nothing of this shows in its judging."""
        cdef Packet packet = context.packet[0]
        cdef Context asked = context[0]
        cdef Outcome outcome
        asked.packet = &packet
        asked.trace = NULL
        asked.traced = False
        self.run(table, &asked, &outcome)
        return outcome.verdict == VERDICT_ACCEPT

    # -- asking -----------------------------------------------------------------------------------------------------------

    def rule_name(self, index: int) -> str | None:
        """`filter:FORWARD:rule:3` or `filter:FORWARD:policy:7`, as the kernel's TRACE target says; None for NO_RULE."""
        return None if index == <uint32_t> NO_RULE else self.numbering.name(index)

    def rule_code(self, index: int, family: int) -> RuleCode | None:
        """What the rule was compiled to; None for the end of a chain."""
        _, chain, position = self.numbering.places[index]
        return self.codes[family, id(chain.rules[position])][1] if position < len(chain.rules) else None

    def rule_text(self, index: int, family: int | None = None) -> str:
        """The rule as `iptables -S` prints it, `-A FORWARD ...`, `-P FORWARD DROP` or `-N mine`.

        family: for which it is printed, where a rule for both would be written differently.
        """
        if (index, family) not in self.texts:
            self.texts[index, family] = self.print_place(index, family)
        return self.texts[index, family]

    cdef str print_place(self, index, family):
        _, chain, position = self.numbering.places[index]
        if position < len(chain.rules):
            rule = chain.rules[position]
            return f"{AUDIT if rule.audit else ''}-A {chain.name} {print_rule(rule, family)}".rstrip()
        policy = chain.policy_of(family or 4)
        return f"-P {chain.name} {policy}" if policy else f"-N {chain.name}"

    def counters(self, family: int | None = None) -> dict[tuple[str, str], tuple[tuple[int, int] | None, list[tuple[int, int]]]]:
        """(table, chain) -> ((packets, bytes) of the policy, None for one's own chain; (packets, bytes) of each rule).

        Those of IPv4 (4), of IPv6 (6), or of both.
        """
        found = {}
        for table, chain in self.ruleset.chains():
            first = self.numbering.first[table.name, chain.name]
            counted = [counted_since_zero(self, first + index, family) for index in range(len(chain.rules) + 1)]
            end = counted.pop()
            found[table.name, chain.name] = (end if chain.policy else None, counted)
        return found

    def set_counter(self, table: str, chain: str, index: int, family: int, packets: int = 0, bytes: int = 0) -> None:
        """Count rule `index` of a chain (from 0; behind the last: the policy) on from so many packets and bytes.

        The packet path's own numbers are left alone: it may be writing them.
        """
        cdef size_t number = self.numbering.first[table, chain] + index
        cdef FlatProgram *flat = &self.flat[family == 6]
        flat.zeroed[number].packets = flat.counts[number].packets - <uint64_t> packets
        flat.zeroed[number].bytes = flat.counts[number].bytes - <uint64_t> bytes

    def zero(self) -> None:
        """Count from nothing again."""
        for family in range(FAMILIES):
            memcpy(self.flat[family].zeroed, self.flat[family].counts, len(self.numbering) * sizeof(Counter))

    cdef void carry_counters(self, Program previous):
        """Count on from where the rules that `previous` had already, which judges no more, have come to.

        As set_counter(): the packet path is writing this one's numbers, which began at 0.
        """
        cdef uint32_t number, origin
        cdef int family
        cdef const Counter *counted
        cdef const Counter *zeroed
        for family in range(FAMILIES):
            for number in range(self.numbers):
                origin = self.origins[number]
                if origin != <uint32_t> NO_RULE:
                    counted, zeroed = &previous.flat[family].counts[origin], &previous.flat[family].zeroed[origin]
                    self.flat[family].zeroed[number].packets = zeroed.packets - counted.packets
                    self.flat[family].zeroed[number].bytes = zeroed.bytes - counted.bytes

    def logs(self, most: int = 128) -> list[LogRecord]:
        """What LOG, TRACE and auditing rules met since the last call, at most `most` packets of each, oldest first."""
        return [*self.read_ring(&self.ring, most), *self.read_ring(&self.traces, most), *self.read_ring(&self.audits, most)]

    cdef list read_ring(self, LogRing *ring, int most):
        cdef LogEntry *entry
        cdef bint traced = ring == &self.traces
        cdef bint audited = ring == &self.audits
        records = []
        while len(records) < most:
            entry = log_next(ring)
            if entry == NULL:
                break
            name = self.numbering.traced_name(entry.number) if traced else self.numbering.name(entry.number)
            settings = (trace_settings(name) if traced else audit_settings(name) if audited
                        else self.log_settings[entry.number])
            records.append(LogRecord(
                settings=settings, rule=name,
                now_ns=entry.now_ns, hook=Hook(entry.hook), indev=device_name(entry.indev), outdev=device_name(entry.outdev),
                mark=entry.mark, length=entry.length, data=(<char *> entry.data)[:entry.captured]))
            log_done(ring)
        return records

    @property
    def logs_suppressed(self) -> int:
        """Lines of LOG, TRACE and auditing rules that were not kept, since the program was made."""
        return self.ring.suppressed + self.traces.suppressed + self.audits.suppressed

    def walk(self, table: str, data: bytes, hook: Hook, indev: str = "", outdev: str = "", state: int = STATE_NEW, *,
             mark: int = 0, now_ns: int = 0, wall_ns: int = 0, zone_offset_s: int = 0, on_wire: int = 0) -> Walk | None:
        """Send one packet's bytes through one table, as the engine would; None for bytes that are no IP packet.

        No other thread may use the program meanwhile.
        """
        cdef Packet packet
        cdef Context context
        cdef Outcome outcome
        cdef char devices[2][IFNAMSIZ]
        cdef bytes indev_name = indev.encode(), outdev_name = outdev.encode()
        cdef int table_number = dict(TABLE_NUMBERS)[table]
        cdef Lock alone = Lock()
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
        memset(&context, 0, sizeof(Context))
        context.packet = &packet
        context.state = state
        context.direction = DIR_NONE
        context.now_ns = now_ns
        context.wall_ns = wall_ns
        context.zone_offset_s = zone_offset_s
        with nogil:
            alone.lock()
            self.run(table_number, &context, &outcome)
            alone.unlock()
        return Walk(Verdict(outcome.verdict), self.rule_name(outcome.rule), Reject(outcome.reject), bool(outcome.notrack),
                    packet.mark, self.environment.helpers[outcome.helper - 1] if outcome.helper else None)


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


cdef inline void note_step(Trace *trace, int table, const FlatRule *rule, Fit fit, uint32_t failed) noexcept nogil:
    if trace.met < trace.room:
        trace.steps[trace.met] = RuleStep(rule.number, 0 if fit == FITS else failed, fit, <uint8_t> table)
    trace.met += 1


cdef inline Fit rule_fits(const FlatRule *rule, const FlatProgram *flat, const View *view, Context *context,
                          uint32_t *failed) noexcept nogil:
    """The header's tests first, as one comparison; the others in the order in which the rule was written.

    failed: which test failed, as RuleStep has it; nothing if none did.
    """
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
    failed[0] = differs
    if view.broken and rule.tests & TEST_PROTOCOL:
        return FITS_NOT if differs & ~<uint32_t> TEST_PROTOCOL else FITS_DROP
    if differs:
        return FITS_NOT
    if not rule.states >> (context.state & 7) & 1:
        failed[0] = FAILED_STATE
        return FITS_NOT
    if rule.first.kind == KIND_NONE:
        return FITS
    fit = test_fits(&rule.first, flat, context)
    at = rule.more
    while fit == FITS and at < rule.more_end:
        fit = test_fits(&flat.tests[at], flat, context)
        at += 1
    failed[0] = (1 + at - rule.more) << FAILED_TEST_SHIFT
    return fit


cdef inline bint interface_differs(const Interface *pattern, const uint64_t *name) noexcept nogil:
    return ((name[0] ^ pattern.name[0]) & pattern.mask[0] | (name[1] ^ pattern.name[1]) & pattern.mask[1]) != 0


cdef inline bint outside(const uint64_t *address, const uint64_t *network, const uint64_t *mask) noexcept nogil:
    return ((address[0] & mask[0]) ^ network[0] | (address[1] & mask[1]) ^ network[1]) != 0


cdef inline uint32_t addresses_differ(const AddressPair *pair, const Packet *packet) noexcept nogil:
    return (outside(packet.src.halves, pair.src, pair.src_mask) * TEST_SRC
            | outside(packet.dst.halves, pair.dst, pair.dst_mask) * TEST_DST)


cdef Fit test_fits(const FlatTest *test, const FlatProgram *flat, Context *context) noexcept nogil:
    if test.kind == KIND_TRANSPORT:
        return transport_fits(&test.args.transport, context.packet)
    elif test.kind == KIND_ICMP:
        return icmp_fits(&test.args.icmp, context.packet)
    elif test.kind == KIND_STATES:
        return FITS if test.args.states >> (context.state & 7) & 1 else FITS_NOT
    elif test.kind == KIND_OBJECT:
        return (<PacketMatch> flat.objects[test.args.object[0] | <uint32_t> test.args.object[1] << 16]).fits(context)
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


# -- what a program is made of ------------------------------------------------------------------------------------------

def code_of(program: Program, known: dict, rule: Rule, family: int) -> RuleCode:
    """The rule compiled and bound; a rule that is the same object in `known`, or its origin there, keeps its tests and their memory."""
    same, code = known.get((family, id(rule)), (None, None))
    if same is not rule and (origin := rule.came_from) is not None and origin.target_name == rule.target_name:
        same, code = known.get((family, id(origin)), (None, None))
        same = rule if same is origin else None
    if same is not rule:
        code = compile_rule(rule, family)
        bind(code, rule, program.environment)
    program.codes[family, id(rule)] = rule, code
    return code


def bind(code: RuleCode, rule: Rule, environment: RuleEnvironment) -> None:
    location = rule.location
    try:
        for test in code.tests:
            if isinstance(test, PacketMatch):
                test.bind(environment)
        if rule.target is not None:
            location = rule.target.location
        if code.helper and code.helper not in environment.helpers:
            raise ValueError(no_helper(code.helper, environment.helpers))
        if code.performs is not None:
            code.performs.bind(environment)
    except ValueError as error:
        raise RulesError(str(error), location) from None


def no_helper(name: str, helpers: Sequence[str]) -> str:
    there = f"there are {', '.join(helpers)}" if helpers else "none is configured under `helpers:`"
    return f"no helper {name!r}{suggestion(name, helpers)}; {there}"


cdef find_origins(Program program, Program previous):
    """Which number each rule and policy had in `previous`: the same objects or their origins, chains of the same name."""
    places = {id(chain.rules[index]): number for number, (_, chain, index) in enumerate(previous.numbering.places)
              if index < len(chain.rules)}
    ends = {(table, chain.name): number for number, (table, chain, index) in enumerate(previous.numbering.places)
            if index == len(chain.rules)}
    program.numbers = len(program.numbering)
    program.origins = <uint32_t *> allocate(program.numbers, sizeof(uint32_t))
    for number, (table, chain, index) in enumerate(program.numbering.places):
        known = number_of(chain.rules[index], places) if index < len(chain.rules) else ends.get((table, chain.name))
        program.origins[<size_t> number] = NO_RULE if known is None else known


cdef object number_of(rule, dict places):
    known = places.get(id(rule))
    return places.get(id(rule.came_from)) if known is None else known


cdef tuple counted_since_zero(Program program, size_t number, family):
    cdef uint64_t packets = 0, bytes = 0
    cdef const FlatProgram *flat
    cdef bint ipv6
    for ipv6 in range(FAMILIES):
        if family is None or (<int> family == 6) == ipv6:
            flat = &program.flat[ipv6]
            packets += flat.counts[number].packets - flat.zeroed[number].packets
            bytes += flat.counts[number].bytes - flat.zeroed[number].bytes
    return packets, bytes
