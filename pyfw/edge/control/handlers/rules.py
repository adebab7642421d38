"""Control commands that list and change the rules of the running daemon, as iptables(8), iptables-save and iptables-restore do.

A change is compiled in the background and serves from one packet to the next, or, if anything is wrong with it, not at all.
It lasts until the next reload, unless `pyfwctl save` writes it to the file that the config reads: the daemon only says what
there is to be written, and may itself write nowhere near its config.  While a reload is on trial, changes are refused.
"""
from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyfw.edge.control.answers import in_background, in_pieces
from pyfw.edge.control.service_error import ServiceError
from pyfw.edge.control.table import USAGE, Answers, CommandError, Listen, Services
from pyfw.rules.language.commands import RESOURCE, CommandFailed, Request, read_request
from pyfw.rules.language.draft import Place
from pyfw.rules.language.edit import Edited, complaint, edit, known_chain
from pyfw.rules.language.printing import AUDIT, Counters, print_rules, print_ruleset, ruleset_lines
from pyfw.rules.language.restore import Options, Restored, Restorer
from pyfw.rules.language.table_view import list_chains
from pyfw.rules.model import BUILTIN_CHAINS, RulesError, Ruleset, Table, empty_table

if TYPE_CHECKING:
    from pyfw.rules.program.program import Program

LISTS = ("-L", "-S")
PIECE_S = 30.0                      # until the next piece of a text is there
CHANGING = ("-R",)                  # may leave rules that are alike, and are others


def run_iptables(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """`words`: the command line of iptables; `family`: 4 or 6."""
    try:
        lines, exact = yield from in_background(services, _carry_out, services, arguments.get("words", []), arguments.get("family", 4))
    except CommandFailed as error:
        raise CommandError(str(error), error.status, reason="iptables") from error
    yield from in_pieces(lines, exact=exact)
    return {}


def _carry_out(services: Services, words: Sequence[str], family: int) -> tuple[list[str], bool]:
    """In the background: names are looked up.  What the command prints, and whether that is to be read back."""
    request = read_request(words, family)
    lines = _listing(services, request) if request.command in LISTS else []
    if request.command not in LISTS or "zero" in request.flags:
        lines += _change(services, request).said
    return lines, request.command == "-S"


def _ruleset(services: Services) -> Ruleset:
    program = services.engine.program
    return program.ruleset if program else Ruleset()


def _counters(services: Services, family: int | None) -> Counters | None:
    return services.engine.program.counters(family) if services.engine.program else None


def _listing(services: Services, request: Request) -> list[str]:
    ruleset = _ruleset(services)
    table = ruleset.table(request.table) or empty_table(request.table)
    verbose = "verbose" in request.flags
    counters = _counters_of(services, ruleset, table, request.family) if verbose else None
    if request.chain is not None:
        known_chain(table, request.chain, request.family)
    if request.command == "-S":
        lines = print_rules(ruleset, request.table, request.chain, family=request.family, counters=counters)
        rules = [line for line in lines if line.startswith(("-A", AUDIT))]
        return lines if request.number is None else rules[request.number - 1:request.number]
    return list(list_chains(table, request.family, request.chain, request.number, verbose=verbose,
                            numeric="numeric" in request.flags, exact="exact" in request.flags,
                            line_numbers="line-numbers" in request.flags, counters=counters))


def _counters_of(services: Services, ruleset: Ruleset, table: Table, family: int) -> Counters:
    """A table that was not given counts nothing."""
    if not ruleset.table(table.name):
        return {(table.name, chain.name): ((0, 0), []) for chain in table.chains}
    return _counters(services, family) or {}


def _change(services: Services, request: Request) -> Edited:
    """Edits follow one another, each on what the one before it left."""
    before = _ruleset(services)
    edited = edit(before, request)
    if edited.ruleset != before or request.command in CHANGING:
        _compiled_by(services.serve_rules, edited.ruleset)
    _set_counters(services.engine.program, edited.counters, request.family)
    return edited


def _set_counters(program: Program | None, counters: Mapping[Place, tuple[int, int]], family: int) -> None:
    if program is not None:
        for place, counted in counters.items():
            if program.ruleset.table(place[0]):
                program.set_counter(*place, family, *counted)


def _compiled_by(service: Callable[[Ruleset], Program], ruleset: Ruleset) -> Program:
    """The program that one of the services makes of the rules.  Raises CommandFailed."""
    try:
        return service(ruleset)
    except RulesError as error:
        raise CommandFailed(complaint(error), RESOURCE) from None


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
    """What iptables-save printed comes in pieces of whole lines, each when it was asked for.  All of it counts, or nothing."""
    family = arguments.get("family", 4)
    options = Options(keep=bool(arguments.get("noflush")), counters=bool(arguments.get("counters")),
                      verbose=bool(arguments.get("verbose")), only_table=arguments.get("table"),
                      skip_unsupported=bool(arguments.get("skip_unsupported")), to_kernel=services.other_tables == "kernel")

    def load(restorer: Restorer) -> Restored:
        restored = restorer.finish()
        if options.skip_unsupported:
            restored = _without_unbindable(services, restored)
        if _ruleset(services) != restorer.ruleset:
            raise CommandFailed("the rules were changed meanwhile: try again", RESOURCE)
        if restored.others and not arguments.get("test"):
            _compiled_by(services.compile_rules, restored.ruleset)
            services.hand_over_tables({family: restored.others}, options.keep)
        program = _compiled_by(services.compile_rules if arguments.get("test") else services.serve_rules, restored.ruleset)
        if not arguments.get("test"):
            _set_counters(program, restored.counters, family)
        return restored

    try:
        restorer = Restorer(_ruleset(services), family, options)
        while text := (yield from _next_piece()):
            yield from in_background(services, restorer.feed, text)
        restored = yield from in_background(services, load, restorer)
    except (RulesError, CommandFailed) as error:
        raise CommandError(str(error), getattr(error, "status", 1), reason="iptables") from error
    for warning in restored.skipped:
        yield {"note": f"warning: {warning}"}
    yield from in_pieces([] if arguments.get("test") else restored.said, exact=False)
    return {}


def _without_unbindable(services: Services, restored: Restored) -> Restored:
    """Without rules that name a helper or a set that is not there.  Where rules are missing, counters of the text are, too."""
    from pyfw.rules.program.bindable import bindable
    skipped: list[str] = []
    ruleset = bindable(restored.ruleset, services.engine.environment, skipped)
    return replace(restored, ruleset=ruleset, skipped=(*restored.skipped, *skipped), counters={} if skipped else restored.counters)


def _next_piece() -> Generator[dict[str, Any] | Listen, Any, str]:
    """Of a request that comes in pieces; empty: there is none left."""
    yield {"next": True}
    piece = yield Listen(PIECE_S)
    text = piece.get("text", "") if isinstance(piece, dict) else None
    if not isinstance(text, str):
        raise CommandError("a piece of the text is expected", USAGE, "bad_argument" if piece else "idle")
    return text


def save(services: Services, arguments: Mapping[str, Any]) -> Answers:
    """What pyfwctl is to write: the text of all tables and of each, and the config whose files it belongs in."""
    ruleset = _ruleset(services)
    yield {"all": print_ruleset(ruleset), "config": str(services.config_path),
           "tables": {name: print_ruleset(Ruleset((ruleset.table(name) or empty_table(name),))) for name in BUILTIN_CHAINS},
           "ipv4": print_ruleset(ruleset, family=4), "ipv6": print_ruleset(ruleset, family=6),
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
