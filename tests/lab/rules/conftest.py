from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.rules.kernel import Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as kernel:
        yield kernel
