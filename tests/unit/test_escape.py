"""What would steer a terminal is shown as an escape, wherever text of others is printed."""
from __future__ import annotations

import io
import json
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from pyfw.cli.pyfw import main as pyfw
from pyfw.escape import EscapingStream, json_line, printable, printable_text, printable_values
from pyfw.offline.report import junit, tap

RED = "\x1b[31m"


@pytest.mark.parametrize(("text", "shown"), [
    ("plain, grün, 日本語, 👍", "plain, grün, 日本語, 👍"), (f"a{RED}b", r"a\x1b[31mb"), ("\x9b31m", r"\x9b31m"), ("del\x7f", r"del\x7f"),
    ("\u202eback\u2066", r"\u202eback\u2066"), ("a\u200bb\ufeff", r"a\u200bb\ufeff"), ("a\u2028b\u2029", r"a\u2028b\u2029"),
    ("half \ud800", r"half \ud800"), ("tag \U000e0041", r"tag \U000e0041"), ("two\nlines\t", r"two\x0alines\x09"), ("back\\slash", "back\\slash"),
])
def test_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_text(text) == shown.replace(r"\x0a", "\n").replace(r"\x09", "\t")
    assert printable_values({text: [text, 1, None]}) == {shown: [shown, 1, None]}
    assert json.loads(json_line(text)) == text
    assert json_line(text)[:-1].isprintable()
    assert json_line(text).isascii()


def test_every_control_and_format_character_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind in ("Cc", "Zl", "Zp", "Cs") or unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
            assert printable(character) != character, hex(code)
        elif kind[0] in "LNPM":
            assert printable(character) == character, hex(code)


class Output(io.TextIOWrapper):
    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.isatty = lambda: terminal

    def written(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()


@pytest.mark.parametrize(("encoding", "terminal", "shown"), [
    ("utf-8", True, "ä\\u202e"), ("utf-8", False, "ä\u202e"), ("ascii", True, "\\xe4\\u202e"), ("ascii", False, "ä\u202e")])
def test_what_is_read_back_is_escaped_on_a_terminal_only(encoding: str, terminal: bool, shown: str) -> None:
    output = Output(encoding, terminal)
    EscapingStream(output).write_exactly("ä\u202e")
    assert output.written() == shown.encode()


@pytest.mark.parametrize("words", [
    [RED], ["check", "-c", f"/{RED}"], ["check", "-c", "{config}", "--set", f"{RED}=1"], ["test", f"/{RED}", "-c", "{config}"],
    ["check", "-c", "{config}", "--set", 'hooks=["\\e\\u202e"]'], ["replay", f"/{RED}"], ["explain", RED, "-c", "{config}"],
    ["explain", "-c", "{config}", "udp", RED, RED], ["lab", RED], ["run", "--confirm", RED],
    ["check", "-c", "{config}", "--set", 'rules.filter.FORWARD.rules=["-j \\e[31m\\u202e"]'],
    ["check", "-c", "{config}", "--set", f"variables.x={RED}"],
])
def test_errors_quote_what_can_be_shown(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pyfw.yaml"
    config.write_text("rules:\n  filter:\n    FORWARD: {rules: [-j DROP]}\n")
    try:
        status = pyfw.main([word.replace("{config}", str(config)) for word in words])
    except SystemExit as end:
        status = end.code
    printed = "".join(capsys.readouterr())
    assert status == 2
    assert printed.replace("\n", "").isprintable()
    assert ("\\x1b" in printed or "\\u202e" in printed)


def test_reports_are_what_their_readers_can_read() -> None:
    location = SimpleNamespace(source=f"{RED}.yaml", line=1)
    outcome = SimpleNamespace(name=f"case {RED}\x00", case=SimpleNamespace(location=location), failures=[f"rule {RED} said \u202e"])
    run = SimpleNamespace(outcomes=[outcome], failed=[outcome], touched=[1], untouched=[f"filter:\u202e{RED}"])
    report = junit(run, f"suite{RED}")
    assert ElementTree.fromstring(report).find("testcase").get("name") == r"case \x1b[31m\x00"
    assert (tap(run) + report).replace("\n", "").isprintable()
