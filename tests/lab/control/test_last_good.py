"""A service whose config cannot be used serves the last good rules; one that has none does not start, and nothing is opened."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.config.last_good import NAME, LastGoodRules
from pyfw.lab import SERVER, Lab, LabError, wait_until

RULES = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p icmp -j ACCEPT\nCOMMIT\n"
OTHER_RULES = RULES.replace("-p icmp", "-p udp")
SETS = "create friends hash:ip\nadd friends 192.0.2.1\n"
CONFIG = "hooks: [FORWARD]\nqueue: {number: 7}\nsets: [friends.ipset]\nrules: {file: gateway.rules}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name, text in (("gateway.rules", RULES), ("friends.ipset", SETS), ("pyfw.yaml", CONFIG)):
        (tmp_path / name).write_text(text)
    return tmp_path / "pyfw.yaml"


@pytest.fixture
def service(lab: Lab, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Firewall]:
    """Started as systemd starts it: with a directory for its state.  Not yet started."""
    (tmp_path / "kept").mkdir(mode=0o700)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "kept"))
    firewall = Firewall(lab, config, tmp_path)
    yield firewall
    firewall.stop()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept" / NAME


def rules(firewall: Firewall) -> str:
    return firewall.ctl("list-rules", "FORWARD", check=True).stdout


def served_once(service: Firewall, kept: Path) -> None:
    service.start()
    wait_until(kept.exists, "the rules to be kept")
    service.stop()


def pings(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c1", "-W1", SERVER.ipv4]).returncode == 0


@pytest.mark.parametrize(("name", "broken"), [
    pytest.param("pyfw.yaml", "rules: [", id="no YAML"),
    pytest.param("pyfw.yaml", "hooks: [NOWHERE]\n", id="a value that is none"),
    pytest.param("gateway.rules", RULES.replace("icmp", "nonsense"), id="a bad rule"),
    pytest.param("gateway.rules", RULES.replace("-p icmp", "-m set --match-set gone src"), id="a rule that does not compile"),
    pytest.param("friends.ipset", "create friends hash:nonsense\n", id="a bad set"),
    pytest.param("gateway.rules", None, id="a file that is gone"),
])
def test_the_last_good_rules_serve(lab: Lab, service: Firewall, config: Path, kept: Path, name: str, broken: str | None) -> None:
    served_once(service, kept)
    good = config.with_name(name).read_text()
    config.with_name(name).write_text(broken) if broken is not None else config.with_name(name).unlink()
    service.start()
    assert "-A FORWARD -p icmp -j ACCEPT" in rules(service)
    assert pings(lab)
    assert "192.0.2.1" in service.ctl("set", "list", "friends", check=True).stdout
    ping = service.ctl("ping")
    assert ping.returncode == 0
    assert ping.stderr.startswith("pyfwctl: degraded: rules: serving the last good ones, of ")
    assert "serving the last good ones" in service.ctl("stats", check=True).stdout
    assert "pyfw: degraded: rules: serving the last good ones, of 20" in service.log.read_text()
    assert str(config) in ping.stderr
    # What is mended is served, and the warning goes.
    config.with_name(name).write_text(good)
    config.with_name("gateway.rules").write_text(OTHER_RULES)
    service.ctl("reload", check=True)
    assert "-p udp" in rules(service)
    assert service.ctl("ping").stderr == ""


def test_after_a_kill_with_connections_too(lab: Lab, service: Firewall, config: Path, kept: Path) -> None:
    service.start()
    wait_until(kept.exists, "the rules to be kept")
    assert pings(lab)
    before = service.connections()
    service.kill()
    config.with_name("gateway.rules").write_text("nonsense")
    service.start()
    assert len(before) == len(service.connections()) == 1


def test_without_last_good_rules_it_does_not_start(lab: Lab, service: Firewall, config: Path) -> None:
    config.with_name("gateway.rules").write_text("nonsense")
    with pytest.raises(LabError, match=r"status 2\n.*gateway.rules:1:1: .*; no last good rules are kept"):
        service.start()


@pytest.mark.parametrize(("spoil", "complaint"), [
    pytest.param(lambda path: os.chown(path, 65534, -1), "belongs to user 65534", id="another's"),
    pytest.param(lambda path: path.chmod(0o622), "is open to others", id="for all to write"),
    pytest.param(lambda path: path.parent.chmod(0o777), "can be written by others", id="where all may write"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes().replace(b"-p icmp ", b"-p all  ")), "checksum", id="changed"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged", id="cut"),
    pytest.param(lambda path: path.write_bytes(b"[" * 100_000), "damaged", id="nested"),
    pytest.param(lambda path: path.write_bytes(b""), "damaged", id="empty"),
    pytest.param(lambda path: path.write_bytes(b"null"), "damaged", id="nothing"),
])
def test_what_somebody_else_can_have_written_is_not_served(service: Firewall, config: Path, kept: Path, spoil, complaint) -> None:
    served_once(service, kept)
    config.with_name("gateway.rules").write_text("nonsense")
    spoil(kept)
    with pytest.raises(LabError, match=rf"status 2\n(.*\n)*.*nonsense.*; the last good rules .*{complaint}"):
        service.start()


def test_rules_on_trial_are_kept_only_when_they_are_confirmed(service: Firewall, config: Path, kept: Path) -> None:
    served_once(service, kept)
    service.start()
    config.with_name("gateway.rules").write_text(OTHER_RULES)
    service.ctl("reload", "--confirm", "60", check=True)
    assert "-p udp" in rules(service)
    assert b"-p icmp" in kept.read_bytes()
    service.ctl("confirm", check=True)
    wait_until(lambda: b"-p udp" in kept.read_bytes(), "the confirmed rules to be kept")


def test_changes_are_kept_only_when_they_are_saved(service: Firewall, config: Path, kept: Path) -> None:
    served_once(service, kept)
    service.start()
    def edit() -> None:
        subprocess.run([BIN / "pyfw-iptables", "-I", "FORWARD", "-s", "203.0.113.9", "-j", "DROP"], check=True,
                       env={**os.environ, "PYFW_SOCKET": str(service.socket)})
    edit()
    assert b"203.0.113.9" not in kept.read_bytes()
    service.ctl("save", check=True)
    assert "203.0.113.9" in config.with_name("gateway.rules").read_text()
    assert b"203.0.113.9" in kept.read_bytes()


def test_a_reload_keeps_the_settings_that_are_in_force(service: Firewall, config: Path, kept: Path) -> None:
    """What is read only at the start is kept as it was then, or the next start would guard other hooks than ever before."""
    service.start()
    wait_until(kept.exists, "the rules to be kept")
    config.write_text(CONFIG.replace("FORWARD", "INPUT").replace("7}", "8}") + "exempt: {interfaces: [eth0]}\npolicy: {kill_states: true}\n")
    config.with_name("gateway.rules").write_text(OTHER_RULES)
    service.ctl("reload", check=True)
    wait_until(lambda: b"-p udp" in kept.read_bytes(), "the rules of the reload to be kept")
    good = LastGoodRules(kept.parent).read().config
    assert (good.hooks, good.queue.number, good.exempt.interfaces, good.policy.kill_states) == (("FORWARD",), 7, ("lo",), True)


def test_saving_keeps_nothing_that_was_never_in_force(service: Firewall, config: Path, kept: Path) -> None:
    """Only the table that was written: not the hooks, sets and tables that stand in the files for the next reload."""
    config.write_text(CONFIG.replace("file: gateway.rules", "filter: {file: gateway.rules}"))
    served_once(service, kept)
    service.start()
    config.write_text(CONFIG.replace("file: gateway.rules", "filter: {file: gateway.rules}, raw: {PREROUTING: {rules: [{jump: DROP}]}}")
                      .replace("FORWARD", "INPUT"))
    config.with_name("friends.ipset").write_text("create friends hash:ip\nadd friends 203.0.113.77\n")
    service.ctl("save", check=True)
    wait_until(lambda: config.with_name("gateway.rules").read_text() != RULES, "the rules to be written")
    good = LastGoodRules(kept.parent).read().config
    assert good.hooks == ("FORWARD",)
    assert b"192.0.2.1" in good.sets[0][1]
    assert [table.name for table in good.rules.tables] == ["filter"]
    assert good.rules.table("filter").chain("FORWARD").rules


def test_by_hand_a_bad_config_is_an_error(lab: Lab, config: Path, kept: Path, service: Firewall, monkeypatch) -> None:
    """The control: who sits at a terminal wants to know, and nothing is kept anywhere."""
    served_once(service, kept)
    monkeypatch.delenv("STATE_DIRECTORY")
    config.with_name("gateway.rules").write_text("nonsense")
    with pytest.raises(LabError, match="status 2"):
        service.start()


def test_a_takeover_with_a_bad_config_is_an_error(lab: Lab, config: Path, kept: Path, service: Firewall) -> None:
    service.start()
    wait_until(kept.exists, "the rules to be kept")
    config.with_name("gateway.rules").write_text("nonsense")
    done = subprocess.run([*service.argv, "--takeover"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert pings(lab)
