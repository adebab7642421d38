"""The section `limits`: what is read, and that each mistake is named with its place and its remedy."""
from __future__ import annotations

from pathlib import Path

import pytest

from pyfw.config.engine import check_rules, engine_from_config
from pyfw.config.limits import AdaptiveConfig, LimitsConfig, PerSourceConfig, Rate
from pyfw.config.schema import Config, ConfigError, changed_keys, parse_config

SETS = """sets: |
  create blocked hash:ip timeout 3600
  create blocked6 hash:net family inet6
  create other hash:ip
  create single6 hash:ip family inet6
  create half6 hash:ip family inet6 netmask 64
  create ports hash:ip,port
  create both list:set
"""


def config(text: str, *overrides: str) -> Config:
    return parse_config(text, "gw.yaml", Path("/nowhere"), overrides)


def mistake(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_rules(config(text, *overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def per_source(text: str) -> PerSourceConfig:
    return config(f"limits: {{per_source: {text}}}").limits.per_source


def test_everything_is_off_unless_named():
    assert config("limits:").limits == config("limits: {per_source: , adaptive: }").limits == Config().limits == LimitsConfig()
    assert Config().limits == LimitsConfig(None, None, "evict")


def test_every_option_is_read():
    limits = config("""
variables: {LAN: eth1}
limits:
  per_source: {max_states: 200, max_new: 30/10s, overload: [blocked, blocked6], flush: true, prefix4: 24, prefix6: 56,
               match: "-i $LAN -p tcp -m comment --comment 'two words'"}
  adaptive: {start: 50%, end: 110%}
  when_full: drop
""").limits
    assert limits.per_source == PerSourceConfig(
        200, Rate(30, 10), ("blocked", "blocked6"), True, 24, 56,
        ("-i", "eth1", "-p", "tcp", "-m", "comment", "--comment", "two words"))
    assert (limits.adaptive, limits.when_full) == (AdaptiveConfig(50, 110), "drop")


@pytest.mark.parametrize(("text", "rate"), [
    ("30/10s", Rate(30, 10)), ("15/5", Rate(15, 5)), ("100/m", Rate(100, 60)), ("1/1d", Rate(1, 86400)), ("65535/2h", Rate(65535, 7200))])
def test_rates(text, rate):
    assert per_source(f"{{max_new: {text}}}").max_new == rate


def test_adaptive_timeouts_have_the_defaults_of_pf():
    assert config("limits: {adaptive: {}}").limits.adaptive == AdaptiveConfig(60, 120)


def test_values_can_be_set_on_the_command_line():
    assert config("limits: {}", "limits.per_source.max_states=7").limits.per_source.max_states == 7


def test_changes_need_a_restart():
    new = config("limits: {per_source: {max_states: 3}, when_full: drop}")
    assert changed_keys(Config(), new) == ["limits.per_source", "limits.when_full"]
    assert changed_keys(new, config("limits: {when_full: drop, per_source: {max_states: 3}}")) == []
    assert changed_keys(new, config("limits: {when_full: drop, per_source: {max_states: 4}}")) == ["limits.per_source.max_states"]


@pytest.mark.parametrize(("text", "message"), [
    ("limits: {per_sorce: {}}", "gw.yaml:1:10: unknown key 'per_sorce' in limits, did you mean 'per_source'?"),
    ("limits: {per_source: {max_state: 1}}", "gw.yaml:1:23: unknown key 'max_state' in limits.per_source, did you mean 'max_states'?"),
    ("limits: {per_source: {}}",
     "gw.yaml:1:22: limits.per_source limits nothing: it needs max_states, such as 200, or max_new, such as 30/10s"),
    ("limits: {per_source: {max_states: 0}}", "gw.yaml:1:35: limits.per_source.max_states must be from 1 to 268435456, not 0"),
    *[(f"limits: {{per_source: {{max_new: {text}}}}}", "gw.yaml:1:32: limits.per_source.max_new must be a number in a time such as "
       f"30/10s, 100/m or 15/5, not {shown}") for text, shown in [
           ("30", "'30'"), ("30/", "'30/'"), ("30/soon", "'30/soon'"), ("-1/s", "'-1/s'"), ("1.5/s", "'1.5/s'"), ("[30]", "a list")]],
    *[(f"limits: {{per_source: {{max_new: {text}}}}}",
       f"gw.yaml:1:32: limits.per_source.max_new must be 1 to 65535 in 1s to 1d, not {text}")
      for text in ("0/10s", "65536/10s", "5/0s", "5/2d")],
    ("limits: {per_source: {max_states: 1, flush: true}}",
     "gw.yaml:1:22: limits.per_source.flush is about sources that are added to a set: it needs limits.per_source.overload"),
    ("limits: {per_source: {max_states: 1, prefix6: 129}}", "gw.yaml:1:47: limits.per_source.prefix6 must be from 1 to 128, not 129"),
    ("limits: {per_source: {max_states: 1, match: '-i \"eth1'}}", "gw.yaml:1:45: limits.per_source.match: No closing quotation"),
    ("limits: {per_source: {max_states: 1, match: ''}}",
     "gw.yaml:1:45: limits.per_source.match must be matches of a rule such as '-i eth1 -p tcp'"),
    ("limits: {per_source: {max_states: 1, match: -i eth1 -j DROP}}",
     "gw.yaml:1:45: limits.per_source.match: a filter chooses packets and does nothing with them: leave -j and -g out"),
    ("limits: {adaptive: {start: 60}}", "gw.yaml:1:28: limits.adaptive.start must be 0% to 1000% of conntrack.max_entries, not '60'"),
    ("limits: {adaptive: {end: 2000%}}", "gw.yaml:1:26: limits.adaptive.end must be 0% to 1000% of conntrack.max_entries, not '2000%'"),
    ("limits: {adaptive: {start: 80%, end: 80%}}",
     "gw.yaml:1:20: limits.adaptive.start must be less than its end: 80% is not less than 80%"),
    ("limits: {when_full: refuse}", "gw.yaml:1:21: limits.when_full must be evict or drop, not 'refuse'"),
])
def test_mistakes(text, message):
    assert mistake(text) == message


@pytest.mark.parametrize(("names", "message"), [
    ("missing", "does not exist; create it in a file under `sets:`, such as `create missing hash:ip timeout 3600`"),
    ("ports", "is of type hash:ip,port; it must be hash:ip or hash:net"),
    ("both", "is of type list:set; it must be hash:ip or hash:net"),
    ("single6", "takes single addresses, but a source is a /64: make it hash:net, or hash:ip with `netmask 64`"),
    ("[blocked, other]", "is the second of IPv4; there may be one of each family"),
])
def test_sets_that_cannot_take_sources(names, message):
    subject = names.strip("[]").split(", ")[-1]
    assert mistake(f"{SETS}limits: {{per_source: {{max_states: 1, overload: {names}}}}}") == (
        f"gw.yaml:9:48: limits.per_source.overload: set '{subject}' {message}")


@pytest.mark.parametrize("names", ["blocked", "blocked6", "half6", "[blocked, half6]", "[blocked6, other]"])
def test_sets_that_can(names):
    parsed = config(f"{SETS}limits: {{per_source: {{max_states: 1, overload: {names}}}}}")
    check_rules(parsed)
    assert engine_from_config(parsed).limits.sources.count == 0


def test_the_engine_has_what_the_config_says():
    engine = engine_from_config(config("conntrack: {max_entries: 1000}\nlimits: {adaptive: {start: 50%, end: 110%}}"))
    assert engine.limits is None
    assert engine.counters()["adaptive"] == {"active": False, "start": 500, "end": 1100, "ended_early": 0}
