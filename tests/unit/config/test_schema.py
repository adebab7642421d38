"""The config: what is read, and that each mistake is named with its place and its remedy."""
from __future__ import annotations

from pathlib import Path

import pytest

from pyfw.config.schema import Config, HelperConfig, PolicyConfig, changed_keys, load_config, mixed_settings, parse_config, rule_files
from pyfw.config.values import ConfigError
from pyfw.edge.control.loopback_address import LoopbackAddress


def config(text: str, *overrides: str) -> Config:
    return parse_config(text, "gw.yaml", Path("/nowhere"), overrides)


def mistake(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHOLE = """\
queue: {number: 7, length: 4096, when_down: accept, on_overload: accept}
hooks: [INPUT, FORWARD]
exempt: {interfaces: [lo, $MGMT, wg+]}
conntrack:
  max_entries: 1000
  accounting: false
  checksum: no
  expect_max: 10
  tcp: {loose: false, liberal: true, max_retrans: 5, ignore_invalid_rst: true}
  timeouts: {tcp_established: 5d, tcp_syn_sent: 2m, udp: 30s, udp_stream: 1h, icmp: 7, generic: '9'}
helpers:
  ftp: {ports: [21, 2121], strict: false, loose: true, assume_announcer: true}
state: {dir: /run/pyfw/gw}
control: {socket: /run/pyfw/gw.sock, group: wheel}
log: {drops: true}
metrics: {listen: "127.0.0.1:9469"}
variables: {MGMT: eth9, LAN: 10.0.0.0/8, BOTH: "$LAN,${MGMT}", PORT: 22}
"""


def test_every_option_is_read():
    whole = config(WHOLE)
    assert (whole.queue.number, whole.queue.length) == (7, 4096)
    assert (whole.queue.when_down, whole.queue.on_overload) == ("accept", "accept")
    assert whole.hooks == ("INPUT", "FORWARD")
    assert whole.exempt.interfaces == ("lo", "eth9", "wg+")
    assert (whole.conntrack.max_entries, whole.conntrack.expect_max) == (1000, 10)
    assert (whole.conntrack.accounting, whole.conntrack.checksum) == (False, False)
    tcp = whole.conntrack.tcp
    assert (tcp.loose, tcp.liberal, tcp.max_retrans, tcp.ignore_invalid_rst) == (False, True, 5, True)
    assert whole.conntrack.timeouts == {"tcp_established": 432000, "tcp_syn_sent": 120, "udp": 30, "udp_stream": 3600,
                                        "icmp": 7, "generic": 9}
    assert whole.helpers == {"ftp": HelperConfig((21, 2121), {"strict": False, "loose": True, "assume_announcer": True})}
    assert whole.state.dir == Path("/run/pyfw/gw")
    assert (whole.control.socket, whole.control.group) == (Path("/run/pyfw/gw.sock"), "wheel")
    assert whole.log.drops
    assert whole.metrics.listen == LoopbackAddress("127.0.0.1", 9469)
    assert whole.variables == {"MGMT": "eth9", "LAN": "10.0.0.0/8", "BOTH": "10.0.0.0/8,eth9", "PORT": "22"}


def test_defaults_are_those_of_the_dataclasses():
    assert config("hooks: [INPUT, FORWARD, OUTPUT]") == Config()
    assert Config().queue.when_down == "drop"
    assert Config().queue.on_overload == "drop"


@pytest.mark.parametrize(("text", "helpers"), [
    ("helpers:", {}),
    ("helpers: {}", {}),
    ("helpers: {ftp: }", {"ftp": HelperConfig((21,), {})}),
    ("helpers: {ftp: {}}", {"ftp": HelperConfig((21,), {})}),
    ("helpers: {ftp: {strict: no}}", {"ftp": HelperConfig((21,), {"strict": False})}),
    ("helpers: {ftp: false}", {}),
])
def test_a_helper_runs_when_it_is_named(text, helpers):
    assert config(text).helpers == helpers


def test_a_group_can_be_turned_off():
    assert config("control: {group: null}").control.group is None


@pytest.mark.parametrize(("written", "address"), [
    ("", None), ("null", None),
    ("127.0.0.1:9469", LoopbackAddress("127.0.0.1", 9469)), ("127.8.9.10:1", LoopbackAddress("127.8.9.10", 1)),
    ("'[::1]:65535'", LoopbackAddress("::1", 65535)), ("'[0:0::1]:80'", LoopbackAddress("::1", 80)),
    ("'[::ffff:127.0.0.1]:80'", LoopbackAddress("127.0.0.1", 80)),      # where the kernel binds it
    ("/run/pyfw/metrics.sock", Path("/run/pyfw/metrics.sock")),
])
def test_metrics_are_for_this_machine(written, address):
    assert config(f"metrics: {{listen: {written}}}").metrics.listen == address


@pytest.mark.parametrize(("text", "message"), [
    # keys
    ("que: 1", "gw.yaml:1:1: unknown key 'que' in the config, did you mean 'queue'?"),
    ("queue: {}\nzzz: 1", "gw.yaml:2:1: unknown key 'zzz' in the config, known here: queue, hooks, exempt, conntrack, "
                          "adopt, limits, helpers, state, control, policy, log, metrics, variables, sets, other_tables, rules"),
    ("queue: {nummer: 1}", "gw.yaml:1:9: unknown key 'nummer' in queue, did you mean 'number'?"),
    ("conntrack:\n  tcp:\n    lose: true",
     "gw.yaml:3:5: unknown key 'lose' in conntrack.tcp, did you mean 'loose'?"),
    ("conntrack: {timeouts: {tcp_etablished: 1d}}",
     "gw.yaml:1:24: unknown timeout 'tcp_etablished', did you mean 'tcp_established'?"),
    ("helpers: {irc: {}}", "gw.yaml:1:11: unknown helper 'irc', known here: ftp"),
    ("helpers: {ftp: {lose: true}}",
     "gw.yaml:1:17: unknown key 'lose' in helpers.ftp, did you mean 'loose'?"),
    ("helpers: {ftp: {strict: 1}}", "gw.yaml:1:25: helpers.ftp.strict must be true or false, not '1'"),
    ("helpers: {ftp: true}", "gw.yaml:1:16: helpers.ftp must be a mapping (`key: value` lines), not 'true'"),
    ("queue: {number: 1}\nhooks: [INPUT]\nqueue: {number: 2}",
     "gw.yaml:3:1: the config has 'queue' twice, first on line 1; keep one of them"),
    ("queue: {number: 1, number: 1}", "gw.yaml:1:20: queue has 'number' twice, first on line 1; keep one of them"),
    ("[a]: 1", "gw.yaml:1:1: a key in the config must be a plain word, not a list"),
    # kinds
    ("[1, 2]", "gw.yaml:1:1: the config must be a mapping (`key: value` lines), not a list"),
    ("just words", "gw.yaml:1:1: the config must be a mapping (`key: value` lines), not 'just words'"),
    ("queue: 3", "gw.yaml:1:8: queue must be a mapping (`key: value` lines), not '3'"),
    ("conntrack: {timeouts: [30s]}",
     "gw.yaml:1:23: conntrack.timeouts must be a mapping (`key: value` lines), not a list"),
    ("hooks: FORWARD", "gw.yaml:1:8: hooks must be a list, [a, b], not 'FORWARD'"),
    ("conntrack: {accounting: 1}", "gw.yaml:1:25: conntrack.accounting must be true or false, not '1'"),
    ("conntrack: {accounting: 'true'}", "gw.yaml:1:25: conntrack.accounting must be true or false, not 'true'"),
    ("conntrack:\n  accounting:", "gw.yaml:2:14: conntrack.accounting must be true or false, not nothing"),
    ("state: {dir: [a]}", "gw.yaml:1:14: state.dir must be a text, not a list"),
    ("state: {dir: }", "gw.yaml:1:13: state.dir must be a text, not nothing"),
    ("queue: {number: {}}", "gw.yaml:1:17: queue.number must be a whole number from 0 to 65535, not a mapping"),
    # values
    ("queue: {number: 70000}", "gw.yaml:1:17: queue.number must be from 0 to 65535, not 70000"),
    ("queue: {number: -1}", "gw.yaml:1:17: queue.number must be from 0 to 65535, not -1"),
    ("queue: {number: 1.5}", "gw.yaml:1:17: queue.number must be a whole number from 0 to 65535, not '1.5'"),
    ("queue: {mark: 0}", "gw.yaml:1:15: queue.mark must be a mark from 1 to 0xffffffff, not '0'"),
    ("queue: {mark: 0x100000000}", "gw.yaml:1:15: queue.mark must be a mark from 1 to 0xffffffff, not '0x100000000'"),
    ("queue: {mark: 4294967296}", "gw.yaml:1:15: queue.mark must be a mark from 1 to 0xffffffff, not '4294967296'"),
    ("queue: {mark: 0x1/0x1}", "gw.yaml:1:15: queue.mark must be a mark from 1 to 0xffffffff, not '0x1/0x1'"),
    ("queue: {mark: [1]}", "gw.yaml:1:15: queue.mark must be a mark from 1 to 0xffffffff, not a list"),
    ("queue: {number: many}", "gw.yaml:1:17: queue.number must be a whole number from 0 to 65535, not 'many'"),
    ("queue: {length: 0}", "gw.yaml:1:17: queue.length must be from 1 to 65535, not 0"),
    ("queue: {when_down: pass}", "gw.yaml:1:20: queue.when_down must be drop or accept, not 'pass'"),
    ("hooks: []", "gw.yaml:1:8: hooks must have 1 to 3 items, not 0"),
    ("hooks: [INPUT, PREROUTING]", "gw.yaml:1:16: hooks must be INPUT or FORWARD or OUTPUT, not 'PREROUTING'"),
    ("hooks: [INPUT, INPUT]", "gw.yaml:1:16: hooks has INPUT twice; keep one of them"),
    ("exempt: {interfaces: [a_name_too_long_]}",
     "gw.yaml:1:23: 'a_name_too_long_' cannot be an interface's name: 1 to 15 bytes, neither blanks nor '/'"),
    ("exempt: {interfaces: ['eth 0']}",
     "gw.yaml:1:23: 'eth 0' cannot be an interface's name: 1 to 15 bytes, neither blanks nor '/'"),
    ("helpers: {ftp: {ports: [0]}}", "gw.yaml:1:25: helpers.ftp.ports must be from 1 to 65535, not 0"),
    ("helpers: {ftp: {ports: []}}", "gw.yaml:1:24: helpers.ftp.ports must have 1 to 16 items, not 0"),
    ("conntrack: {max_entries: 0}", "gw.yaml:1:26: conntrack.max_entries must be from 1 to 268435456, not 0"),
    ("state: {dir: run/pyfw}", "gw.yaml:1:14: state.dir must be an absolute path such as /run/pyfw, not 'run/pyfw'"),
    ("control: {socket: /%s}" % ("x" * 107),
     "gw.yaml:1:19: control.socket is 108 bytes long; a socket's path may have 102"),
    *[(f"metrics: {{listen: '{bad}'}}", f"gw.yaml:1:19: metrics.listen: {wrong}") for bad, wrong in [
        ("0.0.0.0:9469", "0.0.0.0 is no loopback address; only this machine may ask, at 127.0.0.1, [::1] or a Unix socket"),
        ("192.0.2.1:9469", "192.0.2.1 is no loopback address; only this machine may ask, at 127.0.0.1, [::1] or a Unix socket"),
        ("[::]:9469", ":: is no loopback address; only this machine may ask, at 127.0.0.1, [::1] or a Unix socket"),
        ("[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1 is no loopback address; only this machine may ask, at 127.0.0.1, [::1] or a "
                                 "Unix socket"),
        ("localhost:9469", "'localhost' is no IPv4 address; names are not looked up: 127.0.0.1 or [::1]"),
        ("[127.0.0.1]:9469", "'127.0.0.1' is no IPv6 address; names are not looked up: 127.0.0.1 or [::1]"),
        ("127.0.0.1:0", "the port must be from 1 to 65535, not 0"),
        ("127.0.0.1:65536", "the port must be from 1 to 65535, not 65536"),
    ]],
    *[(f"metrics: {{listen: '{bad}'}}", "gw.yaml:1:19: metrics.listen must be a loopback address and a port, such as 127.0.0.1:9469 "
       f"or \"[::1]:9469\", or a socket's absolute path such as /run/pyfw/metrics.sock, not '{bad}'")
      for bad in ("9469", ":9469", "127.0.0.1", "::1:9469", "[::1]", "run/pyfw.sock", "127.0.0.1:9469/metrics", "[::1%lo]:1")],
    ("metrics: {listen: /%s}" % ("x" * 107), "gw.yaml:1:19: metrics.listen is 108 bytes long; a socket's path may have 107"),
    ("metrics: {listen: /run/a}\ncontrol: {socket: /run/a}",
     "gw.yaml: metrics.listen and control.socket are both /run/a; give them a path each"),
    ("metrics: {port: 9469}", "gw.yaml:1:11: unknown key 'port' in metrics, known here: listen"),
    ("log: {drops: 10}", "gw.yaml:1:14: log.drops must be true or false, not '10'"),
    # durations
    *[(f"conntrack: {{timeouts: {{udp: {bad}}}}}",
       "gw.yaml:1:29: conntrack.timeouts.udp must be a duration such as 30s, 2m, 1h, 5d or plain seconds, "
       f"not '{shown}'") for bad, shown in [("soon", "soon"), ("30 s", "30 s"), ("1.5h", "1.5h"), ("-3", "-3"),
                                            ("5w", "5w"), ("1:30", "1:30"), ("0x10", "0x10")]],
    ("conntrack: {timeouts: {udp: 0}}", "gw.yaml:1:29: conntrack.timeouts.udp must be from 1s to 24855d, not 0"),
    ("conntrack: {timeouts: {udp: 99999d}}",
     "gw.yaml:1:29: conntrack.timeouts.udp must be from 1s to 24855d, not 99999d"),
    # variables
    ("variables: {1A: x}",
     "gw.yaml:1:13: '1A' cannot be a variable's name: letters, digits and _, not a digit first"),
    ("variables: {LAN: [a]}", "gw.yaml:1:18: variables.LAN must be a text, not a list"),
    ("variables: {LAN: eth1}\nexempt: {interfaces: [$LAM]}",
     "gw.yaml:2:23: undefined variable $LAM in exempt.interfaces; did you mean 'LAN'?"),
    ("variables: {A: $B, B: x}", "gw.yaml:1:16: undefined variable $B in variables.A; known here: none"),
    # YAML itself
    ("queue: {number: 1", "gw.yaml:1:18: not valid YAML: while parsing a flow mapping expected ',' or '}', "
                          "but got '<stream end>'"),
    ("a: b\n c: d", "gw.yaml:2:3: not valid YAML: mapping values are not allowed here"),
    ("a: *b", "gw.yaml:1:4: not valid YAML: found undefined alias 'b'"),
    ("a: 1\n--- \nb: 2", "gw.yaml:2:1: not valid YAML: expected a single document in the stream but found another "
                          "document"),
    ("a: \x01", "gw.yaml:1:4: not valid YAML: special characters are not allowed (U+0001)"),
    ("[" * 100_000, "gw.yaml:1:65: not valid YAML: nested deeper than 64 levels"),
    ("", "gw.yaml: the file is empty; a config has at least `rules:`"),
    ("# nothing\n", "gw.yaml: the file is empty; a config has at least `rules:`"),
])
def test_a_mistake_is_named_with_its_place_and_its_remedy(text, message):
    assert mistake(text) == message


@pytest.mark.parametrize(("override", "changed"), [
    ("conntrack.tcp.loose=false", "conntrack.tcp.loose"),
    ("queue.number=5", "queue.number"),
    ("queue={number: 5}", "queue.number"),
    ("hooks=[INPUT]", "hooks"),
    ("hooks.0=OUTPUT", "hooks"),
    ("exempt.interfaces=[lo, eth1]", "exempt.interfaces"),
    ("conntrack.timeouts.udp=1m", "conntrack.timeouts"),
    ("helpers.ftp=", "helpers"),
    ("control.group=", "control.group"),
])
def test_set_overrides_any_value(override, changed):
    base = config("hooks: [INPUT, FORWARD]")
    assert changed_keys(base, config("hooks: [INPUT, FORWARD]", override)) == [changed]


def test_the_last_set_wins_and_all_of_them_count():
    overridden = config("queue: {number: 1, length: 10}", "queue.number=2", "queue.number=3", "queue.length=20")
    assert (overridden.queue.number, overridden.queue.length) == (3, 20)


def test_a_variable_can_be_set():
    text = "variables: {MGMT: eth0}\nexempt: {interfaces: [$MGMT]}"
    assert config(text, "variables.MGMT=eth7").exempt.interfaces == ("eth7",)


@pytest.mark.parametrize(("override", "message"), [
    ("queue.number=many", "--set queue.number=many: queue.number must be a whole number from 0 to 65535, not 'many'"),
    ("queue.nummer=1", "--set queue.nummer=1: unknown key 'nummer' in queue, did you mean 'number'?"),
    ("qeue.number=1", "--set qeue.number=1: unknown key 'qeue' in the config, did you mean 'queue'?"),
    ("queue.number", "--set queue.number: expected KEY=VALUE, for example conntrack.tcp.loose=false"),
    ("=3", "--set =3: expected KEY=VALUE, for example conntrack.tcp.loose=false"),
    ("queue..number=3", "--set queue..number=3: expected KEY=VALUE, for example conntrack.tcp.loose=false"),
    ("queue.number.x=3", "--set queue.number.x=3: there is no 'x' to set: the value there is '1'"),
    ("hooks.9=INPUT", "--set hooks.9=INPUT: there is no '9' to set: the value there is a list"),
    ("rules={filter: {FORWARD: {policy: MAYBE}}}",
     "--set rules={filter: {FORWARD: {policy: MAYBE}}}: the policy of FORWARD is ACCEPT or DROP, not MAYBE"),
    ("hooks=[INPUT", "--set hooks=[INPUT: not valid YAML: while parsing a flow sequence expected ',' or ']', "
                     "but got '<stream end>'"),
])
def test_a_mistake_in_a_set_names_the_set(override, message):
    assert mistake("queue: {number: 1}\nhooks: [INPUT]", override) == message


def test_an_alias_is_overridden_in_one_place_only():
    text = "conntrack: {tcp: &t {loose: true}}\nqueue: {number: 1}"
    assert config(text, "conntrack.tcp.loose=false").conntrack.tcp.loose is False


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot read the config file: No such file or directory"),
    (b"\xff\xfe\x00", "not a text in UTF-8 (byte 0); is this a config file?"),
    (b"queue: {number: x}", ":1:17: queue.number must be a whole number from 0 to 65535, not 'x'"),
])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "gw.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(message)


