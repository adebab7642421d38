"""What can be told from one packet alone, beyond ports and types.  iptables-extensions(8)."""
from __future__ import annotations

from functools import partial

from pyfw.rules import values
from pyfw.rules.kinds import MatchKind, Option

LONGEST_COMMENT = 255


MATCHES = (
    MatchKind("comment", compile=lambda match, code: None, options=(
        Option("--comment", partial(values.parse_text, longest=LONGEST_COMMENT, what="the comment"),
               negatable=False, print=values.quote, free_text=True),
    )),
)
