"""Names and texts of others steer no terminal: whatever is printed about them, by whichever command, and in the log.

    client ──> gateway (pyfw), whose interface has a hostile name ──> server
"""
from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

from firewall import BIN, Firewall
from pyfw.lab import SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
INTERFACE = b"e\x1b[31m\xe2\x80\xae"                # red from here on, and backwards
CHAIN = "guests\u202e\u200b"
LOG = "-j LOG --log-prefix 'seen\u2066\ufeff '"
SET_COMMENT = "of\u200fothers"


def rename(lab: Lab, former: bytes, name: bytes) -> None:
    """The kernel takes any name without blanks and slashes."""
    subprocess.run([b"ip", b"-n", lab.namespace("gateway").encode(), b"link", b"set", former, b"name", name], check=True)


def test_no_output_steers_a_terminal(lab: Lab, guard: Guard) -> None:
    firewall = guard(policies={"FORWARD": "ACCEPT"}, FORWARD=[f"-j {CHAIN}"], settings=["log.drops=true"],
                     **{CHAIN: [LOG, f"-p udp -m comment --comment '{SET_COMMENT}' -j DROP"]})
    rename(lab, b"eth1", INTERFACE)
    firewall.ctl("set", "create", "s", "hash:ip", "comment", check=True)
    firewall.ctl("set", "add", "s", "192.0.2.1", "comment", SET_COMMENT, check=True)
    tracing = [subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "trace", "-p", "icmp", "--count", "2", *form],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for form in ([], ["--json"])]
    wait_until(lambda: json.loads(firewall.ctl("stats", "--json").stdout)["control"]["commands"].get("trace", 0) == 2, "the traces")
    firewall.settle()
    wait_until(lambda: lab.run("client", ["ping", "-c", "1", "-W", "1", SERVER.ipv4]).returncode == 0, "an answer")
    wait_until(lambda: "seen" in firewall.log.read_text(errors="surrogateescape"), "a line in the log")

    printed = {"log": firewall.log.read_text(errors="surrogateescape")}
    for process in tracing:
        printed[" ".join(map(str, process.args[3:]))] = process.communicate(timeout=30)[0].decode(errors="surrogateescape")
    for words in ("list-conntrack", "list-rules \x1b", "-q\x9b", "set list", f"set test s \x1b]0;x\x07{SET_COMMENT}", "stats", "stats --json",
                  "sources", "explain udp 10.0.0.5:1 203.0.113.7:2 --in e\x1b[31m\u202e --out eth0",
                  "explain udp 10.0.0.5:1 203.0.113.7:2 --in e\x1b[31m\u202e --out eth0 --json", "explain \x9b\u202e", "save /\x1b[31m/x",
                  "top --once", "list-conntrack -s \x1b", "trace -i \x1b[31m"):
        done = firewall.ctl(*words.split(" "))
        printed[words] = done.stdout + done.stderr
    for name in ("pyfw-iptables -L -v", "pyfw-iptables -A \x1b[31m", "pyfw-iptables -A FORWARD -i \x7f -j DROP"):
        done = subprocess.run([BIN / name.split(" ")[0], *name.split(" ")[1:]], env={"PYFW_SOCKET": str(firewall.socket)},
                              capture_output=True, text=True, errors="surrogateescape")
        printed[name] = done.stdout + done.stderr

    assert {words: text for words, text in printed.items() if HARMFUL.search(text)} == {}
    assert r"seen\u2066\ufeff IN=e\x1b[31m\u202e OUT=eth0" in printed["log"]
    assert r"guests\u202e\u200b" in printed["pyfw-iptables -L -v"]
    assert r"of\u200fothers" in printed["set list"]
    assert all(printed.values())
    assert all("Traceback" not in text for text in printed.values())
    saved = firewall.ctl("set", "save", "s", check=True).stdout         # to be read back, and not to a terminal
    assert f'add s 192.0.2.1 comment "{SET_COMMENT}"' in saved
    assert CHAIN in firewall.ctl("list-rules").stdout
    assert re.search(HARMFUL, saved)                                    # the control: there is something to escape
    rename(lab, INTERFACE, b"eth1")
