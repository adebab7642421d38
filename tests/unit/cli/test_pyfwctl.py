"""pyfwctl as a program: what it prints where, and its exit status."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from kit.control import StillDaemon, running
from kit.programs import pyfwctl
from pyfw.cli.pyfwctl.client import Refused
from pyfw.cli.pyfwctl.saved import save
from pyfw.edge.control.table import COMMANDS

FLOW = "udp      17 3599 src=10.0.0.{0} dst=192.0.2.1 sport=5000 dport=53 packets=1 bytes=28 [UNREPLIED] " \
       "src=192.0.2.1 dst=10.0.0.{0} sport=53 dport=5000 packets=0 bytes=0 mark=0 use=1\n"


@pytest.mark.parametrize(("arguments", "status", "stdout", "stderr"), [
    (["count"], 0, "3\n", ""),
    (["list-conntrack"], 0, FLOW.format(0) + FLOW.format(1) + FLOW.format(2), ""),
    (["list-conntrack", "-s", "10.0.0.1", "-p", "udp", "--dport", "53", "-u", "UNREPLIED"], 0, FLOW.format(1), ""),
    (["list-conntrack", "-s", "10.0.0.1", "-o", "nf"], 0, "ipv4     2 " + FLOW.format(1), ""),
    (["list-conntrack", "-f", "ipv6"], 1, "", ""),
    (["list-conntrack", "--state", "ESTABLISHED"], 1, "", ""),
    (["delete", "-s", "10.0.0.1"], 0, FLOW.format(1), "pyfwctl: 1 flow entries have been deleted.\n"),
    (["delete", "-s", "10.9.9.9"], 1, "", "pyfwctl: 0 flow entries have been deleted.\n"),
    (["delete", "--orig-src", "10.0.0.9", "--mask-src", "255.0.0.0", "-q", "10.0.0.2", "--reply-port-src", "53", "-m", "0x0/0xff",
      "-u", "UNREPLIED", "--orig-port-dst", "53"], 0, FLOW.format(2), "pyfwctl: 1 flow entries have been deleted.\n"),
    (["count", "-r", "192.0.2.1", "--proto", "udp"], 0, "3\n", ""),
    (["list-conntrack", "-u", "MAYBE"], 2, "", "pyfwctl: status: 'MAYBE' is not a status; there are ASSURED, SEEN_REPLY, EXPECTED, "
                                               "UNREPLIED\n"),
    (["list-conntrack", "-m", "x"], 2, "", "pyfwctl: 'x' is no mark; write 5, 0x10 or 0x10/0xff\n"),
    (["delete", "--mask-src", "255.0.0.0"], 2, "", "pyfwctl: mask_src says nothing without src\n"),
    (["flush"], 0, "", "pyfwctl: connection tracking table has been emptied (3 flow entries).\n"),
    (["list-expect"], 0, "", ""),
    (["ping"], 0, "", ""),
    (["reload"], 0, "", "pyfwctl: 12 rules loaded; changed, but read only at start: queue.number\n"),
    (["list-rules"], 1, "", "pyfwctl: no rules are loaded: everything is accepted\n"),
    (["list-conntrack", "-p", "tpc"], 2, "", "pyfwctl: unknown protocol 'tpc': a number to 255, or one of icmp, tcp, "
                                             "udp, gre, icmpv6, ipv6-icmp, sctp, udplite\n"),
    (["list-conntrack", "-f", "ipv6", "-o", "proc"], 2, "", "pyfwctl: the proc format is IPv4 only; use -o nf\n"),
])
def test_a_command_prints_and_ends_as_it_says(control, arguments, status, stdout, stderr):
    done = pyfwctl("--socket", str(control.path), *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (status, stdout, stderr)


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["list-conntrack", "--sport", "x"], ["list-conntrack", "-o", "xml"], ["count", "extra"],
    ["list-conntrack", "-i", "1"], ["list-rules", "-t", "nat"],
])
def test_wrong_usage_ends_with_2(control, arguments):
    done = pyfwctl("--socket", str(control.path), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: pyfwctl")


def test_without_a_daemon_one_line_names_the_socket(tmp_path):
    path = tmp_path / "none.sock"
    done = pyfwctl("--socket", str(path), "count")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"pyfwctl: no pyfw daemon at {path} (No such file or directory)\n"


def test_a_path_too_long_is_one_line(tmp_path):
    done = pyfwctl("--socket", str(tmp_path / ("x" * 200)), "count")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_the_socket_can_stand_after_the_command_or_in_the_environment(control):
    assert pyfwctl("count", "--socket", str(control.path)).stdout == "3\n"
    assert pyfwctl("count", PYFW_SOCKET=str(control.path)).stdout == "3\n"


def test_json_is_one_object_a_line(control):
    done = pyfwctl("--socket", str(control.path), "list-conntrack", "-o", "json")
    assert [json.loads(line)["original"]["src"] for line in done.stdout.splitlines()] \
        == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert json.loads(pyfwctl("--socket", str(control.path), "stats", "--json").stdout)["packets"] == 7


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    with running(tmp_path / "c", StillDaemon(flows=20_000)) as server:
        done = subprocess.run(f"{sys.executable} -m pyfw.cli.pyfwctl.main --socket {server.path} list-conntrack | head -n 1",
                              shell=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_help_lists_every_command(control):
    done = pyfwctl("--help")
    assert done.returncode == 0
    for command in (command.name for command in COMMANDS.values() if command.spoken):
        assert re.search(rf"^    {command}\s", done.stdout, re.MULTILINE)


def test_save_writes_where_the_user_stands(control, tmp_path):
    done = subprocess.run([sys.executable, "-m", "pyfw.cli.pyfwctl.main", "--socket", str(control.path), "save", "here.rules"],
                          capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, f"pyfwctl: rules saved to {tmp_path / 'here.rules'}\n")
    assert (tmp_path / "here.rules").exists()


def test_explain_wants_a_packet(control):
    done = pyfwctl("--socket", str(control.path), "explain")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "explain --help" in done.stderr


def test_rules_saved_where_they_cannot_be_are_one_complaint(control, tmp_path):
    program = "import sys; from pyfw.cli.pyfwctl.iptables import save; sys.argv[0] = '/x/iptables-save'; sys.exit(save())"
    done = subprocess.run([sys.executable, "-c", program, "-f", str(tmp_path / "none" / "x")],
                          capture_output=True, text=True, timeout=30, env={**os.environ, "PYFW_SOCKET": str(control.path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"iptables-save: {tmp_path / 'none' / 'x'}: No such file or directory\n"


@pytest.mark.parametrize("words", [["/dev/zero"], []])
def test_a_text_without_end_is_not_read_to_its_end(control, words):
    program = "import sys; from pyfw.cli.pyfwctl.iptables import restore; sys.argv[0] = '/x/load'; sys.exit(restore())"
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run([sys.executable, "-c", program, *words], stdin=endless, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYFW_SOCKET": str(control.path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"load: {words[0] if words else 'standard input'}: a line has more than 10240 bytes\n"


@pytest.mark.parametrize("protocol", ["٣", "²", "9" * 5000, "256"])
def test_a_protocol_is_a_number_or_a_name(control, protocol):
    done = pyfwctl("--socket", str(control.path), "list-conntrack", "-p", protocol)
    assert done.returncode == 2
    assert done.stderr.startswith("pyfwctl: unknown protocol")


@pytest.mark.parametrize("file", ["\0", "\ud800"])
def test_a_name_that_no_file_can_have(control, file):
    with pytest.raises(Refused, match="cannot be the name of a file") as refused:
        save(str(control.path), file)
    assert refused.value.status == 2
