"""What operators see: one JSON object a log line, and Prometheus metrics.

`refused(error)` counts every typed refusal by its code; nothing secret is ever passed to a logger.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

from koinon.errors import KoinonError

REFUSED = Counter("koinon_refused_total", "Inputs that were refused, by the error's code", ["service", "code"])
PHASE_SECONDS = Histogram("koinon_phase_seconds", "Seconds of a round's phases", ["phase"])
VIEW = Gauge("koinon_view", "The replica's current view")
EPOCH = Gauge("koinon_epoch", "The committee's epoch that this party knows")
LINKS = Gauge("koinon_links", "Other replicas that this replica is connected with")
LAG = Gauge("koinon_lag", "Log entries that others executed and this replica did not")
READY = Gauge("koinon_ready", "1 while this replica can do its part (/readyz), else 0")
TLS_EXPIRES = Gauge("koinon_tls_expires_seconds", "Unix time at which this party's TLS certificate runs out; 0 without")
SEQUENCE = Gauge("koinon_sequence", "The last executed sequence number")

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
            "event": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _RESERVED})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str = "info") -> None:
    """Log to standard error, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def refused(service: str, error: KoinonError) -> None:
    """Count a refusal."""
    REFUSED.labels(service, error.code).inc()


def metrics() -> bytes:
    """The Prometheus exposition of this process."""
    return generate_latest(REGISTRY)
