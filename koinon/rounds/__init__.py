"""The law of the federation: a pure state machine that every replica executes and the audit replays.

`operations` is what may be asked, `state` what is remembered, `rules` why something is refused, `law` how one state
becomes the next.
"""
