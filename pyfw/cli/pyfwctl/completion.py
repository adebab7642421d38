"""Completion for bash and zsh, made from the parsers: `python -m pyfw.cli.pyfwctl.completion bash|zsh pyfw|pyfwctl` prints the script.

scripts/package runs this once; what completes then is shell alone, but for the names of chains and sets, for which it asks
the running daemon.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import shtab

from pyfw.cli.pyfw import main as pyfw
from pyfw.cli.pyfwctl import main as pyfwctl
from pyfw.conntrack.selection import STATUSES
from pyfw.edge.control.handlers.connections import PROTOCOLS
from pyfw.enums import TcpState
from pyfw.rules.sets.store import COMMANDS as SET_COMMANDS
from pyfw.rules.sets.text import TYPES

PROGRAMS = {"pyfw": pyfw.make_parser, "pyfwctl": pyfwctl.make_parser}
FILES = {"config", "file", "output", "shadow", "socket", "write"}           # arguments, by name, that take a file
WORDS = {"protocol": tuple(PROTOCOLS), "state": tuple(state.name for state in TcpState), "status": tuple(STATUSES)}

# Names come one a line; a daemon that does not run, or refuses this user, gives none.  A name with a character that means
# something to the shell is not offered: it may come from a downloaded list, and `compgen -W` would run it.
NAMES = """
_pyfw_names() { LC_ALL=C grep -x '[0-9A-Za-z_.:@%+=,-]*'; }
_pyfw_chains() { command pyfwctl list-rules 2>/dev/null | sed -n 's/^\\(-[46] \\)*-[NP] \\([^ ]*\\).*/\\2/p' | sort -u | _pyfw_names; }
_pyfw_sets() { command pyfwctl set list -name 2>/dev/null | _pyfw_names; }
_pyfw_namespaces() { ls /run/netns 2>/dev/null | _pyfw_names; }
# What may follow the words of `pyfwctl set`.
_pyfw_set_words() {
  case $#:$1 in
    0:*) echo """ + " ".join(SET_COMMANDS) + """ ;;
    1:create | 1:restore) ;;
    1:*) _pyfw_sets ;;
    2:create) echo """ + " ".join(TYPES) + """ ;;
    2:swap) _pyfw_sets ;;
  esac
}
"""
BASH = NAMES + """
_pyfw_complete_chains() { compgen -W "$(_pyfw_chains)" -- "$1"; }
_pyfw_complete_namespaces() { compgen -W "$(_pyfw_namespaces)" -- "$1"; }
_pyfw_complete_set() {
  local word=1
  until [[ ${COMP_WORDS[word]} == set ]]; do ((word++)); done
  compgen -W "$(_pyfw_set_words "${COMP_WORDS[@]:word+1:COMP_CWORD-word-1}")" -- "$1"
}
"""
ZSH = NAMES + """
_pyfw_complete_chains() { compadd -- ${(f)"$(_pyfw_chains)"} }
_pyfw_complete_namespaces() { compadd -- ${(f)"$(_pyfw_namespaces)"} }
_pyfw_complete_set() { compadd -- ${=$(_pyfw_set_words "${(@)words[1,CURRENT-1]}")} }     # words: those behind `set`
"""
PREAMBLES = {"bash": BASH, "zsh": ZSH}
FUNCTIONS = {"chain": "chains", "netns": "namespaces"}  # arguments, by name, that one of the above completes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pyfw.cli.pyfwctl.completion", description="Print a completion script.")
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.add_argument("program", choices=sorted(PROGRAMS))
    arguments = parser.parse_args(argv)
    sys.stdout.write(script(arguments.shell, arguments.program))
    return 0


def script(shell: str, program: str) -> str:
    parser = PROGRAMS[program]()
    for command, action in _arguments(parser):
        _complete(command, action)
    return shtab.complete(parser, shell, preamble=PREAMBLES[shell])


def _arguments(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """All arguments, with the name of the subcommand that each belongs to."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subparser in action.choices.items():
                yield from _arguments(subparser, name)
        else:
            yield command, action


def _complete(command: str, action: argparse.Action) -> None:
    if action.choices:
        return
    function = "set" if (command, action.dest) == ("set", "words") else FUNCTIONS.get(action.dest)
    if action.dest in WORDS:
        action.choices = WORDS[action.dest]
    elif function or action.dest in FILES:
        completer = dict.fromkeys(PREAMBLES, f"_pyfw_complete_{function}") if function else shtab.FILE
        action.complete = completer     # type: ignore[attr-defined]  # shtab's own attribute, which argparse does not know


if __name__ == "__main__":
    sys.exit(main())
