"""pyfw replay: judge a capture file, packet by packet, without root and without the kernel."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyfw.cli.pyfw.main import fail
from pyfw.config.engine import engine_from_config, rule_texts
from pyfw.config.schema import HOOKS, Config, load_config, parse_config
from pyfw.config.values import MAX_INTERFACE_NAME, ConfigError
from pyfw.edge.capture.pcap import Capture, CaptureError, Record
from pyfw.edge.capture.pcapng import AnnotatedCapture
from pyfw.enums import Hook
from pyfw.escape import json_line, printable
from pyfw.offline.replay import Replay, Replayed
from pyfw.wire.summary import summarize

WITHOUT_CONFIG = "helpers: {ftp: {}}\n"     # no rules: everything is tracked and accepted


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "replay", help="judge the packets of a capture file",
        description="Judge every packet of a pcap or pcapng file (also .gz), one line each: number, packet, state, "
                    "verdict, rule, reason. Needs no root. Without -c all connections are tracked and accepted.")
    parser.add_argument("file", metavar="FILE", help="the capture, as tcpdump -w writes it")
    parser.add_argument("-c", "--config", metavar="FILE", help="rules and settings, as pyfw run takes them")
    parser.add_argument("--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[],
                        help="override a value of the config, such as conntrack.tcp.loose=false; may be repeated")
    parser.add_argument("--hook", choices=HOOKS, default="FORWARD",
                        help="where the packets are judged (default: %(default)s)")
    parser.add_argument("--in-interface", metavar="NAME", type=_interface, default="", help="what rules with -i see")
    parser.add_argument("--out-interface", metavar="NAME", type=_interface, default="", help="what rules with -o see")
    parser.add_argument("--at-once", action="store_true",
                        help="let the clock stand still instead of following the capture's times")
    parser.add_argument("--json", action="store_true", help="one JSON object per packet")
    parser.add_argument("--write", metavar="FILE", type=Path,
                        help="write the packets to a pcapng file, each with a comment that says what became of it")
    parser.add_argument("--table", action="store_true", help="at the end, the connections as nf_conntrack shows them")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 done; 2 the config or the capture cannot be read, or the capture not to its end."""
    try:
        engine = engine_from_config(_config(arguments))
        replay = Replay(engine, Hook[arguments.hook], arguments.in_interface, arguments.out_interface,
                        arguments.at_once)
        with Capture(arguments.file) as capture:
            if arguments.write:
                _write(replay, capture, arguments)
            else:
                _print(replay, capture, arguments)
    except (ConfigError, CaptureError) as error:
        return fail(str(error), 2)
    except BrokenPipeError:     # the reader of the lines, such as head, has closed
        raise
    except OSError as error:
        return fail(f"{error.filename or arguments.write}: {error.strerror}", 2)
    return 0


def _interface(name: str) -> str:
    if len(name.encode()) > MAX_INTERFACE_NAME:
        raise argparse.ArgumentTypeError(f"'{name}' is longer than the {MAX_INTERFACE_NAME} bytes an interface's name has")
    return name


def _config(arguments: argparse.Namespace) -> Config:
    if arguments.config is None:
        return parse_config(WITHOUT_CONFIG, "without -c", Path.cwd(), arguments.overrides)
    return load_config(arguments.config, arguments.overrides)


def _print(replay: Replay, capture: Capture, arguments: argparse.Namespace) -> None:
    """All lines, the table last; it is also printed where the capture ends in an error, which is then raised."""
    line: Callable[[Replayed], str] = _json_line if arguments.json else _text_line
    try:
        for replayed in replay.run(capture):
            sys.stdout.write(line(replayed))
    finally:
        if arguments.table:
            _print_table(replay.table(), arguments.json)
        sys.stdout.flush()


def _write(replay: Replay, capture: Capture, arguments: argparse.Namespace) -> None:
    """All frames with their comments, or no file at all."""
    if arguments.write.exists() and arguments.write.samefile(arguments.file):
        raise CaptureError(f"{arguments.write} is the capture that is read; write to another file")
    texts = rule_texts(replay.engine.program)
    with AnnotatedCapture(arguments.write) as annotated:
        for replayed in replay.run(capture):
            record = replayed.record
            annotated.write(record.link_type, record.time_ns, record.frame, record.length, _comment(replayed, texts))
    if arguments.table:
        _print_table(replay.table(), arguments.json)


def _comment(replayed: Replayed, texts: Mapping[str, str]) -> str:
    """`NEW ORIGINAL ACCEPT filter:FORWARD:rule:3 -A FORWARD ... (reason)`"""
    words = [replayed.state, replayed.direction, replayed.verdict, replayed.rule, texts.get(replayed.rule or "")]
    reason = f"({replayed.reason})" if replayed.reason else None
    return printable(" ".join(word for word in (*words, reason) if word))


def _print_table(lines: list[str], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json_line({"table": lines}))
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)


def _json_line(replayed: Replayed) -> str:
    return json_line({"i": replayed.record.number, "t": replayed.record.time_ns // 1000 / 1_000_000,
                      "state": replayed.state, "dir": replayed.direction, "verdict": replayed.verdict,
                      "rule": replayed.rule, "reason": replayed.reason})


def _text_line(replayed: Replayed) -> str:
    parts = [str(replayed.record.number), _summary(replayed), replayed.state or "-", replayed.verdict or "-"]
    if replayed.rule:
        parts.append(replayed.rule)
    if replayed.reason:
        parts.append(f"({replayed.reason})")
    return "  ".join(parts) + "\n"


def _summary(replayed: Replayed) -> str:
    captured = replayed.record.packet
    if captured is None:
        return _frame_summary(replayed.record)
    judged = replayed.packet or captured
    text = summarize(judged.data, judged.length)
    return text if judged is captured else f"{text} (reassembled)"


def _frame_summary(record: Record) -> str:
    """scapy's words for what is not IP."""
    import scapy.layers.l2  # noqa: F401  registers the link layers
    from scapy.config import conf
    layer = conf.l2types.num2layer.get(record.link_type, conf.raw_layer)
    try:
        text = layer(record.frame).summary()
    except Exception:       # scapy's dissectors raise what they like on frames that are too short
        text = f"{len(record.frame)} bytes"
    return "".join(letter if letter.isprintable() else "." for letter in text)
