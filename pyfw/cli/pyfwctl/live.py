"""Which commands are shown live, where there is a terminal; elsewhere they print."""
from __future__ import annotations

from typing import Any


def shown_live(path: str, request: dict[str, Any]) -> int | None:
    """The exit status of a command that was shown live; None: it is to print, and `request` says so.

    Raises NoDaemon, Refused.
    """
    live = (request["command"] == "top" and not request.get("once")) or (request["command"] == "stats" and "watch" in request)
    if not live:
        return None
    from pyfw.cli.pyfwctl import screen
    if not request.get("json") and screen.has_terminal():
        # They load rich, which takes longer than most commands.
        from pyfw.cli.pyfwctl.stats_screen import StatsScreen
        from pyfw.cli.pyfwctl.top_screen import TopScreen
        return screen.run(path, TopScreen(request) if request["command"] == "top" else StatsScreen(request))
    if request["command"] == "top":
        request["once"] = True
    return None
