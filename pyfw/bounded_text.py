"""Bounds of what is read as text and as YAML: whoever writes it must not take memory or time without end."""
from __future__ import annotations

import yaml

CONFIG_BYTES = 4 << 20
RULES_BYTES = 16 << 20
SETS_BYTES = 256 << 20          # all files of sets together: a million addresses are some 30 MB
MAX_NODES = 200_000             # of a YAML text, in which an alias counts as all that it stands for
MAX_DEPTH = 64
MAX_EXPANSION = 1 << 16         # characters that the variables in one text may come to


def place_of(error: UnicodeDecodeError) -> str:
    """line:column of what is not UTF-8."""
    before = error.object[:error.start]
    line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
    return f"{line}:{column}"


class NotYaml(ValueError):
    """What a text has that YAML, or its bounds here, does not allow; `mark` is where."""

    def __init__(self, message: str, mark: yaml.Mark) -> None:
        super().__init__(message)
        self.mark = mark


def compose_yaml(text: str, source: str) -> yaml.Node | None:
    """The tree of a YAML text, whose marks name `source`; None: it is empty.  Raises NotYaml."""
    try:
        return _Loader(text, source).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or yaml.Mark(source, 0, 0, 0, None, 0)
        raise NotYaml(" ".join(part for part in (error.context, error.problem) if part), mark) from error
    except yaml.reader.ReaderError as error:
        before = text[:error.position]
        mark = yaml.Mark(source, error.position, before.count("\n"), error.position - before.rfind("\n") - 1, None, 0)
        raise NotYaml(f"{error.reason} (U+{error.character:04X})", mark) from error


class _Loader(yaml.SafeLoader):
    """Composes no more than MAX_NODES nodes and MAX_DEPTH levels, however they are written: aliases double fast."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}      # of the nodes that are whole: how many they are, how deep
        self._nodes = 0
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        mark = self.peek_event().start_mark     # type: ignore[no-untyped-call]  # its stub has no types
        is_alias = self.check_event(yaml.AliasEvent)
        self._nodes += 1
        self._level += 1
        if self._level > MAX_DEPTH:
            raise NotYaml(f"nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        assert node is not None         # that the stream has ended is asked before
        self._level -= 1
        if is_alias and node not in self._sizes:
            raise NotYaml("an alias stands in what it stands for", mark)
        if not is_alias:
            self._sizes[node] = self._size(node)
        size, depth = self._sizes[node]
        if max(size, self._nodes) > MAX_NODES or depth > MAX_DEPTH:
            raise NotYaml(f"with its aliases this is more than {MAX_NODES} values or {MAX_DEPTH} levels", mark)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes = [self._sizes[child] for child in children]
        return 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
