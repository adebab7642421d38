"""Rules in YAML -> Ruleset, with the line and column of every mistake.

    rules:
      raw: |                                    # iptables text of one table; or {file: raw.rules}
        -A PREROUTING -i $LAN -p udp --dport 514 -j NOTRACK
      filter:
        INPUT:
          policy: DROP
          rules:
            - -m state --state ESTABLISHED,RELATED -j ACCEPT
            - {state: NEW, in: $LAN, proto: tcp, dport: "! 22", jump: DROP}
        guests: {rules: [...]}                  # a chain of one's own

A rule is an iptables line, or a mapping whose keys are iptables' long options without their dashes (`in`, `out`,
`src`, `dst` and `proto` for short).  `jump` or `goto` is its target; `family: 4` or `6` binds it to one family.  A
value that begins with `! ` is negated; a list is what commas separate; an option without value takes
true, or false for its negation.  Matches stand in the order of their keys.  The same rule written
either way is the same Rule.  `audit: true`, which iptables has no words for, makes a rule count and log what it
matches and do nothing.

`rules:` may also be one iptables text of all tables, or {file: all.rules}.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from pyfw.bounded_text import place_of
from pyfw.rules.language.builder import RuleBuilder, checked_count
from pyfw.rules.language.check import check_ruleset
from pyfw.rules.language.families import joined
from pyfw.rules.language.iptables import KERNEL_TABLES, POLICIES, check_chain_name, parse_rule, parse_save
from pyfw.rules.language.matches import OPTIONS
from pyfw.rules.language.other_tables import family_of, separated
from pyfw.rules.language.skipping import effect_of, left_out
from pyfw.rules.lexer import Place, split_lines, substitute
from pyfw.rules.model import BUILTIN_CHAINS, Chain, Location, Rule, RulesError, Ruleset, Table, Unsupported, empty_table
from pyfw.rules.values import suggestion

FAMILIES = {"4": 4, "6": 6, "ipv4": 4, "ipv6": 6}
_FIRST_LINE = re.compile(r"\n([^\S\n]*\S[^\n]*)")
_BARE_NOT = re.compile(r"(?:&\S+\s+)?!\s")
_TAG = "tag:yaml.org,2002:"
_PROTOCOL_KEYS = {"proto", "protocol"}
_TARGET_KEYS = {"jump", "goto"}
_KINDS = {yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}


def load_rules(node: yaml.Node, variables: Mapping[str, str], base_dir: Path, source: str, read: Callable[[Path], str],
               skipped: list[str] | None = None, others: dict[int, dict[str, list[str]]] | None = None,
               notes: list[str] | None = None) -> Ruleset:
    """The ruleset under `rules:`.

    `node` is composed from a str: YAML drops a bare `!`, which is found in that text only.  `variables` are for
    $NAME.  Files are looked for in `base_dir`, and read by `read`, which raises OSError or UnicodeDecodeError.  `source` names
    the YAML file in errors.  `skipped` takes a warning for each rule that pyfw does not do; None: those are errors.  `others`
    takes the lines of tables that are not pyfw's, by family and name; None: such a table is an error.  `notes` takes warnings of
    files that are not what they seem to be.
    """
    if node.start_mark.buffer is None:
        raise ValueError("compose the YAML from a str, not from a stream or with libyaml: its nodes keep no text")
    return check_ruleset(_Loader(variables, base_dir, source, read, skipped, others, notes).ruleset(node))


def rule_files(node: yaml.Node, base_dir: Path) -> dict[str | None, Path]:
    """The files that `rules:` reads, by table; None: one that holds all tables; of such, `ipv4` and `ipv6` where each has its own."""
    def file_of(value: yaml.Node, name: str = "file") -> Path | None:
        named = [entry.value for key, entry in value.value if key.value == name] if isinstance(value, yaml.MappingNode) else []
        return base_dir / named[0] if named else None

    if (ipv6 := file_of(node, "file6")) and (ipv4 := file_of(node)):
        return {"ipv4": ipv4, "ipv6": ipv6}
    if path := file_of(node):
        return {None: path}
    tables = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: path for key, value in tables if (path := file_of(value))}


def rule_keys() -> list[str]:
    """Every key that a rule's mapping may have."""
    spelled = {name[2:]: None for option in OPTIONS for name in (option.name, *option.aliases) if name.startswith("--")}
    return [*spelled, *sorted(_TARGET_KEYS), "family", "audit"]


