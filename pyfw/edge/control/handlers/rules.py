"""Control commands that list and change the rules of the running daemon, as iptables(8), iptables-save and iptables-restore do.

A change is compiled in the background and serves from one packet to the next, or, if anything is wrong with it, not at all.
It lasts until the next reload, unless `pyfwctl save` writes it to the file that the config reads: the daemon only says what
there is to be written, and may itself write nowhere near its config.  While a reload is on trial, changes are refused.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyfw.edge.control.answers import in_background, in_pieces
from pyfw.edge.control.service_error import ServiceError
from pyfw.edge.control.table import USAGE, Answers, CommandError, Services
from pyfw.rules.language.edit import ARGUMENT, CommandFailed, Request, edit, known_chain, read_request
from pyfw.rules.language.printing import AUDIT, Counters, print_rules, print_ruleset, ruleset_lines
from pyfw.rules.language.restore import Restored, restore
from pyfw.rules.language.table_view import list_chains
from pyfw.rules.model import BUILTIN_CHAINS, RulesError, Ruleset, empty_table

if TYPE_CHECKING:
    from pyfw.rules.program.program import Program

LISTS = ("-L", "-S", "-Z")


def run_iptables(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`words`: the command line of iptables; `family`: 4 or 6."""
    try:
        request = read_request(arguments.get("words", []), arguments.get("family", 4))
        lines = []
        if request.command in ("-L", "-S"):
            lines = yield from in_background(services, lambda: _listing(services, request))
        if request.command not in LISTS or request.command == "-Z" or "zero" in request.flags:
            yield from in_background(services, lambda: _change(services, request))
    except CommandFailed as error:
        raise CommandError(str(error), error.status, reason="iptables") from error
    yield from in_pieces(lines, exact=request.command == "-S")
    return {}


def _ruleset(services: Services) -> Ruleset:
    program = services.engine.program
    return program.ruleset if program else Ruleset()


def _counters(services: Services, family: int | None) -> Counters | None:
    return services.engine.program.counters(family) if services.engine.program else None


def _listing(services: Services, request: Request) -> list[str]:
    ruleset = _ruleset(services)
    table = ruleset.table(request.table) or empty_table(request.table)
    verbose = "verbose" in request.flags
    counters = _counters(services, request.family) if verbose and ruleset.table(request.table) else None
    if request.chain:
        known_chain(table, request.chain)
    if request.command == "-S":
        lines = print_rules(ruleset, request.table, request.chain, family=request.family, counters=counters)
        rules = [line for line in lines if line.startswith(("-A", AUDIT))]
        return lines if request.number is None else rules[request.number - 1:request.number]
    return list(list_chains(table, request.family, request.chain, request.number, verbose=verbose,
                            numeric="numeric" in request.flags, exact="exact" in request.flags,
                            line_numbers="line-numbers" in request.flags, counters=counters))


def _change(services: Services, request: Request) -> None:
    """In the background: edits follow one another, each on what the one before it left."""
    edited = edit(_ruleset(services), request)
    if edited.ruleset != _ruleset(services) or edited.counted:
        _compiled_by(services.serve_rules, edited.ruleset)
    program = services.engine.program
    for place in edited.counted:
        if request.counters != (0, 0):
            program.set_counter(*place, request.family, *request.counters)
    if program is not None:
        for place in edited.zeroed:
            if program.ruleset.table(place[0]):
                program.set_counter(*place, request.family)


def _compiled_by(service: Callable[[Ruleset], Program], ruleset: Ruleset) -> Program:
    """The program that one of the services makes of the rules.  Raises CommandFailed."""
    try:
        return service(ruleset)
    except RulesError as error:
        from_words = error.location is not None and error.location.startswith(f"{ARGUMENT}:")     # there, columns say nothing
        raise CommandFailed(error.message if from_words else str(error), USAGE) from None


def iptables_save(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`counters`: with what was counted; `table`: only this one."""
    ruleset, name = _ruleset(services), arguments.get("table")
    family = arguments.get("family")
    counters = _counters(services, family) if arguments.get("counters") else None
    if name is not None:
        ruleset = Ruleset((ruleset.table(name) or empty_table(name),))
        counters = counters if counters and (name, ruleset.tables[0].chains[0].name) in counters else None
    yield from in_pieces(ruleset_lines(ruleset, family=family, counters=counters))
    return {}


def iptables_restore(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`text`: what iptables-save printed.  All of it, or nothing."""
    def load() -> Restored:
        restored = restore(_ruleset(services), arguments.get("text", ""), arguments.get("family", 4),
                           keep=bool(arguments.get("noflush")), only_table=arguments.get("table"),
                           skip_unsupported=bool(arguments.get("skip_unsupported")))
        program = _compiled_by(services.compile_rules if arguments.get("test") else services.serve_rules, restored.ruleset)
        if not arguments.get("test"):
            for place, counted in restored.counters.items() if arguments.get("counters") else ():
                program.set_counter(*place, arguments.get("family", 4), *counted)
        return restored

    try:
        restored = yield from in_background(services, load)
    except (RulesError, CommandFailed) as error:
        raise CommandError(str(error), getattr(error, "status", 1), reason="iptables") from error
    for warning in restored.skipped:
        yield {"note": f"warning: {warning}"}
    return {}


def save(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """What pyfwctl is to write: the text of all tables and of each, and the config whose files it belongs in."""
    ruleset = _ruleset(services)
    yield {"all": print_ruleset(ruleset), "config": str(services.config_path),
           "tables": {name: print_ruleset(Ruleset((ruleset.table(name) or empty_table(name),))) for name in BUILTIN_CHAINS},
           "used": [table.name for table in ruleset.tables]}
    return {}


def rules_saved(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """pyfwctl has written the config's files."""
    try:
        yield from in_background(services, services.keep_saved_rules)
    except ServiceError as error:
        raise CommandError(str(error), reason="bad_config") from error
    return {}


def list_rules(services: Services, arguments: Mapping[str, Any]) -> Answers:
    from pyfw.rules.language.printing import rule_lines
    program = services.engine.program
    if program is None:
        raise CommandError("no rules are loaded: everything is accepted")
    table, chain = arguments.get("table", "filter"), arguments.get("chain")
    counters = program.counters() if arguments.get("verbose") else None
    try:
        lines = rule_lines(program.ruleset, table, chain, counters=counters)
    except KeyError as error:
        raise CommandError(f"there is no chain '{chain}' in table {table}") from error
    yield from in_pieces(lines)
    return {}
