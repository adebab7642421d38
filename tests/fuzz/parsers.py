"""The targets by name: what an input is given to, and which errors are an answer.  All else that is raised is a finding."""
from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_native

from fuzz.packets import GATEWAY, SETS, everything, seeds
from pyfw.config.schema import ConfigError, parse_config
from pyfw.conntrack.selection import Selection
from pyfw.conntrack.settings import TcpSettings, TrackingSettings
from pyfw.conntrack.sources import Sources
from pyfw.edge.capture.pcap import Capture, CaptureError
from pyfw.edge.control.session import parsed as parsed_request
from pyfw.edge.control.table import FINISH_HANDOVER, HAND_OVER, CommandError, find_command
from pyfw.engine.engine import Engine
from pyfw.engine.source_limits import SourceLimits
from pyfw.enums import Hook
from pyfw.explain.packet_spec import SpecError, packet_spec, read_spec
from pyfw.helpers import bind
from pyfw.observe.events import Kind, Listener
from pyfw.offline.cases import PolicyError, read_cases
from pyfw.rules.language.commands import CommandFailed, read_request
from pyfw.rules.language.edit import edit
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.language.restore import Options, restore
from pyfw.rules.model import RulesError, Ruleset
from pyfw.rules.program.packet_filter import packet_filter
from pyfw.rules.program.program import Program
from pyfw.rules.sets.store import SetStore
from pyfw.rules.sets.text import SetError
from pyfw.wire.ip_packet import IpPacket
from pyfw.wire.reassembly import Reassembler

SECOND_NS = 10**9
TABLE = Path("/etc/pyfw")               # where a config's files would be looked for

Target = Callable[[bytes], Any]
TARGETS: dict[str, Callable[[], Any]] = {}


def target(name: str) -> Any:
    """What the driver calls with each input: a capsule with a C function, or a function of bytes."""
    return TARGETS[name]()


def prepared(make: Callable[[], Any]) -> Callable[[], Any]:
    TARGETS[make.__name__] = make
    return make


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# -- packets --------------------------------------------------------------------------------------------------------------

SETTINGS = (                    # of the four engines of the packet path
    {"rules": GATEWAY},
    {"rules": GATEWAY, "max_entries": 4,
     "tracking": TrackingSettings(checksum=False, accounting=False, tcp=TcpSettings(loose=False, liberal=True))},
    {"rules": everything()},
    {"rules": everything(), "adaptive": (4, 40), "evict": False, "limited": True},
)


def judging_engine(number: int) -> tuple[Engine, list[Program | None], Listener | None]:
    settings = {"max_entries": 48, "expect_max": 8} | SETTINGS[number]
    rules, limited = settings.pop("rules"), settings.pop("limited", False)
    engine = Engine(helpers=[bind("ftp", (21,), strict=number % 2 == 0)], **settings)
    engine.environment.sets.restore(SETS.encode(), SECOND_NS)
    if limited:
        sources = Sources(settings["max_entries"], 32, 64, 10 * SECOND_NS, bytes(16))
        engine.limit_sources(SourceLimits(sources, max_states=20, max_new=10, flush=True, prefix4=32, prefix6=64,
                                          overload4=engine.environment.sets.find("hosts")))
    programs = [Program(parse_save(text), engine.environment) for text in (rules, GATEWAY)]
    engine.load(programs[0])
    if number == 0:
        return engine, [*programs, None], None
    engine.load_shadow(Program(parse_save(GATEWAY), engine.environment))
    engine.log_drops()
    listener = Listener(Selection(), Kind.NEW | Kind.UPDATE | Kind.DESTROY, records=number == 3, timestamp=True, id=True)
    listener.arm(engine)
    return engine, programs, listener


@prepared
def packets() -> Any:
    fuzz_native.set_seeds(seeds())
    return fuzz_native.packet_path_target(judging_engine)


@prepared
def messages() -> Any:
    return fuzz_native.messages_target()


@prepared
def hand() -> Any:
    """The record of a predecessor's batch."""
    return fuzz_native.hand_target()


@prepared
def table() -> Any:
    """A predecessor's table, damaged."""
    sizes = {"max_entries": 24, "expect_max": 4}

    def engine_over(memory: bytearray) -> Engine:
        return Engine(memory=memory, boot_id=bytes(16), helpers=[bind("ftp", (21,))], **sizes)

    memory = bytearray(Engine.memory_size(**sizes))
    engine = engine_over(memory)
    for packet in seeds():
        engine.judge(packet, Hook.FORWARD, "eth0", "eth1", SECOND_NS)
    fuzz_native.set_seeds(seeds())
    return fuzz_native.table_image_target_of(bytes(memory), engine_over)


@prepared
def capture() -> Target:
    """pcap and pcapng, what is in their frames put together, and judged."""
    file = os.memfd_create("capture")
    path = f"/proc/self/fd/{file}"

    def read(data: bytes) -> None:
        os.truncate(file, 0)
        os.pwrite(file, data, 0)
        reassembler = Reassembler()
        try:
            with Capture(path) as records:
                for record in records:
                    if record.packet is not None:
                        reassembler.feed(record.packet, record.time_ns)
        except CaptureError:
            pass
    return read


