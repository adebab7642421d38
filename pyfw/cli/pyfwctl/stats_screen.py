"""`pyfwctl stats --watch` on a terminal: every counter with its rate, in as many columns as there is room for."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyfw.cli.pyfwctl.screen import DOWN, UP, stepped_interval
from pyfw.report.rates import flat, scaled
from pyfw.report.top import clock

COLUMN_WIDTH = 64               # the longest name, a value and a rate
NAME_WIDTH, VALUE_WIDTH, RATE_WIDTH = 34, 16, 10
OTHER_LINES = 2                 # above and below the counters
FOOT = "q quit  space pause  + - interval  j k scroll"


class StatsScreen:
    """The `Show` of a request for `stats` with `watch`."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.over = False
        self._view = {**request, "json": True}
        self._record: Mapping[str, Any] | None = None
        self._newest: Mapping[str, Any] | None = None
        self._paused = False
        self._first = 0                                         # line of counters at the top
        self._note = ""

    def request(self, height: int) -> dict[str, Any]:
        return self._view.copy()

    def take(self, record: Mapping[str, Any]) -> None:
        self._newest = record
        if not self._paused:
            self._record = record

    def note(self, text: str) -> None:
        self._note = text

    def press(self, key: str) -> None:
        self._note = ""
        if key == "q":
            self.over = True
        elif key == " ":
            self._paused = not self._paused
            self._record = self._newest
        elif key in ("+", "=", "-"):
            self._view["watch"] = stepped_interval(self._view["watch"], key)
        elif key == "j" or key in DOWN:
            self._first += 1
        elif key == "k" or key in UP:
            self._first = max(self._first - 1, 0)

    def draw(self, width: int, height: int) -> RenderableType:
        rows = max(height - OTHER_LINES, 1)
        if self._record is None:
            return Group(*(Text() for _ in range(rows + 1)), self._foot())
        counters = list(flat(self._record["statistics"]))
        columns = max(width // COLUMN_WIDTH, 1)
        lines = -(-len(counters) // columns)                    # of each column
        self._first = max(min(self._first, lines - rows), 0)
        changes = dict(flat(self._record["rates"]))
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(columns):
            table.add_column(width=NAME_WIDTH, no_wrap=True)
            table.add_column(width=VALUE_WIDTH, no_wrap=True, justify="right")
            table.add_column(width=RATE_WIDTH, no_wrap=True, justify="right")
        for line in range(self._first, min(self._first + rows, lines)):
            row: list[Text] = []
            for name, value in counters[line::lines]:
                change = changes.get(name)
                style = "bold" if change else "dim"
                row += [Text(name, style), Text(str(value), style), Text("" if change is None else f"{scaled(change)}/s", style)]
            table.add_row(*row)
        title = f"{clock(self._record['time'])}, every {self._view['watch']:g} s" + (", PAUSED" if self._paused else "")
        return Group(Text(title, style="bold cyan"), table, *(Text() for _ in range(rows - table.row_count)), self._foot())

    def _foot(self) -> Text:
        return Text(self._note, style="bold red", no_wrap=True) if self._note else Text(FOOT, style="dim", no_wrap=True)
