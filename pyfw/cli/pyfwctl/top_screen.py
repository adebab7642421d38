"""`pyfwctl top` on a terminal: what is on the screen, and what the keys do."""
from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyfw.cli.pyfwctl.arguments import add_argument
from pyfw.cli.pyfwctl.screen import BACKSPACE, ENTER, ESCAPE, stepped_interval
from pyfw.edge.control.table import FILTERS
from pyfw.report.rates import scaled
from pyfw.report.top import COLUMNS, MAX_LINES, RIGHT, SORT_COLUMNS, TITLE_WIDTH, age_text, cells, head

SELECTOR_FLAGS = {argument.name: argument.flags[0] for argument in FILTERS}
SORT_KEYS = {key[0]: key for key in SORT_COLUMNS}       # b, p, a
SORT_NAMES = {"bytes": ("most bytes/s", "fewest bytes/s"), "packets": ("most packets/s", "fewest packets/s"),
              "age": ("oldest", "youngest")}            # first: as it is, and reversed
HEAD_LINES, OTHER_LINES = 7, 2          # head()'s; the names of the columns, and the foot
CLEAR_LINE = "\x15"                     # ^U
FOOT = "q quit  b p a sort by bytes, packets, age  r reverse  / filter  space pause  + - interval  h help"
HELP = (
    ("q", "quit"),
    ("b, p, a", "sort by bytes per second, packets per second, age"),
    ("r", "reverse the order"),
    ("/", "type a filter, in list-conntrack's options, such as: -p tcp -s 10.0.0.0/8 --dport 443; none: all connections"),
    ("space", "pause, and go on"),
    ("+, -", "longer, shorter interval"),
    ("h", "this help; any key leaves it"),
    ("", ""),
    ("BYTES/S", "of both directions together, on the IP layer, since the sample before"),
    ("refused", "packets by reason, as `pyfwctl stats` counts them: per second (in all)"),
    ("queue", "packets that wait for a verdict; lost because the queue (queue_dropped) or the socket (user_dropped) was full"),
)


class TopScreen:
    """The `Show` of a request for `top`."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.over = False
        self._view = {"sort": "bytes", "interval": 1.0, **request, "json": True}
        self._most_lines = self._view.pop("lines", None)        # None: as many as fit
        self._sample: Mapping[str, Any] | None = None
        self._newest: Mapping[str, Any] | None = None
        self._paused = False
        self._helping = False
        self._chosen_before: dict[str, Any] = {}                # the filter before this one
        self._typed: str | None = None                          # of a filter, while it is being typed
        self._note = ""

    def request(self, height: int) -> dict[str, Any]:
        fitting = min(max(height - HEAD_LINES - OTHER_LINES, 1), MAX_LINES)
        return {**self._view, "lines": fitting if self._most_lines is None else min(fitting, self._most_lines)}

    def take(self, record: Mapping[str, Any]) -> None:
        self._newest = record
        if not self._paused:
            self._sample = record

    def note(self, text: str) -> None:
        """The daemon cannot do what was asked for: that can only be the filter."""
        self._note = text
        self._choose(self._chosen_before)

    # -- keys ----------------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        self._note = ""
        if self._typed is not None:
            self._type(key)
        elif self._helping:
            self._helping = False
        elif key == "q":
            self.over = True
        elif key in SORT_KEYS:
            self._view["sort"] = SORT_KEYS[key]
        elif key == "r":
            self._view["reverse"] = not self._view.get("reverse", False)
        elif key == "/":
            self._typed = ""
        elif key == " ":
            self._paused = not self._paused
            self._sample = self._newest
        elif key in ("+", "=", "-"):
            self._view["interval"] = stepped_interval(self._view["interval"], key)
        elif key in ("h", "?"):
            self._helping = True

    def _type(self, key: str) -> None:
        if key in ENTER:
            self._apply(self._typed or "")
            self._typed = None
        elif key == ESCAPE:
            self._typed = None
        elif key in BACKSPACE:
            self._typed = (self._typed or "")[:-1]
        elif key == CLEAR_LINE:
            self._typed = ""
        elif key.isprintable():
            self._typed = (self._typed or "") + key

    def _apply(self, text: str) -> None:
        try:
            chosen = read_filter(text)
        except ValueError as error:
            self._note = f"filter: {error}"
            return
        self._chosen_before = {name: self._view[name] for name in SELECTOR_FLAGS if name in self._view}
        self._choose(chosen)

    def _choose(self, chosen: Mapping[str, Any]) -> None:
        self._view = {name: value for name, value in self._view.items() if name not in SELECTOR_FLAGS} | dict(chosen)

    def _filter(self) -> str:
        """The filter as it would be typed."""
        return " ".join(f"{flag} {self._view[name]}" for name, flag in SELECTOR_FLAGS.items() if name in self._view)

    # -- the screen ----------------------------------------------------------------------------------------------

    def draw(self, width: int, height: int) -> RenderableType:
        if self._helping:
            return _help()
        if self._sample is None:
            return Group(*(Text() for _ in range(HEAD_LINES)), Text("measuring ...", style="dim"), self._foot())
        lines = []
        for title, text in head(self._sample, scaled):
            lines.append(_line((f"{title:<{TITLE_WIDTH}}", "bold cyan"), self._shown(text) if title == "shown" else text))
        rows = max(height - HEAD_LINES - OTHER_LINES, 1)
        table = self._table(self._sample["connections"][:rows])
        blank = rows - table.row_count
        return Group(*lines, table, *(Text() for _ in range(blank)), self._foot())

    def _shown(self, text: str) -> str:
        order = SORT_NAMES[self._view["sort"]][bool(self._view.get("reverse"))]
        return (f"{text}, {order} first, every {self._view['interval']:g} s"
                + (f", filter {self._filter()}" if self._filter() else "") + (", PAUSED" if self._paused else ""))

    def _table(self, connections: list[Mapping[str, Any]]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="reverse", expand=True)
        sorted_by = SORT_COLUMNS[self._view["sort"]]
        for position, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if position in RIGHT else "left", no_wrap=True,
                             header_style="bold reverse" if position == sorted_by else "reverse",
                             ratio=1 if name in ("SOURCE", "DESTINATION") else None)
        for connection in connections:
            style = None if connection["rate"]["packets"] else "dim"
            table.add_row(*(Text(cell) for cell in cells(connection, scaled, age_text)), style=style)
        return table

    def _foot(self) -> Text:
        if self._typed is not None:
            return _line(("filter: ", "bold"), self._typed, ("_", "blink"))
        if self._note:
            return _line((self._note, "bold red"))
        return _line((FOOT, "dim"))


def read_filter(text: str) -> dict[str, Any]:
    """list-conntrack's options -> arguments of a request.  Raises ValueError that says what is wrong."""
    parser = _FilterParser(add_help=False, allow_abbrev=False)
    for argument in FILTERS:
        add_argument(parser, argument)
    return {name: value for name, value in vars(parser.parse_args(shlex.split(text))).items() if value is not None}


class _FilterParser(argparse.ArgumentParser):

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _help() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0), title="pyfwctl top", title_justify="left")
    for key, meaning in HELP:
        table.add_row(Text(key, style="bold"), Text(meaning))
    return table