@prepared
def reassembly() -> Target:
    """Fragments, each with its length before it; the clock goes on by a byte of tenths of a second."""
    def feed(data: bytes) -> None:
        reassembler, now_ns = Reassembler(), 0
        while len(data) > 2:
            length, now_ns = data[0], now_ns + data[1] * SECOND_NS // 10
            piece, data = data[2:2 + length], data[2 + length:]
            whole = reassembler.feed(IpPacket(piece, len(piece), False), now_ns)
            if isinstance(whole, IpPacket):
                engine.judge(whole.data[:70_000], Hook.FORWARD, "eth0", "eth1", SECOND_NS)
    engine = Engine(max_entries=16, expect_max=4)
    return feed


# -- texts ----------------------------------------------------------------------------------------------------------------

@prepared
def iptables() -> Target:
    """What iptables-save prints: read, compiled, printed; and what was printed reads the same."""
    engine = Engine(max_entries=16, expect_max=4, helpers=[bind("ftp", (21,))])
    engine.environment.sets.restore(SETS.encode(), SECOND_NS)

    def read(data: bytes) -> None:
        try:
            ruleset = parse_save(text_of(data))
            Program(ruleset, engine.environment)
        except RulesError:
            return
        printed = print_ruleset(ruleset)
        assert print_ruleset(parse_save(printed)) == printed
    return read


@prepared
def edits() -> Target:
    """Lines of iptables' command line, and one text for iptables-restore, at a ruleset."""
    first = parse_save(GATEWAY)

    def change(data: bytes) -> None:
        ruleset: Ruleset = first
        for number, line in enumerate(text_of(data).split("\n")[:20]):
            try:
                if line.startswith("*"):
                    restore(ruleset, line.replace("\\n", "\n"), 4 + 2 * (number % 2), Options(keep=number % 3 == 0, counters=number % 5 == 0))
                else:
                    ruleset = edit(ruleset, read_request(shlex.split(line), 4)).ruleset
            except (CommandFailed, RulesError):
                pass
            except ValueError as error:
                if "closing quotation" not in str(error) and "escaped character" not in str(error):
                    raise
    return change


@prepared
def config() -> Target:
    def read(data: bytes) -> None:
        try:
            parse_config(text_of(data), "fuzz.yaml", TABLE)
        except ConfigError:
            pass
    return read


@prepared
def sets() -> Target:
    """What ipset save prints: read, listed, and what was listed read again; and all of it word by word, with the same outcome."""
    class WordByWord(SetStore):
        def _read_plain(self, line: bytes, text: bytes, offset: int, now_ns: int, exist: bool) -> int:
            return offset

    def outcome(store: SetStore, data: bytes) -> tuple[str, str]:
        complaint = ""
        try:
            store.restore(data, SECOND_NS)
        except SetError as error:
            complaint = str(error)
        return complaint, "\n".join(store.saved(None, SECOND_NS, ordered=True))

    def read(data: bytes) -> None:
        complaint, saved = outcome(SetStore(), data)
        assert (complaint, saved) == outcome(WordByWord(), data)
        SetStore().restore(saved.encode("utf-8", "surrogateescape"), SECOND_NS)
    return read


@prepared
def policy() -> Target:
    file = os.memfd_create("policy")
    path = Path(f"/proc/self/fd/{file}")

    def read(data: bytes) -> None:
        os.truncate(file, 0)
        os.pwrite(file, data, 0)
        try:
            read_cases(path, {"LAN": "eth1"})
        except PolicyError:
            pass
    return read


@prepared
def question() -> Target:
    """The words of `explain`, and those that choose packets for `trace`."""
    engine = Engine(max_entries=16, expect_max=4)

    def read(data: bytes) -> None:
        words = text_of(data).split()
        try:
            if words[:1] == ["trace"]:
                packet_filter(words[1:], engine.environment)
            elif "pcap" not in words:
                packet_spec(read_spec(words), engine, SECOND_NS).put(engine, SECOND_NS)
        except (SpecError, RulesError):
            pass
    return read


@prepared
def control() -> Target:
    """A line of the control protocol, as root sends it."""
    from kit.control import StillDaemon

    class Services(StillDaemon):
        def serve_rules(self, ruleset: Ruleset) -> Program:
            program = self.compile_rules(ruleset)
            self.engine.load(program)
            return program

        def compile_rules(self, ruleset: Ruleset) -> Program:
            return Program(ruleset, self.engine.environment, previous=self.engine.program)

    def ask(data: bytes) -> None:
        services = Services(3)
        try:
            request = parsed_request(data)
            command = find_command(request)
            if command.name in NOT_ASKED:
                return
            answers = command.handler(services, command.checked_arguments(request))
            heard = None
            for _ in range(MOST_ANSWERS):
                answers.send(heard)
            answers.close()
        except (CommandError, StopIteration):
            pass
    return ask


MOST_ANSWERS = 50
NOT_ASKED = {"save", HAND_OVER, FINISH_HANDOVER}         # they write files and hand over descriptors


# -- controls -------------------------------------------------------------------------------------------------------------

@prepared
def planted() -> Any:
    return fuzz_native.planted_target()


@prepared
def raised() -> Target:
    def read(data: bytes) -> None:
        if data.startswith(b"!"):
            raise KeyError(data)
    return read
