"""pyfw replay from the command line: lines, objects, clocks, rules, exit statuses."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP

from kit.captures import (
    CLIENT,
    LINK,
    SERVER,
    Conversation,
    datagram,
    datagram6,
    enhanced,
    ethernet,
    fragment,
    fragments,
    interface,
    pcap,
    pcapng,
    syn,
)
from pyfw.cli.pyfw.main import main

GATEWAY = {"rules": {"filter": {"FORWARD": {"policy": "DROP", "rules": [
    "-m state --state ESTABLISHED,RELATED -j ACCEPT",
    "-i lan0 -p tcp --dport 80 -m state --state NEW -j ACCEPT",
]}}}}


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """replay(frames or bytes of a file, *options) -> (exit status, lines printed, lines on standard error)"""
    def run(capture, *options: str) -> tuple[int, list[str], list[str]]:
        path = tmp_path / "capture.pcap"
        path.write_bytes(capture if isinstance(capture, bytes) else pcap(capture))
        status = main(["replay", str(path), *options])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()
    return run


@pytest.fixture
def judged(replay):
    """judged(frames, *options) -> the JSON objects"""
    def run(capture, *options: str) -> list[dict]:
        status, lines, errors = replay(capture, "--json", *options)
        assert (status, errors) == (0, [])
        return [json.loads(line) for line in lines]
    return run


@pytest.fixture
def gateway(tmp_path: Path) -> str:
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(GATEWAY))
    return str(path)


def every_second(frames) -> list[tuple[float, bytes]]:
    return [(1 + number, frame) for number, frame in enumerate(frames)]


def states(objects) -> list[str | None]:
    return [item["state"] for item in objects]


def web() -> list[bytes]:
    talk = Conversation()
    return [*talk.handshake(), talk.segment("client", "PA", b"GET / HTTP/1.0\r\n\r\n"),
            talk.segment("server", "PA", b"hello"), talk.segment("client", "A")]


def test_lines(replay):
    frames = [*web(), bytes(LINK / ARP(psrc=CLIENT, pdst="10.0.0.1")),
              *[ethernet(piece) for piece in fragments(datagram(bytes(2000)), [800, 1600])],
              ethernet(bytes(IP(src=CLIENT, dst=SERVER) / ICMP(type=0, id=3, seq=1)))]
    assert replay(every_second(frames), "--table") == (0, [
        "1  10.0.0.2:40000 > 10.0.1.2:80 tcp S  NEW  ACCEPT",
        "2  10.0.1.2:80 > 10.0.0.2:40000 tcp S.  ESTABLISHED  ACCEPT",
        "3  10.0.0.2:40000 > 10.0.1.2:80 tcp .  ESTABLISHED  ACCEPT",
        "4  10.0.0.2:40000 > 10.0.1.2:80 tcp P. 18 bytes  ESTABLISHED  ACCEPT",
        "5  10.0.1.2:80 > 10.0.0.2:40000 tcp P. 5 bytes  ESTABLISHED  ACCEPT",
        "6  10.0.0.2:40000 > 10.0.1.2:80 tcp .  ESTABLISHED  ACCEPT",
        "7  Ether / ARP who has 10.0.0.1 says 10.0.0.2  -  -  (not IP)",
        "8  10.0.0.2 > 10.0.1.2 udp fragment 0+800  -  -  (fragment, waiting for the rest)",
        "9  10.0.0.2 > 10.0.1.2 udp fragment 800+800  -  -  (fragment, waiting for the rest)",
        "10  10.0.0.2:5000 > 10.0.1.2:53 udp 2000 bytes (reassembled)  NEW  ACCEPT",
        "11  10.0.0.2 > 10.0.1.2 icmp echo reply id 3 seq 1  INVALID  ACCEPT  (icmp reply without request)",
        "ipv4     2 tcp      6 431995 ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=40000 dport=80 packets=4 bytes=178 "
        "src=10.0.1.2 dst=10.0.0.2 sport=80 dport=40000 packets=2 bytes=85 [ASSURED] mark=0 use=1",
        "ipv4     2 udp      17 29 src=10.0.0.2 dst=10.0.1.2 sport=5000 dport=53 packets=1 bytes=2028 [UNREPLIED] "
        "src=10.0.1.2 dst=10.0.0.2 sport=53 dport=5000 packets=0 bytes=0 mark=0 use=1",
    ], [])


def test_objects(judged):
    frames = [syn(), bytes(IP(src=SERVER, dst=CLIENT) / TCP(sport=80, dport=40000, flags="SA", seq=5000, ack=1001)),
              syn(flags="FSU", sport=1)]
    objects = judged(pcap([(1.25, frames[0]), (1700000000.123456, frames[1]), (1700000001, frames[2])], 101), "--table")
    assert objects == [
        {"i": 1, "t": 1.25, "state": "NEW", "dir": "ORIGINAL", "verdict": "ACCEPT", "rule": None, "reason": None},
        {"i": 2, "t": 1700000000.123456, "state": "INVALID", "dir": None, "verdict": "ACCEPT", "rule": None,
         "reason": objects[1]["reason"]},
        {"i": 3, "t": 1700000001.0, "state": "INVALID", "dir": None, "verdict": "ACCEPT", "rule": None,
         "reason": "invalid tcp flag combination"},
        {"table": []},
    ]
    assert "invalid" in objects[1]["reason"]


def test_objects_for_what_is_not_judged(judged):
    frames = [bytes(LINK / ARP()), ethernet(fragments(datagram(bytes(64)), [32])[0])]
    assert judged(every_second(frames)) == [
        {"i": 1, "t": 1.0, "state": None, "dir": None, "verdict": None, "rule": None, "reason": "not IP"},
        {"i": 2, "t": 2.0, "state": None, "dir": None, "verdict": None, "rule": None,
         "reason": "fragment, waiting for the rest"}]


def test_rules_decide_and_are_named(judged, gateway):
    web_in, ssh_in = web(), [ethernet(syn(sport=1, dport=22))]
    objects = judged(every_second(web_in + ssh_in), "-c", gateway, "--in-interface", "lan0")
    assert [(item["verdict"], item["rule"]) for item in objects] == [
        ("ACCEPT", "filter:FORWARD:rule:2"), *[("ACCEPT", "filter:FORWARD:rule:1")] * 5, ("DROP", "filter:FORWARD:policy:3")]
    assert objects[-1]["reason"] == "dropped by the chain's policy"


@pytest.mark.parametrize("options", [[], ["--in-interface", "wan0"], ["--out-interface", "lan0"]])
def test_control_the_interface_decides(judged, gateway, options):
    objects = judged(every_second(web()), "-c", gateway, *options)
    assert {item["verdict"] for item in objects} == {"DROP"}


def test_what_rules_drop_leaves_no_connection(judged, gateway):
    assert judged(every_second(web()), "-c", gateway, "--table")[-1] == {"table": []}


@pytest.mark.parametrize(("hook", "verdict"), [("FORWARD", "DROP"), ("INPUT", "ACCEPT"), ("OUTPUT", "ACCEPT")])
def test_hooks_have_their_own_chains(judged, gateway, hook, verdict):
    [item] = judged([(1, ethernet(syn()))], "-c", gateway, "--hook", hook)
    assert item["verdict"] == verdict


@pytest.mark.parametrize(("options", "seen"), [
    pytest.param([], ["NEW", "NEW"], id="the capture's clock: 31 s end an unreplied UDP connection"),
    pytest.param(["--at-once"], ["NEW", "ESTABLISHED"], id="a clock that stands still"),
    pytest.param(["--set", "conntrack.timeouts.udp=1m"], ["NEW", "ESTABLISHED"], id="a longer timeout"),
])
def test_clocks(judged, options, seen):
    question = bytes(IP(src=CLIENT, dst=SERVER) / UDP(sport=5000, dport=53))
    answer = bytes(IP(src=SERVER, dst=CLIENT) / UDP(sport=53, dport=5000))
    assert states(judged([(1, ethernet(question)), (32, ethernet(answer))], *options)) == seen


def test_the_clock_never_goes_back(judged):
    question = ethernet(bytes(IP(src=CLIENT, dst=SERVER) / UDP(sport=5000, dport=53)))
    objects = judged([(100, question), (10, question)], "--table")
    assert [item["t"] for item in objects[:2]] == [100.0, 10.0]
    assert objects[2]["table"][0].startswith("ipv4     2 udp      17 30 ")


@pytest.mark.parametrize(("options", "table"), [([], 1), (["--at-once"], 2)])
def test_the_table_holds_what_is_alive_at_the_end(judged, options, table):
    frames = [(1, ethernet(bytes(datagram(b"a")))), (40, ethernet(bytes(datagram6(b"b"))))]
    assert len(judged(frames, "--table", *options)[-1]["table"]) == table


@pytest.mark.parametrize(("options", "seen"), [
    ([], ["NEW", "ESTABLISHED"]), (["--set", "conntrack.tcp.loose=false"], ["INVALID", "INVALID"])])
def test_set_changes_one_value(judged, options, seen):
    talk = Conversation()
    frames = [talk.segment("client", "A", b"in the middle"), talk.segment("server", "A")]
    assert states(judged(every_second(frames), *options)) == seen


@pytest.mark.parametrize(("options", "seen"), [
    pytest.param([], "NEW", id="strict: the server has not agreed to the PORT"),
    pytest.param(["--set", "helpers.ftp.strict=false"], "RELATED", id="as the kernel does"),
    pytest.param(["--set", "helpers={}"], "NEW", id="control: no helper"),
])
def test_the_ftp_helper_is_on_without_a_config(judged, options, seen):
    control, data = Conversation(dport=21), Conversation(20, 1025, client=SERVER, server=CLIENT)
    frames = [*control.handshake(),
              control.segment("server", "PA", b"220 ready\r\n"), control.segment("client", "A"),
              control.segment("client", "PA", b"USER a\r\n"), control.segment("server", "PA", b"331 password\r\n"),
              control.segment("client", "PA", b"PORT 10,0,0,2,4,1\r\n"), data.segment("client", "S")]
    assert states(judged(every_second(frames), *options))[-1] == seen


@pytest.mark.parametrize(("asked", "pieces", "options", "seen"), [
    pytest.param("PASV", ["227 Passive (10,0,1,2,195,80)\r\n"], [], ["ACCEPT RELATED"], id="in one segment"),
    pytest.param("PASV", ["229 Passive (|||50000|)\r\n"], [], ["ACCEPT RELATED"], id="229 answers PASV"),
    pytest.param("EPSV", ["227 Passive( 10,0,1,2,195,80).\r\n"], [], ["ACCEPT RELATED"], id="227 answers EPSV"),
    pytest.param("PASV", ["227 Passive (", "10,0,1,2,195,80)\r\n"], [], ["DROP", "DROP", "ACCEPT RELATED"], id="in two, then whole"),
    pytest.param("PASV", ["227 Passive ( 10, 0, 1, 2, 195, 80 )\r\n"], [], ["ACCEPT NEW"], id="whole, and cannot be read"),
    pytest.param("PASV", ["227 Passive ( 10, 0, 1, 2, 195, 80 )\r\n"], ["helpers.ftp.strict=false"], ["DROP", "DROP NEW"],
                 id="the same as the kernel does"),
    pytest.param("PASV", ["227 Passive (192,168,1,1,195,80)\r\n"], [], ["ACCEPT NEW"], id="a private address"),
    pytest.param("PASV", ["227 Passive (192,168,1,1,195,80)\r\n"], ["helpers.ftp.assume_announcer=true"], ["ACCEPT RELATED"],
                 id="a private address is the announcer's"),
])
def test_ftp_servers_as_they_are(judged, asked, pieces, options, seen):
    """The verdicts on the reply's pieces and, if any was dropped, on the whole; with the last, the data connection's state."""
    control, data = Conversation(dport=21), Conversation(50001, 50000)
    frames = [*control.handshake(), control.segment("server", "PA", b"220 ready\r\n"),
              control.segment("client", "PA", b"USER a\r\n"), control.segment("server", "PA", b"230 ok\r\n"),
              control.segment("client", "PA", f"{asked}\r\n".encode())]
    before = len(frames)
    frames += [control.segment("server", "PA", piece.encode()) for piece in pieces]
    if "DROP" in seen:
        frames.append(control.again("server", "".join(pieces).encode()))
    frames.append(data.segment("client", "S"))
    *replies, opening = judged(every_second(frames), *(f"--set={option}" for option in options))[before:]
    verdicts = [reply["verdict"] for reply in replies]
    assert [*verdicts[:-1], f"{verdicts[-1]} {opening['state']}"] == seen


def test_a_reassembled_datagram_is_judged_at_the_piece_that_completes_it(judged):
    pieces = fragments(datagram(bytes(2000)), [800, 1600])
    objects = judged(every_second([ethernet(pieces[number]) for number in (2, 0, 1)]), "--table")
    assert states(objects[:3]) == [None, None, "NEW"]
    assert "packets=1 bytes=2028 " in objects[3]["table"][0]


def test_overlapping_fragments_are_dropped(judged):
    pieces = fragments(datagram(bytes(2000)), [800, 1600])
    frames = [pieces[0], fragment(datagram(b""), 792, bytes(64), more=True), pieces[1], pieces[2]]
    objects = judged(every_second([ethernet(frame) for frame in frames]), "--table")
    assert [(item["state"], item["verdict"]) for item in objects[:4]] == [
        (None, None), (None, "DROP"), (None, None), (None, None)]
    assert objects[4] == {"table": []}


def test_fragments_wait_by_the_captures_clock(judged):
    pieces = [ethernet(piece) for piece in fragments(datagram(bytes(2000)), [800])]
    late = [(1, pieces[0]), (32, pieces[1])]
    assert states(judged(late)) == [None, None]
    assert states(judged(late, "--at-once")) == [None, "NEW"]


def test_packets_cut_by_the_snap_length_are_judged_by_their_real_length(judged):
    talk = Conversation()
    frames = [*talk.handshake(), talk.segment("client", "PA", bytes(1400)), talk.segment("server", "A")]
    cut = [(1 + number, frame[:68], len(frame)) for number, frame in enumerate(frames)]
    objects = judged(cut, "--table")
    assert states(objects[:5]) == ["NEW"] + ["ESTABLISHED"] * 4
    assert "packets=3 bytes=1520 " in objects[5]["table"][0]


def test_a_packet_that_is_short_on_the_wire_is_no_packet(judged):
    [item] = judged([(1, ethernet(syn())[:44])])
    assert (item["state"], item["verdict"]) == ("INVALID", "DROP")
    assert item["reason"] == "IP packet shorter than its header says"


def test_wrong_checksums_are_invalid_unless_switched_off(judged):
    wrong = syn(chksum=0x1234)
    assert states(judged([(1, ethernet(wrong))])) == ["INVALID"]
    assert states(judged([(1, ethernet(wrong))], "--set", "conntrack.checksum=false")) == ["NEW"]


def test_a_packet_before_segmentation_has_no_checksum_to_be_wrong(judged):
    unfilled = bytearray(syn(chksum=0x1234))
    unfilled[2:4] = b"\0\0"
    assert states(judged([(1, ethernet(bytes(unfilled)))])) == ["NEW"]


def test_pcapng(judged):
    frames = web()
    content = pcapng(interface(1), *[enhanced(1_000_000 * number, frame) for number, frame in enumerate(frames, 1)])
    assert judged(content) == judged(every_second(frames))


@pytest.mark.parametrize(("capture", "printed", "error"), [
    pytest.param(b"", 0, "the file is empty", id="empty"),
    pytest.param(b"no capture", 0, "not a capture file", id="text"),
    pytest.param(pcap([(1, syn())], 105), 0, "link type 105; pyfw reads Ethernet (1)", id="IEEE 802.11"),
    pytest.param(pcap(every_second(web()))[:-1], 5, "the file is cut off in the record at byte", id="cut"),
])
def test_bad_captures(replay, capture, printed, error):
    status, lines, errors = replay(capture)
    assert (status, len(lines), len(errors)) == (2, printed, 1)
    assert error in errors[0]


def test_the_table_of_a_cut_capture_is_printed(replay):
    status, lines, errors = replay(pcap(every_second(web()))[:-1], "--json", "--table")
    assert (status, len(errors)) == (2, 1)
    assert len(json.loads(lines[-1])["table"]) == 1


@pytest.mark.parametrize(("options", "error"), [
    (["-c", "/nonexistent.yaml"], "/nonexistent.yaml: "),
    (["--set", "conntrack.tcp.lose=false"], "unknown key 'lose' in conntrack.tcp, did you mean 'loose'?"),
])
def test_bad_configs(replay, options, error):
    status, lines, errors = replay([(1, ethernet(syn()))], *options)
    assert (status, lines, len(errors)) == (2, [], 1)
    assert error in errors[0]


@pytest.mark.parametrize("options", [["--hook", "SIDEWAYS"], ["--in-interface", "a-name-that-is-too-long"]])
def test_bad_usage(replay, options):
    with pytest.raises(SystemExit) as ended:
        replay([(1, ethernet(syn()))], *options)
    assert ended.value.code == 2


def test_a_missing_file(capsys):
    assert main(["replay", "/nonexistent.pcap"]) == 2
    assert capsys.readouterr().err == "pyfw: /nonexistent.pcap: No such file or directory\n"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([1, 101, 113, 0]), st.sampled_from([b"", b"\x45\0", b"\x60\0", ethernet(b"\x45")]),
                          st.binary(max_size=100)), max_size=10))
def test_any_frames_are_judged(tmp_path_factory, frames):
    path = tmp_path_factory.getbasetemp() / "frames.pcapng"
    kinds = sorted({kind for kind, _, _ in frames})
    path.write_bytes(pcapng(*map(interface, kinds), *[enhanced(1, start + rest, kinds.index(kind))
                                                      for kind, start, rest in frames]))
    assert main(["replay", str(path), "--table"]) == 0


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path):
    path = tmp_path / "capture.pcap"
    path.write_bytes(pcap(every_second(web())))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-m", "pyfw.cli.pyfw.main", "replay", str(path)], stdout=writer, stderr=subprocess.PIPE,
                              text=True, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
