"""The daemon as a user without rights: two capabilities are all that it needs, and it loads little."""
from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.lab import SERVER, Lab, wait_until

USER = 64123                    # nobody's: neither a user nor a group of this number exists
CONFIG = """hooks: [FORWARD]
rules:
  filter:
    FORWARD:
      policy: DROP
      rules: [-p icmp -j ACCEPT, -p tcp -j REJECT --reject-with tcp-reset]
"""
COUNTERS = "/proc/net/netfilter/nfnetlink_queue"
# All that lies among installed packages or in this tree, by the first part of its name; what begins with _ is an environment's own.
ALLOWED = {"netfilterqueue", "pyfw", "pyroute2", "yaml"}
LISTS_ITS_MODULES = """
import atexit, sys
from pyfw.cli.pyfw.main import main

@atexit.register
def say():
    tops = {name.partition(".")[0] for name, module in sys.modules.items()
            if name[0] != "_" and any(part in (getattr(module, "__file__", None) or "") for part in ("-packages/", "/pyfw/"))}
    print("modules:", *tops, file=sys.stderr)

sys.exit(main())
"""


LOCKS = 'mkdir -p /run/pyfw-locks && mount --bind "$0" /run/pyfw-locks && exec "$@"'     # `ip netns exec` sees to its being ours alone


def as_user(lab: Lab, directory: Path, *capabilities: str) -> list[str]:
    """What runs a command on the gateway with these capabilities and this /run/pyfw-locks, as scripts/install's unit does."""
    wanted = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return ["ip", "netns", "exec", lab.namespace("gateway"), "sh", "-c", LOCKS, str(directory), "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
            f"--inh-caps={wanted}", f"--ambient-caps={wanted}", f"--bounding-set={wanted}", "--no-new-privs"]


@pytest.fixture
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pyfw where that user may get to."""
    root = Path(__file__).resolve().parents[3]
    for directory in (root, *root.parents, *Path(sys.executable).parents):
        if not directory.stat().st_mode & 0o001:
            pytest.fail(f"{directory} must be open for others, so that an unprivileged daemon can be tested")
    return BIN / "pyfw"


@pytest.fixture
def service(lab: Lab, tmp_path: Path, program: Path) -> Callable[..., Firewall]:
    """service(capabilities...) is a daemon of that user's, not yet started."""
    directory = Path("/run") / f"{lab.name}-privileges"
    directory.mkdir(mode=0o755)
    os.chown(directory, USER, USER)
    (directory / "pyfw.yaml").write_text(CONFIG)
    lab.run("gateway", ["chown", str(USER), COUNTERS])
    running: list[Firewall] = []

    def make(*capabilities: str, settings: tuple[str, ...] = ()) -> Firewall:
        firewall = Firewall(lab, directory / "pyfw.yaml", directory, settings=settings)
        at = firewall.argv.index("--netns")
        firewall.argv = [*as_user(lab, directory, *capabilities), *firewall.argv[:at], *firewall.argv[at + 2:]]
        running.append(firewall)
        return firewall

    yield make
    for firewall in running:
        firewall.stop()
    lab.run("gateway", ["rm", "-r", str(directory)])


def pings(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c1", "-W1", SERVER.ipv4]).returncode == 0


def test_two_capabilities_are_enough(lab: Lab, service: Callable[..., Firewall]) -> None:
    firewall = service("net_admin", "net_raw")
    firewall.start()
    status = Path(f"/proc/{firewall.process.pid}/status").read_text()
    assert re.search(r"^Uid:\s+" + rf"{USER}\s" * 3, status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0000000000003000$", status, re.MULTILINE)
    assert pings(lab)
    probe = f"import socket; socket.create_connection(('{SERVER.ipv4}', 9), 5)"
    refused = lab.run("client", [sys.executable, "-c", probe])
    assert "ConnectionRefusedError" in refused.stderr          # REJECT's answer: a raw socket
    assert "-p icmp" in firewall.ctl("list-rules", check=True).stdout
    firewall.ctl("flush", check=True)                           # root may do all, though the daemon is not root's
    firewall.ctl("reload", check=True)
    refused = firewall.ctl("save")                              # that user could have made the config
    assert refused.returncode == 1
    assert f"belongs to user {USER}" in refused.stderr
    for path in (firewall.socket, firewall.socket.parent / "state" / "table"):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (USER, 0o600)
    assert firewall.stop() == 0
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout


def test_a_group_that_is_not_its_own_keeps_it_from_nothing(lab: Lab, service: Callable[..., Firewall]) -> None:
    firewall = service("net_admin", "net_raw", settings=("control.group=daemon",))
    firewall.start()
    assert (firewall.socket.stat().st_gid, firewall.socket.stat().st_mode & 0o777) == (USER, 0o600)
    wait_until(lambda: "this user may not give it to the group daemon" in firewall.log.read_text(), "the warning")


@pytest.mark.parametrize(("held", "missing"), [(["net_raw"], "CAP_NET_ADMIN"), (["net_admin"], "CAP_NET_RAW")])
def test_one_that_is_missing_is_named(lab: Lab, service: Callable[..., Firewall], held: list[str], missing: str) -> None:
    firewall = service(*held)
    done = lab.run("gateway", firewall.argv)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pyfw: {missing} is needed to ")


def test_another_namespace_needs_one_more(lab: Lab, service: Callable[..., Firewall]) -> None:
    firewall = service("net_admin", "net_raw")
    done = lab.run("gateway", [*firewall.argv, "--netns", "nowhere"])
    assert done.stderr.startswith("pyfw: CAP_SYS_ADMIN is needed to enter another network namespace: ")


def test_it_loads_nothing_that_it_does_not_need(lab: Lab, service: Callable[..., Firewall]) -> None:
    firewall = service("net_admin", "net_raw")
    at = firewall.argv.index(BIN / "pyfw")
    firewall.argv[at:at + 1] = [sys.executable, "-c", LISTS_ITS_MODULES]
    firewall.start()
    for command in (["reload"], ["stats"], ["list-conntrack"], ["top", "--once"], ["explain", "tcp", "192.0.2.1:1", "192.0.2.2:2"],
                    ["set", "create", "x", "hash:ip"]):
        firewall.ctl(*command)
    firewall.stop()
    [loaded] = [set(line.split()[1:]) for line in firewall.log.read_text().splitlines() if line.startswith("modules:")]
    assert loaded == ALLOWED


def test_metrics_without_what_they_need_are_a_warning(lab: Lab, service: Callable[..., Firewall]) -> None:
    firewall = service("net_admin", "net_raw", settings=("metrics.listen=127.0.0.1:9469",))
    at = firewall.argv.index(BIN / "pyfw")
    firewall.argv[at:at + 1] = [sys.executable, "-c", "import sys; sys.modules['prometheus_client'] = None\n"
                                                      "from pyfw.cli.pyfw.main import main; sys.exit(main())"]
    firewall.start()
    assert pings(lab)
    wait_until(lambda: "metrics.listen: prometheus_client is not installed: `scripts/install --with metrics`" in firewall.log.read_text(),
               "the warning")
