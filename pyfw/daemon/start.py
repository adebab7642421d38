"""The start: builds the parts one after another, and has the daemon serve with them; what was built is taken down in reverse.

The diversion comes last and goes first, so that packets are diverted only while a daemon judges them; what is queued
is judged before the queue is closed.  A predecessor ends when its successor's diversion is in place.

A service whose config cannot be used serves the last good rules, and says so until a reload finds better.

A predecessor that was killed, restarted by systemd or told to hand over has left a queue in which packets wait: then
nothing is done, and no module loaded, before the data thread runs that it can do without.
"""
from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pyfw.config.engine import compile_shadow, engine_from_config
from pyfw.config.schema import Config
from pyfw.config.values import ConfigError, ShadowError
from pyfw.daemon.connection_review import ConnectionReview
from pyfw.daemon.judging import Judging
from pyfw.daemon.parts import DaemonError, Options, Parts, Surroundings
from pyfw.daemon.process import ProcessError, check_capabilities, enter_namespace
from pyfw.edge.control.descriptors import raise_limit
from pyfw.edge.control.handover import DIVERSION, QUEUE, Handover, HandoverError
from pyfw.edge.host import journal
from pyfw.edge.host.iptables import DivertError
from pyfw.edge.host.own_mark import own_mark
from pyfw.edge.host.owner_lock import DiversionOwner
from pyfw.edge.host.state_file import BATCH, TABLE, StateFile, StateFileError, open_state_file
from pyfw.edge.queue.loop import IN_HAND_BYTES, QueueLoop
from pyfw.edge.queue.socket import QueueError, port_of, why_not_bound
from pyfw.edge.queue_counters import QueueStats, queue_owner
from pyfw.edge.safe_files import open_directory
from pyfw.engine.engine import Engine
from pyfw.report.degraded import ADOPT, SHADOW

if TYPE_CHECKING:
    from pyfw.daemon.daemon import Daemon
    from pyfw.edge.host.diversion_keeper import DiversionKeeper
    from pyfw.edge.host.links import Links
    from pyfw.edge.host.local_addresses import AddressAlarm

SWITCH_INTERVAL_S = 0.0002      # how long a helper's payload may wait until a Python thread releases the GIL


def run(options: Options) -> None:
    """Guard until SIGTERM or SIGINT.

    Raises ConfigError or DaemonError if it cannot start: then the kernel's rules are as they were before, and a daemon
    that was to be taken over goes on.  Raises DaemonError if the queue loop fails.
    """
    around = Surroundings.of(options)
    around.restarts.begin()
    # Where packets wait, rules are compiled once.
    config = around.source.for_start(check=QUEUE not in around.manager.inherited, may_fall_back=options.may_fall_back)
    try:
        check_capabilities(enters_namespace=options.netns is not None, diverts=options.divert)
        if options.netns is not None:
            enter_namespace(options.netns)
    except ProcessError as error:
        raise DaemonError(str(error)) from error
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    raise_limit()
    with ExitStack() as stack:
        try:
            if options.takeover:
                daemon = take_over(around, config, stack)
            else:
                daemon = build(around, config, inherited(around, config), stack)
        except (QueueError, StateFileError, DivertError, HandoverError) as error:
            raise DaemonError(str(error)) from error
        except OSError as error:
            raise DaemonError(f"{error.filename or 'the kernel'}: {error.strerror or error}") from error
        daemon.run()


def take_over(around: Surroundings, config: Config, stack: ExitStack) -> Daemon:
    load_what_is_needed()
    handover = stack.enter_context(Handover(str(config.control.socket)))
    daemon = build(around, config, handover.descriptors, stack)
    if (diversion := daemon.parts.diversion) is not None:
        diversion.install_before(handover.done)
    else:
        handover.done()
    return daemon


def inherited(around: Surroundings, config: Config) -> dict[str, int]:
    """What systemd has kept of a predecessor.  Without its queue there is nothing that could be left in hand."""
    kept = around.manager.inherited
    queue = kept.get(QUEUE)
    if queue is not None and queue_owner(config.queue.number) == port_of(queue):
        return {name: kept[name] for name in (QUEUE, TABLE, BATCH) if name in kept}
    return {}


