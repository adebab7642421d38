"""The control socket's protocol, its limits and its permissions.  Needs root: real users are refused."""
from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import time
from pathlib import Path

import pytest

from kit.control import GROUP, NOBODY, Client, StillDaemon, as_user, open_to_all, running, udp_packet, wait_until
from pyfw.edge.control.handlers.shadow import kill_states
from pyfw.edge.control.server import ROOM, ControlServer
from pyfw.edge.control.session import LINE_BYTES
from pyfw.edge.control.table import COMMANDS
from pyfw.edge.control.unix_socket import SocketInUse
from pyfw.enums import Hook
from pyfw.observe.dump import count_entries
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program

# -- the protocol --------------------------------------------------------------------------------------------


def test_an_answer_is_lines_and_the_last_says_done(control):
    with control.connect() as client:
        assert client.ask(command="count") == [{"text": "3\n"}, {"done": True, "count": 3}]


def test_a_connection_serves_many_requests(control):
    with control.connect() as client:
        for _ in range(3):
            assert client.ask(command="count")[-1]["count"] == 3


def test_requests_sent_at_once_are_answered_in_order(control):
    with control.connect() as client:
        client.send(b'{"command":"count"}\n{"command":"nonsense"}\n{"command":"count"}\n')
        kinds = [set(client.answer()) - {"status", "count"} for _ in range(5)]
        assert kinds == [{"text"}, {"done"}, {"error"}, {"text"}, {"done"}]


def test_a_listing_comes_whole_in_chunks(tmp_path):
    with running(tmp_path / "c", StillDaemon(flows=5000)) as server, server.connect() as client:
        answers = client.ask(command="list-conntrack")
    lines = "".join(answer.get("text", "") for answer in answers).splitlines()
    assert len(lines) == len(set(lines)) == 5000
    assert "udp      17 3599 src=10.0.0.7 dst=192.0.2.1 sport=5000 dport=53 packets=1 bytes=28 [UNREPLIED] " \
           "src=192.0.2.1 dst=10.0.0.7 sport=53 dport=5000 packets=0 bytes=0 mark=0 use=1" in lines
    assert len(answers) > 3
    assert answers[-1] == {"done": True, "count": 5000, "status": 0}


def test_json_comes_as_records(control):
    with control.connect() as client:
        answers = client.ask(command="list-conntrack", output="json")
        records = [record for answer in answers for record in answer.get("records", [])]
        assert sorted(record["original"]["src"] for record in records) == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(("filters", "matched", "status"), [
    ({}, 3, 0),
    ({"family": "ipv6"}, 0, 1),
    ({"output": "nf"}, 3, 0),
    ({"src": "10.0.0.1"}, 1, 0),
    ({"src": "10.0.0.0/31", "protocol": "udp"}, 2, 0),
    ({"src": "2001:db8::/32"}, 0, 1),
    ({"protocol": "tcp"}, 0, 1),
    ({"protocol": "17", "dport": 53}, 3, 0),
    ({"status": "ASSURED"}, 0, 1),
    ({"status": "UNREPLIED", "output": "nf"}, 3, 0),
    ({"status": "SEEN_REPLY,ASSURED"}, 0, 1),
    ({"reply_dst": "10.0.0.0/31"}, 2, 0),
    ({"reply_src": "192.0.2.1", "reply_sport": 53}, 3, 0),
    ({"reply_src": "2001:db8::1"}, 0, 1),
    ({"src": "10.9.9.1", "mask_src": "255.0.0.255"}, 1, 0),
    ({"mark": "0/0xff"}, 3, 0),
    ({"mark": "1"}, 0, 1),
    ({"id": 2}, 1, 0),
    ({"icmp_type": 8}, 0, 1),
])
def test_filters_that_match_nothing_say_so_by_their_status(control, filters, matched, status):
    with control.connect() as client:
        done = client.ask(command="list-conntrack", **filters)[-1]
        assert (done["count"], done["status"]) == (matched, status)


