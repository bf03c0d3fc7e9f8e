"""Scores of classes: how those of several views become one, and what is made of them on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from danet_jax.inference.protocol import Protocol

NOTHING = -1e30
"""The exponent of a pixel to which no exponential has been added yet."""

REPRESENTABLE = (-60.0, 80.0)
"""Logarithms of a pixel's largest score between which all its scores fit in float32: exp(-87) to exp(88)."""


class Region(NamedTuple):
    """Where a result belongs: which image, and its first row and column there."""

    image: int
    top: int
    left: int


class Wanted(NamedTuple):
    """What is made of scores, on the device.

    Attributes:
      function: from scores float32 `[..., T, K, S]` of T x S pixels and truth uint8 `[..., T, S]` (255 if there is
        none, and past the image) to an array.
      ranking: whether only the order of the classes in each pixel matters to it.
      summed: whether its results are summed over everything; otherwise they are stacked.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    ranking: bool
    summed: bool = False

    def merge(self, protocol: Protocol) -> str:
        """How it needs scores to be merged: the softmax of one view keeps the order of the classes."""
        one_view = len(protocol.scales) == len(protocol.flips) == 1
        return "logits" if self.ranking and one_view and protocol.merge == "softmax" else protocol.merge


LABELS = Wanted(lambda scores, _: jnp.argmax(scores, -2).astype(jnp.uint8), ranking=True)
"""The best class of each pixel, uint8 `[..., T, S]`."""

SCORES = Wanted(lambda scores, _: jnp.swapaxes(scores, -1, -2), ranking=False)
"""The scores themselves, float32 `[..., T, S, K]`."""


class Sums(NamedTuple):
    """Scores so far; S is innermost, so that no product needs a transposition.

    Attributes:
      scores: float32 `[..., T, K, S]`; of "exp", the true scores divided by exp(shift).
      shift: float32 `[..., T, 1, S]`, of "exp" only: every pixel carries its own exponent, so that nothing
        overflows.
    """

    scores: jax.Array
    shift: jax.Array

    @classmethod
    def nothing(cls, *shape: int) -> Sums:
        """Before anything is added, for scores of `shape`."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.full((*shape[:-2], 1, shape[-1]), NOTHING, jnp.float32))

    def add_exponentials(self, logits: Sequence[jax.Array], weights: Sequence[jax.Array]) -> Sums:
        """Adds `weight * exp(logits)` of each, the weights `[..., T, 1, S]` and at least 0."""
        peaks = [
            jnp.where(weight > 0, part.max(-2, keepdims=True), NOTHING)
            for part, weight in zip(logits, weights, strict=True)
        ]
        shift = jnp.stack([self.shift, *peaks]).max(0)
        scores = self.scores * jnp.exp(self.shift - shift)
        for part, weight in zip(logits, weights, strict=True):
            # Where the weight is 0 the exponential may be infinite, and 0 times infinity is no number.
            scores = scores + jnp.where(weight > 0, weight * jnp.exp(part - shift), 0.0)
        return Sums(scores, shift)

    def in_range(self) -> jax.Array:
        """Scores of "exp", `[..., T, K, S]`, that fit in float32.

        They are sums of exponentials and may be of any magnitude. Where the largest of a pixel lies between
        exp(-60) and exp(80) they are given as they are; elsewhere the scores of that pixel are divided by one
        common factor that brings the largest there.
        """
        largest = jnp.max(self.scores, -2, keepdims=True)
        peak = jnp.where(largest > 0, jnp.log(jnp.maximum(largest, 1e-37)), 0.0) + self.shift
        # In two steps, since a score may be small because its weights are, and the factor alone overflow.
        root = jnp.exp((self.shift + (jnp.clip(peak, *REPRESENTABLE) - peak)) / 2)
        return self.scores * root * root


def local_mesh(mesh: Mesh | None, devices: Sequence[jax.Device]) -> Mesh:
    """The part of `mesh` on this host, axes `data` and `space`; without one, `devices` along `data`."""
    if mesh is not None and tuple(mesh.axis_names) == ("data", "space"):
        return mesh.local_mesh
    devices = devices if mesh is None else mesh.local_devices
    return Mesh(np.asarray(devices).reshape(-1, 1), ("data", "space"))
