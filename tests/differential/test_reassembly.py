"""Fragments as the kernel puts them together before it tracks them, and as replay does."""
from __future__ import annotations

import pytest

from differential import generate_extensions, generate_layers
from differential.examine import examine
from differential.generate_mix import Generator, scenario


@pytest.mark.parametrize("generator", [generate_layers.fragments, generate_extensions.chains], ids=lambda generator: generator.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_same_datagrams_from_the_same_fragments(seed: int, generator: Generator) -> None:
    examination = examine(scenario(seed, 3000, ((generator, 1),)))
    examination.must_agree()
    assert sum(seen.whole is not None for seen in examination.kernel.opinions) > 100
