# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Writing a linked ruleset into flat C arrays."""
from libc.string cimport memcpy, memset

from pyfw.rules.parts cimport PacketMatch

from pyfw.enums import Hook
from pyfw.rules.code import Action, IcmpTest, StateTest, TransportTest
from pyfw.rules.model import RulesError

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef enum:
    CACHE_LINE = 64
    MAX_INDEX = 0xFFFF

cdef dict ACTIONS = {
    Action.CONTINUE: ACTION_CONTINUE, Action.ACCEPT: ACTION_ACCEPT, Action.DROP: ACTION_DROP,
    Action.RETURN: ACTION_RETURN, Action.JUMP: ACTION_JUMP, Action.GOTO: ACTION_GOTO, Action.LOG: ACTION_LOG,
    Action.NOTRACK: ACTION_NOTRACK, Action.HELPER: ACTION_HELPER, Action.OBJECT: ACTION_OBJECT, Action.TRACE: ACTION_TRACE,
    Action.AUDIT: ACTION_AUDIT,
}
HEADER_TESTS = {
    "source": TEST_SRC, "destination": TEST_DST, "protocol": TEST_PROTOCOL, "indev": TEST_INDEV, "outdev": TEST_OUTDEV,
    "fragment": TEST_FRAGMENT,
}
TABLE_NUMBERS = (("raw", TABLE_RAW), ("filter", TABLE_FILTER))


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


cdef dict fill_objects(FlatProgram *flat, list codes):
    """The tests and actions that are objects: id -> position among those of its kind."""
    tests = [test for code in codes for test in code.tests if isinstance(test, PacketMatch)]
    actions = [code.performs for code in codes if code.performs is not None]
    if len(actions) > MAX_INDEX:
        raise RulesError(f"more than {MAX_INDEX} rules with a target that is neither a verdict nor a jump")
    flat.objects = <void **> allocate(len(tests), sizeof(void *))
    flat.actions = <void **> allocate(len(actions), sizeof(void *))
    for position, test in enumerate(tests):
        flat.objects[<size_t> position] = <void *> test
    for position, action in enumerate(actions):
        flat.actions[<size_t> position] = <void *> action
    return {id(part): position for parts in (tests, actions) for position, part in enumerate(parts)}


cdef fill_program(FlatProgram *flat, bint ipv6, linked, size_t numbers, helpers, dict log_settings):
    """What link() made, in C.

    numbers: how many counters there are; `helpers` by position; `log_settings` takes each LOG rule's, by number.
    """
    cdef size_t tests = 0
    codes = [rule.code for rule in linked.rules]
    patterns = index_of(device for code in codes for device in (code.indev, code.outdev) if device is not None)
    pairs = index_of((code.source, code.destination) for code in codes) if ipv6 else {}
    flat.rules = <FlatRule *> allocate(len(codes), sizeof(FlatRule))
    flat.tests = <FlatTest *> allocate(sum(len(code.tests) for code in codes), sizeof(FlatTest))
    flat.counts = <Counter *> allocate(numbers, sizeof(Counter))
    flat.zeroed = <Counter *> allocate(numbers, sizeof(Counter))
    objects = fill_objects(flat, codes)
    fill_interfaces(flat, patterns)
    fill_addresses(flat, pairs)
    for position, rule in enumerate(linked.rules):
        fill_rule(&flat.rules[<size_t> position], rule, helpers, log_settings, objects)
        fill_header(&flat.rules[<size_t> position], rule.code, patterns, pairs)
        tests = fill_tests(flat, &flat.rules[<size_t> position], rule.code.tests, tests, objects)
    for name, table in TABLE_NUMBERS:
        for hook in Hook:
            chain = ("OUTPUT" if hook is Hook.OUTPUT else "PREROUTING") if table == TABLE_RAW else hook.name
            if (name, chain) in linked.chains:
                span = linked.chains[name, chain]
                flat.base[<int> table][<int> hook] = BaseChain(1, span.first, span.end)


cdef fill_interfaces(FlatProgram *flat, dict patterns):
    cdef Interface *interface
    cdef bytes name
    if len(patterns) > MAX_INDEX:
        raise RulesError(f"more than {MAX_INDEX} interface names in one ruleset")
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


cdef fill_rule(FlatRule *rule, linked, helpers, dict log_settings, dict objects):
    """What the rule does."""
    code = linked.code
    rule.number = linked.number
    rule.target = linked.target
    rule.action = ACTIONS[code.action]
    rule.reject = code.reject
    if code.helper:
        rule.helper = 1 + helpers.index(code.helper)
    if code.performs is not None:
        rule.helper = objects[id(code.performs)]
    if code.log is not None:
        log_settings[linked.number] = code.log


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


cdef size_t fill_tests(FlatProgram *flat, FlatRule *rule, list tests, size_t used, dict objects) except? 0:
    """The other tests, the first of which stands in the rule; returns how many entries of flat.tests are in use."""
    rule.more = used
    for index, test in enumerate(tests):
        if index == 0:
            fill_test(&rule.first, test, objects)
        else:
            fill_test(&flat.tests[used], test, objects)
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


cdef fill_test(FlatTest *flat, test, dict objects):
    cdef uint32_t position
    if isinstance(test, TransportTest):
        fill_transport(flat, test)
    elif isinstance(test, IcmpTest):
        flat.kind = KIND_ICMP
        flat.args.icmp = IcmpArgs(test.type, test.code_low, test.code_high, test.any_type, test.inverted)
    elif isinstance(test, StateTest):
        flat.kind = KIND_STATES
        flat.args.states = test.states
    elif isinstance(test, PacketMatch):
        flat.kind = KIND_OBJECT
        position = objects[id(test)]
        flat.args.object[0], flat.args.object[1] = <uint16_t> position, <uint16_t> (position >> 16)
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
