"""The committee's replica: PBFT (Castro & Liskov, OSDI 1999) as a pure state machine, its journal and its shell.

`replica.py` decides, `journal.py` and `archive.py` remember, `server.py` talks. Nothing below `server.py` and the
two disk files does I/O: clock, keys and bytes arrive as arguments.
"""
