"""The aggregator: keeps rounds moving. It is trusted for liveness only; it signs nothing that makes a model pass.

`scheduler.py` decides (pure), `steps.py` opens and certifies, `outbox.py` and `anchor.py` put rounds on the chain
exactly once, `runner.py` carries one task from round to round, `service.py` holds them together.
"""
