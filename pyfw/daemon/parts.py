"""What a start hands to the daemon that serves: each part is there, and works."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyfw.config.last_good import LastGoodRules
from pyfw.config.schema import Config
from pyfw.config.source import ConfigSource
from pyfw.daemon.judging import Judging
from pyfw.edge.control.descriptors import Reserve
from pyfw.edge.defects import Defects
from pyfw.edge.host.journal import Journal
from pyfw.edge.host.owner_lock import DiversionOwner
from pyfw.edge.host.restarts import Restarts
from pyfw.edge.host.state_file import StateFile
from pyfw.edge.host.systemd import NativeJournal, ServiceManager
from pyfw.edge.queue_counters import QueueStats
from pyfw.engine.engine import Engine
from pyfw.report.degraded import Degraded

if TYPE_CHECKING:
    from pyfw.edge.host.diversion_keeper import DiversionKeeper
    from pyfw.edge.host.links import Links
    from pyfw.edge.host.local_addresses import AddressAlarm


class DaemonError(Exception):
    """The daemon cannot start or go on: one line that says why and what to do."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    takeover   replace the running daemon
    confirm_s  end again, unless confirm() is called within so many seconds
    """

    config_path: Path | str
    overrides: Sequence[str] = ()
    netns: str | None = None
    divert: bool = True
    skip_unsupported: bool = False
    takeover: bool = False
    confirm_s: int = 0

    @property
    def may_fall_back(self) -> bool:
        """On the last good rules.  Who takes over, or tries rules out, waits for the answer."""
        return not self.takeover and not self.confirm_s


@dataclass(frozen=True)
class Surroundings:
    """What there is before anything is built: whom the daemon tells, and where its config comes from."""

    options: Options
    manager: ServiceManager
    journal: Journal
    defects: Defects
    degraded: Degraded
    reserve: Reserve
    source: ConfigSource
    restarts: Restarts
    started_ns: int

    @classmethod
    def of(cls, options: Options) -> Surroundings:
        manager = ServiceManager()
        journal = Journal(NativeJournal.if_ours())
        degraded = Degraded(journal.say)
        source = ConfigSource(options.config_path, options.overrides, skip_unsupported=options.skip_unsupported, say=journal.say,
                              last_good=LastGoodRules.of_service(), degraded=degraded)
        return cls(options, manager, journal, Defects(journal.say), degraded, Reserve(), source, Restarts(), time.monotonic_ns())


@dataclass(frozen=True)
class Parts:
    """What a start has built.

    config            the config that it was built from
    owner, diversion  None: other rules divert
    adopted           connections from a predecessor's table, or the kernel's
    """

    config: Config
    state: StateFile
    engine: Engine
    judging: Judging
    queue_stats: QueueStats
    owner: DiversionOwner | None
    diversion: DiversionKeeper | None
    addresses: AddressAlarm
    links: Links
    adopted: int
