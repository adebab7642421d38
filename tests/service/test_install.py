"""scripts/install on a Debian that has not seen pyfw.  The tests follow one another, from the first installation to the last trace."""
from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pyfw.lab import wait_until
from service.container import SOURCE, WHEELS, Container, answers, connects, edit

INSTALL = f"{SOURCE}/scripts/install"
# Not part of a system at rest: what is in memory, logs, what programs keep for their own use.
LEFT_OUT = ("/dev", "/proc", "/run", "/sys", "/tmp", "/usr/src", "/var/cache", "/var/log", "/var/tmp", "/root",
            "/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd")


KEPT = ("/etc/pyfw", "/etc/systemd/system/multi-user.target.wants/pyfw", "/var/lib/pyfw")      # until a purge
# What others saved while pyfw diverted packets; of each file the second line is what a removal warns of.
SAVED_RULES = {
    "/etc/iptables/rules.v4": "# PYFW-INPUT\n-A INPUT -j PYFW-INPUT\n-A INPUT -j ACCEPT\n",
    "/etc/iptables/rules.v6": "*mangle\n-A PYFW-INPUT -j NFQUEUE --queue-num 0\nCOMMIT\n",
    "/etc/nftables.d/saved.nft": "# queue num 0\n\tcounter queue flags bypass to 0\n",
    "/etc/ufw/before.rules": "*filter\n-A ufw-before-input -j NFQUEUE --queue-num 7\nCOMMIT\n",
    "/etc/firewalld/direct.xml": "<direct>\n<rule chain=\"INPUT\">-j NFQUEUE</rule>\n</direct>\n",
}


def files(container: Container) -> set[str]:
    pruned = [word for path in LEFT_OUT for word in ("-path", path, "-o")]
    return set(container.run("find", "/", "(", *pruned[:-1], ")", "-prune", "-o", "-print", check=True).stdout.splitlines())


def install(container: Container, *arguments: str) -> subprocess.CompletedProcess[str]:
    return container.run(INSTALL, *arguments, timeout_s=600)


@pytest.fixture(scope="module")
def before(container: Container) -> dict[str, object]:
    """The system as it was: its files, its groups, its rules."""
    assert connects(container, 22)
    return state(container)


def state(container: Container) -> dict[str, object]:
    return {"files": files(container), "groups": container.run("getent", "group").stdout,
            "users": container.run("getent", "passwd").stdout,
            "rules": [container.run(f"{program}-save").stdout.count("PYFW") for program in ("iptables", "ip6tables")],
            "units": container.run("systemctl", "list-unit-files", "pyfw*", "--no-legend").stdout,
            "in memory": container.run("ls", "-d", "/run/pyfw").stdout}


@pytest.mark.parametrize(("arguments", "status", "complaint"), [
    (["--nonsense"], 2, "scripts/install [--start] [--with EXTRAS] [--wheels DIR]"),
    (["--with", "everything"], 1, "package: --with: 'everything' is not none, nor of metrics, replay, screen, with commas\n"),
    (["--wheels", "/nowhere"], 1, "package: --wheels: '/nowhere' is no directory\n"),
    (["--purge"], 1, "install: --purge goes with --uninstall\n"),
    (["--uninstall", "--start"], 1, "install: only --purge goes with --uninstall\n"),
    (["--uninstall"], 1, "install: not installed: dpkg knows no package pyfw\n"),
])
def test_what_makes_no_sense_is_refused_and_changes_nothing(container, before, arguments, status, complaint) -> None:
    done = install(container, *arguments)
    assert done.returncode == status
    assert complaint in done.stderr
    assert state(container) == before


def test_only_root_may_install(container: Container, before: dict[str, object]) -> None:
    done = container.run("runuser", "-u", "nobody", "--", INSTALL, "--wheels", WHEELS)
    assert (done.returncode, done.stderr) == (1, "install: run as root\n")
    assert state(container) == before


