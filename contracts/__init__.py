"""The Solidity contracts. Python sees them through their committed artifacts (see koinon/artifacts.py)."""

from __future__ import annotations

from koinon.artifacts import CONTRACTS, Artifact, artifact

__all__ = ["CONTRACTS", "Artifact", "artifact"]