def test_delete_prints_what_it_deletes_and_says_how_many(control):
    with control.connect() as client:
        listing, note, done = client.ask(command="delete", src="10.0.0.0/31")
        assert note == {"note": "2 flow entries have been deleted."}
        assert done == {"done": True, "count": 2, "status": 0}
        assert listing["text"].count("\n") == 2
        assert client.ask(command="count")[-1]["count"] == 1
        assert client.ask(command="delete", src="10.0.0.0/31")[-1]["status"] == 1


def test_count_counts_what_is_selected(control):
    with control.connect() as client:
        assert client.ask(command="count", src="10.0.0.0/31") == [{"text": "2\n"}, {"done": True, "count": 2}]
        assert client.ask(command="count", family="ipv6")[-1]["count"] == 0


def test_flush_forgets_all(control):
    with control.connect() as client:
        assert client.ask(command="flush")[-1]["count"] == 3
        assert client.ask(command="count")[-1]["count"] == 0


def test_a_bad_config_at_reload_is_an_error_that_says_where(control):
    control.services.bad_config = "unknown key 'que'"
    with control.connect() as client:
        assert client.ask(command="reload") == [
            {"error": "gw.yaml:3:1: unknown key 'que'; the old rules stay in force", "status": 1}]
    assert control.refusals("bad_config") == 1


def test_a_reload_names_what_needs_a_restart(control):
    with control.connect() as client:
        assert client.ask(command="reload")[0] == {
            "note": "12 rules loaded; changed, but read only at start: queue.number"}


def drop_from(services: StillDaemon, *sources: str) -> None:
    services.engine.load(Program(parse_save("".join(f"-A FORWARD -s {source} -j DROP\n" for source in sources)),
                                 services.engine.environment))


def test_a_reload_that_kills_lists_what_goes(control):
    drop_from(control.services, "10.0.0.0/31")
    with control.connect() as client:
        assert client.ask(command="reload")[-1] == {"done": True, "rules": 12, "needs_restart": ["queue.number"]}
        _, listing, note, done = client.ask(command="reload", kill_states=True)
        assert [line.split("src=")[1].split()[0] for line in listing["text"].splitlines()] == ["10.0.0.0", "10.0.0.1"]
        assert listing["text"].startswith("ipv4     2 udp      17 3599 src=")
        assert note == {"note": "2 flow entries have been deleted, which these rules would not have accepted."}
        assert (done["killed"], done["unknown"]) == (2, 0)
        assert client.ask(command="count")[-1]["count"] == 1
        control.services.kill_states = True
        assert client.ask(command="reload")[-1]["killed"] == 0


def test_whoever_leaves_while_states_are_killed_leaves_none_behind(tmp_path):
    services = StillDaemon(flows=5000)
    drop_from(services, "10.0.0.0/8")
    answers = kill_states(services)
    assert "text" in next(answers)
    answers.close()
    assert count_entries(services.engine, services.now_ns()) == 0


@pytest.mark.parametrize("request_", [{"action": "diff"}, {"action": "rules"}, {"action": "reset"}, {}])
def test_without_a_shadow_it_is_said_how_to_have_one(control, request_):
    with control.connect() as client:
        assert client.ask(command="shadow", **request_) == [
            {"error": "there is no shadow ruleset; `pyfw run --shadow FILE` or `policy: {shadow: FILE}` loads one", "status": 1}]


def test_a_shadow_over_the_socket(control):
    engine = control.services.engine
    engine.load_shadow(Program(parse_save("-A FORWARD -p udp -j DROP\n"), RuleEnvironment()))
    engine.judge(udp_packet(1), Hook.FORWARD, "eth1", "eth0", now=1)
    with control.connect() as client:
        found, note, done = client.ask(command="shadow", json=True)
        assert (found["records"][0]["packets"], found["records"][0]["real"]["rule"]) == (1, None)
        assert note == {"note": "1 of 1 packets judged otherwise"}
        assert done == {"done": True, "judged": 1, "otherwise": 1, "unkept": 0, "status": 0}
        assert client.ask(command="shadow", action="rules", chain="FORWARD")[0]["text"] == (
            "-P FORWARD ACCEPT -c 0 0\n-A FORWARD -p udp -c 1 28 -j DROP\n")
        assert client.ask(command="shadow", action="rules", table="raw")[0]["text"] == "-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n"
        assert client.ask(command="shadow", action="rules", chain="mine")[0]["error"] == "the shadow has no chain 'mine' in table filter"
        client.ask(command="shadow", action="reset")
        assert client.ask(command="shadow")[-1]["status"] == 1
        assert "must be one of diff, rules, reset" in client.ask(command="shadow", action="show")[0]["error"]