def test_it_is_installed_and_enabled_but_not_started(container: Container, before: dict[str, object]) -> None:
    """What an installation of the time before the package has in /usr/local, where it would go first, is gone."""
    container.run("mkdir", "/opt/pyfw", check=True)
    container.run("ln", "-s", "/opt/pyfw/tools/bin/pyfwctl", "/usr/local/bin/pyfwctl", check=True)
    container.run("tee", "/opt/pyfw/installed", input="/usr/local/bin/pyfwctl\n", check=True)
    done = install(container, "--wheels", WHEELS, "--with", "none")
    assert done.returncode == 0, done.stderr
    assert container.run("systemctl", "is-enabled", "pyfw").stdout == "enabled\n"
    assert container.run("systemctl", "is-active", "pyfw").stdout == "inactive\n"
    assert state(container)["rules"] == before["rules"]
    assert container.run("pyfw", "check").returncode == 0
    assert container.run("pyfw-iptables", "--version").stdout.startswith("iptables v1.")
    assert container.run("sh", "-c", "command -v pyfwctl").stdout == "/usr/bin/pyfwctl\n"


def test_the_package_needs_what_runs_and_no_more(container: Container) -> None:
    depends = container.run("dpkg-query", "-W", "-f", "${Depends}", "pyfw", check=True).stdout
    assert re.sub(r" \([^)]*\)", "", depends) == "python3, python3, libc6, iptables, libnetfilter-queue1, passwd, systemd"
    assert container.run("dpkg", "--verify", "pyfw").stdout == ""


def packages(container: Container, environment: str) -> set[str]:
    """Of Python's, in an environment."""
    found = container.run("sh", "-c", f"cd {environment}/lib/python3*/site-packages && echo *.dist-info", check=True).stdout
    return {name.partition("-")[0].lower().replace("_", "-") for name in found.split() if name[0] != "*"}


def test_what_an_extra_would_bring_is_named_where_it_is_missing(container: Container) -> None:
    assert packages(container, "/opt/pyfw") == {"netfilterqueue", "pyfw", "pyroute2", "pyyaml"}
    assert packages(container, "/opt/pyfw/tools") == set()
    container.run("python3", "-c", r"open('/root/cut.pcap', 'wb').write(b'\xd4\xc3\xb2\xa1')", check=True)
    done = container.run("pyfw", "replay", "/root/cut.pcap")
    assert (done.returncode, done.stderr) == (1, "pyfw: scapy is not installed, which this needs: `scripts/install --with replay` "
                                                 "installs it, or `pip install 'pyfw[replay]'`\n")
    assert container.run("pyfw", "check").returncode == 0
    tests = "/usr/share/doc/pyfw/examples/tests/host-tests.yaml"
    assert container.run("pyfw", "test", tests).returncode == 0
    assert container.run("pyfwctl", "--version").returncode == 0


def test_the_pages_and_the_completions_are_found(container: Container) -> None:
    for page in ("8 pyfw", "8 pyfwctl", "5 pyfw.yaml"):
        assert "SEE ALSO" in container.run("man", *page.split(), check=True).stdout
    bash = ". /usr/share/bash-completion/bash_completion; _completion_loader {0}; complete -p {0}"
    zsh = "autoload -Uz compinit; compinit -D -u; echo $_comps[{0}]"
    for program in ("pyfw", "pyfwctl"):
        assert "-F _shtab_" in container.run("bash", "-c", bash.format(program), check=True).stdout
        assert container.run("zsh", "-fc", zsh.format(program), check=True).stdout == f"_{program}\n"


def test_an_open_ssh_session_outlives_the_start(container: Container, ssh_session: subprocess.Popen[str]) -> None:
    assert answers(ssh_session, "before")
    container.run("systemctl", "start", "pyfw", check=True)
    assert answers(ssh_session, "after")
    assert connects(container, 22)
    assert "dport=22" in container.run("pyfwctl", "list-conntrack", "--state", "ESTABLISHED", check=True).stdout


def test_the_names_of_chains_and_sets_complete(container: Container) -> None:
    container.run("pyfw-iptables", "-N", "wardens", check=True)
    container.run("pyfwctl", "set", "create", "blocklist", "hash:ip", check=True)
    bash = """. /usr/share/bash-completion/bash_completion; _completion_loader pyfwctl
              COMP_WORDS=(pyfwctl {0}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_pyfwctl; echo "${{COMPREPLY[@]}}" """
    for typed, completed in (("list-rules war", "wardens"), ("list-rules IN", "INPUT"), ("set add blo", "blocklist"),
                             ("set swap blocklist blo", "blocklist"), ("set create blo", "")):
        assert container.run("bash", "-c", bash.format(typed)).stdout == f"{completed}\n"
    container.run("systemctl", "reload", "pyfw", check=True)


