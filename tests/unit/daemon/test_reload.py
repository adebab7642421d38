"""What a reload takes is what a start takes, and one that fails changes nothing."""
from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kit.control import wait_until
from kit.packets import SYN, tcp
from pyfw.config import engine as engines
from pyfw.config.engine import check_rules, engine_from_config
from pyfw.config.schema import Config, ConfigError, load_config
from pyfw.daemon.active_rules import ActiveRules, Clocks, Configs, Told
from pyfw.edge.host.journal import Journal
from pyfw.edge.host.systemd import ServiceManager
from pyfw.engine.engine import Engine
from pyfw.enums import Hook, Verdict
from pyfw.rules.language.check import MAX_CONN_COUNTERS
from pyfw.rules.language.commands import CommandFailed
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.model import Ruleset
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program

COUNTING = "-A FORWARD -p tcp -m connlimit --connlimit-above 5 -j DROP\n"
MOST = "*filter\n" + COUNTING * (MAX_CONN_COUNTERS // 2) + "COMMIT\n"        # each for IPv4 and for IPv6

NONE = "*filter\nCOMMIT\n"
NEW = parse_save("*filter\n-A FORWARD -s 192.0.2.66 -j DROP\nCOMMIT\n")
ON_TRIAL = "^rules are on trial: `pyfwctl confirm` them first, or wait until they are taken back$"


class Manager(ServiceManager):
    """Keeps what systemd would be told."""

    def __init__(self) -> None:
        super().__init__({})
        self.told: list[str] = []

    def tell(self, *messages: str, descriptors: Mapping[str, int] | None = None, waits: bool = True) -> None:
        self.told += messages


class Gateway:
    """A daemon's engine and rules, and the files of its config."""

    def __init__(self, directory: Path, rules: str, helpers: str = "{}") -> None:
        self.directory = directory
        self.write("pyfw.yaml", "conntrack: {max_entries: 1000}\nsets: [a.ipset]\nrules: {file: gateway.rules}\n"
                                f"helpers: {helpers}\n")
        self.write("a.ipset", "create a hash:ip\nadd a 192.0.2.1\n")
        self.write("gateway.rules", rules)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.engine = engine_from_config(self.read())
        self.manager = Manager()
        self.wall_s = 1000.5
        self.waiting: list[Callable[[], object]] = []       # what the worker is to do
        self.rules = ActiveRules(self.engine, Configs(self.read(), self.read, lambda config: None),
                                 Told(Journal(), self.manager, lambda tables, keep: None), Clocks(lambda: 7000, lambda: self.wall_s), self)

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def read(self) -> Config:
        return load_config(self.directory / "pyfw.yaml")

    def sets(self) -> str:
        return "".join(self.engine.environment.sets.saved(None, 0, ordered=True))

    def text(self) -> str:
        return print_ruleset(self.engine.program.ruleset)

    def apart(self, work: Callable[..., object], *arguments: Any) -> None:
        self.waiting.append(partial(work, *arguments))

    def confirm(self) -> bool:
        async def confirm() -> bool:
            return self.rules.confirm()
        return asyncio.run_coroutine_threadsafe(confirm(), self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """With no rules, or those that the test names."""
    gateway = Gateway(tmp_path, getattr(request, "param", NONE))
    yield gateway
    gateway.close()


@pytest.mark.slow
@pytest.mark.parametrize("gateway", [MOST], indirect=True)
def test_as_many_rules_as_count_connections_can_be_reloaded_and_no_more_are_started_with(gateway: Gateway) -> None:
    gateway.write("shadow.rules", MOST)
    gateway.write("pyfw.yaml", "conntrack: {max_entries: 1000}\nrules: {file: gateway.rules}\npolicy: {shadow: shadow.rules}\n")
    for confirm_s in (0, 0, 60):
        gateway.rules.reload(confirm_s)
    gateway.write("gateway.rules", MOST.replace("COMMIT", f"{COUNTING}COMMIT"))
    with pytest.raises(ConfigError, match=rf"gateway.rules:{MAX_CONN_COUNTERS // 2 + 2}:1: these are more than 2048 rules of connlimit"):
        check_rules(gateway.read())


@pytest.mark.slow
@pytest.mark.parametrize("gateway", [MOST], indirect=True)
def test_a_reload_that_finds_no_room_changes_nothing(gateway: Gateway) -> None:
    crowd = [Program(parse_save(MOST), gateway.engine.environment) for _ in range(7)]
    before, program = gateway.sets(), gateway.engine.program
    gateway.write("a.ipset", "create a hash:net\nadd a 198.51.100.0/24\ncreate b hash:ip\n")
    gateway.write("gateway.rules", MOST.replace("*filter\n", "*filter\n-A FORWARD -m set --match-set b src -j DROP\n"))
    with pytest.raises(ConfigError, match=r"gateway\.rules:.* still being let go of: try again"):
        gateway.rules.reload()
    assert gateway.sets() == before
    assert gateway.engine.program is program
    gateway.engine.environment.sets.change("create", ["b", "hash:ip"], 0)
    gateway.engine.environment.sets.change("destroy", ["b"], 0)
    # When the others have gone, it is done.
    crowd.clear()
    for _ in range(40):
        gateway.engine.sweep(0)
    gateway.rules.reload()
    assert "198.51.100.0/24" in gateway.sets()
    assert gateway.engine.environment.sets.find("b").references == 2


def test_rules_refer_to_the_sets_that_come_with_them(gateway: Gateway) -> None:
    """Both to a new one and to one that takes an old one's place with another type."""
    gateway.write("a.ipset", "create a hash:net,port\nadd a 198.51.100.0/24,80\ncreate b hash:ip\nadd b 192.0.2.7\n")
    gateway.write("gateway.rules", "*filter\n-A FORWARD -m set --match-set b src -j DROP\n"
                                   "-A FORWARD -m set --match-set a src,dst -j DROP\nCOMMIT\n")
    gateway.rules.reload()
    assert dropped(gateway.engine, "192.0.2.7")
    assert dropped(gateway.engine, "198.51.100.9")
    assert not dropped(gateway.engine, "192.0.2.1"), "the control"
    gateway.engine.environment.sets.change("add", ["b", "192.0.2.1"], 0)
    assert dropped(gateway.engine, "192.0.2.1")


def test_rules_do_not_refer_to_sets_that_a_start_would_not_find(gateway: Gateway) -> None:
    """A set that a command has made stays at a reload, but the config's files do not make it."""
    gateway.engine.environment.sets.change("create", ["b", "hash:ip"], 0)
    gateway.write("gateway.rules", "*filter\n-A FORWARD -m set --match-set b src -j DROP\nCOMMIT\n")
    with pytest.raises(ConfigError, match="Set b doesn't exist"):
        gateway.rules.reload()
    gateway.write("a.ipset", "create b hash:ip\n")
    gateway.rules.reload()
    assert gateway.engine.environment.sets.find("b").references == 2


def test_a_reload_with_sets_compiles_the_rules_and_the_shadow_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_one(rules: Ruleset, environment: RuleEnvironment) -> Program:
        compiled.append(print_ruleset(rules))
        return Program(rules, environment)

    monkeypatch.setattr(engines, "Program", compile_one)
    shadow = "*filter\n-A FORWARD -m set --match-set a src -j DROP\nCOMMIT\n"
    gateway.write("shadow.rules", shadow)
    gateway.write("pyfw.yaml", "sets: [a.ipset]\nrules: {file: gateway.rules}\npolicy: {shadow: shadow.rules}\n")
    gateway.rules.reload()
    assert len(compiled) == 2
    assert "match-set" not in compiled[0]
    assert "match-set" in compiled[1]


@pytest.mark.parametrize("sets", ["sets: [a.ipset]\n", ""])
@pytest.mark.parametrize("file", ["gateway.rules", "shadow.rules"])
@pytest.mark.parametrize(("before", "after", "complaint"), [
    ("{}", "{ftp: {}}", "helper 'ftp' is new, and helpers are read only at start"),
    ("{ftp: {}}", "{}", "no helper 'ftp'; none is configured under `helpers:`"),
])
def test_rules_name_helpers_that_run_and_that_a_start_would_find(
        tmp_path: Path, sets: str, file: str, before: str, after: str, complaint: str) -> None:
    with closing(Gateway(tmp_path, NONE, before)) as gateway:
        serving = gateway.engine.program
        gateway.write("gateway.rules", NONE)
        gateway.write("shadow.rules", NONE)
        gateway.write(file, "*raw\n-A PREROUTING -j CT --helper ftp\nCOMMIT\n")
        config = f"{sets}rules: {{file: gateway.rules}}\npolicy: {{shadow: shadow.rules}}\nhelpers: "
        gateway.write("pyfw.yaml", config + after)
        with pytest.raises(ConfigError, match=rf"{file}:2:\d+: {complaint}$"):
            gateway.rules.reload()
        assert gateway.engine.program is serving
        gateway.write("pyfw.yaml", config + before)
        gateway.write(file, NONE if before == "{}" else (tmp_path / file).read_text())
        gateway.rules.reload()      # the control


def test_limits_that_name_a_set_that_is_not_there_are_refused(gateway: Gateway) -> None:
    before = gateway.engine.program
    gateway.write("pyfw.yaml", "sets: [a.ipset]\nrules: {file: gateway.rules}\n"
                               "limits: {per_source: {max_states: 5, overload: b}}\n")
    with pytest.raises(ConfigError, match="set 'b' does not exist"):
        gateway.rules.reload()
    assert gateway.engine.program is before
    gateway.engine.environment.sets.change("create", ["b", "hash:ip"], 0)      # the announced ones have been forgotten


def test_when_a_reload_was_is_told_by_the_clocks_that_are_handed_in(gateway: Gateway) -> None:
    assert gateway.rules.reloads == {"good": 0, "failed": 0, "last_good_s": 1000}
    gateway.wall_s = 2000.5
    gateway.rules.reload()
    assert gateway.manager.told == ["RELOADING=1", "MONOTONIC_USEC=7", "READY=1"]
    gateway.wall_s = 3000.5
    gateway.write("gateway.rules", "nonsense\n")
    with pytest.raises(ConfigError):
        gateway.rules.reload()
    assert gateway.rules.reloads == {"good": 1, "failed": 1, "last_good_s": 2000, "last_failed_s": 3000}


def test_sets_that_can_be_loaded_can_be_reloaded_and_all_together_stay_bounded(gateway: Gateway) -> None:
    """More than half of the memory that all sets may have: each set takes at least that of 1024 elements."""
    gateway.write("a.ipset", "".join(f"create a{number} hash:ip\n" for number in range(9000)))
    for _ in range(3):
        gateway.rules.reload()
    before = gateway.sets()
    gateway.write("a.ipset", "".join(f"create b{number} hash:ip\n" for number in range(9000)))
    with pytest.raises(ConfigError, match=r"^sets: with those that stay, there is no room for it: all sets together have memory for 16777216"):
        gateway.rules.reload()
    assert gateway.sets() == before
    # What has gone is room again.
    gateway.engine.environment.sets.destroy()
    gateway.rules.reload()
    assert len(gateway.engine.environment.sets) == 9000


def test_a_change_is_refused_from_the_reload_until_its_rules_are_taken_back(gateway: Gateway) -> None:
    former = gateway.text()
    gateway.write("gateway.rules", "*filter\n-A FORWARD -j DROP\nCOMMIT\n")
    gateway.rules.reload(1)
    on_trial = gateway.text()
    with pytest.raises(CommandFailed, match=ON_TRIAL):
        gateway.rules.serve_rules(NEW)
    gateway.rules.compile_rules(NEW)
    wait_until(lambda: gateway.waiting)
    # The time is over, but the worker has something else to do before.
    with pytest.raises(CommandFailed, match=ON_TRIAL):
        gateway.rules.serve_rules(NEW)
    with pytest.raises(ConfigError, match="on trial"):
        gateway.rules.reload()
    assert not gateway.confirm()
    assert gateway.text() == on_trial
    gateway.waiting.pop()()
    assert gateway.text() == former
    gateway.rules.serve_rules(NEW)
    assert dropped(gateway.engine, "192.0.2.66")


def test_a_change_is_done_once_the_rules_are_confirmed(gateway: Gateway) -> None:
    gateway.rules.reload(60)
    with pytest.raises(CommandFailed, match=ON_TRIAL):
        gateway.rules.serve_rules(NEW)
    assert not dropped(gateway.engine, "192.0.2.66")
    assert gateway.confirm()
    gateway.rules.serve_rules(NEW)
    assert dropped(gateway.engine, "192.0.2.66")


def test_a_reload_that_fails_is_no_trial(gateway: Gateway) -> None:
    gateway.write("gateway.rules", "nonsense\n")
    with pytest.raises(ConfigError):
        gateway.rules.reload(60)
    gateway.rules.serve_rules(NEW)
    assert dropped(gateway.engine, "192.0.2.66")


def dropped(engine: Engine, source: str) -> bool:
    return engine.judge(tcp(source, "192.0.2.99", 4000, 80, SYN), Hook.FORWARD, "eth0", "eth1", 1).verdict == Verdict.DROP
