"""pyfwctl's side of commands, named in their table."""
from pyfw.cli.pyfwctl import rewrites
from pyfw.edge.control.table import COMMANDS


def test_every_name_in_the_table_is_a_function():
    named = {command.client for command in COMMANDS.values() if command.client}
    assert named == {"read_capture", "send_in_pieces", "show_stats", "show_top", "write_rules"}
    assert all(callable(getattr(rewrites, name)) for name in named)


def test_without_a_terminal_top_prints_one_sample():
    assert rewrites.show_top("", {"command": "top"}) == [{"command": "top", "once": True}]
    assert rewrites.show_top("", {"command": "top", "once": True, "json": True}) == [{"command": "top", "once": True, "json": True}]


def test_without_a_terminal_stats_prints():
    assert rewrites.show_stats("", {"command": "stats", "watch": 1.0}) == [{"command": "stats", "watch": 1.0}]
