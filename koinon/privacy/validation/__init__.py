"""Validated `shares`: a node proves that its secret update has a bounded L2 norm (docs/validation.md).

`bounds` derives the parameters and refuses a setting that cannot be sound, `field` is the arithmetic, `masks` the
integers that hide an update, `squares` Lagrange's theorem, `proof` the fully linear proof over all of these.
"""

from .bounds import Alignment, Bound
from .masks import mask_vector
from .proof import Verifier, prove
from .squares import fill_up

__all__ = ["Alignment", "Bound", "Verifier", "fill_up", "mask_vector", "prove"]
