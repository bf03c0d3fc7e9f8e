"""What is asked of scores: labels, the scores themselves, or a count; made on the device, part by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Region(NamedTuple):
    """Where a result belongs: which image, and its first row and column there."""

    image: int
    top: int
    left: int


class Wanted(NamedTuple):
    """What is made of scores, on the device.

    Attributes:
      function: from scores float32 `[B, T, K, W]` of T x W pixels and truth uint8 `[B, T, W]` (255 if there is none,
        and past the image) to an array.
      ranking: whether only the order of the classes in each pixel matters to it.
      summed: whether its results are summed over everything; otherwise they are stacked.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    ranking: bool
    summed: bool = False


LABELS = Wanted(lambda scores, _: jnp.argmax(scores, 2).astype(jnp.uint8), ranking=True)
"""The best class of each pixel, uint8 `[B, T, W]`."""

SCORES = Wanted(lambda scores, _: jnp.swapaxes(scores, 2, 3), ranking=False)
"""The scores themselves, float32 `[B, T, W, K]`."""
