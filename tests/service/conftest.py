"""Containers for the tests of the service: see container.py for what they are and what they can do.

    container       a booted Debian without pyfw, one for each test module
    ssh_session     somebody who is logged in there
    guarding        the same with pyfw installed, which has come up with it: ssh, ping and what is ESTABLISHED may come in
    new_container   `with new_container() as container:` for a test that needs one of its own; with `installation` as
                    its argument, pyfw is in it
"""
from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfw.lab import GATEWAY_INSIDE
from service import tree
from service.container import SOURCE, WHEELS, Container, NewContainer, booted

TIMEOUT_S = 900                     # of the first test, which makes the tree and the wheels
UNKNOWN_HOST = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def debian_tree() -> Path:
    return tree.debian_tree()


@pytest.fixture(scope="session")
def wheels() -> Path:
    return tree.wheels()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources")
    directory.chmod(0o755)
    tree.copy_sources(directory)
    return directory


@pytest.fixture(scope="session")
def new_container(debian_tree: Path, wheels: Path, sources: Path) -> NewContainer:
    return lambda *layers: booted([*layers, debian_tree], {sources: SOURCE, wheels: WHEELS})


@pytest.fixture(scope="session")
def installation(new_container: NewContainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/install leaves in a file system, as a layer of one."""
    layer = tmp_path_factory.mktemp("installation")
    layer.chmod(0o755)
    with new_container() as container:
        container.run(f"{SOURCE}/scripts/install", "--wheels", WHEELS, check=True, timeout_s=300)
        container.power_off()
        container.keep(layer)
    return layer


@pytest.fixture(scope="module")
def container(new_container: NewContainer) -> Iterator[Container]:
    with new_container() as container:
        yield container


@pytest.fixture(scope="module")
def guarding(new_container: NewContainer, installation: Path) -> Iterator[Container]:
    with new_container(installation) as container:
        assert container.run("systemctl", "is-active", "pyfw").stdout == "active\n", container.journal("pyfw")
        yield container


@pytest.fixture(scope="module")
def ssh_session(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Somebody who is logged in, and whose every line is answered."""
    key = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    container.run("mkdir", "-p", "/root/.ssh", check=True)
    container.run("tee", "/root/.ssh/authorized_keys", input=Path(f"{key}.pub").read_text(), check=True)
    session = container.lab.start("client", ["ssh", "-i", key, *UNKNOWN_HOST, f"root@{GATEWAY_INSIDE.ipv4}", "cat"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield session
    container.lab.stop(session)