def build(around: Surroundings, config: Config, handed: dict[str, int], stack: ExitStack) -> Daemon:
    """Everything up to the diversion; `stack` takes it down.  What a predecessor handed over is taken into use."""
    if QUEUE not in handed and queue_owner(config.queue.number) is not None:
        raise QueueError(why_not_bound(config.queue.number))
    owner = None
    if around.options.divert:
        owner = DiversionOwner(handed.get(DIVERSION))
        stack.callback(owner.close)
    mark = own_mark(config.queue.mark, owner)
    # As a rule this is the state directory, too, which only root may enter if it is made as such.
    os.close(open_directory(config.control.socket.parent, make_mode=0o755))
    state = open_state_file(
        config.state.dir, Engine.memory_size(config.conntrack.max_entries, config.conntrack.expect_max), IN_HAND_BYTES, handed)
    engine, config = make_engine(around, config, state)
    follow(around, config, engine)
    queue_stats = QueueStats()
    stack.callback(queue_stats.close)
    queue = QueueLoop(engine, number=config.queue.number, mark=mark, length=config.queue.length,
                      fail_open=config.queue.on_overload == "accept", memory=state.batch, descriptor=handed.get(QUEUE))
    stack.callback(queue.close)
    addresses = watch_addresses(engine, stack) if asks_for_local_addresses(config) else None
    judging = Judging(engine, queue)
    stack.callback(judging.close)
    around.manager.store({QUEUE: handed.get(QUEUE, queue.fileno()),
                          **{name: state.descriptors[name] for name in (TABLE, BATCH)}})
    diversion = keep_diversion(around, config, owner, judging, mark, QUEUE in handed) if owner is not None else None
    adopted = engine.adopted
    if config.adopt == "kernel" and not handed and not adopted:
        adopted = adopt_from_kernel(around, engine)
    if addresses is None:
        addresses = watch_addresses(engine, stack)
    links = watch_links(queue, stack)
    from pyfw.daemon.daemon import Daemon
    parts = Parts(config, state, engine, judging, queue_stats, owner, diversion, addresses, links, adopted)
    daemon = Daemon(around, parts, stack)
    daemon.open_sockets(handed, stack)
    return daemon


def make_engine(around: Surroundings, config: Config, state: StateFile) -> tuple[Engine, Config]:
    """The engine, and the config that it is made from, which may have the last good rules."""
    memory = {"memory": state.memory, "boot_id": state.boot_id}
    try:
        engine = engine_from_config(config, time.monotonic_ns(), previous=state.previous, **memory)
    except ConfigError as error:
        if not around.options.may_fall_back:
            raise
        config = around.source.with_last_good_rules(config, error)
        engine = engine_from_config(config, time.monotonic_ns(), **memory)     # the first has taken what was before
    engine.bound_lives(time.monotonic_ns())
    return engine, config


def follow(around: Surroundings, config: Config, engine: Engine) -> None:
    """The shadow judges, and what the engine has to say is heard, from the first packet on."""
    around.journal.follow(engine.program)
    try:
        shadow = compile_shadow(config, engine.environment)
        engine.load_shadow(shadow)
        around.journal.follow(shadow, journal.SHADOW)
    except ShadowError as error:
        around.degraded.fails(SHADOW, str(error))
    if config.policy.kill_states and engine.adopted:
        review = ConnectionReview(engine, time.monotonic_ns())
        review.finish()
        around.journal.say(review.result)
    if config.log.drops:
        around.journal.follow_drops(engine.log_drops())
    engine.helpers.on_error = lambda error: around.defects.report("helper failed, packet dropped", error)
    around.journal.follow_growth("{} connections had too many segments for their helper, and go on without",
                                 lambda: engine.helpers.budget.refused)


def adopt_from_kernel(around: Surroundings, engine: Engine) -> int:
    """Returns how many connections."""
    from pyfw.edge.host.kernel_conntrack import ConntrackUnreadable, read_connections
    from pyfw.engine.import_connections import import_connections
    try:
        return import_connections(engine, read_connections(), time.monotonic_ns())
    except ConntrackUnreadable as error:
        around.degraded.fails(ADOPT, f"{error}; load nf_conntrack_netlink, or take `adopt` out of the config")
    except Exception as error:          # whatever users have the kernel track
        around.defects.report("adopting connections", error)
        around.degraded.fails(ADOPT, f"a connection could not be read: {error!r}")
    return 0


def keep_diversion(around: Surroundings, config: Config, owner: DiversionOwner, judging: Judging, mark: int,
                   had_queue: bool) -> DiversionKeeper:
    from pyfw.edge.host.diversion_keeper import DiversionKeeper
    from pyfw.edge.host.divert import Diversion
    diversion = Diversion(queue=config.queue.number, hooks=config.hooks, exempt=config.exempt.interfaces,
                          bypass=config.queue.when_down == "accept", mark=mark)
    keeper = DiversionKeeper(diversion, owner, around.journal.say, judging.relearn_windows)
    if diversion.bypass and not had_queue:
        keeper.relearn()
    return keeper


def watch_links(queue: QueueLoop, stack: ExitStack) -> Links:
    from pyfw.edge.host.links import Links
    links = Links(on_change=queue.set_links)
    stack.callback(links.close)
    queue.set_links(links.names)
    return links


def watch_addresses(engine: Engine, stack: ExitStack) -> AddressAlarm:
    from pyfw.edge.host.local_addresses import AddressAlarm, read_routes
    addresses = AddressAlarm()
    stack.callback(addresses.close)
    engine.environment.addresses.replace(read_routes())
    return addresses


def load_what_is_needed() -> None:
    """Load the modules that would otherwise be loaded while packets wait, or after an upgrade has put others in their place."""
    from importlib import import_module
    for name in ("pyfw.daemon.daemon", "pyfw.edge.control.handlers.daemon", "pyfw.edge.host.diversion_keeper",
                 "pyfw.edge.host.links", "pyfw.edge.host.local_addresses"):
        import_module(name)


def asks_for_local_addresses(config: Config) -> bool:
    chains = config.rules.chains() if config.rules else ()
    return any(match.name == "addrtype" for _, chain in chains for rule in chain.rules for match in rule.matches)
