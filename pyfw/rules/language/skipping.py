"""What it means to leave a rule out, for the warning that says so."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pyfw.rules.lexer import Word

LOOSENS = "without it more packets may pass"
TIGHTENS = "without it fewer packets may pass"
EITHER = "without it more or fewer packets may pass"
NEITHER = "no verdict changes without it"
EFFECTS: dict[str | None, str] = {
    "ACCEPT": TIGHTENS, "DROP": LOOSENS, "REJECT": LOOSENS, None: NEITHER,
    **dict.fromkeys(("LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "TEE", "LED", "RATEEST", "IDLETIMER"), NEITHER),
}


def left_out(words: Sequence[Word]) -> str:
    """Whether rulesets are looser or tighter without the rule that the words say."""
    texts = [word.text for word in words]
    target = next((after for word, after in pairwise(texts) if word in ("-j", "--jump", "-g", "--goto")), None)
    return effect_of(target)


def effect_of(target: str | None) -> str:
    return f"this rule is left out: {EFFECTS.get(target, EITHER)}"