def test_stats_for_people_and_for_programs(control):
    with control.connect() as client:
        assert client.ask(command="stats")[0]["text"].splitlines() == [
            "packets                      7", "states:", "  NEW                        3"]
        assert client.ask(command="stats", json=True)[0] == {
            "records": [{"packets": 7, "states": {"NEW": 3}, "reasons": {}}]}


def test_what_changes_something_is_roots():
    assert [name for name, command in COMMANDS.items() if command.needs_root] == [
        "trace", "flush", "delete", "reload", "confirm", "shadow", "save", "rules-saved", "iptables", "iptables-restore", "set",
        "hand-over", "hand-over-done"]


# -- ping ----------------------------------------------------------------------------------------------------


def test_ping_waits_for_the_packets_queued_before_it_and_for_no_others(control):
    services = control.services
    services.queued, services.judged, services.waiting = 10, 7, 3
    with control.connect() as client:
        client.send(b'{"command": "ping"}\n')
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        services.queued, services.waiting = 20, 10
        services.judged = 10
        assert json.loads(client.socket.recv(100)) == {"done": True}


def test_ping_ends_when_nothing_is_queued_though_packets_were_lost(control):
    control.services.queued, control.services.judged, control.services.waiting = 10, 7, 0
    with control.connect() as client:
        assert client.ask(command="ping") == [{"done": True}]


def test_ping_fails_while_packets_are_not_diverted(control):
    control.services.diversion_fault = "INPUT's jump to PYFW-INPUT was missing (IPv4)"
    with control.connect() as client:
        [answer] = client.ask(command="ping")
        assert answer["error"] == "the diversion is not in place: INPUT's jump to PYFW-INPUT was missing (IPv4)"


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "reason", "message"), [
    (b"hello", "malformed", "not a line of JSON: Expecting value: line 1 column 1 (char 0)"),
    (b"", "malformed", "not a line of JSON: Expecting value: line 1 column 1 (char 0)"),
    (b"\xff\xfe\x00\x80", "malformed", "not a line of JSON: 'utf-8' codec can't decode byte 0xff in position 0: "
                                       "invalid start byte"),
    (b"[" * 50_000, "malformed", "not a line of JSON: nested too deeply"),
    (b"[]", "malformed", 'a request is a JSON object on one line, such as {"command": "count"}'),
    (b"7", "malformed", 'a request is a JSON object on one line, such as {"command": "count"}'),
    (b"{}", "malformed", 'a request is a JSON object on one line, such as {"command": "count"}'),
    (b'{"command": ["count"]}', "malformed", 'a request is a JSON object on one line, such as {"command": "count"}'),
    (b'{"command": "cuont"}', "unknown_command", "unknown command 'cuont'; did you mean 'count'?"),
    (b'{"command": "x"}', "unknown_command", "unknown command 'x'; there are " + ", ".join(COMMANDS)),
    (b'{"command": "version", "all": 1}', "bad_argument", "command 'version' has no argument 'all'"),
    (b'{"command": "stats", "all": 1}', "bad_argument", "command 'stats' has no argument 'all'; it has json, watch"),
    (b'{"command": "stats", "json": 1}', "bad_argument", "argument 'json' must be true or false"),
    (b'{"command": "delete", "sport": "80"}', "bad_argument", "argument 'sport' must be a number"),
    (b'{"command": "delete", "sport": true}', "bad_argument", "argument 'sport' must be a number"),
    (b'{"command": "delete", "family": "ipx"}', "bad_argument",
     "argument 'family' must be one of ipv4, ipv6, not 'ipx'"),
    (b'{"command": "list-conntrack", "protocol": "tpc"}', "bad_argument",
     "unknown protocol 'tpc': a number to 255, or one of icmp, tcp, udp, gre, icmpv6, ipv6-icmp, sctp, udplite"),
    (b'{"command": "list-conntrack", "src": "10.0.0.0/33"}', "bad_argument",
     "src: '10.0.0.0/33' is not an address or a network; write 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32"),
    (b'{"command": "list-conntrack", "dport": 70000}', "bad_argument", "dport must be 0 to 65535, not 70000"),
    (b'{"command": "list-conntrack", "family": "ipv6", "output": "proc"}', "bad_argument",
     "the proc format is IPv4 only; use -o nf"),
])
def test_a_bad_line_is_answered_and_the_connection_goes_on(control, line, reason, message):
    with control.connect() as client:
        client.send(line + b"\n")
        assert client.answer() == {"error": message, "status": 2}
        assert client.ask(command="count")[-1]["done"]
    assert control.refusals(reason) == 1


