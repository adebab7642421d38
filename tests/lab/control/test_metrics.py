"""Metrics and logged drops of a live daemon: what real traffic moves, and what must stand still."""
from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from firewall import Firewall
from pyfw.edge.control.metrics_server import ROOM
from pyfw.lab import CLIENT, SERVER, Lab, wait_until
from pyfw.report.metrics import DROP_REASONS

pytestmark = pytest.mark.alone

Guard = Callable[..., Firewall]

PORT = 9469
RULES = ["-p icmp -m comment --comment ping -j ACCEPT", "-s 203.0.113.9 -j ACCEPT"]
Values = dict[tuple, float]


class Scraped:
    """A firewall with metrics, and a real curl that asks for them."""

    def __init__(self, lab: Lab, firewall: Firewall, listen: str) -> None:
        self.lab = lab
        self.firewall = firewall
        self.listen = listen
        where = ["--unix-socket", listen, "http://pyfw/metrics"] if listen.startswith("/") else [f"http://{listen}/metrics"]
        self._curl = ["curl", "-sS", "-f", "-m", "60", "-g", *where]

    def scrape(self) -> Values:
        """(name, label=value, ...) -> value, once every packet sent so far has its verdict."""
        self.firewall.settle()
        done = self.lab.run("gateway", self._curl)
        assert (done.returncode, done.stderr) == (0, "")
        return {(sample.name, *sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(done.stdout) for sample in family.samples}

    def statistics(self) -> dict:
        return json.loads(self.firewall.ctl("stats", "--json", check=True).stdout)


@pytest.fixture
def measured(lab: Lab, guard: Guard, tmp_path: Path) -> Callable[..., Scraped]:
    """measured(listen, "key=value", FORWARD=[...]): as guard, with metrics at `listen`, `unix` being a socket."""
    def start(listen: str, *settings: str, **chains) -> Scraped:
        listen = str(tmp_path / "metrics.sock") if listen == "unix" else listen
        firewall = guard(**chains)
        firewall.stop()
        for setting in (f"metrics.listen={json.dumps(listen)}", *settings):
            firewall.argv += ["--set", setting]
        firewall.start()
        return Scraped(lab, firewall, listen)
    return start


def moved(before: Values, after: Values) -> dict[tuple, float]:
    """What changed among pyfw's own metrics, those of time left out."""
    return {key: value - before.get(key, 0) for key, value in after.items()
            if key[0].startswith("pyfw_") and not key[0].startswith("pyfw_verdict_latency") and value != before.get(key, 0)}


def packets(state: str, verdict: str) -> tuple:
    return "pyfw_packets_total", ("state", state), ("verdict", verdict)


def rule(what: str, number: str, comment: str = "", *, table: str = "filter", chain: str = "FORWARD") -> tuple:
    return (f"pyfw_rule_{what}_total", ("chain", chain), ("comment", comment), ("family", "ipv4"), ("rule", number), ("table", table))


def ping(lab: Lab, count: int) -> int:
    done = lab.run("client", ["ping", "-c", str(count), "-i", "0.01", "-W", "2", SERVER.ipv4])
    return int(done.stdout.split(" received")[0].split()[-1])


def send_udp(lab: Lab, count: int) -> None:
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(count):
            sender.sendto(b"x", (SERVER.ipv4, 9))


# -- what traffic moves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["unix", f"127.0.0.1:{PORT}", f"[::1]:{PORT}"])
def test_traffic_moves_its_counters_and_no_others(lab: Lab, measured: Callable, listen: str):
    scraped = measured(listen, FORWARD=RULES)
    before = scraped.scrape()
    assert moved(before, scraped.scrape()) == {}, "the scrape itself"
    assert ping(lab, 5) == 5
    send_udp(lab, 7)
    assert moved(before, scraped.scrape()) == {
        packets("NEW", "accept"): 1, packets("ESTABLISHED", "accept"): 9, packets("NEW", "drop"): 7,
        ("pyfw_bytes_total",): 10 * 84 + 7 * 29,
        ("pyfw_drops_total", ("reason", "POLICY")): 7,
        rule("packets", "1", "ping"): 10, rule("bytes", "1", "ping"): 10 * 84,
        rule("packets", "policy"): 7, rule("bytes", "policy"): 7 * 29,
        rule("packets", "policy", table="raw", chain="PREROUTING"): 17,
        rule("bytes", "policy", table="raw", chain="PREROUTING"): 10 * 84 + 7 * 29,
        ("pyfw_conntrack_entries",): 1, ("pyfw_conntrack_inserted_total",): 1,
    }
    assert rule("packets", "2") in before, "a rule that no packet met is there, too"


def test_the_metrics_are_the_statistics(lab: Lab, measured: Callable):
    scraped = measured("unix", FORWARD=RULES)
    ping(lab, 3)
    send_udp(lab, 4)
    values, statistics = scraped.scrape(), scraped.statistics()
    assert statistics["packets"] == 10
    for state, verdicts in statistics["judged"].items():
        for verdict, count in verdicts.items():
            assert values[packets(state, verdict.lower())] == count
    for reason in DROP_REASONS:
        assert values["pyfw_drops_total", ("reason", reason)] == statistics["drops"].get(reason, 0)
    for name, group, counter in (
            ("pyfw_queue_depth", "kernel_queue", "queued"), ("pyfw_queue_dropped_total", "kernel_queue", "queue_dropped"),
            ("pyfw_queue_user_dropped_total", "kernel_queue", "user_dropped"), ("pyfw_queue_length", "queue", "length"),
            ("pyfw_conntrack_entries", "table", "entries"), ("pyfw_conntrack_entries_limit", "table", "max_entries"),
            ("pyfw_conntrack_early_drop_total", "table", "early_drop"), ("pyfw_conntrack_table_full_total", "table", "table_full"),
            ("pyfw_conntrack_inserted_total", "table", "created"), ("pyfw_expectations_limit", "expectations", "max_entries"),
            ("pyfw_expectations", "expectations", "entries")):
        assert values[name,] == statistics[group][counter], name
    assert values["pyfw_build_info", ("version", statistics["daemon"]["version"])] == 1
    assert statistics["metrics"]["answers"] == 1


def test_each_packet_has_a_latency(lab: Lab, measured: Callable):
    scraped = measured("unix", FORWARD=RULES)
    assert scraped.scrape()["pyfw_verdict_latency_seconds_count",] == 0
    started = time.monotonic()
    ping(lab, 10)
    send_udp(lab, 300)
    values = scraped.scrape()
    took_s = time.monotonic() - started
    assert values["pyfw_verdict_latency_seconds_count",] == 320
    assert values["pyfw_verdict_latency_seconds_bucket", ("le", "+Inf")] == 320
    buckets = [value for key, value in values.items() if key[0] == "pyfw_verdict_latency_seconds_bucket"]
    assert len(buckets) == 14
    assert buckets == sorted(buckets)
    assert 0 < values["pyfw_verdict_latency_seconds_sum",] < 320 * took_s
    text = scraped.firewall.ctl("stats").stdout
    assert re.search(r"^verdict_latency:\n  packets +320\n  mean_us +\d+\n  sum_ns +\d+\n  up_to_us:\n    10 +\d+\n", text, re.MULTILINE)


def test_a_full_queue_is_seen(lab: Lab, measured: Callable):
    scraped = measured("unix", "queue.length=5", FORWARD=RULES)
    before = scraped.scrape()
    assert before["pyfw_queue_dropped_total",] == before["pyfw_queue_depth",] == 0
    pid = scraped.firewall.process.pid
    os.kill(pid, 19)
    try:
        send_udp(lab, 12)
    finally:
        os.kill(pid, 18)
    after = scraped.scrape()
    assert after["pyfw_queue_dropped_total",] == 7
    assert after["pyfw_drops_total", ("reason", "POLICY")] == 5, "the others are not the rules'"


def test_reloads_are_told_apart(measured: Callable):
    scraped = measured("unix", FORWARD=RULES)

    def reloads(result: str) -> tuple[float, float | None]:
        values = scraped.scrape()
        return (values["pyfw_reloads_total", ("result", result)],
                values.get(("pyfw_last_reload_timestamp_seconds", ("result", result))))

    (good, started), failed = reloads("good"), reloads("failed")
    assert (good, failed) == (0, (0, None))
    before_s = int(time.time())
    assert started <= before_s
    assert scraped.firewall.ctl("reload").returncode == 0
    good, good_s = reloads("good")
    assert good == 1
    assert before_s <= good_s <= time.time()
    assert reloads("failed") == failed
    config = Path(scraped.firewall.argv[scraped.firewall.argv.index("-c") + 1])
    config.write_text("rules: {filter: {FORWARD: {rules: [{jump: NOWHERE}]}}}")
    assert scraped.firewall.ctl("reload").returncode == 1
    assert reloads("good") == (1, good_s)
    failed, failed_s = reloads("failed")
    assert failed == 1
    assert before_s <= failed_s <= time.time()


def test_rules_that_a_command_adds_are_counted(lab: Lab, measured: Callable):
    scraped = measured("unix", FORWARD=RULES)
    assert scraped.scrape()["pyfw_rules",] == 2
    scraped.firewall.ctl("flush", check=True)
    words = ["-I", "FORWARD", "-p", "udp", "-m", "comment", "--comment", 'a "new" one', "-j", "DROP"]
    added = lab.run("gateway", [scraped.firewall.argv[0].parent / "pyfw-iptables", *words],
                    env={**os.environ, "PYFW_SOCKET": str(scraped.firewall.socket)})
    assert added.returncode == 0, added.stderr
    send_udp(lab, 3)
    values = scraped.scrape()
    assert values["pyfw_rules",] == 3
    assert values[rule("packets", "1", 'a "new" one')] == 3
    assert values[rule("packets", "2", "ping")] == 0


# -- where it listens ----------------------------------------------------------------------------------------


def test_nothing_listens_unless_it_is_told_to(lab: Lab, guard: Guard):
    firewall = guard(FORWARD=RULES)
    assert not lab.listens("gateway", PORT)
    assert "metrics" not in json.loads(firewall.ctl("stats", "--json").stdout)


def test_it_listens_in_the_namespace_that_it_guards_and_on_loopback_alone(lab: Lab, measured: Callable):
    measured(f"127.0.0.1:{PORT}", FORWARD=RULES, INPUT=["-j ACCEPT"], OUTPUT=["-j ACCEPT"])
    assert lab.listens("gateway", PORT)
    for role, address in (("gateway", "192.0.2.1"), ("client", "192.0.2.1"), ("client", "127.0.0.1")):
        assert lab.run(role, ["curl", "-s", "-m", "2", f"http://{address}:{PORT}/metrics"]).returncode == 7     # refused


def hold_a_port(lab: Lab) -> subprocess.Popen:
    """A user without rights has the metrics' port on the gateway, until it is killed."""
    words = f"import socket; held = socket.create_server(('127.0.0.1', {PORT})); print(flush=True); input()"
    holder = lab.start("gateway", ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", words],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "\n"
    return holder


def test_whoever_has_the_address_ends_no_start_and_is_told_of(lab: Lab, measured: Callable):
    scraped = measured(f"127.0.0.1:{PORT}", FORWARD=RULES)
    scraped.firewall.stop()
    holder = hold_a_port(lab)
    scraped.firewall.start()
    assert ping(lab, 3) == 3
    reason = f"metrics.listen 127.0.0.1:{PORT}: Address already in use"
    assert scraped.statistics()["degraded"] == {"metrics.listen": reason}
    pinged = scraped.firewall.ctl("ping")
    assert (pinged.returncode, pinged.stderr) == (0, f"pyfwctl: degraded: metrics.listen: {reason}\n")
    lab.stop(holder)
    wait_until(lambda: lab.listens("gateway", PORT), "the metrics to be tried again")
    assert scraped.scrape()["pyfw_degraded", ("part", "metrics.listen")] == 0
    assert scraped.firewall.ctl("ping").stderr == ""
    log = scraped.firewall.log.read_text()
    assert log.count(f"degraded: metrics.listen: {reason}") == 1
    assert "metrics.listen works again" in log


def test_a_crashed_daemons_socket_is_replaced(measured: Callable):
    scraped = measured("unix", FORWARD=RULES)
    scraped.firewall.kill()
    assert Path(scraped.listen).exists()
    scraped.firewall.start()
    assert scraped.scrape()
    scraped.firewall.stop()
    assert not Path(scraped.listen).exists()
    scraped.firewall.start()


# -- hostile clients -----------------------------------------------------------------------------------------


@contextmanager
def hostile(lab: Lab, connections: int) -> Iterator[None]:
    """On the gateway: so many connections that stay, one third silent, one of garbage, one that never reads its answer; and
    a client that asks and leaves without pause."""
    leaving = threading.Event()

    def connect() -> socket.socket:
        with lab.inside("gateway"):
            return socket.create_connection(("127.0.0.1", PORT), timeout=10)

    def come_and_go() -> None:
        while not leaving.is_set():
            with suppress(ConnectionError), connect() as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")

    with ExitStack() as stack:
        for number in range(connections):
            client = stack.enter_context(connect())
            with suppress(ConnectionError):
                client.sendall((b"", os.urandom(500), b"GET /metrics HTTP/1.1\r\n\r\n")[number % 3])
        restless = threading.Thread(target=come_and_go)
        restless.start()
        try:
            yield
        finally:
            leaving.set()
            restless.join()


def test_hostile_clients_harm_neither_packets_nor_those_who_ask(lab: Lab, measured: Callable):
    scraped = measured(f"127.0.0.1:{PORT}", FORWARD=RULES)
    with hostile(lab, 1000):
        assert ping(lab, 100) == 100
        assert scraped.firewall.ctl("count").stdout == "1\n"
        values = scraped.scrape()
    assert values["pyfw_metrics_refusals_total", ("reason", "too_many")] >= 1000 * 2 // 3 - ROOM.root     # the others were answered
    statistics = scraped.statistics()
    assert statistics["metrics"]["connections"] <= ROOM.root
    assert statistics["kernel_queue"]["queue_dropped"] == statistics["kernel_queue"]["user_dropped"] == 0
    assert statistics["packets"] == statistics["verdicts"]["ACCEPT"] == 200
    assert values["process_open_fds",] < 100


ASKS_WITHOUT_END = f"""
import socket
held = []
print(flush=True)
while True:
    client = socket.create_connection(("127.0.0.1", {PORT}))
    client.sendall(b"GET /metrics HTTP/1.1\\r\\n" + (b"\\r\\n" if len(held) % 2 else b""))
    held = [*held[-500:], client]
"""


def test_a_user_who_asks_without_end_does_so_at_its_own_cost(lab: Lab, measured: Callable):
    scraped = measured(f"127.0.0.1:{PORT}", FORWARD=RULES)
    words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", ASKS_WITHOUT_END]
    asker = lab.start("gateway", words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert asker.stdout.readline() == "\n"
    wait_until(lambda: scraped.statistics()["metrics"]["refusals"]["too_many"] > 100, "the user to be refused")
    assert ping(lab, 50) == 50
    for _ in range(2):
        assert scraped.scrape()
        # The user's, and as many that it has closed already: they are nobody's.
        assert scraped.statistics()["metrics"]["connections"] <= 2 * ROOM.user + 1
    lab.stop(asker)


def test_the_thread_that_answers_gives_way(measured: Callable):
    """At nice 19, as `ps -L` shows it; no other thread does before there are rules to be compiled."""
    scraped = measured("unix", FORWARD=RULES)

    def priorities() -> list[int]:
        tasks = Path(f"/proc/{scraped.firewall.process.pid}/task").iterdir()
        return [int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in tasks]

    assert priorities().count(19) == 1
    index = scraped.firewall.argv.index(f"metrics.listen={json.dumps(scraped.listen)}")
    scraped.firewall.stop()
    scraped.firewall.argv[index] = "metrics.listen=null"
    scraped.firewall.start()
    assert priorities().count(19) == 0, "the control: without metrics there is none"


# -- log.drops -----------------------------------------------------------------------------------------------


def drop_lines(firewall: Firewall) -> list[str]:
    return [line for line in firewall.log.read_text().splitlines() if line.startswith("DROP: ")]


def test_drops_are_logged_with_rule_and_reason(lab: Lab, measured: Callable):
    scraped = measured("unix", "log.drops=true", FORWARD=[*RULES, "-p udp --dport 9 -j DROP"])
    assert ping(lab, 3) == 3
    send_udp(lab, 4)
    done = lab.run("client", ["curl", "-s", "-m", "0.3", f"http://{SERVER.ipv4}/"])
    assert done.returncode == 28        # timed out
    wait_until(lambda: len(drop_lines(scraped.firewall)) >= 5, "five lines")
    lines = drop_lines(scraped.firewall)
    ends = f"IN=eth1 OUT=eth0 MAC= SRC={CLIENT.ipv4} DST={SERVER.ipv4} "
    assert [line.startswith(f"DROP: filter:FORWARD:rule:3 RULE {ends}LEN=29 ") for line in lines[:4]] == [True] * 4
    assert all(line.startswith(f"DROP: filter:FORWARD:policy:4 POLICY {ends}") and " DPT=80 SEQ=" in line for line in lines[4:])
    log = scraped.statistics()["log"]
    assert log == {"lines": 0, "suppressed": 0, "drops": len(lines), "drops_suppressed": 0}
    assert scraped.scrape()["pyfw_log_lines_total", ("source", "drops")] == len(lines)


def test_without_log_drops_nothing_is_logged(lab: Lab, measured: Callable):
    scraped = measured("unix", FORWARD=[*RULES, "-p udp -j LOG --log-prefix 'seen '"])
    send_udp(lab, 5)
    scraped.firewall.settle()
    wait_until(lambda: scraped.firewall.log.read_text().count("seen ") == 5, "the LOG rule's lines")
    assert drop_lines(scraped.firewall) == []
    assert scraped.scrape()["pyfw_log_lines_total", ("source", "drops")] == 0


def test_a_flood_of_drops_is_said_in_one_line(lab: Lab, measured: Callable):
    scraped = measured("unix", "log.drops=true", FORWARD=RULES)
    send_udp(lab, 500)
    scraped.firewall.settle()
    notes = re.compile(r"^pyfw: (\d+) drops not logged$", re.MULTILINE)
    wait_until(lambda: notes.search(scraped.firewall.log.read_text()), "the note about drops")
    log = scraped.statistics()["log"]
    assert log["drops"] == len(drop_lines(scraped.firewall)) >= 20
    assert log["drops"] + log["drops_suppressed"] == 500
    assert scraped.scrape()["pyfw_log_lines_suppressed_total", ("source", "drops")] == log["drops_suppressed"]
    send_udp(lab, 500)
    scraped.firewall.settle()
    wait_until(lambda: sum(map(int, notes.findall(scraped.firewall.log.read_text())))
               == scraped.statistics()["log"]["drops_suppressed"], "every drop to be told of", 15)
    assert len(notes.findall(scraped.firewall.log.read_text())) == 2