def test_a_directory_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the config file: Is a directory"):
        load_config(tmp_path)


# -- policy ------------------------------------------------------------------------------------------------------------

SHADOW_YAML = """\
variables: {LAN: eth1}
queue: {number: nonsense}
rules: {filter: {FORWARD: {policy: DROP, rules: [{in: $LAN, jump: ACCEPT}]}}}
"""


@pytest.fixture
def beside(tmp_path):
    """Reads `policy: {...}` of a config that lies beside other files."""
    (tmp_path / "next.rules").write_text("*filter\n:FORWARD DROP\n-A FORWARD -i $LAN -j ACCEPT\nCOMMIT\n")
    (tmp_path / "next.yaml").write_text(SHADOW_YAML)
    (tmp_path / "bad.rules").write_text("*filter\n-A FORWARD -j nowhere\nCOMMIT\n")
    (tmp_path / "bad.yaml").write_text("rules: {filter: {FORWARD: {policy: MAYBE}}}\n")
    (tmp_path / "none.yaml").write_text("hooks: [INPUT]\n")

    def read(policy: str, *overrides: str) -> Config:
        return parse_config(f"policy: {{{policy}}}\nvariables: {{LAN: eth1}}\n", "gw.yaml", tmp_path, overrides)
    return read


def test_a_policy_is_off_unless_it_is_said(beside):
    assert (beside("").policy.kill_states, beside("").policy.shadow) == (False, None)
    assert beside("kill_states: true, shadow: null").policy == PolicyConfig(True, None)


