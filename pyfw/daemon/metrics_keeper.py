"""The metrics from a daemon's start to its end.  Judging does not need them: if they cannot be had, that is told, and tried again."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyfw.config.schema import Config
from pyfw.edge.defects import Defects
from pyfw.report.degraded import METRICS, Degraded
from pyfw.rules.program.program import Program

if TYPE_CHECKING:
    from pyfw.edge.control.metrics_server import MetricsServer


class MetricsKeeper:
    """statistics, program: what there is to tell; prepare_thread: called in the thread that answers."""

    def __init__(self, config: Config, statistics: Callable[[], dict[str, Any]], program: Callable[[], Program | None], *,
                 prepare_thread: Callable[[], None], degraded: Degraded, defects: Defects) -> None:
        self._config = config
        self._statistics = statistics
        self._program = program
        self._prepare_thread = prepare_thread
        self._degraded = degraded
        self._defects = defects
        self._server: MetricsServer | None = None

    def open(self) -> None:
        """Serve, if the config says where and nothing is served yet."""
        listen = self._config.metrics.listen
        if listen is None or self._server is not None:
            return
        from pyfw.edge.control.metrics_server import MetricsServer
        from pyfw.edge.control.unix_socket import group_id_of
        try:
            from pyfw.report.metrics import Exposition
        except ModuleNotFoundError as error:
            self._degraded.fails(METRICS, f"{error.name} is not installed: `scripts/install --with metrics` installs it")
            return
        server = MetricsServer(listen, group_id_of(self._config.control.group), Exposition(self._statistics, self._program),
                               prepare_thread=self._prepare_thread, defects=self._defects)
        try:
            server.bind()
            server.start()
        except OSError as error:
            server.stop()
            self._degraded.fails(METRICS, f"{error.filename}: {error.strerror}" if error.filename else str(error))
            return
        self._server = server
        self._degraded.works(METRICS)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def counters(self) -> dict[str, Any]:
        """{"metrics": the server's}, or {} while there is none."""
        server = self._server
        return {"metrics": server.counters()} if server is not None else {}
