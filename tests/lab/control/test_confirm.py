"""Rules that shut their author out are taken back."""
from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.lab import SERVER, Lab, wait_until


def ping_passes(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c", "1", "-W", "1", SERVER.ipv4]).returncode == 0


def write_rules(config: Path, verdict: str) -> None:
    config.write_text(f"hooks: [FORWARD]\nrules:\n  filter:\n    FORWARD: {{rules: [-p icmp -j {verdict}]}}\n")


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_reload_is_taken_back_unless_confirmed(lab: Lab, tmp_path: Path, confirmed: bool) -> None:
    config = tmp_path / "pyfw.yaml"
    write_rules(config, "ACCEPT")
    with Firewall(lab, config, tmp_path) as firewall:
        assert firewall.ctl("confirm").stderr == "pyfwctl: there are no rules on trial\n"
        refused = firewall.ctl("reload", "--confirm", "0")
        assert (refused.returncode, refused.stderr) == (2, "pyfwctl: --confirm takes 1 to 86400 seconds, not 0\n")
        write_rules(config, "DROP")
        said = firewall.ctl("reload", "--confirm", "4", check=True).stderr
        assert said == "pyfwctl: 1 rules loaded; taken back in 4 s, unless `pyfwctl confirm` comes before\n"
        if confirmed:
            assert firewall.ctl("confirm", check=True).stderr == "pyfwctl: the rules stay\n"
            time.sleep(5)
        else:
            assert "rules are on trial" in firewall.ctl("reload").stderr
            refused = subprocess.run([BIN / "pyfw-iptables", "-I", "FORWARD", "-j", "ACCEPT"], capture_output=True, text=True,
                                     env={"PYFW_SOCKET": str(firewall.socket), "PATH": "/usr/bin:/bin"}, timeout=30)
            assert refused.returncode == 1
            assert refused.stderr == (
                "pyfw-iptables: rules are on trial: `pyfwctl confirm` them first, or wait until they are taken back\n")
            wait_until(lambda: "the former ones serve again" in firewall.log.read_text(), "the old rules", 10)
        assert ping_passes(lab) is not confirmed
        assert firewall.ctl("list-rules", "FORWARD").stdout.endswith("DROP\n" if confirmed else "ACCEPT\n")


def test_a_start_is_taken_back_unless_confirmed(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "pyfw.yaml"
    write_rules(config, "DROP")
    firewall = Firewall(lab, config, tmp_path)
    firewall.argv += ["--confirm", "2"]
    firewall.start()
    assert not ping_passes(lab)
    assert firewall.process.wait(20) == 1
    assert ping_passes(lab)
    assert "nobody confirmed within 2 s" in firewall.log.read_text()
    firewall.start()
    assert firewall.ctl("confirm").returncode == 0
    with pytest.raises(subprocess.TimeoutExpired):
        firewall.process.wait(3)
    assert firewall.stop() == 0


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--confirm", "0"], "1 to 86400 seconds, not '0'"), (["--confirm", "soon"], "not 'soon'"),
    (["--confirm", "5", "--takeover"], "pyfwctl reload --confirm")])
def test_what_cannot_be_confirmed_is_refused(lab: Lab, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    done = subprocess.run([*Firewall(lab, tmp_path / "none", tmp_path).argv, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert complaint in done.stderr
