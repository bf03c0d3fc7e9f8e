"""The confusion matrix, counted on the devices in integers."""

from __future__ import annotations

from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from danet_jax.classes import IGNORE_LABEL, MAX_CLASSES
from danet_jax.errors import InputError


def count_pairs(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Returns the number of pixels of label i predicted as class j, uint32 `[K, K]`; labels of 255 are not counted.

    Args:
      labels: integers of any shape, fewer than 2^32 pixels.
      predictions: integers of the same shape, each below `num_classes`.
      num_classes: K.

    Raises:
      InputError: an argument has the wrong type or shape.
    """
    if type(num_classes) is not int or not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(
            f"num_classes={num_classes!r} must be an integer from 1 to {MAX_CLASSES}",
            what="num_classes",
            value=num_classes,
            allowed=MAX_CLASSES,
        )
    for name, array in {"labels": labels, "predictions": predictions}.items():
        dtype = getattr(array, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
            found = dtype or type(array).__name__
            raise InputError(f"{name} must be an array of integers, not {found}", what=name)
    if labels.shape != predictions.shape:
        shapes = f"predictions {list(predictions.shape)} and labels {list(labels.shape)}"
        raise InputError(f"{shapes} differ in shape", what="predictions")
    labels, predictions = labels.astype(jnp.int32).ravel(), predictions.astype(jnp.int32).ravel()
    # Ignored pixels get an index past the end, which is not counted.
    index = jnp.where(labels == IGNORE_LABEL, num_classes**2, labels * num_classes + predictions)
    counts = jnp.zeros(num_classes**2, jnp.uint32).at[index].add(jnp.uint32(1), mode="drop")
    return counts.reshape(num_classes, num_classes)


@flax.struct.dataclass
class ConfusionMatrix(metrics.Metric):
    """A clu metric that counts the pixels of each label (rows) by predicted class (columns).

    Counts are exact up to 2^64. They are kept in two 32-bit halves, because accelerators have no fast 64-bit integers
    and float32 loses pixels above 2^24. A `clu.metrics.Collection` takes the class that `of` returns and computes it
    from the model outputs `labels` and `predictions`.

    Attributes:
      low, high: uint32 `[K, K]`; the count is `high * 2^32 + low`.
    """

    low: jax.Array
    high: jax.Array

    @classmethod
    def of(cls, num_classes: int) -> type[ConfusionMatrix]:
        """Returns the metric of `num_classes` classes, with `empty` and `from_model_output`."""

        @flax.struct.dataclass
        class OfClasses(cls):  # type: ignore[valid-type, misc]
            @classmethod
            def empty(cls) -> Self:
                zeros = jnp.zeros((num_classes, num_classes), jnp.uint32)
                return cls(low=zeros, high=zeros)

            @classmethod
            def from_model_output(cls, *, labels: jax.Array, predictions: jax.Array, **_: Any) -> Self:
                low = count_pairs(labels, predictions, num_classes)
                return cls(low=low, high=jnp.zeros_like(low))

        return OfClasses

    def merge(self, other: Self) -> Self:
        """Returns the sum of both matrices."""
        # A low half that wrapped around is smaller than each of its summands.
        low = self.low + other.low
        carry = (low < self.low).astype(jnp.uint32)
        return self.replace(low=low, high=self.high + other.high + carry)

    def compute(self) -> np.ndarray:
        """Returns the counts on the host, int64 `[K, K]`."""
        low, high = (np.asarray(jax.device_get(half)).astype(np.int64) for half in (self.low, self.high))
        return (high << 32) + low
