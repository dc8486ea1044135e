"""The audit: everything that anybody can check without trusting anybody, as pure functions over gathered evidence.

`gather` collects what the replicas and the chain say (or what their files say, offline), `history` replays the
ordered log under the law, `network`, `rounds` and `rewards` judge, `report` writes the verdict down.
"""

from __future__ import annotations

from .evidence import Evidence, ReplicaLog
from .examine import Selection, examine
from .report import Line, Report

__all__ = ["Evidence", "Line", "ReplicaLog", "Report", "Selection", "examine"]