def test_a_shadow_is_iptables_text_or_the_rules_of_another_config(beside, tmp_path):
    text = beside("shadow: next.rules").policy.shadow
    assert text == beside("shadow: next.yaml").policy.shadow == beside("", f"policy.shadow={tmp_path}/next.rules").policy.shadow
    assert [chain.name for _, chain in text.chains() if chain.rules] == ["FORWARD"]


@pytest.mark.parametrize(("policy", "message"), [
    ("shadow: gone.rules", "gw.yaml:1:18: policy.shadow: {dir}/gone.rules: No such file or directory"),
    ("shadow: bad.rules", "{dir}/bad.rules:2:15: there is no target or chain 'nowhere'"),
    ("shadow: bad.yaml", "{dir}/bad.yaml:1:36: the policy of FORWARD is ACCEPT or DROP, not MAYBE"),
    ("shadow: none.yaml", "{dir}/none.yaml: it has no `rules:`, of which a shadow is made"),
    ("shadow: gone.yaml", "{dir}/gone.yaml: cannot read the config file: No such file or directory"),
    ("kill_states: maybe", "gw.yaml:1:23: policy.kill_states must be true or false, not 'maybe'"),
    ("kill_state: true", "gw.yaml:1:10: unknown key 'kill_state' in policy, did you mean 'kill_states'?"),
])
def test_mistakes_in_a_policy_are_named_with_their_place(beside, tmp_path, policy, message):
    with pytest.raises(ConfigError) as caught:
        beside(policy)
    assert str(caught.value).startswith(message.format(dir=tmp_path))


