"""The Debian package on the next Debian: built there from the source, installed, upgraded, purged; and the unit tests there.

The tests follow one another.  The build takes minutes: it is the only one of the suite that begins with a fresh clone, and the
only one with another compiler and another Python.
"""
from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import tree
from service.container import SOURCE, WHEELS, Container, answers, booted, connects

BUILD_S = 1500
TEST_TOOLS = "/usr/src/tools"
APT = ("apt-get", "-qq", "--yes", "-o", "Dpkg::Use-Pty=0")
# The rooms' tests that scripts/test --quick runs; the others are about the source tree, its tools, and zsh.
UNIT_TESTS = ("cli", "config", "conntrack", "engine", "explain", "helpers", "observe", "offline", "report", "rules", "wire")
NOT_THERE = "tests/unit/cli/test_completion.py"


@pytest.fixture(scope="module")
def container(sources: Path) -> Iterator[Container]:
    debian = tree.debian_tree(tree.NEXT_RELEASE, tree.NEXT_PACKAGES)
    binds = {sources: SOURCE, tree.sources_for_next_python(): WHEELS, Path(pytest.__file__).parents[1]: TEST_TOOLS}
    with booted([debian], binds) as container:
        yield container


@pytest.fixture(scope="module")
def package(container: Container) -> str:
    done = container.run(f"{SOURCE}/scripts/package", "--wheels", WHEELS, "--output", "/root/built", timeout_s=BUILD_S)
    assert done.returncode == 0, done.stderr
    assert "package: compiling pyfw, which takes minutes\n" in done.stdout
    [path] = re.findall(r"^package: made (.*)$", done.stdout, re.MULTILINE)
    return path


@pytest.mark.slow
@pytest.mark.timeout(BUILD_S)
def test_it_is_for_the_release_and_the_python_that_it_was_built_with(container: Container, package: str) -> None:
    def field(name: str) -> str:
        return container.run("dpkg-deb", "--field", package, name, check=True).stdout.strip()

    version = field("Version")
    assert version == container.run("sh", "-c", f"sed -n 's/^version = \"\\(.*\\)\"/\\1/p' {SOURCE}/pyproject.toml").stdout.strip() + "+debian13"
    assert package == f"/root/built/pyfw_{version}_{field('Architecture')}.deb"
    assert field("Depends").startswith("python3 (>= 3.13), python3 (<< 3.14), ")


def test_apt_installs_it_and_enables_the_service(container: Container, package: str) -> None:
    assert connects(container, 22)
    container.run(*APT, "install", package, check=True)
    assert container.run("systemctl", "is-enabled", "pyfw").stdout == "enabled\n"
    assert container.run("systemctl", "is-active", "pyfw").stdout == "inactive\n"
    container.run("systemctl", "start", "pyfw", check=True)
    assert connects(container, 22)
    assert not connects(container, 8080)
    assert container.run("dpkg", "--verify", "pyfw").stdout == ""


def test_an_upgrade_keeps_the_config_and_the_connections(container: Container, package: str, ssh_session: subprocess.Popen[str]) -> None:
    """To a version that differs in its number alone."""
    assert answers(ssh_session, "before")
    container.run("sh", "-c", f"dpkg-deb -R {package} /root/next && sed -i 's/^Version: .*/Version: 99/' /root/next/DEBIAN/control && "
                              "echo '# theirs' >>/root/next/etc/pyfw/pyfw.yaml && dpkg-deb -Znone -b /root/next /root/next.deb", check=True)
    container.run("sh", "-c", "echo '# mine' >>/etc/pyfw/pyfw.yaml", check=True)
    pid = container.property("pyfw", "MainPID")
    container.run(*APT, "-o", "Dpkg::Options::=--force-confold", "install", "/root/next.deb", check=True)
    assert container.property("pyfw", "MainPID") not in (pid, "0")
    assert answers(ssh_session, "after")
    assert json.loads(container.run("pyfwctl", "stats", "--json").stdout)["daemon"]["connections_taken_over"] > 0
    assert container.run("tail", "-n1", "/etc/pyfw/pyfw.yaml").stdout == "# mine\n"


@pytest.mark.slow
def test_the_unit_tests_pass_with_its_python(container: Container) -> None:
    """On the installed modules; pytest is this machine's, and hypothesis, which is compiled, is Debian's."""
    run = f"import sys; sys.path += '/usr/lib/python3/dist-packages', '{TEST_TOOLS}'; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    rooms = " ".join(f"tests/unit/{room}" for room in UNIT_TESTS)
    done = container.run("sh", "-c", f"cd {SOURCE} && PYTHONSAFEPATH=1 exec /opt/pyfw/tools/bin/python -c \"{run}\" -q -p no:cacheprovider "
                                     f"-m 'not root and not slow' --ignore={NOT_THERE} {rooms}", timeout_s=800)
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_purge_leaves_an_open_system(container: Container, ssh_session: subprocess.Popen[str]) -> None:
    container.run(*APT, "purge", "pyfw", check=True)
    assert container.run("sh", "-c", "ls -d /etc/pyfw /opt/pyfw /run/pyfw* /var/lib/pyfw; getent passwd pyfw; getent group pyfw").stdout == ""
    for program in ("iptables", "ip6tables"):
        assert "PYFW" not in container.run(f"{program}-save", check=True).stdout
    assert answers(ssh_session, "after the end")