def test_rules_are_not_listed_where_there_are_none(control):
    with control.connect() as client:
        assert client.ask(command="list-rules") == [
            {"error": "no rules are loaded: everything is accepted", "status": 1}]


def test_a_line_without_end_is_cut_off_at_the_limit(control):
    with control.connect() as client:
        client.send(b"x" * (LINE_BYTES + 4096))
        assert client.answer() == {"error": "a request line may have 65536 bytes", "status": 2}
        assert client.is_closed_by_server()
    assert control.refusals("line_too_long") == 1


def test_half_a_line_and_then_the_end_is_an_error(control):
    with control.connect() as client:
        client.send(b'{"command": "cou')
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer()["error"].startswith("not a line of JSON")
        assert client.is_closed_by_server()


def test_half_a_line_and_then_nothing_runs_into_the_time_limit(tmp_path):
    with running(tmp_path / "c", StillDaemon(), request_s=0.1) as server, server.connect() as client:
        client.send(b'{"command": "cou')
        assert client.answer() == {"error": "no whole request within 0.1 s", "status": 1}
        assert client.is_closed_by_server()
        assert server.refusals("idle") == 1


def test_a_client_that_never_reads_is_dropped(tmp_path):
    with running(tmp_path / "c", StillDaemon(flows=30_000), read_s=0.2) as server:
        with server.connect() as deaf:
            deaf.send(b'{"command": "list-conntrack"}\n')
            wait_until(lambda: server.refusals("slow_reader") == 1)
            with server.connect() as client:
                assert client.ask(command="count")[-1]["done"]
            wait_until(lambda: server.server.counters()["connections"] == 0)


def test_a_client_that_leaves_amid_a_listing_harms_nobody(tmp_path):
    with running(tmp_path / "c", StillDaemon(flows=30_000)) as server:
        with server.connect() as client:
            client.send(b'{"command": "list-conntrack"}\n')
            client.socket.recv(10)
        wait_until(lambda: server.server.counters()["connections"] == 0)
        with server.connect() as client:
            assert client.ask(command="count")[-1]["done"]


def test_a_long_listing_does_not_keep_others_waiting(tmp_path):
    with running(tmp_path / "c", StillDaemon(flows=30_000)) as server, server.connect() as long:
        long.send(b'{"command": "list-conntrack"}\n')
        long.lines.readline()
        with server.connect() as client:
            client.ask(command="count")
        wait_until(lambda: server.server.counters()["connections"] == 1)
        last = None
        for line in long.lines:
            last = line
            if b'"done"' in line[:20]:
                break
        assert json.loads(last)["count"] == 30_000


def test_a_thousand_open_connections_do_not_hurt(control):
    idle = [control.connect() for _ in range(1000)]
    try:
        with control.connect() as client:
            assert client.ask(command="count")[-1]["done"]
        assert control.server.counters()["connections"] <= ROOM.root
        assert control.refusals("too_many") >= 1001 - ROOM.root
        assert idle[0].answer() == {
            "error": "there are too many connections, and this one was idle for longest", "status": 1}
        assert idle[0].is_closed_by_server()
    finally:
        for connection in idle:
            connection.close()


def test_a_thousand_connections_of_garbage_do_not_hurt(control):
    for number in range(1000):
        with control.connect() as client:
            client.send(os.urandom(number % 97))
    with control.connect() as client:
        assert client.ask(command="count")[-1]["done"]


def test_a_defect_in_a_command_is_one_connections_error(control, capfd):
    control.services.statistics = lambda: 1 // 0
    with control.connect() as client:
        assert client.ask(command="stats")[0]["error"].startswith("internal error: ZeroDivisionError")
        assert client.ask(command="count")[-1]["done"]
    assert control.refusals("internal_error") == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


