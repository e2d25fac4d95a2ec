"""The tutorial shows the example as it is, and every check."""

from __future__ import annotations

import re

import pytest
from environment import EXAMPLE, ROOT
from stabfw.components import Kind
from stabfw.testing import checks_for
from stabfw.testing import every as every_kind

TEXT = (ROOT / "docs" / "writing-plugins.md").read_text()
SHOWN = dict(re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
FILES = sorted(
    str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")
)


def test_all_of_the_example_is_shown() -> None:
    assert sorted(SHOWN) == FILES


@pytest.mark.parametrize("name", FILES)
def test_the_code_shown_is_that_of_the_example(name: str) -> None:
    assert SHOWN[name] == (EXAMPLE / name).read_text()


def test_the_table_lists_every_check() -> None:
    every = [c for c in checks_for(Kind.METRIC) if c.function in every_kind.CHECKS]
    rows = [("every", check.name, check.demand) for check in every]
    for kind in Kind:
        rows += [(str(kind), c.name, c.demand) for c in checks_for(kind) if c not in every]
    found = re.findall(r"^\| (\S+) \| `(check_\w+)` \| (.*) \|$", TEXT, re.MULTILINE)
    assert found == rows
