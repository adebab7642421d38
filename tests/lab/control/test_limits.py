"""Limits on a live gateway, met by real clients: who is refused, who is listed, and who notices nothing of it.

    client 192.0.2.2, 192.0.2.3 ──> gateway (pyfw) ──> server: a listener that accepts and keeps
"""
from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from firewall import Firewall
from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

PORT = 5001
MOST = 200
OTHER = "192.0.2.3"
SECOND_SYN_S = 1.5                  # the kernel sends it after a second
RULES = ["-m set --match-set blocked src -j DROP", "-m state --state ESTABLISHED -j ACCEPT", f"-p tcp --dport {PORT} --syn -j ACCEPT"]


@pytest.fixture(autouse=True)
def second_client(lab: Lab) -> None:
    """Another source on the same cable."""
    lab.run("client", ["ip", "address", "add", f"{OTHER}/24", "dev", CLIENT.interface], check=True)
    lab.run("gateway", ["ip", "neighbour", "add", OTHER, "lladdr", CLIENT.mac, "dev", GATEWAY_INSIDE.interface,
                        "nud", "permanent"], check=True)


@pytest.fixture(autouse=True)
def keeping_server(lab: Lab) -> Iterator[None]:
    """Accepts every connection and keeps it open to the end of the test."""
    with ExitStack() as stack:
        with lab.inside("server"):
            listener = stack.enter_context(socket.create_server((SERVER.ipv4, PORT), backlog=1024))
        selector = stack.enter_context(selectors.DefaultSelector())
        stop, stopper = socket.socketpair()
        stack.enter_context(stop), stack.enter_context(stopper)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(stop, selectors.EVENT_READ)

        def accept() -> None:
            while stop not in [key.fileobj for key, _ in selector.select()]:
                stack.enter_context(listener.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield
        stopper.send(b"x")
        thread.join()


def sets(directory: Path) -> list[str]:
    """What --set takes to have the set `blocked`."""
    (directory / "blocked.ipset").write_text("create blocked hash:ip timeout 600\n")
    return [f"sets=[{directory / 'blocked.ipset'}]"]


@contextmanager
def connections(lab: Lab, count: int, source: str = CLIENT.ipv4) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        with lab.inside("client"):
            yield [stack.enter_context(socket.create_connection((SERVER.ipv4, PORT), 5, (source, 0))) for _ in range(count)]


def connects(lab: Lab, source: str = CLIENT.ipv4) -> bool:
    with suppress(TimeoutError), lab.inside("client"):
        socket.create_connection((SERVER.ipv4, PORT), SECOND_SYN_S, (source, 0)).close()
        return True
    return False


def stats(firewall: Firewall) -> dict:
    firewall.settle()
    return json.loads(firewall.ctl("stats", "--json", check=True).stdout)


def members(firewall: Firewall) -> list[str]:
    saved = firewall.ctl("set", "save", "blocked", check=True).stdout
    return [line.split()[2] for line in saved.splitlines() if line.startswith("add ")]


def test_one_connection_too_many_is_refused_and_another_source_is_unhindered(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=RULES, settings=[*sets(tmp_path), f"limits.per_source.max_states={MOST}"])
    with connections(lab, MOST):
        assert stats(firewall)["reasons"] == {}
        assert not connects(lab)
        assert stats(firewall)["reasons"]["SOURCE_STATES"] >= 1
        assert connects(lab, OTHER)
        assert firewall.ctl("sources", "-n", "1").stdout == f"{CLIENT.ipv4} ( states {MOST}, connections {MOST} )\n"
        assert members(firewall) == []
    firewall.ctl("delete", "-s", CLIENT.ipv4, check=True)
    assert connects(lab)


def test_too_many_new_ones_list_their_source_and_a_rule_drops_it(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=RULES, settings=[
        *sets(tmp_path), "limits.per_source={max_new: 20/1h, overload: blocked, flush: true}"])
    with connections(lab, 20) as opened, connections(lab, 3, OTHER) as others:
        assert members(firewall) == []
        assert not connects(lab)
        assert members(firewall) == [CLIENT.ipv4]
        assert not connects(lab)
        assert stats(firewall)["reasons"]["SOURCE_NEW"] == 1      # all later SYNs meet the rule
        assert firewall.rule_packets()["-A FORWARD -m set --match-set blocked src -j DROP"] >= 1
        wait_until(lambda: stats(firewall)["limits"]["flushed"] == 20, "its connections to end")
        assert all(f"src={OTHER} " in line for line in firewall.connections())
        assert [line.split()[:4] for line in firewall.ctl("sources").stdout.splitlines()
                if " states 3," in line] == [[OTHER, "(", "states", "3,"]]
        opened[0].send(b"lost")
        others[0].send(b"passes")
        firewall.wait_for("the other source's data", lambda lines: any("packets=3" in line for line in lines))
        assert connects(lab, OTHER)
        firewall.ctl("set", "flush", "blocked", check=True)
        assert not connects(lab)                                # the window is not over
        assert stats(firewall)["limits"]["overloaded"] == 2


def test_who_sends_syns_in_anothers_name_cannot_have_it_listed(lab: Lab, guard: Guard, tmp_path: Path):
    """SYNs to an address where nobody answers, as if forged: refused beyond the limit, and that is all."""
    firewall = guard(FORWARD=RULES, settings=[*sets(tmp_path), "limits.per_source={max_new: 5/1h, overload: blocked}"])
    silent = SERVER.ipv4.rpartition(".")[0] + ".99"
    lab.run("gateway", ["ip", "neighbour", "add", silent, "lladdr", SERVER.mac, "dev", "eth0", "nud", "permanent"], check=True)
    with ExitStack() as stack, lab.inside("client"):
        for _ in range(20):
            attempt = stack.enter_context(socket.socket())
            attempt.setblocking(False)
            attempt.connect_ex((silent, PORT))
    assert stats(firewall)["reasons"]["SOURCE_NEW"] >= 15
    assert members(firewall) == []


def test_a_killed_daemons_successor_counts_the_connections_that_it_takes_over(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=RULES, settings=[*sets(tmp_path), "limits.per_source={max_states: 10}"])
    with connections(lab, 10), connections(lab, 4, OTHER):
        firewall.settle()               # the last ACK has its verdict
        firewall.kill()
        firewall.start()
        assert sorted(firewall.ctl("sources").stdout.splitlines()) == [
            f"{CLIENT.ipv4} ( states 10, connections 10 )", f"{OTHER} ( states 4, connections 4 )"]
        assert not connects(lab)
        assert connects(lab, OTHER)


def test_timeouts_shrink_while_the_table_fills(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=RULES, settings=[
        *sets(tmp_path), "conntrack.max_entries=100", "limits.adaptive={start: 10%, end: 110%}"])
    with connections(lab, 10):
        assert stats(firewall)["adaptive"]["active"] is False
        assert all(431_000 < int(line.split()[2]) for line in firewall.connections())
        with connections(lab, 50, OTHER):
            assert stats(firewall)["adaptive"]["active"] is True
            # 432000 s * (110 - 60) / (110 - 10); the sweep comes to the old ones, too
            firewall.wait_for("the sweep", lambda lines: all(215_000 < int(line.split()[2]) <= 216_000 for line in lines))


def test_a_full_table_may_take_nobody_else(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=[*RULES, "-p udp -j ACCEPT"], settings=[
        *sets(tmp_path), "conntrack.max_entries=4", "limits.when_full=drop"])
    with lab.inside("client"):
        senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    with ExitStack() as stack:
        for sender in senders:
            stack.enter_context(sender).sendto(b"x", (SERVER.ipv4, 9))
        before = firewall.connections()
        assert len(before) == 4
        assert not connects(lab)
        counters = stats(firewall)
        assert (counters["table"]["early_drop"], counters["reasons"]["TABLE_FULL"] >= 1) == (0, True)
        assert [line.split("src=")[1:] for line in firewall.connections()] == [line.split("src=")[1:] for line in before]


def test_who_answers_itself_keeps_nobody_out(lab: Lab, guard: Guard):
    """Handshakes with a silent address of the other side, whose part the client sends as well; the control: true ones."""
    firewall = guard(FORWARD=["-m state --state ESTABLISHED -j ACCEPT", f"-p tcp --dport {PORT} -j ACCEPT"],
                     settings=["conntrack.max_entries=8"])
    for device in ("all", GATEWAY_INSIDE.interface):
        lab.run("gateway", ["sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{device}/rp_filter"], check=True)
    silent, made_up = (port.ipv4.rpartition(".")[0] + ".99" for port in (SERVER, CLIENT))
    with lab.inside("client"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((CLIENT.interface, 0))
        for sport in range(1, 9):
            there, back = IP(src=made_up, dst=silent), IP(src=silent, dst=made_up)
            for packet in (there / TCP(sport=sport, dport=PORT, flags="S", seq=1),
                           back / TCP(sport=PORT, dport=sport, flags="SA", seq=8, ack=2),
                           there / TCP(sport=sport, dport=PORT, flags="A", seq=2, ack=9)):
                wire.send(bytes(Ether(src=CLIENT.mac, dst=GATEWAY_INSIDE.mac) / packet))
    firewall.wait_for("the forged handshakes", lambda lines: sum(f"dst={silent}" in line and "[ASSURED]" in line for line in lines) == 8)
    with connections(lab, 8):
        firewall.wait_for("the true ones", lambda lines: sum("[ASSURED]" in line for line in lines) == 8)
        assert not any(f"dst={silent}" in line for line in firewall.connections())
        assert not connects(lab)
        assert stats(firewall)["reasons"]["TABLE_FULL"] >= 1


def test_a_config_that_cannot_be_starts_nothing(lab: Lab, guard: Guard, tmp_path: Path):
    firewall = guard(FORWARD=RULES, settings=sets(tmp_path))
    firewall.stop()
    firewall.argv += ["--set", "limits.per_source={max_states: 1, overload: nowhere}"]
    with pytest.raises(Exception, match=r"set 'nowhere' does not exist; create it in a file under `sets:`"):
        firewall.start()
    del firewall.argv[-2:]
    firewall.start()
    refused = firewall.ctl("sources")
    assert (refused.returncode, refused.stderr) == (
        1, "pyfwctl: nobody counts sources: set limits.per_source in the config, and restart\n")
