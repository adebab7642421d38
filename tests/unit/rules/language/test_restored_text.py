"""What is kept of a restored text besides rules is bounded, however long the text is."""
from __future__ import annotations

import pytest

from pyfw.rules.language import restore
from pyfw.rules.language.commands import CommandFailed
from pyfw.rules.language.restore import Options, Restorer
from pyfw.rules.model import Ruleset

CASES = {
    "warnings": (Options(skip_unsupported=True), "*filter\n", "-A INPUT -m nosuch -j ACCEPT\n"),
    "output": (Options(verbose=True), "*filter\n", "-A INPUT -s 192.0.2.1 -j ACCEPT\n"),
    "tables for the kernel": (Options(to_kernel=True), "*nat\n", "-A POSTROUTING -j MASQUERADE\n"),
}


@pytest.mark.parametrize("what", list(CASES))
def test_what_is_kept_besides_rules_is_bounded(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(restore, "RULES_BYTES", 2000)
    options, begin, line = CASES[what]
    short = Restorer(Ruleset(), 4, options)
    short.feed(begin + 3 * line + "COMMIT\n")
    assert short.finish()
    with pytest.raises(CommandFailed, match="come to more than 2000 characters"):
        Restorer(Ruleset(), 4, options).feed(begin + 200 * line)
