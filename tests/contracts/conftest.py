from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from koinon.errors import ContractReverted
from tests.contracts.world import World

Reverts = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def world() -> World:
    """A fresh network of four replicas, with a user, an aggregator and a node admitted."""
    return World()


@pytest.fixture
def reverts() -> Reverts:
    """`with reverts("Contract__Error", ...)`: the block must revert with this error and, if given, arguments."""

    @contextmanager
    def check(name: str, *arguments: object) -> Iterator[None]:
        with pytest.raises(ContractReverted) as caught:
            yield
        assert caught.value.name == name
        if arguments:
            assert caught.value.arguments == arguments

    return check
