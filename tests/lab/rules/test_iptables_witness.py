"""The same commands to the system's iptables and to pyfw's: the same rules, the same listings, the same exit statuses."""
from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator

import pytest

from kit.vocabulary import RULES
from lab.rules.kernel import Kernel, program
from pyfw.rules.language.commands import CommandFailed, Request, read_request
from pyfw.rules.language.edit import edit, known_chain
from pyfw.rules.language.printing import print_rules
from pyfw.rules.language.table_view import list_chains
from pyfw.rules.model import Ruleset, empty_table


class Ours:
    """pyfw's rules, changed command by command."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.ruleset = Ruleset()

    def run(self, words: list[str]) -> tuple[int, str]:
        """(exit status, what it prints)"""
        try:
            request = read_request(words, self.family)
            printed = self.listing(request)
            self.ruleset = edit(self.ruleset, request).ruleset
        except CommandFailed as error:
            return error.status, str(error)
        return 0, "".join(f"{line}\n" for line in printed)

    def listing(self, request: Request) -> list[str]:
        table = self.ruleset.table(request.table) or empty_table(request.table)
        if request.command in ("-S", "-L") and request.chain:
            known_chain(table, request.chain, self.family)
        if request.command == "-S":
            return print_rules(self.ruleset, request.table, request.chain, family=self.family)
        if request.command != "-L":
            return []
        return list(list_chains(table, self.family, request.chain, request.number, verbose="verbose" in request.flags,
                                numeric="numeric" in request.flags, exact="exact" in request.flags,
                                line_numbers="line-numbers" in request.flags))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Kernel() as kernel:
        yield kernel


def theirs(kernel: Kernel, family: int, words: list[str], variant: str = "") -> tuple[int, str, str]:
    command = ["ip", "netns", "exec", kernel.name, f"{program(family)}{variant}", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


SCRIPT = """
-N web
-N web
-P FORWARD DROP
-P web DROP
-P FORWARD REJECT
-A FORWARD -p tcp --dport 80 -j web
-A FORWARD -p tcp --dport 22 -m state --state NEW -j ACCEPT
-A FORWARD -s 10.0.0.0/8 -i eth0 -j DROP
-A FORWARD -j nowhere
-A nowhere -j ACCEPT
-A web -j RETURN
-I FORWARD 2 -p udp -j ACCEPT
-I FORWARD 9 -p udp -j ACCEPT
-I FORWARD -s 1.1.1.1,2.2.2.2 -j DROP
-C FORWARD -p udp -j ACCEPT
-C FORWARD -p udp -j DROP
-D FORWARD -p udp -j DROP
-R FORWARD 3 -p tcp --dport 8080 -j web
-R FORWARD 30 -p tcp --dport 8080 -j web
-D FORWARD 99
-D FORWARD 1
-D FORWARD -p udp -j ACCEPT
-E web pages
-E nothing other
-X pages
-X nothing
-F pages
-D FORWARD -p tcp --dport 8080 -j pages
-X pages
-L nothing
-S nothing
-Z FORWARD
-Z
-F
--append INPUT --protocol icmp --jump ACCEPT
--list-rules INPUT
-t raw -A PREROUTING -j NOTRACK
-t raw -S
-t raw -L -n -v
-A INPUT --frobnicate
-A INPUT -p
-A INPUT -m nonsense -j ACCEPT
-N ACCEPT
-w -A INPUT -j LOG --log-prefix "a b "
-N side
-A INPUT -g side
-F nothing
-L INPUT 1 -n
-S INPUT
-nvL INPUT
-vnL
-nvxL --line-numbers
-L -n --line
-AINPUT -s 1.1.1.2 -j DROP
-w5 -A INPUT -s 1.1.1.3 -j DROP
--wait=5 -A INPUT -s 1.1.1.4 -j DROP
-tfilter -S
-6 -A INPUT -s 1.1.1.5 -j DROP
-4 -A INPUT -s 1.1.1.6 -j DROP
-A INPUT -c 0,0 -j DROP
-A INPUT -m recent --set --rttl -j ACCEPT
"""


def test_a_script_of_commands(kernel: Kernel) -> None:
    ours, different = Ours(4), []
    for line in filter(None, SCRIPT.splitlines()):
        words = shlex.split(line)
        status, printed = ours.run(words)
        their_status, their_output, their_error = theirs(kernel, 4, words)
        if (status, printed if status == 0 else "") != (their_status, their_output):
            different.append((line, status, printed, their_status, their_output, their_error))
        for listing in (["-S"], ["-L", "-n", "-v", "--line-numbers"], ["-L"], ["-L", "-n", "-x", "-v"]):
            if ours.run(listing) != theirs(kernel, 4, listing)[:2]:
                different.append((line, listing, ours.run(listing)[1], theirs(kernel, 4, listing)[1]))
    assert different == [], "\n".join("\n".join(map(str, difference)) for difference in different[:8])


@pytest.mark.parametrize("wording", ["Bad rule (does a matching rule exist in that chain?)", "Chain already exists",
                                     "No chain/target/match by that name", "Index of deletion too big", "Index of insertion too big"])
def test_words_that_scripts_look_for(kernel: Kernel, wording: str) -> None:
    commands = {"Bad rule": "-D INPUT -j DROP", "Chain already": "-N there", "No chain": "-L missing",
                "Index of deletion": "-D INPUT 5", "Index of insertion": "-I INPUT 5 -j DROP"}
    words = shlex.split(next(command for beginning, command in commands.items() if wording.startswith(beginning)))
    ours = Ours(4)
    ours.run(["-N", "there"])
    theirs(kernel, 4, ["-N", "there"], "-legacy")
    assert wording in ours.run(words)[1]
    assert wording in theirs(kernel, 4, words, "-legacy")[2]


@pytest.mark.parametrize(("family", "table", "chain"), list(RULES))
def test_every_rule_prints_and_lists_alike(kernel: Kernel, family: int, table: str, chain: str) -> None:
    different = []
    for line in RULES[family, table, chain]:
        ours = Ours(family)
        theirs(kernel, family, ["-t", table, "-F"])
        words = ["-t", table, "-A", chain, *shlex.split(line)]
        answers = [(words, ours.run(words)[0], theirs(kernel, family, words)[0])]
        for listing in (["-S"], ["-L", "-n"], ["-L"]):
            command = ["-t", table, *listing]
            answers.append((command, ours.run(command)[1], theirs(kernel, family, command)[1]))
        different += [(line, *answer) for answer in answers if answer[1] != answer[2]]
    assert different == [], "\n".join(f"{line}\n{' '.join(words)}\nours:   {ours}\ntheirs: {theirs}"
                                      for line, words, ours, theirs in different[:12])
