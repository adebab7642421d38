"""`pyfwctl save` as root, of a daemon that is not root's: it must not be led to write where that daemon likes."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.control import StillDaemon, running
from pyfw.cli.pyfwctl import saved
from pyfw.cli.pyfwctl.client import Refused
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

NOBODY = 65534
RULES = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    directory = tmp_path / "pyfw"
    directory.mkdir(mode=0o755)
    (directory / "pyfw.yaml").write_text("rules: {file: all.rules}\n")
    (directory / "all.rules").write_text("# as it was\n")
    return directory / "pyfw.yaml"


@pytest.fixture
def saves(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """saves(uid) has root save the rules of that user's daemon, and returns what is in the rules' file then."""
    def run(uid: int, file: str | None = None) -> str:
        daemon = StillDaemon()
        daemon.config_path = config
        daemon.engine.load(Program(parse_save(RULES)))
        monkeypatch.setattr(saved, "daemon_uid", lambda path: uid)      # else what the kernel says
        with running(tmp_path / "control.sock", daemon) as server:
            saved.save(str(server.path), file)
        return (config.parent / "all.rules").read_text()
    return run


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_the_rules_are_written_where_roots_config_says(saves: Callable[..., str], uid: int) -> None:
    assert "-A INPUT -p icmp -j ACCEPT" in saves(uid)


@pytest.mark.root
@pytest.mark.parametrize("spoil", [
    pytest.param(lambda path: os.chown(path, NOBODY, -1), id="that user's config"),
    pytest.param(lambda path: os.chown(path.parent, NOBODY, -1), id="in that user's directory"),
    pytest.param(lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")), id="a link"),
])
def test_a_config_that_the_daemon_could_have_made_is_not_believed(saves, config: Path, spoil: Callable[[Path], object]) -> None:
    spoil(config)
    with pytest.raises(Refused, match=r"pyfw.yaml|pyfw:.*; `pyfwctl save FILE` writes the rules to a file that you choose"):
        saves(NOBODY)
    assert (config.parent / "all.rules").read_text() == "# as it was\n"
    assert "icmp" in saves(0)                   # the control: root's own daemon is believed


def test_other_tables_stay_in_the_file(saves: Callable[..., str], config: Path) -> None:
    nat = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"
    (config.parent / "all.rules").write_text(f"{nat}*filter\nCOMMIT\n")
    saved = saves(0)
    assert saved.endswith(f"COMMIT\n{nat}")
    assert "-A INPUT -p icmp -j ACCEPT\n" in saved


def test_a_file_that_root_names_is_written(saves: Callable[..., str], config: Path, tmp_path: Path) -> None:
    os.chown(config, NOBODY, -1)
    assert saves(NOBODY, file=str(tmp_path / "chosen.rules")) == "# as it was\n"
    assert "icmp" in (tmp_path / "chosen.rules").read_text()
