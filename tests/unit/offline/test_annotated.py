"""pyfw replay --write: the same frames at the same times, each with what became of it; scapy and Wireshark read them."""
from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP
from scapy.utils import PcapNgReader, rdpcap, wrpcap

from kit.captures import LINK
from pyfw.cli.pyfw.main import main

POLICY = """
rules: |
  *filter
  :FORWARD DROP
  -A FORWARD -m state --state INVALID -j DROP
  -A FORWARD -p udp --dport 53 -m comment --comment "names" -j ACCEPT
  COMMIT
"""
FRAMES = [
    LINK / IP(src="10.0.0.5", dst="192.0.2.9") / UDP(sport=4000, dport=53) / b"name",
    LINK / ARP(),
    LINK / IP(src="10.0.0.5", dst="192.0.2.9") / TCP(dport=80, flags="SF"),
    LINK / IP(src="10.0.0.5", dst="192.0.2.9") / TCP(dport=80, flags="S"),
]
COMMENTS = [
    'NEW ORIGINAL ACCEPT filter:FORWARD:rule:2 -A FORWARD -p udp -m udp --dport 53 -m comment --comment names -j ACCEPT',
    "(not IP)",
    "INVALID DROP filter:FORWARD:rule:1 -A FORWARD -m state --state INVALID -j DROP (invalid tcp flag combination)",
    "NEW ORIGINAL DROP filter:FORWARD:policy:3 -P FORWARD DROP (dropped by the chain's policy)",
]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    for number, frame in enumerate(FRAMES):
        frame.time = 1_700_000_000 + number + 123_456_789 / 10**9
    wrpcap(str(tmp_path / "in.pcap"), FRAMES, nano=True)
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path / "in.pcap"


def replay(capture: Path, out: Path) -> int:
    return main(["replay", str(capture), "-c", str(capture.parent / "policy.yaml"), "--write", str(out)])


def test_frames_times_and_comments(capture: Path, tmp_path: Path) -> None:
    assert replay(capture, tmp_path / "out.pcapng") == 0
    written = list(PcapNgReader(str(tmp_path / "out.pcapng")))
    before = rdpcap(str(capture))
    assert [bytes(frame) for frame in written] == [bytes(frame) for frame in before]
    assert [round(frame.time * 10**9) for frame in written] == [round(frame.time * 10**9) for frame in before]
    assert [frame.comment.decode() for frame in written] == COMMENTS


def test_a_written_capture_is_read_again(capture: Path, tmp_path: Path) -> None:
    assert replay(capture, tmp_path / "one.pcapng") == 0
    assert replay(tmp_path / "one.pcapng", tmp_path / "two.pcapng") == 0
    assert (tmp_path / "one.pcapng").read_bytes() == (tmp_path / "two.pcapng").read_bytes()


def test_the_input_is_not_overwritten(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = capture.read_bytes()
    assert replay(capture, capture) == 2
    assert "is the capture that is read" in capsys.readouterr().err
    assert capture.read_bytes() == before


def test_a_damaged_capture_leaves_no_file(capture: Path, tmp_path: Path) -> None:
    capture.write_bytes(capture.read_bytes()[:-3])
    (tmp_path / "out.pcapng").write_text("what was there")
    assert replay(capture, tmp_path / "out.pcapng") == 2
    assert (tmp_path / "out.pcapng").read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pcap", "out.pcapng", "policy.yaml"]


def test_a_directory_that_is_not_there(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(capture, Path("/nowhere/out.pcapng")) == 2
    assert "/nowhere" in capsys.readouterr().err
