"""Koinon: federated learning over a Byzantine-fault-tolerant committee and a public ledger.

This package is the shared floor: the roles (`node`, `aggregator`, `pbft`, `scripts`) stand on it, it imports
none of them.
"""

__version__ = "0.1.0"
