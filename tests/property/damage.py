"""Bytes that are almost right: what a liar, a torn write or another version makes of valid ones."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a byte changed, a piece cut out, something put in, or nothing of it left; perhaps `whole` itself."""
    place = draw(st.integers(0, len(whole) - 1))
    match draw(st.sampled_from(("flip", "cut", "put", "other"))):
        case "flip":
            return whole[:place] + bytes([whole[place] ^ draw(st.integers(1, 255))]) + whole[place + 1 :]
        case "cut":
            return whole[:place] + whole[draw(st.integers(place, len(whole))) :]
        case "put":
            return whole[:place] + draw(st.binary(min_size=1, max_size=40)) + whole[place:]
    return draw(st.binary(max_size=200))
