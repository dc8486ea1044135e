"""The mutation gate: each known bug is caught, by the seed or story that the documentation names."""

from __future__ import annotations

import pytest

from tests.simulation.gate import documented, judge, row
from tests.simulation.mutations import MUTATIONS

REWRITE = "docs/verification.md is out of date: python -m tests.simulation.gate --write"


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_known_bug_is_caught_as_documented(name: str) -> None:
    line, by = documented()[name]
    caught = judge(MUTATIONS[name], by)
    assert caught is not None, f"{by} does not catch it. {REWRITE}"
    assert line == row(MUTATIONS[name], caught), REWRITE


def test_the_documentation_lists_the_mutations_and_no_others() -> None:
    assert list(documented()) == list(MUTATIONS), REWRITE
