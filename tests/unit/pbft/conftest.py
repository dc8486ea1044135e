"""What several tests of the replica share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.pbft.hostile import Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("disk"))
    yield made
    made.close()