class _Loader:
    """Reads nodes; every method takes the node it speaks of."""

    def __init__(self, variables: Mapping[str, str], base_dir: Path, source: str, read: Callable[[Path], str],
                 skipped: list[str] | None, others: dict[int, dict[str, list[str]]] | None, notes: list[str] | None) -> None:
        self.others = others
        self.notes = notes
        self.read = read
        self.skipped = skipped
        self.variables = variables
        self.base_dir = base_dir
        self.source = source

    def at(self, node: yaml.Node) -> Location:
        return Location(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    # -- tables and chains --------------------------------------------------------------------------------------------

    def ruleset(self, node: yaml.Node) -> Ruleset:
        if not isinstance(node, yaml.MappingNode) or "file" in (key.value for key, _ in node.value):
            return self.text_ruleset(node, None)
        ruleset = Ruleset()
        for name, key, value in self.entries(node, "table"):
            if name in KERNEL_TABLES:
                raise RulesError(f"table {name}: {KERNEL_TABLES[name]} stays with the kernel; "
                                 f"here are {' and '.join(BUILTIN_CHAINS)}", self.at(key))
            if name not in BUILTIN_CHAINS:
                raise RulesError(f"unknown table {name!r}{suggestion(name, BUILTIN_CHAINS)}; "
                                 f"there are {' and '.join(BUILTIN_CHAINS)}", self.at(key))
            ruleset = ruleset.with_table(self.table(name, value))
        return ruleset

    def table(self, name: str, node: yaml.Node) -> Table:
        if not isinstance(node, yaml.MappingNode) or "file" in (key.value for key, _ in node.value):
            return self.text_ruleset(node, name).table(name) or empty_table(name)
        return empty_table(name).with_chains(self.chain(name, chain, key, value) for chain, key, value in self.entries(node, "chain"))

    def text_ruleset(self, node: yaml.Node, table: str | None) -> Ruleset:
        """iptables text, written here or in a file; of `table` only, if that is given."""
        if isinstance(node, yaml.MappingNode):
            files = self.files(node, both=table is None)
            if "file6" in files:
                return joined(self.file_ruleset(node, files["file"], table, 4), self.file_ruleset(node, files["file6"], table, 6))
            return self.file_ruleset(node, files["file"], table, None)
        if not isinstance(node, yaml.ScalarNode):
            raise RulesError(f"rules are iptables text, a mapping, or {{file: NAME}}, not {_KINDS[type(node)]}", self.at(node))
        return parse_save(node.value, table=table, variables=self.variables, place=self.place(node), skipped=self.skipped)

    def file_ruleset(self, node: yaml.MappingNode, path: Path, table: str | None, family: int | None) -> Ruleset:
        """Of one family, or for both; a dump's other tables are IPv4's where it does not say."""
        text = self.file_text(path, node)
        if family is None and self.notes is not None and (dumped := family_of(text)):
            self.notes.append(f"{self.at(node)}: {path} was dumped from IPv{dumped} and is loaded for both families; write "
                              "{file: V4, file6: V6} with a dump of each, or leave the comment out that says so")
        if self.others is not None and table is None:
            text, tables = separated(text)
            self.others.setdefault(family or 4, {}).update(tables)
        return parse_save(text, source=str(path), family=family, table=table, variables=self.variables, skipped=self.skipped)

    def files(self, node: yaml.MappingNode, both: bool) -> dict[str, Path]:
        """`both`: a file of its own for IPv6 may stand beside the one of IPv4."""
        known = {key.value: value for key, value in node.value}
        if not known.keys() <= ({"file", "file6"} if both else {"file"}) or len(known) != len(node.value) \
                or not all(isinstance(value, yaml.ScalarNode) for value in known.values()):
            beside = "; beside it there may be file6: NAME, and then it is IPv4's alone" if both else ""
            raise RulesError(f"file: NAME stands alone; the file holds everything{beside}", self.at(node))
        return {key: self.base_dir / substitute(value.value, self.variables, self.at(value)) for key, value in known.items()}

    def file_text(self, path: Path, node: yaml.MappingNode) -> str:
        try:
            return self.read(path)
        except UnicodeDecodeError as error:
            raise RulesError(f"{path}:{place_of(error)}: not a text in UTF-8", self.at(node.value[0][1])) from None
        except OSError as error:
            raise RulesError(f"{path}: {error.strerror or error}", self.at(node.value[0][1])) from None

    def chain(self, table: str, name: str, key: yaml.Node, node: yaml.Node) -> Chain:
        builtin = name in BUILTIN_CHAINS[table]
        if not builtin:
            check_chain_name(name, table, self.at(key))
        if not isinstance(node, yaml.MappingNode):
            shape = "{policy: ..., rules: [...]}" if builtin else "{rules: [...]}"
            raise RulesError(f"chain {name} is a mapping, {shape}", self.at(node))
        policy = "ACCEPT" if builtin else None
        rules: tuple[Rule, ...] = ()
        for word, word_key, value in self.entries(node, "key"):
            if word == "policy" and builtin:
                policy = self.policy(name, value)
            elif word == "policy":
                raise RulesError(f"chain {name} is not built-in and has no policy; end it with a rule {{jump: DROP}}",
                                 self.at(word_key))
            elif word == "rules":
                rules = self.rules(table, name, value)
            else:
                raise RulesError(f"unknown key {word!r}{suggestion(word, ['policy', 'rules'])}; a chain has policy and rules",
                                 self.at(word_key))
        return Chain(name, policy, rules)

    def policy(self, chain: str, node: yaml.Node) -> str:
        policy = self.text(node, "policy")
        if policy not in POLICIES:
            raise RulesError(f"the policy of {chain} is {' or '.join(POLICIES)}, not {policy}", self.at(node))
        return policy

    def rules(self, table: str, chain: str, node: yaml.Node) -> tuple[Rule, ...]:
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null":
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise RulesError(f"the rules of {chain} are a list, one `- ` for each", self.at(node))
        rules: list[Rule] = []
        for item in node.value:
            rules += self.rule_or_skip(table, chain, item)
            checked_count(0, len(rules), self.at(item))
        return tuple(rules)

    def rule_or_skip(self, table: str, chain: str, node: yaml.Node) -> tuple[Rule, ...]:
        try:
            return self.rule(table, chain, node)
        except Unsupported as error:
            if self.skipped is None:
                raise
            self.skipped.append(f"{error}; {self.left_out(node)}")
            return ()

    def left_out(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return left_out([word for line in split_lines(node.value, self.place(node)) for word in line])
        return effect_of(next((value.value for key, value in node.value if key.value in _TARGET_KEYS), None))

    def rule(self, table: str, chain: str, node: yaml.Node) -> tuple[Rule, ...]:
        if isinstance(node, yaml.MappingNode):
            return self.rule_mapping(table, chain, node)
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
            line = f"! {node.value}" if is_negated(node) else node.value
            return parse_rule(line, table=table, chain=chain, variables=self.variables, place=self.place(node))
        raise RulesError(f"a rule is an iptables line or a mapping, not {_KINDS[type(node)]}", self.at(node))

    # -- one rule -------------------------------------------------------------------------------------------------------

    def rule_mapping(self, table: str, chain: str, node: yaml.MappingNode) -> tuple[Rule, ...]:
        entries = list(self.entries(node, "key"))
        known = rule_keys()
        for word, key, _ in entries:
            if word not in known:
                raise RulesError(f"unknown key {word!r} in a rule{suggestion(word, known)}", self.at(key))
        builder = RuleBuilder(table, chain, self.family(entries), self.at(node))
        for word, key, value in sorted(entries, key=lambda entry: entry[0] not in _PROTOCOL_KEYS | _TARGET_KEYS):
            if word in _TARGET_KEYS:
                builder.set_target(self.text(value, word), word == "goto", self.at(value))
            elif word not in ("family", "audit"):
                self.setting(builder, word, key, value)
        audit = any(word == "audit" and self.truth(value, word, self.text(value, word)) for word, _, value in entries)
        return tuple(replace(rule, audit=audit) for rule in builder.rules())

    def family(self, entries: list[tuple[str, yaml.Node, yaml.Node]]) -> int | None:
        for word, _, value in entries:
            if word == "family":
                text = self.text(value, word)
                if text.lower() not in FAMILIES:
                    raise RulesError(f"family is 4 or 6, not {text}; leave it out for both", self.at(value))
                return FAMILIES[text.lower()]
        return None

    def setting(self, builder: RuleBuilder, word: str, key: yaml.Node, node: yaml.Node) -> None:
        """One key of a rule: an option of the IP header's tests, of the target, or of the match that it brings along."""
        name = f"--{word}"
        builder.bring_match(name, self.at(key))
        option = builder.find(name, self.at(key))
        inverted, text = self.negation(node)
        if option.words == 0:
            inverted, words = self.truth(node, word, text) is inverted, []
        elif isinstance(node, yaml.SequenceNode):
            words = [",".join(self.text(item, word) for item in node.value)]
        else:
            words = [text] if option.words == 1 else text.split()
        if len(words) != option.words:
            raise RulesError(f"{word} takes {option.words} words with a space between, not {len(words)}", self.at(node))
        builder.set_option(name, words, inverted, self.at(key), [self.at(node)] * len(words))

    def negation(self, node: yaml.Node) -> tuple[bool, str]:
        """Whether a value is negated, and what is left of it."""
        if not isinstance(node, yaml.ScalarNode):
            return False, ""
        if node.tag.startswith("!"):
            raise RulesError(f"to negate a value write \"! {node.tag[1:]}\"", self.at(node))
        text = substitute(node.value, self.variables, self.at(node))
        if is_negated(node):
            return True, text
        if text.startswith("!"):
            return True, text[1:].lstrip()
        return False, text

    def truth(self, node: yaml.Node, word: str, text: str) -> bool:
        if text.lower() not in ("true", "false", "yes", "no"):
            raise RulesError(f"{word} has no value: write {word}: true", self.at(node))
        return text.lower() in ("true", "yes")

    # -- nodes ------------------------------------------------------------------------------------------------------------

    def entries(self, node: yaml.MappingNode, what: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Each key's text, its node and its value's; a key that comes twice is an error."""
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RulesError(f"a {what} has a name, not {_KINDS[type(key)]}", self.at(key))
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                raise RulesError(f"duplicate {what} {key.value!r}: it stands in line {first} already", self.at(key))
            seen[key.value] = key
            yield key.value, key, value

    def text(self, node: yaml.Node, word: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == _TAG + "null":
            kind = "nothing" if isinstance(node, yaml.ScalarNode) else _KINDS[type(node)]
            raise RulesError(f"{word} takes a single value, not {kind}", self.at(node))
        if is_negated(node):
            raise RulesError(f"`!` has no place here: {word} is not negated value by value", self.at(node))
        return substitute(node.value, self.variables, self.at(node))

    def place(self, node: yaml.ScalarNode) -> Place:
        """Where a scalar's text begins in the YAML file."""
        mark = node.start_mark
        if node.style == ">":
            raise RulesError("`>` joins lines; write `|`, which keeps them", self.at(node))
        if node.style == "|":
            return Place(self.source, mark.line + 2, block_indentation(node))
        return Place(self.source, mark.line + 1, mark.column + (node.style in ("'", '"')))


def is_negated(node: yaml.ScalarNode) -> bool:
    """Whether a bare `!` stands before a scalar.  To YAML it is a tag, of which the node keeps nothing."""
    mark = node.start_mark
    return _BARE_NOT.match(mark.buffer or "", mark.pointer) is not None


def block_indentation(node: yaml.ScalarNode) -> int:
    """Columns before each line of a `|` text."""
    mark = node.start_mark
    first = next((line for line in node.value.split("\n") if line.strip()), "")
    raw = _FIRST_LINE.search(mark.buffer or "", mark.pointer)
    return len(raw[1].rstrip()) - len(first.rstrip()) if raw and first else 0
