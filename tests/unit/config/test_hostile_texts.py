"""Configs and rules that would take for ever, or all memory, or wait for somebody: one line says where, and soon.

Each of them made `pyfw check` run until it was killed, or end in a traceback.
"""
from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pyfw.config.schema import ConfigError, load_config
from pyfw.rules.language.iptables import parse_save

MEMORY_BYTES = 1 << 30
CHAIN = "rules:\n  filter:\n    FORWARD:\n      rules:\n"
LONG = "variables:\n  b: " + "x" * 60_000 + "\n"
LISTED = ",".join(f"10.0.{number >> 8}.{number & 255}" for number in range(4000))


def doubled(first: str, again: str, count: int = 60) -> str:
    return first + "".join(again.format(new=number, old=number - 1) for number in range(1, count))


def check(directory: Path, text: str | bytes, **files: str | bytes) -> str:
    """What is wrong with a config, said of `pyfw.yaml`; `files` stand beside it, with `.rules` behind their names."""
    for name, content in {"pyfw.yaml": text, **{f"{name}.rules": content for name, content in files.items()}}.items():
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as raised:
        load_config(directory / "pyfw.yaml")
    return str(raised.value).replace(f"{directory}/", "")


@pytest.mark.parametrize(("text", "complaint"), [
    ("variables:\n" + doubled("  a0: xxxxxxxx\n", "  a{new}: $a{old}$a{old}\n"), "pyfw.yaml:16:8: the variables in variables.a14 come to more"),
    ("variables: {a: $a}\n", "pyfw.yaml:1:16: undefined variable $a"),
    (LONG + CHAIN + "        - -j " + "$b" * 300_000, "pyfw.yaml:7:14: the variables here come to more than 65536 characters"),
    (LONG + CHAIN + "        - -j " + "$b''" * 100_000, "pyfw.yaml:7:14: a word has at most 65536 characters"),
    (doubled("a0: &a0 [x]\n", "a{new}: &a{new} [*a{old},*a{old}]\n"), "pyfw.yaml:18:6: not valid YAML: with its aliases this is more than 200000"),
    (doubled("a0: &a0 [x]\n", "a{new}: &a{new} [*a{old}]\n", 10_000), "pyfw.yaml:64:6: not valid YAML: with its aliases"),
    ("rules: &a [*a]\n", "pyfw.yaml:1:12: not valid YAML: an alias stands in what it stands for"),
    ("[" * 500_000, "pyfw.yaml:1:65: not valid YAML: nested deeper than 64 levels"),
    (b"rules:\n  a: \0\n", "pyfw.yaml:2:6: not valid YAML: special characters are not allowed (U+0000)"),
    (b"rules:\n  a: \xff\n", "pyfw.yaml:2:6: not a text in UTF-8"),
    ('control: {socket: "/\\ud800"}', "pyfw.yaml:1:19: control.socket holds a control character"),
    ('exempt: {interfaces: ["\\ud800"]}', "pyfw.yaml:1:23: '\ud800' cannot be an interface's name"),
    ("k" * 1000 + ": 1\n", "pyfw.yaml:1:1: unknown key 'kkk"),
    ("#" * 5_000_000, "pyfw.yaml: cannot read the config file: it has more than 4 MiB"),
])
def test_a_config(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    said = check(tmp_path, text)
    assert said.startswith(complaint)
    assert "\n" not in said


@pytest.mark.parametrize("kind", ["rules: {{file: {}}}", "sets: [{}]", "policy: {{shadow: {}}}", "rules: {{filter: {{file: {}}}}}"])
@pytest.mark.parametrize(("file", "complaint"), [
    ("/dev/zero", "it is a device, a pipe or a socket"), ("fifo", "it is a device, a pipe or a socket"), ("huge", "it has more than"),
    ("/", "Is a directory"), ('"\\0"', "no file can have this name"), ("none", "No such file")])
def test_a_file_that_is_no_text(tmp_path: Path, kind: str, file: str, complaint: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge").open("wb") as sparse:
        sparse.truncate(1 << 40)
    said = check(tmp_path, kind.format(file) + "\n")
    assert re.match(r"pyfw\.yaml:1:\d+: ", said)
    assert complaint in said


@pytest.mark.parametrize(("text", "complaint"), [
    ("-A INPUT " + "-s 10.0.0.1 " * 500_000, "2:6142: a line has at most 1024 words"),
    ("-A INPUT -s " + "1" * 5_000_000, "2:13: a word has at most 65536 characters"),
    ("-A INPUT -s '" + "1" * 5_000_000, "2:13: the quote ' is not closed on this line"),
    ("-A INPUT -s " + "\\1" * 1_000_000, "2:13: a word has at most 65536 characters"),
    (f"-A INPUT -s {LISTED} -d {LISTED} -j DROP", "2:1: its lists of addresses make 16000000 rules of this one, where 16384 may be"),
    (b"-A INPUT -i \xff -j DROP", "2:13: not a text in UTF-8"),
    (b"-A INPUT -i \0 -j DROP", "2:13: -i: '\\x00' is not an interface's name"),
])
def test_rules(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    text = text if isinstance(text, bytes) else text.encode()
    said = check(tmp_path, "rules: {file: hostile.rules}\n", hostile=b"*filter\n" + text + b"\n")
    assert f"hostile.rules:{complaint}" in said
    assert "\n" not in said


def test_many_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line makes fewer rules than one may; all of them more than there may be."""
    monkeypatch.setattr("pyfw.rules.language.builder.MAX_RULES", 1000)
    listed = ",".join(f"10.0.0.{number}" for number in range(30))
    line = f"-A INPUT -s {listed} -d {listed} -j DROP\n"
    assert "hostile.rules:3:1: these are more than 1000 rules" in check(
        tmp_path, "rules: {file: hostile.rules}\n", hostile="*filter\n" + line * 2)
    assert "pyfw.yaml:6:11: these are more than 1000 rules" in check(tmp_path, CHAIN + f"        - {line[9:]}" * 2)


def test_what_is_empty_is_passed_over_at_once() -> None:
    assert parse_save("# \n\n" * 1_000_000 + "-A INPUT -j DROP\n").table("filter").chain("INPUT").rules[0].location.line == 2_000_001


def test_check_says_one_line_within_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "pyfw.yaml").write_text(doubled("a0: &a0 [x]\n", "a{new}: &a{new} [*a{old},*a{old}]\n"))
    done = subprocess.run([sys.executable, "-m", "pyfw", "check", "-c", tmp_path / "pyfw.yaml"], capture_output=True, text=True, timeout=60,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
