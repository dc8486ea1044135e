"""Committed vectors: the bytes of each mode for a fixed stream of randomness. A change here breaks a network.

After a deliberate change: python -m tests.unit.privacy.test_vectors
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from koinon.encoding import keccak
from koinon.privacy import mode
from koinon.privacy.mode import Claim
from tests.unit.privacy.federation import COMMITTEE_MODES, Federation, node, random_updates

PATH = Path(__file__).parents[2] / "vectors" / "privacy.json"
pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")


CASES = (*COMMITTEE_MODES, "shares, validated", "shares, large")


def vector(case: str) -> dict[str, object]:
    """Everything that one round of a mode puts on a wire or disk, by digest."""
    name, _, kind = case.partition(", ")
    norm, replicas = 2**20 if kind == "validated" else 0, 13 if kind == "large" else 4
    claims = {node(i): Claim(examples=500 - 100 * i, norm=norm - 1000 * i) for i in range(3)} if norm else None
    federation = Federation(name, random_updates(3, 111), seed="vector", norm=norm, replicas=replicas, claims=claims)
    opened = federation.open()
    return {
        "public_key": keccak(federation.setting.public_key).hex(),
        "key_shares": [keccak(share).hex() for share in federation.shares],
        "updates": [
            {
                "values": keccak(values.astype("<i8").tobytes()).hex(),
                "public": keccak(protected.public).hex(),
                "public_bytes": len(protected.public),
                "pieces": [keccak(piece).hex() for piece in protected.pieces],
            }
            for values, protected in zip(federation.updates, federation.protected.values(), strict=True)
        ],
        "components": {
            str(replica): {str(number): digest.hex() for number, digest in sorted(digests.items())}
            for replica, digests in federation.digests.items()
        },
        "witness": keccak(opened.witness).hex(),
        "sum": keccak(opened.values.astype("<i8").tobytes()).hex(),
        "sum_head": opened.values[:4].tolist(),
    }


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_of_the_committed_vector(name: str) -> None:
    assert vector(name) == json.loads(PATH.read_text())[name]


def test_all_modes_agree_on_the_sum() -> None:
    committed = json.loads(PATH.read_text())
    assert len({committed[name]["sum"] for name in CASES}) == 1
    expected = np.sum(random_updates(3, 111), axis=0)[:4].tolist()
    assert all(committed[name]["sum_head"] == expected for name in COMMITTEE_MODES)
    assert set(committed) == set(CASES)
    assert all(mode(name).name == name for name in COMMITTEE_MODES)


if __name__ == "__main__":
    PATH.write_text(json.dumps({name: vector(name) for name in CASES}, indent=1) + "\n")
