"""Containers for the tests of the service: see container.py for what they are and what they can do.

    container    a booted Debian without pyfw, one for each test module
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfw.lab import Lab
from service import tree
from service.container import SOURCE, WHEELS, Container


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


@pytest.fixture(scope="module")
def container(debian_tree: Path, wheels: Path) -> Iterator[Container]:
    with (Lab(f"pyfw-service-{os.getpid()}") as lab,
          Container(lab, debian_tree, {tree.ROOT: SOURCE, wheels: WHEELS}) as container):
        container.boot()
        yield container
