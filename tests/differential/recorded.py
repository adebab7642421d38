"""Scenarios as text files, for regressions and for looking at: one packet a line.

    # why this was kept
    settings tcp_loose=0 ftp=1
    timeouts udp=1 tcp_close=2
    > 4500002c...     # tcp 10.0.0.2.1000 > 10.0.1.2.80 S seq 1 win 8192
    wait 2.1
    < 4500002c...

`>` comes from side 0, `<` from side 1; `wait` seconds before the next packet; what follows # is for people.
"""
from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from differential.generate_mix import Scenario
from kit.packed_packets import describe
from kit.witness import Sent, Settings

_SWITCHES = [entry.name for entry in fields(Settings) if entry.name != "timeouts"]


def write(scenario: Scenario, title: str) -> str:
    lines = [f"# {line}".rstrip() for line in title.splitlines()]
    changed = [f"{name}={int(getattr(scenario.settings, name))}" for name in _SWITCHES
               if getattr(scenario.settings, name) != getattr(Settings(), name)]
    if changed:
        lines.append(" ".join(["settings", *changed]))
    if scenario.settings.timeouts:
        lines.append(" ".join(["timeouts", *(f"{name}={seconds}" for name, seconds in scenario.settings.timeouts)]))
    for packet in scenario.packets:
        if packet.pause_s:
            lines.append(f"wait {packet.pause_s}")
        lines.append(f"{'><'[packet.side]} {packet.data.hex()}  # {describe(packet.data)}")
    return "\n".join(lines) + "\n"


def read(path: Path) -> Scenario:
    """Raises ValueError with the file's name and line."""
    switches: dict[str, bool] = {}
    timeouts: dict[str, int] = {}
    packets: list[Sent] = []
    pause_s = 0.0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word, _, rest = line.partition("#")[0].strip().partition(" ")
        try:
            if word == "settings":
                switches |= _switches(rest.split())
            elif word == "timeouts":
                timeouts |= {name: int(seconds) for name, _, seconds in (entry.partition("=") for entry in rest.split())}
            elif word == "wait":
                pause_s = float(rest)
            elif word in ("<", ">"):
                packets.append(Sent("><".index(word), bytes.fromhex(rest), pause_s))
                pause_s = 0.0
            elif word:
                raise ValueError(f"unknown word {word!r}: write settings, timeouts, wait, > or <")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    return Scenario(Settings(**switches, timeouts=tuple(timeouts.items())), packets)


def _switches(words: list[str]) -> dict[str, bool]:
    switches = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in _SWITCHES or value not in ("0", "1"):
            raise ValueError(f"unknown setting {word!r}: write {', '.join(f'{known}=0|1' for known in _SWITCHES)}")
        switches[name] = value == "1"
    return switches
