"""What members of the group, who may look, can take: of each other little, of root nothing.  Needs root."""
from __future__ import annotations

import json
import os
import resource
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kit.control import GROUP, NOBODY, Client, RunningServer, StillDaemon, clients_of, open_to_all, running, wait_until
from pyfw.edge.control.descriptors import KEPT_BACK, Reserve
from pyfw.edge.control.server import ROOM
from pyfw.edge.control.table import COMMANDS, CommandError
from pyfw.edge.control.unix_socket import connected, roots_path
from pyfw.edge.defects import Defects
from pyfw.edge.host.systemd import ServiceManager
from pyfw.explain.packet_spec import SpecError, read_spec
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

pytestmark = [pytest.mark.alone, pytest.mark.root]         # clients of several users

ALICE, BOB, CAROL, DAVE = 4001, 4002, 4003, 4004


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[RunningServer]:
    """A server whose group's members reach it."""
    with running(tmp_path / "control.sock", StillDaemon(flows=2000), group=GROUP.gr_name) as server:
        open_to_all(server.path)
        yield server


def members(server: RunningServer, uid: int, count: int) -> list[Client]:
    return clients_of(uid, GROUP.gr_gid, server.path, count)


def alive(clients: list[Client]) -> int:
    """How many are still served."""
    served = 0
    for client in clients:
        with suppress(OSError, ValueError):
            served += "done" in client.ask(command="version")[-1]
    return served


def close(*groups: list[Client]) -> None:
    for clients in groups:
        for client in clients:
            client.close()


# -- connections ---------------------------------------------------------------------------------------------


def test_a_user_makes_room_for_its_own_connections_and_for_no_others(shared):
    bobs = members(shared, BOB, 3)
    with Client(shared.path) as root:
        alices = members(shared, ALICE, 150)
        wait_until(lambda: shared.refusals("too_many") == 150 - ROOM.user)
        assert alive(bobs) == 3
        assert root.ask(command="count")[-1]["done"]
        assert "too many connections" in alices[0].answer()["error"]
        assert alive(alices[-ROOM.user:]) == ROOM.user
        assert shared.server.counters()["others"] == ROOM.user + 3
        close(alices, bobs)
    wait_until(lambda: shared.server.counters()["connections"] == 0)


def test_where_all_are_taken_those_who_have_most_make_room(shared):
    crowds = [members(shared, uid, ROOM.user) for uid in (ALICE, BOB, CAROL)]
    wait_until(lambda: shared.server.counters()["others"] == ROOM.others)
    daves = members(shared, DAVE, 2)
    assert alive(daves) == 2
    assert shared.server.counters()["others"] == ROOM.others
    assert alive(daves) == 2, "and stays"
    close(daves, *crowds)


def test_roots_connections_make_room_for_roots_alone(shared):
    alices = members(shared, ALICE, ROOM.user)
    wait_until(lambda: shared.server.counters()["others"] == ROOM.user)
    roots = [shared.connect() for _ in range(ROOM.root + 5)]
    wait_until(lambda: shared.server.counters()["connections"] == ROOM.user + ROOM.root and shared.refusals("too_many") == 5)
    assert shared.server.counters()["others"] == ROOM.user
    close(alices, roots)


def test_root_has_a_socket_that_nobody_else_may_use(shared):
    path = roots_path(shared.path)
    assert path.name == "control-root.sock"
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
    with Client(path) as root:
        assert root.ask(command="count")[-1]["done"]
    with connected(str(shared.path), 5) as connection:
        assert connection.getpeername() == str(path), "which is what root's programs try first"
    with pytest.raises(AssertionError):
        clients_of(NOBODY, GROUP.gr_gid, path, 1)


def test_root_is_heard_while_the_shared_socket_is_flooded(shared):
    """Connections that wait to be accepted, as many as the kernel takes."""
    flood = [client for _ in range(5) for client in members(shared, ALICE, 200)]
    with Client(roots_path(shared.path)) as root:
        assert root.ask(command="count")[-1]["done"]
    close(flood)