def test_a_second_run_upgrades_and_keeps_the_config_and_the_connections(container, ssh_session) -> None:
    edit(container, "--dport 22 ", "--dport 22:23 ")
    module = container.run("sh", "-c", "echo /opt/pyfw/lib/python3*/site-packages/pyfw/__init__.py").stdout.strip()
    container.run("sh", "-c", f"echo 'raise SystemExit(7)' >{module}", check=True)      # what an upgrade must mend
    assert container.run("pyfw", "--version").returncode == 7
    pid = container.property("pyfw", "MainPID")
    done = install(container, "--wheels", WHEELS)
    assert done.returncode == 0, done.stderr
    assert container.run("pyfw", "--version").returncode == 0
    assert container.property("pyfw", "MainPID") not in (pid, "0")
    assert answers(ssh_session, "after the upgrade")
    assert json.loads(container.run("pyfwctl", "stats", "--json").stdout)["daemon"]["connections_taken_over"] > 0
    assert "--dport 22:23" in container.run("pyfwctl", "list-rules").stdout


def test_the_daemon_has_what_it_imports_and_its_users_commands_the_rest(container: Container) -> None:
    """The second run was with all extras."""
    assert packages(container, "/opt/pyfw") == {"netfilterqueue", "prometheus-client", "pyfw", "pyroute2", "pyyaml"}
    assert packages(container, "/opt/pyfw/tools") == {"scapy", "rich", "pygments", "markdown-it-py", "mdurl"}
    assert container.run("/opt/pyfw/bin/python", "-c", "import scapy").returncode == 1
    assert container.run("/opt/pyfw/tools/bin/python", "-c", "import scapy.error, rich, pyfw.engine").returncode == 0
    assert container.run("sh", "-c", "ls /opt/pyfw/bin/pip* /opt/pyfw/tools/bin/pip*").stdout == ""


def test_an_upgrade_with_a_bad_config_leaves_the_service_alone(container, ssh_session) -> None:
    edit(container, "--dport 22:23 ", "--dport 70000 ")
    pid = container.property("pyfw", "MainPID")
    done = install(container, "--wheels", WHEELS)
    edit(container, "--dport 70000 ", "--dport 22:23 ")
    assert done.returncode == 1
    assert "port 70000 is out of range" in done.stderr
    assert container.property("pyfw", "MainPID") == pid
    assert answers(ssh_session, "all is well")


def test_uninstall_leaves_nothing_but_the_config_even_of_a_daemon_that_was_killed(container, before, ssh_session) -> None:
    container.run("mkdir", "-p", "/run/systemd/system/pyfw.service.d", check=True)
    container.run("tee", "/run/systemd/system/pyfw.service.d/once.conf", input="[Service]\nRestart=no\n", check=True)
    container.run("systemctl", "daemon-reload", check=True)
    container.run("systemctl", "kill", "--signal=KILL", "pyfw", check=True)
    wait_until(lambda: container.property("pyfw", "ActiveState") == "failed", "its end")
    assert all(state(container)["rules"])       # closed, as it should be
    assert not connects(container, 22)
    container.run("rm", "-r", "/run/systemd/system/pyfw.service.d", check=True)
    folders = {str(Path(path).parent) for path in SAVED_RULES}
    container.run("mkdir", "-p", *folders, check=True)
    for path, text in SAVED_RULES.items():
        container.run("tee", path, input=text, check=True)
    done = install(container, "--uninstall")
    assert done.returncode == 0
    warned = [line.strip() for line in done.stderr.splitlines() if line.startswith("    ")]
    assert sorted(warned) == sorted(f"{path}:2:{text.splitlines()[1]}" for path, text in SAVED_RULES.items())
    container.run("rm", *SAVED_RULES, check=True)
    container.run("rmdir", *folders - before["files"], check=True)
    after = state(container)
    assert {path for path in after.pop("files") - before["files"] if not path.startswith(KEPT)} == set()
    assert after == {name: value for name, value in before.items() if name != "files"} | {
        name: after[name] for name in ("groups", "users")}
    assert "22:23" in container.run("cat", "/etc/pyfw/host.rules").stdout
    assert connects(container, 22)
    assert answers(ssh_session, "after the end")


def test_purge_removes_the_config_too(container: Container, before: dict[str, object]) -> None:
    """dpkg takes the directory /opt along, where it is empty then: no package has it."""
    assert install(container, "--uninstall", "--purge").returncode == 0
    after = state(container)
    assert before["files"] ^ after.pop("files") <= {"/opt"}
    assert after == {name: value for name, value in before.items() if name != "files"}
