"""Containers for the tests of the service: see container.py for what they are and what they can do.

    container       a booted Debian without pyfw, one for each test module
    guarding        the same with pyfw installed, which has come up with it: ssh, ping and what is ESTABLISHED may come in
    new_container   `with new_container() as container:` for a test that needs one of its own; with `installation` as
                    its argument, pyfw is in it
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyfw.lab import Lab
from service import tree
from service.container import SOURCE, WHEELS, Container, NewContainer

TIMEOUT_S = 900                     # of the first test, which makes the tree and the wheels


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
    @contextmanager
    def make(*layers: Path) -> Iterator[Container]:
        with (Lab(f"pyfw-service-{os.getpid()}") as lab,
              Container(lab, [*layers, debian_tree], {sources: SOURCE, wheels: WHEELS}) as container):
            container.boot()
            yield container
    return make


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