def test_a_dead_daemon_leaves_only_the_shared_path_to_be_tried(tmp_path):
    with running(tmp_path / "c", StillDaemon()):
        roots_path(tmp_path / "c").unlink()
        with connected(str(tmp_path / "c"), 5) as connection:
            assert connection.getpeername() == str(tmp_path / "c")


def squat_with_a_listener(path: Path) -> socket.socket:
    """Somebody else's socket, alive."""
    squatter = socket.socket(socket.AF_UNIX)
    squatter.bind(str(path))
    squatter.listen()
    os.chown(path, NOBODY, NOBODY)
    return squatter


def test_root_asks_nobody_who_has_put_a_socket_beside_the_shared_one(tmp_path):
    with running(tmp_path / "c", StillDaemon()):
        roots_path(tmp_path / "c").unlink()
        with squat_with_a_listener(roots_path(tmp_path / "c")), connected(str(tmp_path / "c"), 5) as connection:
            assert connection.getpeername() == str(tmp_path / "c")


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """The process has as many as it may, but for none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open(os.devnull, os.O_RDONLY)]            # no number is free below the limit
    while fillers[-1] <= highest:
        fillers.append(os.dup(fillers[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def test_without_a_descriptor_one_of_the_others_connections_goes(shared):
    alices = members(shared, ALICE, 4)
    wait_until(lambda: shared.server.counters()["others"] == 4)
    root = socket.socket(socket.AF_UNIX)
    root.settimeout(10)
    with no_more_descriptors():
        root.connect(str(roots_path(shared.path)))
        wait_until(lambda: shared.server.counters()["connections"] - shared.server.counters()["others"] == 1)
    assert shared.server.counters()["others"] < 4
    with Client(shared.path, root) as client:
        assert client.ask(command="count")[-1]["done"]
    assert shared.refusals("not_accepted") >= 1
    close(alices)


def test_the_service_manager_hears_us_without_a_descriptor_and_the_reserve_gives_some_back(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        manager, reserve = ServiceManager({"NOTIFY_SOCKET": channel.getsockname()}), Reserve()
        with no_more_descriptors():
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            manager.tell("WATCHDOG=1")
            assert channel.recv(100) == b"WATCHDOG=1"
            reserve.release()
            opened = [os.dup(0) for _ in range(KEPT_BACK // 2)]
        for descriptor in opened:
            os.close(descriptor)


# -- commands ------------------------------------------------------------------------------------------------


def longest_step_s(services: StillDaemon, name: str, **arguments: object) -> tuple[float, int]:
    """Of a command whose steps are done without a pause between them, in processor time; and how many there were."""
    answers, longest_s, steps = COMMANDS[name].handler(services, arguments), 0.0, 0
    try:
        while True:
            began_s = time.thread_time()
            next(answers)
            longest_s, steps = max(longest_s, time.thread_time() - began_s), steps + 1
    except (StopIteration, CommandError):
        return max(longest_s, time.thread_time() - began_s), steps + 1


@pytest.mark.parametrize(("name", "arguments"), [
    ("list-rules", {"verbose": True}), ("iptables-save", {"counters": True}), ("explain", {"words": ["udp", "192.0.2.1:1", "192.0.2.2:2"]})])
def test_many_rules_are_told_step_by_step(name, arguments):
    """The same for ten times as many rules, at most: not ten times as long a step."""
    def with_rules(count: int) -> StillDaemon:
        services = StillDaemon()
        rules = "".join(f"-A FORWARD -s 10.0.{number >> 8}.{number & 255} -p tcp -m tcp --dport 80 -j ACCEPT\n" for number in range(count))
        services.engine.load(Program(parse_save(rules), services.engine.environment))
        return services
    few, many = with_rules(300), with_rules(3000)
    longest_s_few, steps_few = min(longest_step_s(few, name, **arguments) for _ in range(3))
    longest_s_many, steps_many = min(longest_step_s(many, name, **arguments) for _ in range(3))
    assert steps_many > 5 * steps_few
    assert longest_s_many < 5 * longest_s_few


@pytest.mark.parametrize("words", [["--json"] * 8000, ["--ttl", "1"] * 4000, ["--in=x"] * 8000])
def test_a_question_of_very_many_options_is_refused_at_once(words):
    with pytest.raises(SpecError, match="at most 100 options"):
        read_spec(words)


@pytest.mark.parametrize("command", ["events", "top"])
def test_what_costs_while_it_lasts_is_bounded_for_others_and_left_to_root(shared, command):
    alices, bobs = members(shared, ALICE, 3), members(shared, BOB, 2)
    shared.services.now_ns = time.monotonic_ns

    def begin(client: Client) -> str:
        client.send(json.dumps({"command": command}).encode() + b"\n")
        return client.answer().get("error", "")

    assert [begin(client) for client in alices[:2]] == ["", ""]
    assert "try again later" in begin(alices[2])
    assert begin(bobs[0]) == ""
    assert "try again later" in begin(bobs[1])
    with Client(roots_path(shared.path)) as root:
        assert begin(root) == ""
    assert shared.refusals("busy") == 2
    alices.pop(0).close()
    wait_until(lambda: begin(bobs[1]) == "")
    close(alices, bobs)


def test_whose_connection_made_room_leaves_its_listener_behind(shared):
    alices = members(shared, ALICE, 2)
    for client in alices:
        client.send(b'{"command": "events"}\n')
        assert client.answer() == {}
    more = members(shared, ALICE, ROOM.user)
    wait_until(lambda: shared.refusals("too_many") == 2)
    more[-1].send(b'{"command": "events"}\n')      # the last to have come, which made no room
    assert more[-1].answer() == {}
    close(alices, more)


def test_readers_take_turns_and_root_does_not_wait_for_them(tmp_path):
    """Twelve members list a table again and again; root's commands and the event loop's other work go on."""
    with running(tmp_path / "c", StillDaemon(flows=20_000), group=GROUP.gr_name) as server:
        open_to_all(server.path)
        crowd = [client for uid in (ALICE, BOB, CAROL) for client in clients_of(uid, GROUP.gr_gid, server.path, 4)]
        for client in crowd:
            client.send(b'{"command": "list-conntrack", "output": "json", "src": "192.0.2.0/24"}\n' * 50)
        with Client(roots_path(server.path)) as root:
            wait_until(lambda: server.server.counters()["commands"].get("list-conntrack", 0) >= 12)
            for _ in range(20):
                root.ask(command="count")
            served = server.server.counters()["commands"]
            assert served["count"] == 20
            assert served["list-conntrack"] < 12 * 50, "the control: they were not through yet"
        close(crowd)


# -- defects -------------------------------------------------------------------------------------------------


def fail(what: int | str) -> Exception:
    try:
        if isinstance(what, int) and what % 2:
            raise KeyError(what)
        raise ValueError(what)
    except Exception as error:
        return error


def test_a_defect_is_told_once_a_minute_and_place_and_counted_always():
    said: list[str] = []
    defects = Defects(said.append)
    for number in range(1000):
        defects.report("it failed", fail(number))
    assert [text.splitlines()[0] for text in said] == ["it failed: ValueError(0)", "it failed: KeyError(1)"]
    assert "in fail" in said[0]
    assert (defects.count, defects.suppressed) == (1000, 998)


def test_a_defect_is_told_again_after_a_while_and_briefly():
    said: list[str] = []
    defects = Defects(said.append, interval_s=0.05)
    error = fail("x" * 100_000)
    for _ in range(3):
        defects.report("it failed", error)
    wait_until(lambda: defects.report("it failed", error) or len(said) == 2)
    assert all(len(text) < 6000 for text in said)
    assert said[1].splitlines()[0].endswith(" reports suppressed so far")


def test_a_command_that_fails_again_and_again_fills_no_log(shared, capfd):
    shared.services.statistics = lambda: 1 // 0
    for client in members(shared, ALICE, 10):
        for _ in range(20):
            assert client.ask(command="stats")[-1]["error"].startswith("internal error")
        client.close()
    assert capfd.readouterr().err.count("Traceback") == 1
    counters = shared.server.counters()
    assert (counters["refusals"]["internal_error"], counters["defects"], counters["defects_suppressed"]) == (200, 200, 199)