# -- permissions ---------------------------------------------------------------------------------------------


def first_answer(path: Path, **request) -> str:
    with Client(path) as client:
        return json.dumps(client.ask(**request)[-1])


@pytest.mark.root
@pytest.mark.parametrize(("uid", "gid", "command", "outcome"), [
    (NOBODY, NOBODY, "count", "permission denied: be root or a member of group games"),
    (NOBODY, NOBODY, "flush", "permission denied: be root or a member of group games"),
    (NOBODY, GROUP.gr_gid, "count", None),
    (NOBODY, GROUP.gr_gid, "stats", None),
    *[(NOBODY, GROUP.gr_gid, command, f"only root may {command}; members of group games may read")
      for command in ("flush", "delete", "reload")],
    (0, 0, "flush", None),
    (4242, 4242, "count", "permission denied: be root or a member of group games"),
])
def test_who_may_do_what(tmp_path, uid, gid, command, outcome):
    with running(tmp_path / "c", StillDaemon(), group=GROUP.gr_name) as server:
        open_to_all(server.path)
        answer = json.loads(as_user(uid, gid, [], lambda: first_answer(server.path, command=command)))
        assert answer.get("error") == outcome
        assert server.refusals("permission") == (outcome is not None)


@pytest.mark.root
@pytest.mark.parametrize(("groups", "may"), [([GROUP.gr_gid], True), ([*range(5000, 5400), GROUP.gr_gid], False), ([1, 2, 3], False)])
def test_a_member_is_whose_process_is_in_the_group(tmp_path, groups, may):
    """Of a process in more groups than can be asked for, the user database's word counts."""
    with running(tmp_path / "c", StillDaemon(), group="games") as server:
        open_to_all(server.path)
        answer = json.loads(as_user(NOBODY, NOBODY, groups, lambda: first_answer(server.path, command="count")))
        assert answer.get("done", False) == may


@pytest.mark.root
def test_of_very_many_groups_the_user_database_tells(tmp_path):
    """Group games is the primary group of user games."""
    with running(tmp_path / "c", StillDaemon(), group="games") as server:
        open_to_all(server.path)
        answer = json.loads(as_user(pwd.getpwnam("games").pw_uid, NOBODY, [*range(5000, 5400)],
                                    lambda: first_answer(server.path, command="count")))
        assert answer["done"]


@pytest.mark.root
@pytest.mark.parametrize(("group", "mode", "owner"), [("games", 0o660, GROUP.gr_gid), ("no-such-group", 0o600, 0),
                                                (None, 0o600, 0)])
def test_the_socket_file_belongs_to_root_and_the_group(tmp_path, group, mode, owner):
    with running(tmp_path / "c", StillDaemon(), group=group) as server:
        status = server.path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, owner)


@pytest.mark.root
def test_others_cannot_even_connect(tmp_path):
    with running(tmp_path / "c", StillDaemon()) as server:
        open_to_all(server.path)
        server.path.chmod(0o600)
        assert as_user(NOBODY, NOBODY, [], lambda: first_answer(server.path, command="count")) == "PermissionError"


# -- the socket's file ---------------------------------------------------------------------------------------


def test_a_stale_socket_is_replaced_and_gone_afterwards(tmp_path):
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with running(path, StillDaemon()) as server, server.connect() as client:
        assert client.ask(command="count")[-1]["done"]
    assert not path.exists()


def test_a_living_daemons_socket_is_left_alone(control):
    with pytest.raises(SocketInUse):
        ControlServer(control.path, None, StillDaemon()).bind()
    with control.connect() as client:
        assert client.ask(command="count")[-1]["done"]


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="exists and is not a socket"):
        ControlServer(path, None, StillDaemon()).bind()
    assert path.read_text() == "precious"


def test_closing_drops_the_clients(tmp_path):
    with running(tmp_path / "c", StillDaemon()) as server:
        client = server.connect()
        client.ask(command="count")
    started = time.monotonic()
    assert client.is_closed_by_server()
    assert time.monotonic() - started < 1
    client.close()
