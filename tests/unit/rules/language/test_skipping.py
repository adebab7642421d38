"""--skip-unsupported leaves out every rule that pyfw cannot do, whatever the cause, and says where, why and what that means."""
from __future__ import annotations

from pathlib import Path

import pytest

from pyfw.config.engine import check_rules, without_unbindable
from pyfw.config.schema import ConfigError, load_config
from pyfw.rules.language.commands import CommandFailed
from pyfw.rules.language.restore import Options, restore
from pyfw.rules.model import Ruleset

UNSUPPORTED = [
    ("raw", "-A PREROUTING -j CT --zone 5"), ("raw", "-A PREROUTING -j CT --ctevents new"), ("raw", "-A PREROUTING -j CT --timeout x"),
    ("filter", "-A INPUT -m hashlimit --hashlimit-upto 512kb/s --hashlimit-mode srcip --hashlimit-name a -j ACCEPT"),
    ("filter", "-A INPUT -p sctp --chunk-types any DATA -j ACCEPT"), ("filter", "-A INPUT -p sctp -m sctp --chunk-types any DATA -j ACCEPT"),
    ("filter", "-A INPUT -p dccp --dport 5 -j ACCEPT"), ("filter", "-A INPUT -p dccp -m dccp --dport 5 -j ACCEPT"),
    ("filter", "-A INPUT -s www.example.com -j ACCEPT"), ("filter", "-A INPUT -m u32 --u32 0=0 -j ACCEPT"),
    ("filter", "-A INPUT -j NFQUEUE"), ("filter", "-A INPUT -m owner --suppl-groups -j ACCEPT"),
]
NOT_THERE = [("raw", "-A PREROUTING -p tcp -j CT --helper nosuch"), ("filter", "-A INPUT -m set --match-set nosuch src -j DROP"),
             ("filter", "-A INPUT -j SET --add-set nosuch src")]
KEPT = "-A INPUT -p udp -j ACCEPT"


def text(table: str, line: str) -> str:
    return f"*{table}\n{line}\nCOMMIT\n*filter\n{KEPT}\nCOMMIT\n" if table == "raw" else f"*filter\n{line}\n{KEPT}\nCOMMIT\n"


@pytest.mark.parametrize(("table", "line"), UNSUPPORTED)
def test_a_restored_text(table: str, line: str) -> None:
    restored = restore(Ruleset(), text(table, line), 4, Options(skip_unsupported=True))
    assert len(restored.skipped) == 1
    assert restored.skipped[0].startswith("line 2: ")
    assert sum(len(chain.rules) for _, chain in restored.ruleset.chains()) == 1
    with pytest.raises(CommandFailed):
        restore(Ruleset(), text(table, line), 4)


@pytest.mark.parametrize(("table", "line"), UNSUPPORTED + NOT_THERE)
def test_a_config(tmp_path: Path, table: str, line: str) -> None:
    (tmp_path / "rules").write_text(text(table, line))
    (tmp_path / "pyfw.yaml").write_text("rules: {file: rules}\n")
    skipped: list[str] = []
    config = without_unbindable(load_config(tmp_path / "pyfw.yaml", skipped=skipped), skipped)
    check_rules(config)
    assert config.rule_count == 1
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{tmp_path}/rules:2:")
    assert "this rule is left out: " in skipped[0]
    with pytest.raises(ConfigError):
        check_rules(load_config(tmp_path / "pyfw.yaml"))


@pytest.mark.parametrize(("rule", "effect"), [("-m u32 --u32 0=0 -j DROP", "more packets may pass"),
                                          ("{set: x, ctstate: NEW, match-set: none src, jump: ACCEPT}", "")])
def test_rules_in_yaml(tmp_path: Path, rule: str, effect: str) -> None:
    (tmp_path / "pyfw.yaml").write_text(f"rules:\n  filter:\n    INPUT: {{rules: [{rule}]}}\n")
    skipped: list[str] = []
    if effect:
        assert load_config(tmp_path / "pyfw.yaml", skipped=skipped).rule_count == 0
        assert effect in skipped[0]
    else:
        with pytest.raises(ConfigError):        # a mistake is no rule that pyfw cannot do
            load_config(tmp_path / "pyfw.yaml", skipped=skipped)


def test_a_mistake_is_not_skipped() -> None:
    with pytest.raises(CommandFailed, match="unknown option '--dpotr'"):
        restore(Ruleset(), "*filter\n-A INPUT -p tcp --dpotr 5\nCOMMIT\n", 4, Options(skip_unsupported=True))
