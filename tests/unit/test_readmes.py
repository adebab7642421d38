"""The READMEs: the first page is short, and every file that they lead to or name is there."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "README.md", *sorted(path for pattern in ("*/README.md", "*/*/README.md") for path in ROOT.glob(pattern)
                                       if not path.relative_to(ROOT).parts[0].startswith((".", "build")))]
MOST_LINES = 130


def missing(text: str, folder: Path) -> Iterator[str]:
    """The relative links that lead nowhere, and the paths that name no file of the folder or of the tree.

    A path is a word with a slash, in backticks or in indented text, whose first part is a folder there.
    """
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if ":" not in link and not (folder / link).exists():
            yield link
    code = "\n".join(first or second for first, second in re.findall(r"`([^`\n]+)`|^    (.*)$", text, re.MULTILINE))
    for word in re.findall(r"(?<![\w./-])[\w.-]+/[\w./*-]*", code):
        path = word.rstrip(".")
        if any((base / path.partition("/")[0]).is_dir() for base in (ROOT, folder)) \
                and not any(list(base.glob(path.rstrip("/"))) for base in (ROOT, folder)):
            yield path


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_readme_names_is_there(readme: Path) -> None:
    assert list(missing(readme.read_text(), readme.parent)) == []


def test_what_is_not_there_is_found() -> None:
    text = "[a](config/none.md) [b](README.md) `pyfw/none.py` `tests/unit` `and/or`\n\n    sudo scripts/none --x\n"
    assert list(missing(text, ROOT)) == ["config/none.md", "pyfw/none.py", "scripts/none"]


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES
