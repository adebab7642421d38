"""Two rulesets, one of each family, as one."""
from __future__ import annotations

from dataclasses import replace

from pyfw.rules.model import Chain, Ruleset, Table, empty_table


def joined(ipv4: Ruleset, ipv6: Ruleset) -> Ruleset:
    """All rules of the first are bound to IPv4, and those of the second to IPv6."""
    whole = Ruleset()
    for name in dict.fromkeys(table.name for ruleset in (ipv4, ipv6) for table in ruleset.tables):
        first, second = ipv4.table(name) or empty_table(name), ipv6.table(name) or empty_table(name)
        chains = [joined_chain(first.chain(chain), second.chain(chain)) for chain in
                  dict.fromkeys(chain.name for table in (first, second) for chain in table.chains)]
        whole = whole.with_table(Table(name, ()).with_chains(chains) if chains else first)
    return whole


def joined_chain(first: Chain | None, second: Chain | None) -> Chain:
    if first is None or second is None:
        return first or second      # type: ignore[return-value]  # the name is one of theirs
    chain = replace(first, rules=(*first.rules, *second.rules), family=None)
    policy = second.policy_of(6)
    return chain.with_policy(policy, 6) if policy else chain