def test_a_policy_takes_effect_at_a_reload(beside):
    assert changed_keys(beside(""), beside("kill_states: true, shadow: next.rules")) == []


def test_settings_of_two_configs_are_mixed_by_key():
    one = config("hooks: [INPUT]\npolicy: {kill_states: true}\nrules: {filter: {INPUT: {policy: DROP}}}\n")
    other = config("hooks: [FORWARD]\nlimits: {when_full: evict}\n")
    mixed = config(mixed_settings(one.settings, other.settings, ("limits", "policy")))
    assert (mixed.hooks, mixed.limits.when_full, mixed.policy, mixed.rules) == (("INPUT",), "evict", PolicyConfig(), None)
    assert config(mixed_settings(one.settings, one.settings, ("policy",))).policy.kill_states
    assert config(mixed_settings(config("{}").settings, config("{}").settings, ("policy",))) == config("{}")


def test_rules_may_come_from_overrides_alone():
    config = parse_config("{}\n", "gw.yaml", Path("/"), ["rules.filter.FORWARD.policy=DROP", "rules.filter.FORWARD.rules=[-p icmp -j ACCEPT]"])
    assert config.rule_count == 1
    assert config.rules.table("filter").chain("FORWARD").policy == "DROP"
    assert parse_config("{}\n", "gw.yaml", Path("/"), ["rules="]).rules is None


def test_the_files_that_rules_come_from(tmp_path):
    path = tmp_path / "pyfw.yaml"
    found = {}
    for text in ("", "rules: {file: all.rules}\n", "rules: {filter: {file: filter.rules}, raw: {}}\n"):
        path.write_text(text)
        found[text] = {table: file.name for table, file in rule_files(path).items()}
    assert list(found.values()) == [{}, {None: "all.rules"}, {"filter": "filter.rules"}]
